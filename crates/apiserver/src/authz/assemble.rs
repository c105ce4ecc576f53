//! Ties the chain of authorisers together from the flags.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use daemon::{flags::duration, reload::Reloading};

use super::{
    Link,
    abac::Policies,
    configuration::{Configuration, Entry},
    flags::AuthorizationFlags,
    webhook::{AccessWebhook, Manner, OnFailure},
};
use crate::outbound::Webhook;

/// One question to the webhook that the flags describe.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// For one that a file describes without saying more.
const AUTHORIZED_TTL: Duration = Duration::from_secs(300);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);

/// Who decides, in order: of the file, which is followed, or of the flags.
pub fn chain(flags: &AuthorizationFlags) -> Result<Reloading<Vec<Link>>> {
    let Some(path) = flags.authorization_config.clone() else {
        let links = flags.authorization_mode.iter().map(|mode| of_mode(mode, flags));
        let links = links.collect::<Result<Vec<Link>>>().context("--authorization-mode")?;
        ensure!(!links.is_empty(), "--authorization-mode is empty");
        return Ok(Reloading::fixed(links));
    };
    let file = [path.clone()];
    let flags = flags.clone();
    let read = move || -> Result<Vec<Link>> {
        let configuration = Configuration::parse(&text(&path)?)?;
        configuration.authorizers.iter().map(|entry| of_entry(entry, &flags)).collect()
    };
    Reloading::watch(&file, read).context("--authorization-config")
}

fn of_mode(mode: &str, flags: &AuthorizationFlags) -> Result<Link> {
    Ok(match mode {
        "Node" => Link::Node,
        "RBAC" => Link::Rbac,
        "AlwaysAllow" => Link::AlwaysAllow,
        "AlwaysDeny" => Link::AlwaysDeny,
        "ABAC" => {
            let path = flags.authorization_policy_file.as_deref().context("ABAC needs --authorization-policy-file")?;
            Link::Abac(Policies::parse(&text(path)?).with_context(|| path.display().to_string())?)
        }
        "Webhook" => {
            let path = flags.authorization_webhook_config_file.as_deref();
            let path = path.context("Webhook needs --authorization-webhook-config-file")?;
            let manner = Manner {
                name: "default".to_owned(),
                version: flags.authorization_webhook_version.clone(),
                allowed_for: flags.authorization_webhook_cache_authorized_ttl,
                denied_for: flags.authorization_webhook_cache_unauthorized_ttl,
                on_failure: OnFailure::NoOpinion,
            };
            Link::Webhook(Box::new(AccessWebhook::new(Webhook::from_kubeconfig(path, WEBHOOK_TIMEOUT)?, manner)))
        }
        other => bail!("{other:?} is not one of Node, RBAC, Webhook, ABAC, AlwaysDeny, AlwaysAllow"),
    })
}

fn of_entry(entry: &Entry, flags: &AuthorizationFlags) -> Result<Link> {
    let Some(webhook) = &entry.webhook else { return of_mode(&entry.kind, flags) };
    let lasting = |text: &str, default: Duration, is_kept: Option<bool>| -> Result<Duration> {
        match (text, is_kept) {
            (_, Some(false)) => Ok(Duration::ZERO),
            ("", _) => Ok(default),
            (text, _) => duration(text).map_err(anyhow::Error::msg),
        }
    };
    let manner = Manner {
        name: entry.name.clone(),
        version: webhook.subject_access_review_version.clone(),
        allowed_for: lasting(&webhook.authorized_ttl, AUTHORIZED_TTL, webhook.cache_authorized_requests)?,
        denied_for: lasting(&webhook.unauthorized_ttl, UNAUTHORIZED_TTL, webhook.cache_unauthorized_requests)?,
        on_failure: webhook.on_failure().context("failurePolicy")?,
    };
    let timeout = duration(&webhook.timeout).map_err(anyhow::Error::msg)?;
    let path = PathBuf::from(&webhook.connection_info.kube_config_file);
    Ok(Link::Webhook(Box::new(AccessWebhook::new(Webhook::from_kubeconfig(&path, timeout)?, manner))))
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
