//! Storage that is in use is not deleted under its users: a finalizer holds it, which goes when the
//! last user has gone. One controller each for claims, volumes and attribute classes.
//!
//! Source: kubernetes/pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}.

use std::sync::Arc;

use api_types::{
    Key, Object,
    k8s::core::{PersistentVolume, PersistentVolumeClaim, Pod},
    resources,
};
use client::Change;

use crate::{
    action::Action,
    caches::BY_NAMESPACE,
    plan::{Plan, Turn, World},
    pods,
    reconcile::Controller,
};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const OF_CLASSES: &str = "kubernetes.io/vac-protection";

pub static CLAIMS: Controller = Controller {
    name: "persistentvolumeclaim-protection-controller",
    resource: &resources::PERSISTENT_VOLUME_CLAIM,
    account: "pvc-protection-controller",
    component: "pvc-protection-controller",
    workers: 2,
    watch: |to, queue| {
        let wake = queue.clone();
        to.volume_claims.push(Box::new(move |_, change| {
            if change.object().is_terminating() {
                wake.add(change.object().key());
            }
        }));
        let wake = queue.clone();
        to.pods.push(Box::new(move |_, change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) || pods::is_finished(pod) {
                claims_of(pod).into_iter().for_each(|name| wake.add(Key::new(pod.namespace(), name)));
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| {
        let Some(claim) = world.caches.volume_claims.get(turn.key) else { return Plan::default() };
        claim_plan(&claim, &world.caches.pods.by_index(BY_NAMESPACE, claim.namespace()))
    },
};

pub static VOLUMES: Controller = Controller {
    name: "persistentvolume-protection-controller",
    resource: &resources::PERSISTENT_VOLUME,
    account: "pv-protection-controller",
    component: "pv-protection-controller",
    workers: 1,
    watch: |to, queue| {
        let wake = queue.clone();
        to.volumes.push(Box::new(move |_, change| {
            if change.object().is_terminating() {
                wake.add(change.object().key());
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| world.caches.volumes.get(turn.key).map_or_else(Plan::default, |volume| volume_plan(&volume)),
};

pub static ATTRIBUTE_CLASSES: Controller = Controller {
    name: "volumeattributesclass-protection-controller",
    resource: &resources::VOLUME_ATTRIBUTES_CLASS,
    account: "volumeattributesclass-protection-controller",
    component: "volumeattributesclass-protection-controller",
    workers: 1,
    watch: |to, queue| {
        let wake = queue.clone();
        to.attribute_classes.push(Box::new(move |_, change| {
            if change.object().is_terminating() {
                wake.add(change.object().key());
            }
        }));
        let wake = queue.clone();
        to.volume_claims.push(Box::new(move |_, change| {
            for claim in [change.old(), Some(change.object())].into_iter().flatten() {
                classes_of_claim(claim).into_iter().for_each(|name| wake.add(Key::cluster(name)));
            }
        }));
        let wake = queue.clone();
        to.volumes.push(Box::new(move |_, change| {
            for volume in [change.old(), Some(change.object())].into_iter().flatten() {
                class_of_volume(volume).into_iter().for_each(|name| wake.add(Key::cluster(name)));
            }
        }));
    },
    watch_everything: None,
    decide: class_decide,
};

/// Takes the finalizer away, if the object is going, has it, and `users` is empty.
fn release<K: Object>(object: &K, finalizer: &str, users: &[String]) -> Plan {
    let held = object.meta().finalizers.iter().flatten().any(|it| it == finalizer);
    if !object.is_terminating() || !held {
        return Plan::default();
    }
    if let Some(user) = users.first() {
        return Plan::nothing("InUse", format!("{} users hold it, the first is {user}", users.len()));
    }
    let mut next = object.clone();
    next.meta_mut().finalizers.get_or_insert_default().retain(|it| it != finalizer);
    Plan { actions: vec![Action::update(&next, "nobody uses it any more")], ..Plan::default() }
}

/// Pods that no node has yet do not count: a kubelet starts none with a claim that is going.
fn claim_plan(claim: &PersistentVolumeClaim, pods: &[Arc<Pod>]) -> Plan {
    let uses = |pod: &&Arc<Pod>| {
        let is_bound = !pods::node_name(pod).is_empty();
        is_bound && !pods::is_finished(pod) && claims_of(pod).iter().any(|name| name == claim.name())
    };
    let users: Vec<String> = pods.iter().filter(uses).map(|pod| pod.key().to_string()).collect();
    release(claim, OF_CLAIMS, &users)
}

/// Also those that were made for an ephemeral volume.
fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let names = volumes.iter().filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
        (None, None) => None,
    });
    names.collect()
}

fn volume_plan(volume: &PersistentVolume) -> Plan {
    let is_bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).filter(|_| is_bound);
    let user = claim.map(|claim| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Key::new(text(&claim.namespace), text(&claim.name)).to_string()
    });
    release(volume, OF_VOLUMES, user.as_slice())
}

fn class_decide(world: &World<'_>, turn: &Turn<'_>) -> Plan {
    let Some(class) = world.caches.attribute_classes.get(turn.key) else { return Plan::default() };
    let name = class.name();
    let claims = world.caches.volume_claims.list().into_iter();
    let claims = claims.filter(|claim| classes_of_claim(claim).iter().any(|it| it == name));
    let volumes = world.caches.volumes.list().into_iter();
    let volumes = volumes.filter(|volume| class_of_volume(volume).as_deref() == Some(name));
    let users: Vec<String> =
        claims.map(|claim| claim.key().to_string()).chain(volumes.map(|volume| volume.name().to_owned())).collect();
    release(&*class, OF_CLASSES, &users)
}

fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    wanted.into_iter().chain(current).collect()
}

fn class_of_volume(volume: &PersistentVolume) -> Option<String> {
    volume.spec.as_ref()?.volume_attributes_class_name.clone()
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        core::{PersistentVolumeClaimVolumeSource, PersistentVolumeStatus, Volume},
        meta::ObjectMeta,
    };

    use super::*;
    use crate::pods::words;

    fn going(finalizer: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some("data".into()),
            namespace: Some("ns".into()),
            finalizers: Some(vec![finalizer.to_owned()]),
            deletion_timestamp: Some(words::ago(1)),
            ..ObjectMeta::default()
        }
    }

    /// Pods: see [`words::pod`]; all use the claim.
    fn check(pods: &str, expected: usize) {
        let claim = PersistentVolumeClaim { metadata: going(OF_CLAIMS), ..PersistentVolumeClaim::default() };
        let pods = pods.split_whitespace().map(|word| {
            let mut pod = words::pod(word);
            let source = PersistentVolumeClaimVolumeSource { claim_name: "data".into(), read_only: None };
            let volume = Volume { persistent_volume_claim: Some(source), ..Volume::default() };
            pod.spec.as_mut().unwrap().volumes = Some(vec![volume]);
            Arc::new(pod)
        });
        assert_eq!(claim_plan(&claim, &pods.collect::<Vec<_>>()).actions.len(), expected);
    }

    #[test]
    fn a_claim_goes_after_its_pods() {
        check("a", 0);
        check("a:t", 0);
        check("a:s b:f c:n", 1);
        check("", 1);
    }

    #[test]
    fn a_volume_goes_when_it_is_not_bound() {
        let volume = |phase: &str| PersistentVolume {
            metadata: going(OF_VOLUMES),
            spec: Some(api_types::k8s::core::PersistentVolumeSpec {
                claim_ref: Some(Default::default()),
                ..Default::default()
            }),
            status: Some(PersistentVolumeStatus { phase: Some(phase.into()), ..PersistentVolumeStatus::default() }),
        };
        assert_eq!(volume_plan(&volume("Bound")).actions.len(), 0);
        assert_eq!(volume_plan(&volume("Released")).actions.len(), 1);
    }
}
