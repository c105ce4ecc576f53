//! Revisions: which ReplicaSet has the current template, what a new one looks like, and the
//! annotations that `kubectl rollout` reads.
//!
//! Source: kubernetes/pkg/controller/deployment/util.

use std::collections::BTreeMap;

use api_types::{
    Object,
    k8s::{
        apps::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::PodTemplateSpec,
        meta::ObjectMeta,
    },
};

use super::{hash::template_hash, numbers::slack, replicas, spec};
use crate::owners::controller_reference;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const HASH_LABEL: &str = "pod-template-hash";
/// Longer histories lose their oldest part.
const HISTORY_MAX_CHARS: usize = 2000;

/// Not carried over between a deployment and its sets.
pub const OWN: &[&str] = &[LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO];

/// The oldest set whose template is the deployment's.
pub fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let wanted = spec(deployment).template;
    let same = |set: &&ReplicaSet| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| same_template(template, &wanted))
    };
    let oldest = sets.iter().filter(same).min_by_key(|set| (&set.metadata.creation_timestamp, &set.metadata.name))?;
    sets.iter().position(|set| set.uid() == oldest.uid())
}

/// The label with the hash does not count.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let meta = template.metadata.clone().unwrap_or_default();
        let mut labels = meta.labels.unwrap_or_default();
        labels.remove(HASH_LABEL);
        (labels, meta.annotations.unwrap_or_default(), meta.finalizers.unwrap_or_default())
    };
    a.spec == b.spec && plain(a) == plain(b)
}

pub fn set_name(deployment: &Deployment) -> String {
    format!("{}-{}", deployment.name(), hash(deployment))
}

fn hash(deployment: &Deployment) -> String {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    template_hash(&spec(deployment).template, collisions)
}

/// The set for the current template, of no size yet.
pub fn new_set(deployment: &Deployment, revision: i64) -> ReplicaSet {
    let hash = hash(deployment);
    let spec = spec(deployment);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name())),
            namespace: Some(deployment.namespace().to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate_new(&mut set, deployment, revision);
    annotate_sizes(&mut set, deployment);
    set
}

/// Copies the deployment's annotations and sets the revision, unless the set already has a later one.
/// A revision that is taken up again is kept in the history.
pub fn annotate_new(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) {
    let copied = deployment.metadata.annotations.clone().unwrap_or_default();
    let copied = copied.into_iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    let had = set.annotation(REVISION).map(str::to_owned);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(copied);
    if had.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0) < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(had) = had {
            remember(annotations, &had);
        }
    }
}

fn remember(annotations: &mut BTreeMap<String, String>, revision: &str) {
    let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(revision);
    while history.len() > HISTORY_MAX_CHARS {
        let Some((_, rest)) = history.split_once(',') else { return };
        *history = rest.to_owned();
    }
}

/// Leaves in the set what size the deployment had, for the next change of size.
pub fn annotate_sizes(set: &mut ReplicaSet, deployment: &Deployment) {
    let wanted = replicas(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED_REPLICAS.to_owned(), wanted.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), (wanted + slack(deployment).surge).to_string());
}

/// The number that stands in an annotation.
pub fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.annotation(annotation)?.parse().ok()
}

pub fn revision(set: &ReplicaSet) -> i64 {
    set.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub fn highest<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    sets.into_iter().map(revision).max().unwrap_or_default()
}
