//! Slices as lines of data: pods in, endpoints out.

use api_types::k8s::{
    IntOrString,
    core::{PodIP, ServicePort, ServiceSpec},
    meta::ObjectMeta,
};

use super::*;
use crate::{action::Write, pods::words};

fn service(spec: ServiceSpec) -> Service {
    let port = ServicePort {
        name: Some("http".into()),
        port: 80,
        target_port: Some(IntOrString::Int(8080)),
        ..ServicePort::default()
    };
    let metadata = ObjectMeta {
        name: Some("web".into()),
        namespace: Some("ns".into()),
        uid: Some("s".into()),
        labels: Some([("app".to_owned(), "web".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let spec = ServiceSpec {
        ports: Some(vec![port]),
        selector: spec.selector.clone().or(Some([("app".to_owned(), "web".to_owned())].into())),
        ip_families: Some(vec!["IPv4".into()]),
        ..spec
    };
    Service { metadata, spec: Some(spec), status: None }
}

fn pods(words: &str) -> Vec<(Arc<Pod>, Option<Arc<Node>>)> {
    let pods = words.split_whitespace().zip(1..).map(|(word, number)| {
        let mut pod = words::pod(word);
        pod.status.as_mut().unwrap().pod_ips = Some(vec![PodIP { ip: format!("10.0.0.{number}") }]);
        (Arc::new(pod), Some(Arc::new(Node::default())))
    });
    pods.collect()
}

/// Applies a plan to slices, as the server would.
fn apply(slices: &[Arc<EndpointSlice>], plan: &Plan) -> Vec<Arc<EndpointSlice>> {
    let mut slices: Vec<EndpointSlice> = slices.iter().map(|slice| (**slice).clone()).collect();
    for action in &plan.actions {
        match &action.write {
            Write::Create(object) => {
                let mut slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
                let name = format!("web-{}", slices.len());
                (slice.metadata.name, slice.metadata.uid) = (Some(name.clone()), Some(name));
                slices.push(slice);
            }
            Write::Update { object, .. } => {
                let slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
                let place = slices.iter().position(|it| it.name() == slice.name()).unwrap();
                slices[place] = slice;
            }
            Write::Delete(_) => slices.retain(|slice| slice.name() != action.key.name),
            Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => panic!("not what is done to slices"),
        }
    }
    slices.into_iter().map(Arc::new).collect()
}

fn planned(service: &Service, slices: &[Arc<EndpointSlice>], pods: &str) -> Plan {
    plan(&View { service: Some(Arc::new(service.clone())), slices: slices.to_vec(), pods: self::pods(pods) })
}

/// `name` with `r` ready, `s` serving, `t` terminating, for each endpoint; slices apart by `/`.
fn show(slices: &[Arc<EndpointSlice>]) -> String {
    let endpoint = |endpoint: &Endpoint| {
        let conditions = endpoint.conditions.clone().unwrap();
        let flag = |flag: Option<bool>, letter| if flag == Some(true) { letter } else { "" };
        let name = endpoint.target_ref.as_ref().unwrap().name.as_deref().unwrap();
        let (r, s) = (flag(conditions.ready, "r"), flag(conditions.serving, "s"));
        format!("{name}:{r}{s}{}", flag(conditions.terminating, "t"))
    };
    let slice =
        |slice: &Arc<EndpointSlice>| slice.endpoints.iter().flatten().map(endpoint).collect::<Vec<_>>().join(" ");
    slices.iter().map(slice).collect::<Vec<_>>().join(" / ")
}

fn check(spec: ServiceSpec, pods: &str, expected: &str) {
    let service = service(spec);
    let slices = apply(&[], &planned(&service, &[], pods));
    assert_eq!(show(&slices), expected);
    assert_eq!(planned(&service, &slices, pods).actions, [], "a second look changes nothing");
}

#[test]
fn conditions_follow_the_pods() {
    check(ServiceSpec::default(), "a b:u c:t d:s", "a:rs b: c:st");
}
#[test]
fn not_ready_may_be_published() {
    let spec = ServiceSpec { publish_not_ready_addresses: Some(true), ..ServiceSpec::default() };
    check(spec, "a b:u", "a:rs b:r");
}
#[test]
fn without_pods_there_is_an_empty_slice() {
    check(ServiceSpec::default(), "", "");
    let slices = apply(&[], &planned(&service(ServiceSpec::default()), &[], ""));
    assert_eq!(slices.len(), 1);
    let labels = slices[0].metadata.labels.as_ref().unwrap();
    assert_eq!(labels[SERVICE_NAME_LABEL], "web");
    assert_eq!(labels[MANAGED_BY.0], MANAGED_BY.1);
    assert_eq!(labels["app"], "web", "the Service's labels are copied");
}
#[test]
fn the_placeholder_is_filled_rather_than_replaced() {
    let service = service(ServiceSpec::default());
    let slices = apply(&[], &planned(&service, &[], ""));
    let plan = planned(&service, &slices, "a");
    assert_eq!(plan.actions.len(), 1);
    assert_eq!(show(&apply(&slices, &plan)), "a:rs");
}
#[test]
fn slices_hold_a_hundred_and_change_one_at_a_time() {
    let service = service(ServiceSpec::default());
    let many: Vec<String> = (0..250).map(|number| format!("p{number:03}")).collect();
    let slices = apply(&[], &planned(&service, &[], &many.join(" ")));
    assert_eq!(slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect::<Vec<_>>(), [100, 100, 50]);
    let mut fewer = many.clone();
    fewer[0] = "p000:u".to_owned();
    let plan = planned(&service, &slices, &fewer.join(" "));
    assert_eq!(plan.actions.len(), 1, "only the slice of the pod that changed is written");
}
#[test]
fn a_pod_on_an_unknown_node_waits() {
    let service = service(ServiceSpec::default());
    let mut pods = pods("a b");
    pods[0].1 = None;
    let plan = plan(&View { service: Some(Arc::new(service)), slices: vec![], pods });
    assert_eq!(show(&apply(&[], &plan)), "b:rs");
}
