//! `cox rollout`: how far a rollout is, and how to start, stop and continue one.

use std::time::Duration;

use anyhow::{Context, bail};
use api_types::{Resource, jiff};
use http::Method;
use serde_json::{Value, json};

use super::wait;
use crate::{
    flags::{Rollout, RolloutWhat},
    output,
    server::Server,
    target,
};

pub async fn run(server: &Server, flags: Rollout) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let (target, patch) = match &flags.what {
        RolloutWhat::Status { target, timeout_s } => {
            let (resource, name) = target::one(&catalog, target)?;
            return status(server, resource, &name, Duration::from_secs(*timeout_s)).await;
        }
        RolloutWhat::Restart { target } => {
            let now = jiff::Timestamp::now().to_string();
            let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
            (target, json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))
        }
        RolloutWhat::Pause { target } => (target, json!({"spec": {"paused": true}})),
        RolloutWhat::Resume { target } => (target, json!({"spec": {"paused": null}})),
    };
    let (resource, name) = target::one(&catalog, target)?;
    server.write(Method::PATCH, &server.path(resource, None, &name), "application/merge-patch+json", &patch).await?;
    println!("{} {}", output::reference(resource, &name), done(&flags.what));
    Ok(())
}

fn done(what: &RolloutWhat) -> &'static str {
    match what {
        RolloutWhat::Status { .. } => "looked at",
        RolloutWhat::Restart { .. } => "restarted",
        RolloutWhat::Pause { .. } => "paused",
        RolloutWhat::Resume { .. } => "resumed",
    }
}

async fn status(server: &Server, resource: &Resource, name: &str, patience: Duration) -> anyhow::Result<()> {
    let mut failure = None;
    let mut said = String::new();
    let collection = server.path(resource, None, "");
    wait::until(server, &collection, name, patience, |object| match object.map(progress) {
        None => {
            failure = Some(format!("{} does not exist", output::reference(resource, name)));
            true
        }
        Some(Progress::Failed(why)) => {
            failure = Some(why);
            true
        }
        Some(Progress::Waiting(what)) => {
            if what != said {
                println!("Waiting for {}: {what}", output::reference(resource, name));
                said = what;
            }
            false
        }
        Some(Progress::Complete) => true,
    })
    .await
    .context("the rollout is not complete")?;
    if let Some(failure) = failure {
        bail!("{failure}");
    }
    println!("{} successfully rolled out", output::reference(resource, name));
    Ok(())
}

/// How far a workload has come.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Complete,
    Waiting(String),
    Failed(String),
}

/// Reads Deployments, StatefulSets and DaemonSets alike, by the fields they have.
fn progress(object: &Value) -> Progress {
    let status = &object["status"];
    let count = |name: &str| status[name].as_i64();
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    if count("observedGeneration").unwrap_or(0) < generation {
        return Progress::Waiting("the change has not been seen yet".to_owned());
    }
    let conditions = status["conditions"].as_array();
    let late = |one: &Value| one["type"] == "Progressing" && one["reason"] == "ProgressDeadlineExceeded";
    if conditions.is_some_and(|all| all.iter().any(late)) {
        return Progress::Failed("the rollout exceeded its progress deadline".to_owned());
    }
    let wanted = count("desiredNumberScheduled").unwrap_or_else(|| object["spec"]["replicas"].as_i64().unwrap_or(1));
    let updated = count("updatedNumberScheduled").or(count("updatedReplicas")).unwrap_or(0);
    let available = count("numberAvailable").or(count("availableReplicas")).unwrap_or(0);
    let all = count("replicas").unwrap_or(updated);
    if updated < wanted {
        Progress::Waiting(format!("{updated} of {wanted} new replicas have been updated"))
    } else if all > updated {
        Progress::Waiting(format!("{} old replicas are pending termination", all - updated))
    } else if available < updated {
        Progress::Waiting(format!("{available} of {updated} updated replicas are available"))
    } else {
        Progress::Complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployments_way() {
        let deployment =
            |status: Value| json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status});
        let waiting = |text: &str| Progress::Waiting(text.to_owned());
        for (status, expected) in [
            (json!({"observedGeneration": 1}), waiting("the change has not been seen yet")),
            (json!({"observedGeneration": 2, "updatedReplicas": 1}), waiting("1 of 3 new replicas have been updated")),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}),
                waiting("1 old replicas are pending termination"),
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
                waiting("2 of 3 updated replicas are available"),
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
                Progress::Complete,
            ),
        ] {
            assert_eq!(progress(&deployment(status)), expected);
        }
    }
}
