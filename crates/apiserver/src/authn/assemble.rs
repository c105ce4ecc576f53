//! Ties the sources of identity together from the flags.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use api_types::Key;
use daemon::{
    reload::Reloading,
    tls::{self, ClientAuth},
};
use http::HeaderName;
use tokio::sync::mpsc;

use super::{
    Anonymity, Authenticator, Issuers, Judges,
    configuration::{ClaimRule, Configuration, Jwt, Mapping},
    flags::{OidcFlags, RequestHeaderFlags},
    keys::{self, PublicKey},
    provider::Provider,
    request_header::Names,
    static_tokens::StaticTokens,
    token::{self, Verifier},
    webhook::TokenWebhook,
};
use crate::{
    flags::{Flags, TokenFlags},
    outbound::Webhook,
    reader::Reader,
};
/// Notes that wait to be written.
const USED_LEGACY_MAX: usize = 256;
/// One question to the token webhook.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that flags and files say of identities. Files that rotate are followed.
///
/// The receiver yields the Secrets whose token was used today for the first time.
pub fn authenticator(flags: &Flags, reader: Arc<dyn Reader>) -> Result<(Authenticator, mpsc::Receiver<Key>)> {
    let who = &flags.authentication;
    let clients: Vec<PathBuf> = flags.serving.client_ca_file.iter().cloned().collect();
    let proxies: Vec<PathBuf> = who.proxy.requestheader_client_ca_file.iter().cloned().collect();
    let authorities = [clients.clone(), proxies.clone()].concat();
    let judges = Reloading::watch(&authorities, move || -> Result<Judges> {
        Ok(Judges {
            clients: tls::client_verifier(&clients, ClientAuth::Required)?,
            proxies: tls::client_verifier(&proxies, ClientAuth::Required)?,
        })
    });
    let webhook = who.authentication_token_webhook_config_file.as_deref().map(|path| -> Result<TokenWebhook> {
        let webhook = Webhook::from_kubeconfig(path, WEBHOOK_TIMEOUT)?;
        let keep_for = who.authentication_token_webhook_cache_ttl;
        Ok(TokenWebhook::new(webhook, &who.authentication_token_webhook_version, keep_for))
    });
    let static_tokens =
        who.token_auth_file.as_deref().map(|path| -> Result<StaticTokens> { Ok(StaticTokens::parse(&text(path)?)?) });
    let (used_legacy, noted) = mpsc::channel(USED_LEGACY_MAX);
    let authenticator = Authenticator {
        judges: judges.context("--client-ca-file, --requestheader-client-ca-file")?,
        proxy_names: names(&who.proxy).context("--requestheader-*")?,
        static_tokens: static_tokens.transpose().context("--token-auth-file")?.unwrap_or_default(),
        service_accounts: verifier(&flags.tokens)?,
        bootstrap_tokens: who.enable_bootstrap_token_auth,
        issuers: issuers(flags)?,
        webhook: webhook.transpose().context("--authentication-token-webhook-config-file")?,
        reader,
        used_legacy,
    };
    Ok((authenticator, noted))
}

/// Makes ServiceAccount tokens; `None` without a key to sign them.
pub fn issuer(flags: &TokenFlags) -> Result<Option<Reloading<token::Issuer>>> {
    let Some(path) = flags.service_account_signing_key_file.clone() else { return Ok(None) };
    let issuer = flags.service_account_issuer.first().context("--service-account-issuer is empty")?.clone();
    let audiences = audiences(flags);
    let read = move || -> Result<token::Issuer> {
        let key = keys::signing_key(&bytes(&path)?).with_context(|| path.display().to_string())?;
        Ok(token::Issuer::new(key, issuer.clone(), audiences.clone()))
    };
    let file: Vec<PathBuf> = flags.service_account_signing_key_file.iter().cloned().collect();
    Reloading::watch(&file, read).context("--service-account-signing-key-file").map(Some)
}

fn verifier(flags: &TokenFlags) -> Result<Reloading<Verifier>> {
    let files: Vec<PathBuf> =
        flags.service_account_key_file.iter().chain(&flags.service_account_signing_key_file).cloned().collect();
    let (issuers, audiences, paths) = (flags.service_account_issuer.clone(), audiences(flags), files.clone());
    let read = move || -> Result<Verifier> {
        let mut public: Vec<PublicKey> = Vec::new();
        for path in &paths {
            for key in keys::public_keys(&bytes(path)?).with_context(|| path.display().to_string())? {
                if !public.iter().any(|known| known.id == key.id) {
                    public.push(key);
                }
            }
        }
        Ok(Verifier::new(public, issuers.clone(), audiences.clone()))
    };
    Reloading::watch(&files, read).context("--service-account-key-file")
}

fn audiences(flags: &TokenFlags) -> Vec<String> {
    if flags.api_audiences.is_empty() { flags.service_account_issuer.clone() } else { flags.api_audiences.clone() }
}

/// Of the file, or of the flags.
fn issuers(flags: &Flags) -> Result<Reloading<Issuers>> {
    let who = &flags.authentication;
    let by_flag = if who.anonymous_auth { Anonymity::health() } else { Anonymity::Nowhere };
    let Some(path) = who.authentication_config.clone() else {
        let providers = oidc(&who.oidc)?.map(|jwt| Provider::new(jwt).map(Arc::new)).transpose()?;
        return Ok(Reloading::fixed(Issuers { providers: providers.into_iter().collect(), anonymity: by_flag }));
    };
    let own = flags.tokens.service_account_issuer.clone();
    let read = move || -> Result<Issuers> {
        let configuration = Configuration::parse(&text(&path)?, &own)?;
        let providers = configuration.jwt.into_iter().map(|jwt| Provider::new(jwt).map(Arc::new));
        Ok(Issuers {
            providers: providers.collect::<Result<_, _>>()?,
            anonymity: configuration.anonymous.map_or_else(|| by_flag.clone(), Anonymity::configured),
        })
    };
    let file: Vec<PathBuf> = who.authentication_config.iter().cloned().collect();
    Reloading::watch(&file, read).context("--authentication-config")
}

/// The `--oidc-*` flags as what they abbreviate.
fn oidc(flags: &OidcFlags) -> Result<Option<Jwt>> {
    let (Some(url), Some(client)) = (&flags.oidc_issuer_url, &flags.oidc_client_id) else { return Ok(None) };
    let mut jwt = Jwt { algorithms: flags.oidc_signing_algs.clone(), ..Jwt::default() };
    jwt.issuer.url = url.clone();
    jwt.issuer.audiences = vec![client.clone()];
    jwt.issuer.certificate_authority =
        flags.oidc_ca_file.as_deref().map(text).transpose().context("--oidc-ca-file")?.unwrap_or_default();
    let prefix = match (flags.oidc_username_prefix.as_str(), flags.oidc_username_claim.as_str()) {
        ("-", _) | ("", "email") => String::new(),
        ("", _) => format!("{url}#"),
        (given, _) => given.to_owned(),
    };
    let mapping = |claim: &str, prefix: &str| Mapping {
        claim: claim.to_owned(),
        prefix: (!claim.is_empty()).then(|| prefix.to_owned()),
        ..Mapping::default()
    };
    jwt.claim_mappings.username = mapping(&flags.oidc_username_claim, &prefix);
    jwt.claim_mappings.groups = mapping(&flags.oidc_groups_claim, &flags.oidc_groups_prefix);
    for pair in &flags.oidc_required_claim {
        let (claim, value) = pair.split_once('=').context("--oidc-required-claim must be claim=value")?;
        let (claim, required_value) = (claim.to_owned(), value.to_owned());
        jwt.claim_validation_rules.push(ClaimRule { claim, required_value, ..ClaimRule::default() });
    }
    let mut errors = Vec::new();
    jwt.check(&mut |field, why| errors.push(format!("{field}: {why}")));
    anyhow::ensure!(errors.is_empty(), "--oidc-*: {}", errors.join("; "));
    Ok(Some(jwt))
}

fn names(flags: &RequestHeaderFlags) -> Result<Names> {
    let headers = |names: &[String]| -> Result<Vec<HeaderName>> {
        names.iter().map(|name| name.trim().parse().with_context(|| format!("{name:?} is no header"))).collect()
    };
    Ok(Names {
        users: headers(&flags.requestheader_username_headers)?,
        uids: headers(&flags.requestheader_uid_headers)?,
        groups: headers(&flags.requestheader_group_headers)?,
        extra_prefixes: flags
            .requestheader_extra_headers_prefix
            .iter()
            .map(|name| name.trim().to_lowercase())
            .collect(),
        allowed: flags.requestheader_allowed_names.clone(),
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
