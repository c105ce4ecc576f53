//! What one object uses, by the names that quotas know, and which pods a quota is about.

use std::collections::BTreeMap;

use api_types::{
    Quantity,
    k8s::{
        self,
        core::{
            Container, PersistentVolumeClaim, Pod, PodSpec, ResourceQuotaSpec, ScopedResourceSelectorRequirement,
            Service,
        },
    },
};

use crate::pods;

pub type Usage = BTreeMap<String, Quantity>;

/// Kinds that quotas count under their plain name too.
pub const COUNTED_BY_NAME: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// What quotas also know without `requests.` before it.
const PLAIN_REQUESTS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

pub fn units(count: i64) -> Quantity {
    Quantity::from_units(count, Default::default())
}

pub fn add(sum: &mut Usage, amounts: Usage) {
    for (name, amount) in amounts {
        *sum.entry(name).or_insert(Quantity::ZERO) += amount;
    }
}

/// A pod that has ended uses nothing.
pub fn of_pod(pod: &Pod) -> Usage {
    let mut usage = Usage::new();
    let Some(spec) = pod.spec.as_ref().filter(|_| !pods::is_finished(pod)) else { return usage };
    usage.insert("pods".to_owned(), units(1));
    for (name, amount) in sum(spec, Side::Requests) {
        if PLAIN_REQUESTS.contains(&name.as_str()) || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in sum(spec, Side::Limits) {
        usage.insert(format!("limits.{name}"), amount);
    }
    usage
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

/// Regular containers and sidecars together, or the largest init container; overhead on top.
fn sum(spec: &PodSpec, side: Side) -> Usage {
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        amounts(
            resources.and_then(|all| if side == Side::Limits { all.limits.as_ref() } else { all.requests.as_ref() }),
        )
    };
    let mut total = Usage::new();
    spec.containers.iter().for_each(|container| add(&mut total, of(container)));
    let (mut sidecars, mut largest) = (Usage::new(), Usage::new());
    for container in spec.init_containers.iter().flatten() {
        let mut here = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, here.clone());
            add(&mut sidecars, here);
            here = sidecars.clone();
        } else {
            add(&mut here, sidecars.clone());
        }
        for (name, amount) in here {
            let most = largest.entry(name).or_insert(Quantity::ZERO);
            *most = (*most).max(amount);
        }
    }
    for (name, amount) in largest {
        let most = total.entry(name).or_insert(Quantity::ZERO);
        *most = (*most).max(amount);
    }
    let whole = spec.resources.as_ref();
    total.extend(amounts(
        whole.and_then(|all| if side == Side::Limits { all.limits.as_ref() } else { all.requests.as_ref() }),
    ));
    if side == Side::Requests {
        add(&mut total, amounts(spec.overhead.as_ref()));
    }
    total
}

/// What cannot be read counts nothing: the server has refused it.
fn amounts(wire: Option<&BTreeMap<String, k8s::Quantity>>) -> Usage {
    let all = wire.into_iter().flatten();
    all.filter_map(|(name, amount)| Some((name.clone(), Quantity::try_from(amount).ok()?))).collect()
}

pub fn of_service(service: &Service) -> Usage {
    let spec = service.spec.clone().unwrap_or_default();
    let count = |count: usize| units(i64::try_from(count).unwrap_or(i64::MAX));
    let ports = spec.ports.unwrap_or_default();
    let node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports != Some(false) => ports.len(),
        Some("LoadBalancer") => ports.iter().filter(|port| port.node_port.unwrap_or_default() != 0).count(),
        _ => 0,
    };
    [
        ("services".to_owned(), units(1)),
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), units(i64::from(spec.type_.as_deref() == Some("LoadBalancer")))),
    ]
    .into()
}

pub fn of_claim(claim: &PersistentVolumeClaim) -> Usage {
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = amounts(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let storage = requests.get("storage").copied().unwrap_or(Quantity::ZERO);
    let mut usage: Usage =
        [("persistentvolumeclaims".to_owned(), units(1)), ("requests.storage".to_owned(), storage)].into();
    if let Some(class) = spec.storage_class_name.filter(|class| !class.is_empty()) {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(format!("{prefix}/persistentvolumeclaims"), units(1));
        usage.insert(format!("{prefix}/requests.storage"), storage);
    }
    usage
}

/// All of them have to hold of a pod.
pub struct Scopes(Vec<ScopedResourceSelectorRequirement>);

impl Scopes {
    pub fn of(spec: &ResourceQuotaSpec) -> Self {
        let plain = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
            scope_name: scope.clone(),
            operator: "Exists".to_owned(),
            values: None,
        });
        let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
        Self(plain.chain(selected.cloned()).collect())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn take_in(&self, pod: &Pod) -> bool {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let has_deadline = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
        let best_effort = || sum(spec, Side::Requests).is_empty() && sum(spec, Side::Limits).is_empty();
        self.0.iter().all(|scope| match scope.scope_name.as_str() {
            "Terminating" => has_deadline,
            "NotTerminating" => !has_deadline,
            "BestEffort" => best_effort(),
            "NotBestEffort" => !best_effort(),
            "PriorityClass" => has_class(scope, spec.priority_class_name.as_deref().unwrap_or_default()),
            _ => false,
        })
    }
}

fn has_class(scope: &ScopedResourceSelectorRequirement, class: &str) -> bool {
    let listed = scope.values.iter().flatten().any(|value| value == class);
    match scope.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        _ => false,
    }
}
