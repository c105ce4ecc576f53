//! DaemonSets as lines of data: nodes and pods in, pods made and deleted out.

use api_types::k8s::{
    IntOrString,
    apps::{DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
    core::{NodeSpec, PodSpec, PodTemplateSpec, Taint},
    meta::{LabelSelector, ObjectMeta},
};

use super::*;
use crate::{action::Write, pods::words};

fn set(max_unavailable: i32, max_surge: i32) -> DaemonSet {
    let labels = [("app".to_owned(), "agent".to_owned())];
    let meta = ObjectMeta { labels: Some(labels.clone().into()), ..ObjectMeta::default() };
    DaemonSet {
        metadata: ObjectMeta {
            name: Some("agent".into()),
            namespace: Some("ns".into()),
            uid: Some("ds".into()),
            ..ObjectMeta::default()
        },
        spec: Some(DaemonSetSpec {
            selector: LabelSelector { match_labels: Some(labels.into()), ..LabelSelector::default() },
            template: PodTemplateSpec { metadata: Some(meta), spec: Some(PodSpec::default()) },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(max_unavailable)),
                    max_surge: Some(IntOrString::Int(max_surge)),
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

/// Nodes: `name` with `s` tainted NoSchedule, `e` tainted NoExecute, `c` cordoned.
/// Pods: `node` with the flags of [`words::pod`] and `o` for an old template.
fn check(set: DaemonSet, nodes: &str, pods: &str, expected: &str) {
    let nodes = nodes.split_whitespace().map(|word| {
        let (name, flags) = word.split_once(':').unwrap_or((word, ""));
        let taint = |letter: char, key: &str, effect: &str| {
            flags.contains(letter).then(|| Taint { key: key.into(), effect: effect.into(), ..Taint::default() })
        };
        let taints = [
            taint('s', "dedicated", "NoSchedule"),
            taint('e', "dedicated", "NoExecute"),
            taint('c', "node.kubernetes.io/unschedulable", "NoSchedule"),
        ];
        let spec = NodeSpec { taints: Some(taints.into_iter().flatten().collect()), ..NodeSpec::default() };
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        Arc::new(Node { metadata, spec: Some(spec), status: None })
    });
    let nodes: Vec<_> = nodes.collect();
    let hash = crate::deployment::template_hash(&set.spec.as_ref().unwrap().template, None);
    let candidates = pods.split_whitespace().map(|word| {
        let mut pod = words::pod(word);
        let is_old = word.split_once(':').is_some_and(|(_, flags)| flags.contains('o'));
        pod.spec.as_mut().unwrap().node_name = Some(pod.name().trim_end_matches('\'').to_owned());
        pod.metadata.owner_references = Some(vec![controller_reference(&set)]);
        let hash = if is_old { "old".to_owned() } else { hash.clone() };
        pod.metadata.labels = Some([("app".to_owned(), "agent".to_owned()), (HASH_LABEL.to_owned(), hash)].into());
        Arc::new(pod)
    });
    let (candidates, none) = (candidates.collect(), HashSet::new());
    let view = View { set: Arc::new(set), nodes, candidates, revisions: vec![], deleting: &none, now: words::now() };
    let done = plan(&view).actions.into_iter().filter_map(|action| match action.write {
        Write::Create(object) if object["kind"] == "Pod" => {
            let pod: Pod = serde_json::from_value(object).unwrap();
            Some(format!("+{}", placement::node_of(&pod)))
        }
        Write::Delete(_) => Some(format!("-{}", action.key.name)),
        Write::Create(_) | Write::Update { .. } | Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => {
            None
        }
    });
    assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn every_node_gets_one() {
    check(set(1, 0), "a b c", "b", "+a +c");
    check(set(1, 0), "a", "a a'", "-a'");
}
#[test]
fn taints_keep_away_or_drive_out() {
    check(set(1, 0), "a:s b:e c:c", "", "+c");
    check(set(1, 0), "a:s b:e", "a b", "-b");
}
#[test]
fn ended_pods_are_replaced() {
    check(set(1, 0), "a", "a:f", "-a");
}
#[test]
fn a_pod_that_is_going_holds_its_node_until_it_has_ended() {
    check(set(1, 0), "a b", "a:t b:tf", "+b");
    check(set(0, 1), "a", "a:t", "");
}
#[test]
fn a_rollout_takes_one_at_a_time() {
    check(set(1, 0), "a b c", "a:o b:o c:o", "-a");
    check(set(1, 0), "a b c", "a:u b:o c:o", "");
    check(set(1, 0), "a b c", "a b:ou c:o", "-b -c");
    check(set(2, 0), "a b c", "a:o b:o c:o", "-a -b");
}
#[test]
fn a_surge_makes_the_new_pod_first() {
    check(set(0, 1), "a b", "a:o b:o", "+a");
    check(set(0, 1), "a b", "a:o a' b:o", "-a");
    check(set(0, 1), "a b", "a:o a':u b:o", "");
}
