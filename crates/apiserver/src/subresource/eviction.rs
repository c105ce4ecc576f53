//! Eviction: a delete that asks the pod's disruption budget first.
//!
//! Source: kubernetes/pkg/registry/core/pod/storage/eviction.go.

use std::collections::BTreeMap;

use api_types::{
    ApiError,
    k8s::{core, meta, policy},
    labels::Selector,
    options::WriteOptions,
};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{current, key, success, write};
use crate::{
    authz::node,
    reader::Reader,
    verbs::{
        Changed,
        create::now,
        hook::{Answer, Call},
    },
};

/// Evictions that the disruption controller has not noticed yet, at most.
const DISRUPTED_PODS_MAX: usize = 2000;
/// When to ask again while the budget's status lags behind its spec.
const RETRY_AFTER_S: i32 = 10;
const BLOCKED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";
const SEVERAL: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// Tries of a pod that changes while it is evicted.
const TRIES: usize = 20;

pub fn evict(call: Call, eviction: Value) -> BoxFuture<'static, Result<Answer, ApiError>> {
    Box::pin(async move {
        let pod_key = key(&call);
        let name = eviction["metadata"]["name"].as_str().unwrap_or_default();
        if !name.is_empty() && name != pod_key.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = WriteOptions::for_create(&call.request.query)?;
        let mut delete: meta::DeleteOptions = serde_json::from_value(eviction["deleteOptions"].clone())
            .or_else(|_| serde_json::from_value(json!({})))
            .expect("empty DeleteOptions decode");
        if options.dry_run {
            delete.dry_run = Some(vec!["All".to_owned()]);
        }
        let mut tries = 1;
        loop {
            match try_evict(&call, delete.clone()).await {
                Err(refusal) if refusal.is_conflict() && tries < TRIES && !has_version(&delete) => tries += 1,
                result => return result.map(|()| Answer::created(success())),
            }
        }
    })
}

fn has_version(options: &meta::DeleteOptions) -> bool {
    options.preconditions.as_ref().is_some_and(|preconditions| preconditions.resource_version.is_some())
}

async fn try_evict(call: &Call, mut options: meta::DeleteOptions) -> Result<(), ApiError> {
    let pod_key = key(call);
    let pod = current::<core::Pod>(&call.server, &pod_key).await?;
    if let Some(node) = node::name_of(&call.user)
        && pod["spec"]["nodeName"] != node
    {
        let why = format!("node {node:?} can only evict pods with spec.nodeName set to itself");
        return Err(ApiError::forbidden(&call.kind.resource, &pod_key.name, why));
    }
    let budgets = call.server.cache.list(&api_types::resources::POD_DISRUPTION_BUDGET, &pod_key.namespace);
    let matching: Vec<&Value> = budgets.iter().map(|budget| &**budget).filter(|budget| covers(budget, &pod)).collect();
    let way = way(&pod, &matching)?;
    if let Way::Budget { name } = &way {
        let budget_key = api_types::Key::new(pod_key.namespace.as_str(), *name);
        let at = now();
        let change = |budget: &Value| Ok(Changed::new(decremented(budget, &pod_key.name, &at)?));
        let dry_run = options.dry_run.as_ref().is_some_and(|values| !values.is_empty());
        let write_options = WriteOptions { dry_run, ..WriteOptions::default() };
        let ask = write::<policy::PodDisruptionBudget>(&call.server, &call.user, budget_key, "status");
        ask.update(&change, &write_options).await?;
    }
    // Nothing may have made the pod count between the look at it and its deletion.
    if matches!(way, Way::Unhealthy | Way::Free { enforce_version: true }) && !has_version(&options) {
        let version = pod["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        options.preconditions.get_or_insert_default().resource_version = version;
    }
    write::<core::Pod>(&call.server, &call.user, pod_key, "").delete_object(&options).await?;
    Ok(())
}

/// How a pod may be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way<'a> {
    /// No budget counts it.
    Free { enforce_version: bool },
    /// It is not healthy, so its going takes nothing from the budget.
    Unhealthy,
    /// The budget must allow a disruption.
    Budget { name: &'a str },
}

fn way<'a>(pod: &Value, budgets: &[&'a Value]) -> Result<Way<'a>, ApiError> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let is_over = matches!(phase, "Succeeded" | "Failed") || pod["metadata"]["deletionTimestamp"].is_string();
    if is_over || phase == "Pending" {
        return Ok(Way::Free { enforce_version: !is_over });
    }
    let budget = match budgets {
        [] => return Ok(Way::Free { enforce_version: false }),
        [one] => *one,
        _ => return Err(ApiError::new(500, "", SEVERAL)),
    };
    let is_ready = pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    if !is_ready {
        let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        let is_satisfied = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || is_satisfied {
            return Ok(Way::Unhealthy);
        }
    }
    Ok(Way::Budget { name: budget["metadata"]["name"].as_str().unwrap_or_default() })
}

/// An empty selector matches every pod of the namespace, an absent one none.
fn covers(budget: &Value, pod: &Value) -> bool {
    let Ok(selector) = serde_json::from_value::<meta::LabelSelector>(budget["spec"]["selector"].clone()) else {
        return false;
    };
    let labels: BTreeMap<String, String> =
        serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap_or_default();
    Selector::from(&selector).matches(&labels)
}

/// The budget with one disruption less and the pod noted in it.
fn decremented(budget: &Value, pod: &str, now: &str) -> Result<Value, ApiError> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let status = &budget["status"];
    if number(&status["observedGeneration"]) < number(&budget["metadata"]["generation"]) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(ApiError::too_many_requests(BLOCKED, RETRY_AFTER_S).with_cause(CAUSE, cause, ""));
    }
    let forbidden = |why: &str| ApiError::forbidden(&api_types::resources::POD_DISRUPTION_BUDGET, name, why);
    let allowed = number(&status["disruptionsAllowed"]);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_PODS_MAX) {
        return Err(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        let cause = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number(&status["desiredHealthy"]),
            number(&status["currentHealthy"])
        );
        return Err(ApiError::new(429, "TooManyRequests", BLOCKED).with_cause(CAUSE, cause, ""));
    }
    let mut budget = budget.clone();
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = json!(allowed - 1);
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = json!(now);
    if allowed == 1 {
        note_exhausted(status, now);
    }
    Ok(budget)
}

fn note_exhausted(status: &mut Value, now: &str) {
    let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "lastTransitionTime": now});
    let conditions = &mut status["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let conditions = conditions.as_array_mut().expect("made a list above");
    match conditions.iter_mut().find(|condition| condition["type"] == "DisruptionAllowed") {
        Some(old) => {
            for field in ["status", "reason", "lastTransitionTime"] {
                old[field] = condition[field].clone();
            }
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64, current: i64, desired: i64) -> Value {
        json!({
            "metadata": {"name": "b", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "a"}}},
            "status": {
                "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": current, "desiredHealthy": desired,
                "conditions": [{"type": "DisruptionAllowed", "status": "True"}],
            },
        })
    }
    fn pod(phase: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": "p", "labels": {"app": "a"}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn which_way() {
        let plenty = budget(1, 3, 2);
        let scarce = budget(0, 1, 2);
        let mut always = scarce.clone();
        always["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
        let counted: Result<Way<'_>, u16> = Ok(Way::Budget { name: "b" });
        for (pod, budgets, expected) in [
            (pod("Running", "True"), vec![], Ok(Way::Free { enforce_version: false })),
            (pod("Pending", "False"), vec![&scarce], Ok(Way::Free { enforce_version: true })),
            (pod("Failed", "False"), vec![&scarce], Ok(Way::Free { enforce_version: false })),
            (pod("Running", "True"), vec![&plenty], counted.clone()),
            (pod("Running", "True"), vec![&always], counted.clone()),
            (pod("Running", "False"), vec![&plenty], Ok(Way::Unhealthy)),
            (pod("Running", "False"), vec![&scarce], counted),
            (pod("Running", "False"), vec![&always], Ok(Way::Unhealthy)),
            (pod("Running", "True"), vec![&plenty, &scarce], Err(500)),
        ] {
            assert_eq!(way(&pod, &budgets).map_err(|refusal| refusal.code()), expected, "{pod}");
        }
    }

    #[test]
    fn a_disruption_is_taken_once() {
        let one = decremented(&budget(2, 4, 2), "p", "now").expect("allowed");
        assert_eq!(one["status"]["disruptionsAllowed"], 1);
        assert_eq!(one["status"]["disruptedPods"], json!({"p": "now"}));
        assert_eq!(one["status"]["conditions"][0]["status"], "True");
        let two = decremented(&one, "q", "later").expect("allowed");
        assert_eq!(two["status"]["disruptedPods"], json!({"p": "now", "q": "later"}));
        assert_eq!(two["status"]["conditions"][0]["status"], "False");
        let refusal = decremented(&two, "r", "later").expect_err("used up");
        assert_eq!((refusal.code(), refusal.message()), (429, BLOCKED));
        let cause = &refusal.0.details.as_ref().and_then(|details| details.causes.as_ref()).expect("a cause")[0];
        assert_eq!(cause.message.as_deref(), Some("The disruption budget b needs 2 healthy pods and has 4 currently"));
        assert_eq!(cause.reason.as_deref(), Some("DisruptionBudget"));
    }

    #[test]
    fn an_unprocessed_budget_blocks() {
        let mut stale = budget(5, 5, 1);
        stale["metadata"]["generation"] = json!(2);
        let refusal = decremented(&stale, "p", "now").expect_err("stale");
        assert_eq!(refusal.0.details.as_ref().and_then(|details| details.retry_after_seconds), Some(RETRY_AFTER_S));
        assert_eq!(decremented(&budget(-1, 0, 0), "p", "now").expect_err("negative").code(), 403);
    }

    #[test]
    fn which_pods_a_budget_covers() {
        assert!(covers(&budget(0, 0, 0), &pod("Running", "True")));
        let mut other = pod("Running", "True");
        other["metadata"]["labels"]["app"] = json!("b");
        assert!(!covers(&budget(0, 0, 0), &other));
        assert!(!covers(&json!({"spec": {}}), &other), "no selector covers none");
        assert!(covers(&json!({"spec": {"selector": {}}}), &other), "an empty one all");
    }
}
