//! Rollouts as lines of data: `template size/available`, newest last.

use api_types::k8s::{
    IntOrString,
    apps::{DeploymentStatus, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment},
    core::{Container, PodSpec, PodTemplateSpec},
    meta::{LabelSelector, ObjectMeta},
};

use super::*;
use crate::{action::Write, pods::words};

fn template(image: &str) -> PodTemplateSpec {
    let container = Container { name: "c".into(), image: Some(image.into()), ..Container::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

fn amount(text: &str) -> Option<IntOrString> {
    Some(text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int))
}

/// `replicas surge unavailable`, or `replicas recreate`; `paused` behind.
fn deployment(words: &str, image: &str) -> Deployment {
    let words: Vec<&str> = words.split(' ').collect();
    let strategy = match words[1] {
        "recreate" => DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None },
        surge => DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: amount(surge),
                max_unavailable: amount(words[2]),
            }),
        },
    };
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            uid: Some("d".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: words[0].parse().ok(),
            selector: LabelSelector {
                match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
                ..LabelSelector::default()
            },
            strategy: Some(strategy),
            template: template(image),
            paused: words.contains(&"paused").then_some(true),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(1),
            ..DeploymentSpec::default()
        }),
        status: Some(DeploymentStatus { observed_generation: Some(1), ..DeploymentStatus::default() }),
    }
}

/// `image size/available`, scaled when the deployment had `desired` replicas.
fn set(word: &str, desired: &str, age: i64) -> ReplicaSet {
    let (image, sizes) = word.split_once(' ').unwrap();
    let (size, available) = sizes.split_once('/').unwrap();
    let owner = deployment(desired, image);
    let mut set = revision::new_set(&owner, 100 - age);
    set.metadata.uid = Some(image.to_owned());
    set.metadata.name = Some(image.to_owned());
    set.metadata.resource_version = Some("1".to_owned());
    set.metadata.creation_timestamp = Some(words::ago(age));
    set.spec.as_mut().unwrap().replicas = size.parse().ok();
    set.status = Some(ReplicaSetStatus {
        replicas: size.parse().unwrap(),
        available_replicas: available.parse().ok(),
        ready_replicas: available.parse().ok(),
        ..ReplicaSetStatus::default()
    });
    set
}

fn planned(deployment: Deployment, sets: Vec<ReplicaSet>, pods: &str) -> Plan {
    let candidates = sets.into_iter().map(Arc::new).collect();
    let pods = pods.split_whitespace().map(|word| {
        let mut pod = words::pod(word);
        let owner = ReplicaSet {
            metadata: ObjectMeta { name: Some("v1".into()), uid: Some("v1".into()), ..ObjectMeta::default() },
            ..ReplicaSet::default()
        };
        pod.metadata.owner_references = Some(vec![crate::owners::controller_reference(&owner)]);
        Arc::new(pod)
    });
    plan(&View {
        deployment: Arc::new(deployment),
        candidates,
        pods: pods.collect(),
        namesake: None,
        failure: None,
        now: words::now(),
    })
}

/// Gives `+size` for a new set, `name=size` for one that is written, `-name` for one that is deleted.
fn check(deployment_words: &str, sets: &str, expected: &str) {
    check_from(deployment_words, deployment_words, sets, "", expected);
}

fn check_from(deployment_words: &str, before: &str, sets: &str, pods: &str, expected: &str) {
    let sets: Vec<&str> = sets.split(", ").filter(|word| !word.is_empty()).collect();
    let count = i64::try_from(sets.len()).unwrap();
    let sets = sets.iter().zip(0..).map(|(word, index)| set(word, before, count - index)).collect();
    let plan = planned(deployment(deployment_words, "v2"), sets, pods);
    let done = plan.actions.iter().filter(|action| action.resource.kind == "ReplicaSet").map(|action| {
        let size = |object: &serde_json::Value| object["spec"]["replicas"].to_string();
        match &action.write {
            Write::Create(object) => format!("+{}", size(object)),
            Write::Update { object, .. } => format!("{}={}", action.key.name, size(object)),
            Write::Delete(_) => format!("-{}", action.key.name),
            Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => format!("~{}", action.key.name),
        }
    });
    assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn the_first_set_is_made_whole() {
    check("3 25% 25%", "", "+3");
}
#[test]
fn a_new_template_gets_what_surge_allows() {
    check("10 25% 25%", "v1 10/10", "+3 v1=8");
    check("10 0 1", "v1 10/10", "+0 v1=9");
}
#[test]
fn old_sets_shrink_as_the_new_becomes_available() {
    check("10 3 2", "v1 10/10, v2 3/0", "v1=8");
    check("10 3 2", "v1 8/8, v2 3/0", "v2=5");
    check("10 3 2", "v1 8/8, v2 5/0", "");
    check("10 3 2", "v1 8/8, v2 5/5", "v1=3");
}
#[test]
fn unhealthy_old_pods_go_first() {
    check("10 3 2", "v1 8/4, v2 5/5", "v1=3");
    check("4 0 1", "v0 1/0, v1 3/3, v2 0/0", "v0=0");
}
#[test]
fn a_finished_rollout_keeps_the_history() {
    check("3 1 0", "v1 0/0, v2 3/3", "");
}
#[test]
fn scaling_keeps_proportions() {
    check_from("10 2 0", "5 2 0", "v1 5/5, v2 2/2", "", "v1=9 v2=3");
    check_from("5 0 1", "10 0 1", "v1 6/6, v2 4/4", "", "v1=3 v2=2");
    check_from("0 2 0", "5 2 0", "v1 5/5, v2 2/2", "", "v1=0 v2=0");
}
#[test]
fn scaling_one_set_is_simple() {
    check_from("5 1 0", "3 1 0", "v2 3/3", "", "v2=5");
    check_from("2 1 0", "3 1 0", "v1 0/0, v2 3/3", "", "v2=2");
}
#[test]
fn paused_deployments_scale_but_do_not_roll() {
    check_from("5 1 0 paused", "3 1 0", "v1 3/3", "", "v1=5");
    check("3 1 0 paused", "v1 3/3", "");
}
#[test]
fn recreate_waits_for_the_last_old_pod() {
    check_from("3 recreate", "3 recreate", "v1 3/3", "a b c", "v1=0");
    check_from("3 recreate", "3 recreate", "v1 0/0", "a:t", "");
    check_from("3 recreate", "3 recreate", "v1 0/0", "a:s", "+3");
    check_from("3 recreate", "3 recreate", "", "", "+3");
}

fn progressing(plan: &Plan) -> Option<(String, String)> {
    let status = plan.actions.iter().rev().find(|action| action.resource.kind == "Deployment")?;
    let Write::Update { object, .. } = &status.write else { return None };
    let conditions = object["status"]["conditions"].as_array()?;
    let it = conditions.iter().find(|condition| condition["type"] == "Progressing")?;
    Some((it["reason"].as_str()?.to_owned(), it["message"].as_str()?.to_owned()))
}

#[test]
fn progress_is_told_in_upstreams_words() {
    let plan = planned(deployment("3 1 0", "v2"), vec![], "");
    let (reason, message) = progressing(&plan).unwrap();
    assert_eq!(reason, "NewReplicaSetCreated");
    assert!(message.starts_with("Created new replica set \"web-"), "{message}");
    let event = &plan.actions[0].events[0];
    assert_eq!(event.reason, "ScalingReplicaSet");
    assert!(event.message.ends_with(" from 0 to 3") && event.message.starts_with("Scaled up replica set web-"));

    let plan = planned(deployment("3 1 0", "v2"), vec![set("v2 3/3", "3 1 0", 1)], "");
    let (reason, message) = progressing(&plan).unwrap();
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("NewReplicaSetAvailable", "ReplicaSet \"v2\" has successfully progressed.")
    );
}

#[test]
fn lack_of_progress_has_a_deadline() {
    let stuck = |updated_s: i64| {
        let mut stuck = deployment("3 1 0", "v2");
        let status = stuck.status.as_mut().unwrap();
        (status.replicas, status.updated_replicas) = (Some(3), Some(3));
        status.conditions = Some(vec![api_types::k8s::apps::DeploymentCondition {
            type_: "Progressing".into(),
            status: "True".into(),
            reason: Some("ReplicaSetUpdated".into()),
            last_update_time: Some(words::ago(updated_s)),
            ..Default::default()
        }]);
        planned(stuck, vec![set("v2 3/0", "3 1 0", 1)], "")
    };
    assert_eq!(progressing(&stuck(700)).unwrap().0, "ProgressDeadlineExceeded");
    let waiting = stuck(100);
    assert_eq!(waiting.look_again_after.unwrap().as_secs(), 501);
}

#[test]
fn the_oldest_empty_sets_beyond_the_limit_go() {
    let mut done = deployment("3 1 0", "v2");
    let status = done.status.as_mut().unwrap();
    (status.replicas, status.updated_replicas, status.available_replicas) = (Some(3), Some(3), Some(3));
    let sets = vec![set("v0 0/0", "3 1 0", 3), set("v1 0/0", "3 1 0", 2), set("v2 3/3", "3 1 0", 1)];
    let plan = planned(done, sets, "");
    let deleted = plan.actions.iter().filter(|action| matches!(action.write, Write::Delete(_)));
    assert_eq!(deleted.map(|action| action.key.name.as_str()).collect::<Vec<_>>(), ["v0"]);
}

#[test]
fn a_rollback_annotation_takes_the_template_back() {
    let mut asked = deployment("3 1 0", "v2");
    asked.metadata.annotations = Some([(revision::ROLLBACK_TO.to_owned(), "0".to_owned())].into());
    let plan = planned(asked, vec![set("v1 0/0", "3 1 0", 2), set("v2 3/3", "3 1 0", 1)], "");
    let Write::Update { object, .. } = &plan.actions[0].write else { panic!("not an update") };
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "v1");
    assert!(object["metadata"]["annotations"].get(revision::ROLLBACK_TO).is_none());
    assert_eq!(plan.actions[0].events[0].message, "Rolled back deployment \"web\" to revision 98");
}
