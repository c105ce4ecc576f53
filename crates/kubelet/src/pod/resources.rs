//! Requests and limits: cgroup numbers, quality of service, and the values that a pod may read about itself. Pure.

use std::collections::BTreeMap;

use api_types::{
    k8s::{
        self,
        core::{Container, Pod, PodSpec, ResourceFieldSelector, ResourceRequirements},
    },
    quantity::Quantity,
};

use crate::runtime::Resources;

pub type ResourceList = BTreeMap<String, k8s::Quantity>;

/// CPU weight of one whole CPU.
const SHARES_PER_CPU: i64 = 1024;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
const QUOTA_PERIOD_US: i64 = 100_000;
const QUOTA_MIN_US: i64 = 1000;
/// Upstream's out-of-memory scores: who is to die first.
const OOM_GUARANTEED: i64 = -997;
const OOM_BEST_EFFORT: i64 = 1000;
const OOM_BURSTABLE_MIN: i64 = 3;

/// An amount of a list; `None` if it is not there or is not a quantity.
pub fn amount(list: Option<&ResourceList>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok()
}

/// A container's cgroup limits.
///
/// Source: `generateLinuxContainerResources` in pkg/kubelet/kuberuntime.
pub fn limits(pod: &Pod, requirements: Option<&ResourceRequirements>, machine_memory_bytes: i64) -> Resources {
    let limits = requirements.and_then(|requirements| requirements.limits.as_ref());
    let requests = requirements.and_then(|requirements| requirements.requests.as_ref());
    let cpu_limit_m = amount(limits, "cpu").map(Quantity::milli);
    // A limit alone is also the request.
    let cpu_request_m = amount(requests, "cpu").map(Quantity::milli).or(cpu_limit_m).unwrap_or_default();
    let memory_request = amount(requests, "memory").map(Quantity::value);
    let memory_limit = amount(limits, "memory").map(Quantity::value);
    Resources {
        cpu_shares: (cpu_request_m * SHARES_PER_CPU / 1000).clamp(SHARES_MIN, SHARES_MAX),
        cpu_quota_us: match cpu_limit_m {
            Some(milli) if milli > 0 => (milli * QUOTA_PERIOD_US / 1000).max(QUOTA_MIN_US),
            Some(_) | None => 0,
        },
        cpu_period_us: if cpu_limit_m.is_some_and(|milli| milli > 0) { QUOTA_PERIOD_US } else { 0 },
        memory_bytes: memory_limit.unwrap_or_default(),
        oom_score_adj: oom_score(
            qos_class(pod),
            memory_request.or(memory_limit).unwrap_or_default(),
            machine_memory_bytes,
        ),
    }
}

fn oom_score(qos: &str, request_bytes: i64, machine_bytes: i64) -> i64 {
    match qos {
        "Guaranteed" => OOM_GUARANTEED,
        "BestEffort" => OOM_BEST_EFFORT,
        _ => {
            let share = i128::from(request_bytes) * 1000 / i128::from(machine_bytes.max(1));
            let score = OOM_BEST_EFFORT - i64::try_from(share).unwrap_or(OOM_BEST_EFFORT);
            score.clamp(OOM_BURSTABLE_MIN, OOM_BEST_EFFORT - 1)
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`: the status's, or computed.
///
/// Source: `ComputePodQOS` in pkg/apis/core/v1/helper/qos.
pub fn qos_class(pod: &Pod) -> &'static str {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return "Guaranteed",
        Some("Burstable") => return "Burstable",
        Some("BestEffort") => return "BestEffort",
        Some(_) | None => {}
    }
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers: Vec<&Container> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    let mut any = false;
    let mut guaranteed = true;
    for container in containers {
        for name in ["cpu", "memory"] {
            let requirements = container.resources.as_ref();
            let limit =
                amount(requirements.and_then(|list| list.limits.as_ref()), name).filter(|value| !value.is_zero());
            let request =
                amount(requirements.and_then(|list| list.requests.as_ref()), name).filter(|value| !value.is_zero());
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The value of a `resourceFieldRef`. A missing limit is what the node can give.
///
/// Source: `ExtractContainerResourceValue` in pkg/api/v1/resource.
pub fn field(
    spec: &PodSpec,
    own_container: &str,
    selector: &ResourceFieldSelector,
    allocatable: &ResourceList,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(own_container);
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container =
        containers.find(|container| container.name == name).ok_or_else(|| format!("container {name} not found"))?;
    let (list, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let requirements = container.resources.as_ref();
    let limit = amount(requirements.and_then(|requirements| requirements.limits.as_ref()), resource);
    let request = amount(requirements.and_then(|requirements| requirements.requests.as_ref()), resource);
    let value = match list {
        "limits" => limit.or_else(|| amount(Some(allocatable), resource)),
        "requests" => request.or(limit),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let value = value.unwrap_or(Quantity::ZERO);
    let divisor = selector.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.filter(|divisor| !divisor.is_zero());
    Ok(match (resource, divisor) {
        ("cpu", divisor) => divide(value.milli(), divisor.map_or(1000, Quantity::milli)),
        (_, divisor) => divide(value.value(), divisor.map_or(1, Quantity::value)),
    }
    .to_string())
}

/// Rounded up.
fn divide(value: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    value / divisor + i64::from(value % divisor != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": {"containers": [{"name": "a", "resources": resources}]}}))
            .unwrap()
    }
    fn limits_of(resources: serde_json::Value) -> (i64, i64, i64, i64) {
        let pod = pod(resources);
        let requirements = pod.spec.as_ref().unwrap().containers[0].resources.clone();
        let Resources { cpu_shares, cpu_quota_us, memory_bytes, oom_score_adj, .. } =
            limits(&pod, requirements.as_ref(), 1 << 30);
        (cpu_shares, cpu_quota_us, memory_bytes, oom_score_adj)
    }

    #[test]
    fn cgroup_numbers() {
        use serde_json::json;
        assert_eq!(limits_of(json!({})), (2, 0, 0, 1000));
        assert_eq!(limits_of(json!({"requests": {"cpu": "500m", "memory": "512Mi"}})), (512, 0, 0, 500));
        assert_eq!(limits_of(json!({"limits": {"cpu": "2", "memory": "1Gi"}})), (2048, 200_000, 1 << 30, -997));
        assert_eq!(limits_of(json!({"limits": {"cpu": "1m"}})), (2, 1000, 0, 999));
    }

    #[test]
    fn quality_of_service() {
        use serde_json::json;
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(
            qos_class(&pod(json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "500m"}}))),
            "Burstable"
        );
        assert_eq!(
            qos_class(&pod(json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1000m"}}))),
            "Guaranteed"
        );
    }

    #[test]
    fn values_about_itself() {
        let pod = pod(serde_json::json!({"limits": {"cpu": "1500m"}, "requests": {"memory": "100"}}));
        let allocatable = [("memory".to_owned(), k8s::Quantity("1Ki".to_owned()))].into();
        let check = |resource: &str, divisor: Option<&str>, expected: &str| {
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor: divisor.map(|text| k8s::Quantity(text.to_owned())),
                resource: resource.to_owned(),
            };
            assert_eq!(field(pod.spec.as_ref().unwrap(), "a", &selector, &allocatable).unwrap(), expected);
        };
        check("limits.cpu", None, "2");
        check("limits.cpu", Some("1m"), "1500");
        check("requests.cpu", Some("1"), "2");
        check("limits.memory", None, "1024");
        check("requests.memory", Some("0"), "100");
    }
}
