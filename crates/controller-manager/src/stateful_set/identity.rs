//! What makes a pod of a StatefulSet the one that it is: its name, its host name, its storage.

use api_types::{
    Object,
    k8s::{
        apps::{StatefulSet, StatefulSetSpec},
        core::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
        meta::ObjectMeta,
    },
};

use super::POD_REVISION_LABEL;
use crate::{owners::controller_reference, pods};

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number behind the set's name, if the pod bears that name.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let number = pod.name().strip_prefix(set.name())?.strip_prefix('-')?;
    number.parse().ok().filter(|ordinal: &i32| *ordinal >= 0 && ordinal.to_string() == number)
}

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name())
}

/// A pod of the revision called `revision`, whose template is `template`.
pub fn pod(set: &StatefulSet, spec: &StatefulSetSpec, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pods::from_template(set.namespace(), set.name(), template, controller_reference(set));
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME_LABEL.to_owned(), name.clone());
    labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(POD_REVISION_LABEL.to_owned(), revision.to_owned());
    let Some(own) = &mut pod.spec else { return pod };
    own.hostname = Some(name);
    own.subdomain = spec.service_name.clone().filter(|name| !name.is_empty());
    let claimed: Vec<Volume> =
        claims(set, spec, ordinal).iter().map(|(volume, claim)| volume_of(volume, claim)).collect();
    let volumes = own.volumes.get_or_insert_default();
    volumes.retain(|volume| claimed.iter().all(|it| it.name != volume.name));
    volumes.extend(claimed);
    if volumes.is_empty() {
        own.volumes = None;
    }
    pod
}

fn volume_of(name: &str, claim: &PersistentVolumeClaim) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim.name().to_owned(), read_only: None };
    Volume { name: name.to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
}

/// The claims of a pod, each with the name of its volume. They outlive the pod.
pub fn claims(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        let metadata = ObjectMeta {
            name: Some(format!("{}-{}", template.name(), pod_name(set, ordinal))),
            namespace: Some(set.namespace().to_owned()),
            labels: Some(labels),
            annotations: template.metadata.annotations.clone(),
            ..ObjectMeta::default()
        };
        let claim = PersistentVolumeClaim { metadata, spec: template.spec.clone(), status: None };
        (template.name().to_owned(), claim)
    };
    spec.volume_claim_templates.iter().flatten().map(claim).collect()
}
