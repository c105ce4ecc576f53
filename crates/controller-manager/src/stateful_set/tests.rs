//! StatefulSets as lines of data: pods by number in, one step out.

use api_types::k8s::{
    apps::{RollingUpdateStatefulSetStrategy, StatefulSetStatus, StatefulSetUpdateStrategy},
    core::{PodSpec, PodTemplateSpec},
    meta::{LabelSelector, ObjectMeta},
};

use super::*;
use crate::{action::Write, owners::controller_reference, pods::words};

fn set(replicas: i32) -> StatefulSet {
    let labels = [("app".to_owned(), "db".to_owned())];
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("data".into()), ..ObjectMeta::default() },
        ..PersistentVolumeClaim::default()
    };
    let meta = ObjectMeta { labels: Some(labels.clone().into()), ..ObjectMeta::default() };
    StatefulSet {
        metadata: ObjectMeta {
            name: Some("db".into()),
            namespace: Some("ns".into()),
            uid: Some("sts".into()),
            ..ObjectMeta::default()
        },
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: Some(labels.into()), ..LabelSelector::default() },
            template: PodTemplateSpec { metadata: Some(meta), spec: Some(PodSpec::default()) },
            volume_claim_templates: Some(vec![claim]),
            service_name: Some("db".into()),
            ..StatefulSetSpec::default()
        }),
        status: Some(StatefulSetStatus::default()),
    }
}

fn parallel(mut set: StatefulSet) -> StatefulSet {
    set.spec.as_mut().unwrap().pod_management_policy = Some("Parallel".into());
    set
}

fn partitioned(mut set: StatefulSet, partition: i32) -> StatefulSet {
    let rolling = RollingUpdateStatefulSetStrategy { partition: Some(partition), ..Default::default() };
    set.spec.as_mut().unwrap().update_strategy =
        Some(StatefulSetUpdateStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) });
    set
}

/// Pods: `number` with the flags of [`words::pod`] and `o` for an old template. Gives pods made and deleted.
fn check(set: StatefulSet, pods: &str, expected: &str) {
    let revision = format!("db-{}", crate::deployment::template_hash(&set.spec.as_ref().unwrap().template, None));
    let candidates = pods.split_whitespace().map(|word| {
        let mut pod = words::pod(&format!("db-{word}"));
        let is_old = word.split_once(':').is_some_and(|(_, flags)| flags.contains('o'));
        let revision = if is_old { "db-old".to_owned() } else { revision.clone() };
        pod.metadata.owner_references = Some(vec![controller_reference(&set)]);
        pod.metadata.labels =
            Some([("app".to_owned(), "db".to_owned()), (POD_REVISION_LABEL.to_owned(), revision)].into());
        Arc::new(pod)
    });
    let (candidates, none) = (candidates.collect(), HashSet::new());
    let view =
        View { set: Arc::new(set), candidates, claims: vec![], revisions: vec![], deleting: &none, now: words::now() };
    let done = plan(&view).actions.into_iter().filter_map(|action| match action.write {
        Write::Create(object) if object["kind"] == "Pod" => Some(format!("+{}", &action.key.name[3..])),
        Write::Delete(_) => Some(format!("-{}", &action.key.name[3..])),
        Write::Create(_) | Write::Update { .. } | Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => {
            None
        }
    });
    assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn pods_come_one_by_one() {
    check(set(3), "", "+0");
    check(set(3), "0:u", "");
    check(set(3), "0", "+1");
    check(parallel(set(3)), "", "+0 +1 +2");
}
#[test]
fn pods_go_from_the_highest() {
    check(set(1), "0 1 2", "-2");
    check(set(1), "0 1 2:t", "");
    check(parallel(set(1)), "0 1 2", "-2 -1");
}
#[test]
fn ended_pods_are_replaced_under_their_name() {
    check(set(2), "0:f 1", "-0");
    check(set(2), "0:ft 1", "");
}
#[test]
fn a_rollout_begins_at_the_highest() {
    check(set(3), "0:o 1:o 2:o", "-2");
    check(set(3), "0:o 1:o 2:u", "");
    check(set(3), "0:o 1:o 2", "-1");
}
#[test]
fn a_partition_keeps_the_lower_numbers() {
    check(partitioned(set(3), 2), "0:o 1:o 2", "");
    check(partitioned(set(3), 1), "0:o 1:o 2", "-1");
}

#[test]
fn a_pod_has_its_name_and_its_storage() {
    let set = set(1);
    let spec = set.spec.clone().unwrap();
    let pod = identity::pod(&set, &spec, &spec.template, "db-1", 0);
    let own = pod.spec.unwrap();
    assert_eq!((own.hostname.as_deref(), own.subdomain.as_deref()), (Some("db-0"), Some("db")));
    let claim = own.volumes.unwrap()[0].persistent_volume_claim.clone().unwrap();
    assert_eq!(claim.claim_name, "data-db-0");
}
