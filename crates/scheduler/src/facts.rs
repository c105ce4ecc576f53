//! What the scheduler knows of pods and nodes, flat and already parsed, so that a cycle
//! over thousands of nodes reads integers and sets instead of API objects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::core::{self, Taint, Toleration},
};

use crate::{
    affinity::{NodeTerms, PodTerm, WeightedNodeTerm, WeightedPodTerm},
    resources::{self, Resources},
    spread::Constraint,
};

pub type Labels = BTreeMap<String, String>;

/// A host port in use: `(ip, protocol, port)`; the ip is `0.0.0.0` if the pod names none.
pub type HostPort = (String, String, i32);

/// A pod as the scheduler sees it.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    pub id: Id,
    pub labels: Labels,
    pub priority: Priority,
    pub needs: Needs,
    pub place: Place,
    pub status: Status,
}

#[derive(Clone, Debug, Default)]
pub struct Id {
    pub key: Key,
    pub uid: String,
    pub resource_version: String,
    pub scheduler: String,
    /// What controls the pod, if anything does.
    pub owner: Option<Owner>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority {
    pub value: i32,
    /// `preemptionPolicy: Never`
    pub waits: bool,
}

/// What a pod takes of a node.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    pub resources: Resources,
    /// The same with a little for containers that say nothing; for comparing nodes.
    pub compared: Resources,
    pub ports: Vec<HostPort>,
    pub images: Vec<String>,
    /// Names of PersistentVolumeClaims in the pod's namespace.
    pub claims: Vec<String>,
}

/// Where a pod wants to be, or is.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `spec.nodeName`; empty before it is bound.
    pub node: String,
    pub node_selector: Labels,
    pub required_nodes: Option<NodeTerms>,
    pub preferred_nodes: Vec<WeightedNodeTerm>,
    pub tolerations: Vec<Toleration>,
    pub affinity: PodAffinities,
    pub spread: Vec<Constraint>,
}

/// Affinity to, and anti-affinity against, other pods.
#[derive(Clone, Debug, Default)]
pub struct PodAffinities {
    pub required: Vec<PodTerm>,
    pub required_anti: Vec<PodTerm>,
    pub preferred: Vec<WeightedPodTerm>,
    pub preferred_anti: Vec<WeightedPodTerm>,
}

impl PodAffinities {
    pub fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.required_anti.is_empty()
            && self.preferred.is_empty()
            && self.preferred_anti.is_empty()
    }
}

/// What the pod's status says that matters here.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub terminating: bool,
    /// Succeeded or Failed: it takes no resources any more.
    pub finished: bool,
    pub gates: Vec<String>,
    pub nominated_node: String,
    pub started: Option<Timestamp>,
}

impl PodFacts {
    pub fn read(pod: &core::Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let (resources, compared) = resources::of_pod(&spec);
        let labels = pod.meta().labels.clone().unwrap_or_default();
        Self {
            id: id(pod, &spec),
            priority: Priority {
                value: spec.priority.unwrap_or_default(),
                waits: spec.preemption_policy.as_deref() == Some("Never"),
            },
            needs: Needs {
                resources,
                compared,
                ports: host_ports(&spec),
                images: spec.containers.iter().filter_map(|c| c.image.clone()).collect(),
                claims: claims(pod.name(), &spec),
            },
            status: Status {
                terminating: pod.is_terminating(),
                finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
                gates: spec.scheduling_gates.iter().flatten().map(|gate| gate.name.clone()).collect(),
                nominated_node: status.nominated_node_name.unwrap_or_default(),
                started: status.start_time.map(|time| time.0),
            },
            place: place(pod.namespace(), &labels, spec),
            labels,
        }
    }

    pub fn namespace(&self) -> &str {
        &self.id.key.namespace
    }
}

fn id(pod: &core::Pod, spec: &core::PodSpec) -> Id {
    let owners = pod.meta().owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true));
    Id {
        key: pod.key(),
        uid: pod.uid().to_owned(),
        resource_version: pod.resource_version().to_owned(),
        scheduler: spec.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".to_owned()),
        owner: owner.map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() }),
    }
}

fn place(namespace: &str, labels: &Labels, spec: core::PodSpec) -> Place {
    let affinity = spec.affinity.unwrap_or_default();
    let nodes = affinity.node_affinity.unwrap_or_default();
    let with = affinity.pod_affinity.unwrap_or_default();
    let against = affinity.pod_anti_affinity.unwrap_or_default();
    let term = |term: &core::PodAffinityTerm| PodTerm::read(term, namespace);
    let weighted = |weighted: &core::WeightedPodAffinityTerm| WeightedPodTerm {
        weight: weighted.weight.into(),
        term: term(&weighted.pod_affinity_term),
    };
    let required = |terms: Option<Vec<core::PodAffinityTerm>>| terms.iter().flatten().map(term).collect();
    let preferred = |terms: Option<Vec<core::WeightedPodAffinityTerm>>| terms.iter().flatten().map(weighted).collect();
    let constraints = spec.topology_spread_constraints.iter().flatten();
    Place {
        node: spec.node_name.unwrap_or_default(),
        node_selector: spec.node_selector.unwrap_or_default(),
        required_nodes: nodes.required_during_scheduling_ignored_during_execution.as_ref().map(NodeTerms::read),
        preferred_nodes: nodes
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .map(WeightedNodeTerm::read)
            .collect(),
        tolerations: spec.tolerations.unwrap_or_default(),
        affinity: PodAffinities {
            required: required(with.required_during_scheduling_ignored_during_execution),
            required_anti: required(against.required_during_scheduling_ignored_during_execution),
            preferred: preferred(with.preferred_during_scheduling_ignored_during_execution),
            preferred_anti: preferred(against.preferred_during_scheduling_ignored_during_execution),
        },
        spread: constraints.map(|constraint| Constraint::read(constraint, labels)).collect(),
    }
}

/// Host ports of containers and of restartable init containers, which run along with them.
fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY_ADDRESS.to_owned());
            Some((ip, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
        })
        .collect()
}

/// The address of a host port that listens on all addresses.
pub const ANY_ADDRESS: &str = "0.0.0.0";

/// Claims named by volumes, and those that ephemeral volumes make: `<pod>-<volume>`.
fn claims(pod: &str, spec: &core::PodSpec) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
            (None, None) => None,
        })
        .collect()
}

/// A node, and what the pods on it take.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub name: String,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    /// Sizes in bytes by image name.
    pub images: HashMap<String, i64>,
    pub load: Load,
}

/// What is on a node: kept by [`crate::snapshot`].
#[derive(Clone, Debug, Default)]
pub struct Load {
    pub pods: Vec<Arc<PodFacts>>,
    /// Those of `pods` that have affinity or anti-affinity to others.
    pub affine: Vec<Arc<PodFacts>>,
    pub requested: Resources,
    pub compared: Resources,
    pub ports: BTreeSet<HostPort>,
}

impl Load {
    pub fn add(&mut self, pod: Arc<PodFacts>) {
        self.requested.add(&pod.needs.resources);
        self.compared.add(&pod.needs.compared);
        self.ports.extend(pod.needs.ports.iter().cloned());
        if !pod.place.affinity.is_empty() {
            self.affine.push(Arc::clone(&pod));
        }
        self.pods.push(pod);
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodFacts>> {
        let position = self.pods.iter().position(|pod| pod.id.uid == uid)?;
        let pod = self.pods.swap_remove(position);
        self.affine.retain(|pod| pod.id.uid != uid);
        self.requested.subtract(&pod.needs.resources);
        self.compared.subtract(&pod.needs.compared);
        for port in &pod.needs.ports {
            self.ports.remove(port);
        }
        Some(pod)
    }
}

impl NodeFacts {
    pub fn read(node: &core::Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let mut images = HashMap::new();
        for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                images.insert(name.clone(), image.size_bytes.unwrap_or_default());
            }
        }
        Self {
            name: node.name().to_owned(),
            labels: node.meta().labels.clone().unwrap_or_default(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            allocatable: Resources::read(status.and_then(|status| status.allocatable.as_ref())),
            images,
            load: Load::default(),
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

/// Whether one of `tolerations` makes up for `taint`.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let same = |mine: Option<&str>, theirs: &str| matches!(mine, None | Some("")) || mine == Some(theirs);
        let value = taint.value.as_deref().unwrap_or_default();
        same(toleration.effect.as_deref(), &taint.effect)
            && same(toleration.key.as_deref(), &taint.key)
            && match toleration.operator.as_deref() {
                None | Some("" | "Equal") => toleration.value.as_deref().unwrap_or_default() == value,
                Some("Exists") => true,
                Some(_) => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_tolerates(toleration: serde_json::Value, expected: bool) {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        let toleration: Toleration = serde_json::from_value(toleration).unwrap();
        assert_eq!(tolerates(std::slice::from_ref(&toleration), &taint), expected, "{toleration:?}");
    }

    #[test]
    fn tolerations() {
        check_tolerates(json!({"operator": "Exists"}), true);
        check_tolerates(json!({"key": "k", "operator": "Exists"}), true);
        check_tolerates(json!({"key": "k", "value": "v"}), true);
        check_tolerates(json!({"key": "k", "value": "w"}), false);
        check_tolerates(json!({"key": "x", "operator": "Exists"}), false);
        check_tolerates(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false);
        check_tolerates(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), true);
    }

    #[test]
    fn a_pod_is_read_once() {
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
            "spec": {
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 8080}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "s", "ephemeral": {}}],
                "schedulingGates": [{"name": "g"}],
            },
        }))
        .unwrap();
        let facts = PodFacts::read(&pod);
        assert_eq!(facts.needs.ports, [("0.0.0.0".to_owned(), "TCP".to_owned(), 8080)]);
        assert_eq!(facts.needs.claims, ["data", "p-s"]);
        assert_eq!(facts.status.gates, ["g"]);
        assert_eq!(facts.id.scheduler, "default-scheduler");
    }
}
