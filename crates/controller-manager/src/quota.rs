//! resourcequota: what a namespace uses of its quotas. A quota binds from when its status says how
//! much there is; the admission that holds writes to it counts for itself.
//!
//! Source: kubernetes/pkg/controller/resourcequota, pkg/quota/v1/evaluator/core.

mod usage;

use std::{collections::BTreeMap, sync::Arc};

use api_types::{
    Key, Object, Quantity,
    k8s::{
        self,
        core::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service},
    },
    resources,
};
use client::{Change, PartialObject, Queue};

use crate::{
    action::Action,
    caches::BY_NAMESPACE,
    everything::{Everything, Known},
    plan::{Plan, Turn, World},
    reconcile::Controller,
};
use usage::{Scopes, Usage, add};

/// Keys are namespaces: all quotas of one are counted together.
pub static CONTROLLER: Controller = Controller {
    name: "resourcequota-controller",
    resource: &resources::NAMESPACE,
    account: "resourcequota-controller",
    component: "resourcequota-controller",
    workers: 5,
    watch: |to, queue| {
        let wake = queue.clone();
        to.quotas.push(Box::new(move |_, change| wake.add(Key::cluster(change.object().namespace()))));
        let wake = queue.clone();
        to.pods.push(Box::new(move |caches, change| {
            let namespace = change.object().namespace();
            if !caches.quotas.by_index(BY_NAMESPACE, namespace).is_empty() {
                wake.add(Key::cluster(namespace));
            }
        }));
    },
    watch_everything: Some(|queue| Box::new(watch_contents(queue))),
    decide: |world, turn| plan(&view(world, turn)),
};

/// Wakes namespaces in which something came or went, of whatever kind.
pub fn watch_contents(
    queue: &Queue<Key>,
) -> impl Fn(&Everything, &Known, &Change<PartialObject>) + Send + Sync + 'static {
    let queue = queue.clone();
    move |_, known, change| {
        let namespace = known.object.namespace();
        if !namespace.is_empty() && !matches!(change, Change::Updated { .. }) {
            // Where there is no quota, the turn ends at once.
            queue.add(Key::cluster(namespace));
        }
    }
}

struct View {
    quotas: Vec<Arc<ResourceQuota>>,
    pods: Vec<Arc<Pod>>,
    services: Vec<Arc<Service>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    /// How many objects there are, by `plural` or `plural.group`.
    counts: BTreeMap<String, i64>,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> View {
    let (caches, namespace) = (world.caches, turn.key.name.as_str());
    let quotas = caches.quotas.by_index(BY_NAMESPACE, namespace);
    if quotas.is_empty() {
        return View { quotas, pods: vec![], services: vec![], claims: vec![], counts: BTreeMap::new() };
    }
    let mut counts = BTreeMap::new();
    for known in world.everything.in_namespace(namespace) {
        *counts.entry(known.resource.group_resource()).or_default() += 1;
    }
    View {
        quotas,
        pods: caches.pods.by_index(BY_NAMESPACE, namespace),
        services: caches.services.by_index(BY_NAMESPACE, namespace),
        claims: caches.volume_claims.by_index(BY_NAMESPACE, namespace),
        counts,
    }
}

fn plan(view: &View) -> Plan {
    let next = view.quotas.iter().filter_map(|quota| counted(view, quota));
    let actions = next.map(|next| Action::update_status(&next, "the namespace uses more or less, or may use more"));
    Plan { actions: actions.collect(), ..Plan::default() }
}

/// The quota with its new status, if that differs from the old.
fn counted(view: &View, quota: &ResourceQuota) -> Option<ResourceQuota> {
    let spec = quota.spec.clone().unwrap_or_default();
    let hard = spec.hard.clone().unwrap_or_default();
    let used = total(view, &Scopes::of(&spec));
    let amount = |name: &String| used.get(name).copied().unwrap_or(Quantity::ZERO);
    let used: BTreeMap<String, k8s::Quantity> = hard.keys().map(|name| (name.clone(), amount(name).into())).collect();
    let old = quota.status.clone().unwrap_or_default();
    let is_same = old.hard.clone().unwrap_or_default() == hard && old.used.clone().unwrap_or_default() == used;
    (!is_same).then(|| ResourceQuota {
        status: Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) }),
        ..quota.clone()
    })
}

fn total(view: &View, scopes: &Scopes) -> Usage {
    let mut total = Usage::new();
    for pod in view.pods.iter().filter(|pod| scopes.take_in(pod)) {
        add(&mut total, usage::of_pod(pod));
    }
    if !scopes.is_empty() {
        // Scopes are of pods.
        return total;
    }
    view.services.iter().for_each(|service| add(&mut total, usage::of_service(service)));
    view.claims.iter().for_each(|claim| add(&mut total, usage::of_claim(claim)));
    for (name, count) in &view.counts {
        let count = usage::units(*count);
        add(&mut total, [(format!("count/{name}"), count)].into());
        if usage::COUNTED_BY_NAME.contains(&name.as_str()) {
            add(&mut total, [(name.clone(), count)].into());
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        core::{Container, PodSpec, ResourceQuotaSpec, ResourceRequirements},
        meta::ObjectMeta,
    };

    use super::*;
    use crate::{action::Write, pods::words};

    /// Pods: see [`words::pod`]; each asks for 100m of cpu. Gives what is used of `hard`, in its order.
    fn check(hard: &str, scopes: &[&str], pods: &str, expected: &str) {
        let pods = pods.split_whitespace().map(|word| {
            let mut pod = words::pod(word);
            let requests = [("cpu".to_owned(), k8s::Quantity("100m".to_owned()))];
            let resources = ResourceRequirements { requests: Some(requests.into()), ..ResourceRequirements::default() };
            let container = Container { resources: Some(resources), ..Container::default() };
            pod.spec = Some(PodSpec { containers: vec![container], ..PodSpec::default() });
            Arc::new(pod)
        });
        let names = hard.split_whitespace().map(|name| (name.to_owned(), k8s::Quantity("10".to_owned())));
        let spec = ResourceQuotaSpec {
            hard: Some(names.collect()),
            scopes: (!scopes.is_empty()).then(|| scopes.iter().map(|scope| (*scope).to_owned()).collect()),
            ..ResourceQuotaSpec::default()
        };
        let metadata = ObjectMeta { name: Some("q".into()), ..ObjectMeta::default() };
        let view = View {
            quotas: vec![Arc::new(ResourceQuota { metadata, spec: Some(spec), status: None })],
            pods: pods.collect(),
            services: vec![Arc::default()],
            claims: vec![],
            counts: [("secrets".to_owned(), 3), ("deployments.apps".to_owned(), 2)].into(),
        };
        let Write::Update { object, .. } = &plan(&view).actions[0].write else { panic!("no status") };
        let used = object["status"]["used"].as_object().unwrap().values().map(|amount| amount.as_str().unwrap());
        assert_eq!(used.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn pods_that_have_ended_use_nothing() {
        check("pods requests.cpu", &[], "a b c:s", "2 200m");
    }
    #[test]
    fn objects_of_any_kind_are_counted() {
        check("count/deployments.apps secrets services", &[], "", "2 3 1");
    }
    #[test]
    fn scopes_tell_pods_apart() {
        check("pods", &["BestEffort"], "a b", "0");
        check("pods", &["NotBestEffort"], "a b", "2");
        check("pods", &["Terminating"], "a b", "0");
    }
}
