//! `cox wait`: a watch on one object until it is as wanted.

use std::time::Duration;

use anyhow::{Context, bail};
use api_types::Resource;
use futures::{TryStreamExt, pin_mut};
use serde_json::Value;

use crate::{
    flags::Wait,
    output,
    server::{JSON, Server, query},
    target,
};

/// Deletions that take longer are the object's own affair.
const GONE_PATIENCE: Duration = Duration::from_secs(600);

/// What is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Condition { kind: String, status: String },
    Deleted,
}

impl Wanted {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if text == "delete" {
            return Ok(Self::Deleted);
        }
        let condition = text.strip_prefix("condition=").with_context(|| format!("{text:?}: condition=… or delete"))?;
        let (kind, status) = condition.split_once('=').unwrap_or((condition, "True"));
        Ok(Self::Condition { kind: kind.to_owned(), status: status.to_owned() })
    }

    /// `None` is an object that does not exist.
    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Deleted, object) => object.is_none(),
            (Self::Condition { .. }, None) => false,
            (Self::Condition { kind, status }, Some(object)) => {
                let conditions = object["status"]["conditions"].as_array();
                let named = |one: &&Value| one["type"].as_str().is_some_and(|it| it.eq_ignore_ascii_case(kind));
                conditions
                    .and_then(|all| all.iter().find(named))
                    .is_some_and(|one| one["status"].as_str().is_some_and(|it| it.eq_ignore_ascii_case(status)))
            }
        }
    }
}

pub async fn run(server: &Server, flags: Wait) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let wanted = Wanted::parse(&flags.wanted)?;
    let patience = Duration::from_secs(flags.timeout_s);
    for target in target::parse(&catalog, &flags.targets)? {
        for name in &target.names {
            let path = server.path(target.resource, None, name);
            let collection = server.path(target.resource, None, "");
            let reference = output::reference(target.resource, name);
            if server.find(&path).await?.is_none() && wanted != Wanted::Deleted {
                bail!("{reference} does not exist");
            }
            until(server, &collection, name, patience, |object| wanted.holds(object))
                .await
                .with_context(|| reference.clone())?;
            println!("{reference} condition met");
        }
    }
    Ok(())
}

/// Waits for the end of the object with this uid.
pub async fn until_gone(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    name: &str,
    uid: &str,
) -> anyhow::Result<()> {
    let collection = server.path(resource, Some(namespace), "");
    let gone = |object: Option<&Value>| object.is_none_or(|object| object["metadata"]["uid"] != uid);
    until(server, &collection, name, GONE_PATIENCE, gone).await.with_context(|| output::reference(resource, name))
}

/// Looks at one object and then at each of its changes until `done` says so.
pub async fn until(
    server: &Server,
    collection: &str,
    name: &str,
    patience: Duration,
    mut done: impl FnMut(Option<&Value>) -> bool,
) -> anyhow::Result<()> {
    let watching = async {
        loop {
            if follow(server, collection, name, &mut done).await? {
                return Ok(());
            } // the server ends every watch after a while: look again
        }
    };
    match tokio::time::timeout(patience, watching).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("timed out after {} s", patience.as_secs()),
    }
}

async fn follow(
    server: &Server,
    collection: &str,
    name: &str,
    done: &mut impl FnMut(Option<&Value>) -> bool,
) -> anyhow::Result<bool> {
    let selector = query(&format!("metadata.name={name}"));
    let list: Value = server.get(&format!("{collection}?fieldSelector={selector}"), JSON).await?;
    if done(list["items"].get(0)) {
        return Ok(true);
    }
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("{collection}?fieldSelector={selector}&watch=true&resourceVersion={revision}");
    let frames = server.lines(&path, JSON).await?;
    pin_mut!(frames);
    while let Some(frame) = frames.try_next().await? {
        let event: Value = serde_json::from_str(&frame)?;
        let object = match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => Some(&event["object"]),
            Some("DELETED") => None,
            _ => return Ok(false),
        };
        if done(object) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_and_deletion() {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (text, object, holds) in [
            ("condition=Ready", Some(&ready), true),
            ("condition=ready=false", Some(&ready), false),
            ("condition=Other", Some(&ready), false),
            ("condition=Ready", None, false),
            ("delete", None, true),
            ("delete", Some(&ready), false),
        ] {
            assert_eq!(Wanted::parse(text).expect("well-formed").holds(object), holds, "{text}");
        }
        assert!(Wanted::parse("nonsense").is_err());
    }
}
