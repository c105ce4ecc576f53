//! The flags that say who decides.

use std::{path::PathBuf, time::Duration};

/// Of upstream's names and defaults, but that the default modes are those of a cluster, not AlwaysAllow.
#[derive(Clone, Debug, clap::Args)]
pub struct AuthorizationFlags {
    /// Asked in this order: Node, RBAC, Webhook, ABAC, AlwaysDeny, AlwaysAllow.
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// An AuthorizationConfiguration, in place of the mode and webhook flags; read again when it changes.
    #[arg(long)]
    pub authorization_config: Option<PathBuf>,
    /// Policies of the mode ABAC.
    #[arg(long)]
    pub authorization_policy_file: Option<PathBuf>,
    /// A kubeconfig whose server the mode Webhook asks.
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,
    #[arg(long, value_parser = daemon::flags::duration, default_value = "5m")]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    #[arg(long, value_parser = daemon::flags::duration, default_value = "30s")]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}
