//! The scheduler's writes that move pods: the binding of one to its node, and the removal
//! of victims that make room. Many at a time, none awaited by the next decision.

use std::sync::Arc;

use api_types::{
    Key,
    jiff::Timestamp,
    k8s::{
        core::{Binding, ObjectReference, Pod},
        meta::{DeleteOptions, ObjectMeta, Preconditions},
    },
};
use client::{Client, Error, EventKind, Patch, Recorder, controller::chain};
use serde_json::{Value, json};

use crate::{facts::PodFacts, report};

/// How a binding ended.
#[derive(Debug)]
pub struct Bound {
    pub pod: Arc<PodFacts>,
    pub node: String,
    pub result: Result<(), Error>,
}

/// Asks the server to bind `pod`; the UID makes sure that it is this pod and no later one of its name.
pub async fn bind(client: Client, pod: Arc<PodFacts>, node: String) -> Bound {
    let key = pod.id.key.clone();
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: Some(pod.id.uid.clone()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            ..ObjectReference::default()
        },
    };
    let result = client.post_subresource::<Pod, Binding, Value>(&key, "binding", &binding).await.map(|_status| ());
    Bound { pod, node, result }
}

/// Who is to go, for whom, from where.
#[derive(Debug)]
pub struct Eviction {
    pub preemptor: Arc<PodFacts>,
    pub victims: Vec<Arc<PodFacts>>,
    pub node: String,
}

/// Removes the victims. A failure is logged only: the preemptor's next attempt plans anew.
pub async fn evict(client: Client, recorder: Recorder, eviction: Eviction) {
    let Eviction { preemptor, victims, node } = eviction;
    for victim in victims {
        let pod = victim.id.key.to_string();
        match remove(&client, &preemptor.id.scheduler, &victim).await {
            Ok(()) => {
                tracing::info!(pod, preemptor = %preemptor.id.key, node, "preempted");
                let message = format!("Preempted by pod {} on node {node}", preemptor.id.uid);
                recorder.event(&report::reference(&victim), EventKind::Normal, "Preempted", message);
            }
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::warn!(pod, why = chain(&error), "victim not removed"),
        }
    }
}

async fn remove(client: &Client, scheduler: &str, victim: &PodFacts) -> Result<(), Error> {
    let key: &Key = &victim.id.key;
    if victim.status.terminating {
        return Ok(());
    }
    let condition = json!({"status": {"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastProbeTime": null,
        "lastTransitionTime": report::second(Timestamp::now()),
    }]}});
    client.patch_status::<Pod>(key, &Patch::Strategic(condition)).await?;
    let options = DeleteOptions {
        preconditions: Some(Preconditions { uid: Some(victim.id.uid.clone()), ..Preconditions::default() }),
        ..DeleteOptions::default()
    };
    client.delete::<Pod>(key, &options).await
}
