//! Amounts of node resources as plain integers: what a pod asks for, what a node has.
//!
//! Source: component-helpers/resource (PodRequests), scheduler/framework (Resource).

use std::collections::BTreeMap;

use api_types::{
    Quantity,
    k8s::{self, core},
};

/// What a container without a cpu request counts as when nodes are compared.
const CPU_DEFAULT_M: i64 = 100;
/// What a container without a memory request counts as when nodes are compared.
const MEMORY_DEFAULT_BYTES: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, k8s::Quantity>;

/// An amount of each resource. Missing extended resources are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_m: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    pub pods: i64,
    /// Extended resources and huge pages, by name.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; what does not parse counts as zero, as the apiserver has validated it.
    pub fn read(list: Option<&List>) -> Self {
        let mut amounts = Self::default();
        for (name, wire) in list.into_iter().flatten() {
            let quantity = Quantity::try_from(wire).unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => amounts.cpu_m = quantity.milli(),
                "memory" => amounts.memory_bytes = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral_bytes = quantity.value(),
                "pods" => amounts.pods = quantity.value(),
                _ => {
                    amounts.extended.insert(name.clone(), quantity.value());
                }
            }
        }
        amounts
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, |mine, theirs| mine.saturating_add(theirs));
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, |mine, theirs| mine.saturating_sub(theirs));
    }

    /// The larger of both, resource by resource.
    fn raise_to(&mut self, other: &Resources) {
        self.combine(other, std::cmp::Ord::max);
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.cpu_m = with(self.cpu_m, other.cpu_m);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = with(self.ephemeral_bytes, other.ephemeral_bytes);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    /// For each container without a cpu or memory request, what it counts as in comparisons.
    fn with_defaults(mut self, list: Option<&List>) -> Self {
        let names = |name| list.is_some_and(|list: &List| list.contains_key(name));
        if !names("cpu") {
            self.cpu_m = CPU_DEFAULT_M;
        }
        if !names("memory") {
            self.memory_bytes = MEMORY_DEFAULT_BYTES;
        }
        self
    }
}

/// What a pod needs of its node: `(exactly, with defaults for what is not said)`.
///
/// Containers and restartable init containers run side by side; each other init container runs
/// beside the restartable ones before it; the larger of both counts, plus overhead.
/// What the pod asks for as a whole replaces the sum for cpu, memory and huge pages.
pub fn of_pod(spec: &core::PodSpec) -> (Resources, Resources) {
    (total(spec, false), total(spec, true))
}

fn total(spec: &core::PodSpec, defaults: bool) -> Resources {
    let request = |container: &core::Container| {
        let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let amounts = Resources::read(list);
        if defaults { amounts.with_defaults(list) } else { amounts }
    };
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&request(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut running = request(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&running);
            peak.raise_to(&sidecars);
        } else {
            running.add(&sidecars);
            peak.raise_to(&running);
        }
    }
    sum.add(&sidecars);
    sum.raise_to(&peak);
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(list) = whole {
        let amounts = Resources::read(Some(list));
        if list.contains_key("cpu") {
            sum.cpu_m = amounts.cpu_m;
        }
        if list.contains_key("memory") {
            sum.memory_bytes = amounts.memory_bytes;
        }
        sum.extended.extend(amounts.extended);
    }
    sum.add(&Resources::read(spec.overhead.as_ref()));
    sum.extended.retain(|_, amount| *amount != 0);
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, cpu_m: i64, memory_bytes: i64) {
        let spec: core::PodSpec = serde_json::from_value(spec).unwrap();
        let (exact, _) = of_pod(&spec);
        assert_eq!((exact.cpu_m, exact.memory_bytes), (cpu_m, memory_bytes));
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Ki"}}})
    }

    #[test]
    fn containers_add_up() {
        check(json!({"containers": [container("100m"), container("1")]}), 1100, 2048);
    }

    #[test]
    fn the_largest_init_container_counts_if_it_is_larger() {
        check(
            json!({"containers": [container("100m")], "initContainers": [container("1"), container("2")]}),
            2000,
            1024,
        );
        check(json!({"containers": [container("3")], "initContainers": [container("1")]}), 3000, 1024);
    }

    #[test]
    fn sidecars_run_beside_later_init_containers_and_all_containers() {
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = json!("Always");
        let inits = json!([container("2"), sidecar, container("2")]);
        check(json!({"containers": [container("500m")], "initContainers": inits}), 3000, 2048);
    }

    #[test]
    fn overhead_is_added_and_pod_level_requests_replace_the_sum() {
        check(json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), 1250, 1024);
        let whole = json!({"requests": {"cpu": "4"}});
        check(json!({"containers": [container("1")], "resources": whole}), 4000, 1024);
    }

    #[test]
    fn nothing_said_counts_as_a_little_in_comparisons() {
        let spec: core::PodSpec = serde_json::from_value(json!({"containers": [{"name": "a"}]})).unwrap();
        let (exact, compared) = of_pod(&spec);
        assert_eq!((exact.cpu_m, exact.memory_bytes), (0, 0));
        assert_eq!((compared.cpu_m, compared.memory_bytes), (CPU_DEFAULT_M, MEMORY_DEFAULT_BYTES));
    }
}
