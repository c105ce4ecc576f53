//! The flags that say who is believed.

use std::{path::PathBuf, time::Duration};

/// Of upstream's names and defaults.
#[derive(Clone, Debug, clap::Args)]
pub struct AuthenticationFlags {
    /// Requests without credentials may ask for health; for more only if --authentication-config says so.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: bool,
    /// An AuthenticationConfiguration; read again when it changes.
    #[arg(long, conflicts_with = "oidc_issuer_url")]
    pub authentication_config: Option<PathBuf>,
    /// Lines of token, user, uid and groups.
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Tokens out of Secrets of kube-system.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_bootstrap_token_auth: bool,
    /// A kubeconfig whose server is asked whose a token is.
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    #[arg(long, value_parser = daemon::flags::duration, default_value = "2m")]
    pub authentication_token_webhook_cache_ttl: Duration,
    #[command(flatten)]
    pub proxy: RequestHeaderFlags,
    #[command(flatten)]
    pub oidc: OidcFlags,
}

/// Proxies that authenticate for us.
#[derive(Clone, Debug, clap::Args)]
pub struct RequestHeaderFlags {
    /// Who has a certificate of this authority may name users in headers.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of such certificates; none: all.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    pub requestheader_username_headers: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    pub requestheader_group_headers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
}

/// One foreign issuer of tokens; --authentication-config can say more.
#[derive(Clone, Debug, clap::Args)]
pub struct OidcFlags {
    #[arg(long, requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    #[arg(long, requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// `-`: none. Not given: the issuer's URL and `#`, unless the claim is `email`.
    #[arg(long, default_value = "")]
    pub oidc_username_prefix: String,
    #[arg(long, default_value = "")]
    pub oidc_groups_claim: String,
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    /// `claim=value`.
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
}
