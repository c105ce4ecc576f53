//! Where a pod goes, or why it goes nowhere: filter the nodes, score what is left, pick.
//! Pure: chance comes in as a seed.
//!
//! Source: scheduler/schedule_one.go.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    facts::{NodeFacts, PodFacts},
    plugins::{self, Prepared, Rejection, Remedy, Scene},
};

/// With fewer nodes all are filtered, and so many have to be feasible before the search ends.
const FEASIBLE_NODES_MIN: usize = 100;
/// Share of the nodes that has to be feasible, when the cluster's size decides: from 50 % down to this.
const ADAPTIVE_PERCENTAGE_MIN: usize = 5;
const ADAPTIVE_PERCENTAGE_MAX: usize = 50;
/// So many more nodes lower the share by one per cent.
const NODES_PER_PERCENT: usize = 125;

/// What a cycle leaves to chance or to history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    /// Where in the list of nodes the search begins, so that all nodes get their turn.
    pub start: usize,
    /// Share of nodes to find feasible; 0: by the cluster's size.
    pub percentage: usize,
    /// Picks among equally good nodes.
    pub seed: u64,
}

#[derive(Debug)]
pub enum Outcome {
    Placed {
        node: String,
        /// Nodes filtered, after which the next search begins.
        filtered: usize,
    },
    Unschedulable(Diagnosis),
    NoNodes,
}

/// Why no node will do.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    pub nodes: usize,
    pub verdict: Verdict,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    /// Known before any node was looked at.
    Beforehand(Rejection),
    /// By node name.
    PerNode(BTreeMap<String, Rejection>),
}

/// Decides for one pod.
pub fn schedule(scene: Scene<'_>, search: Search) -> Outcome {
    let nodes = scene.snapshot.nodes();
    if nodes.is_empty() {
        return Outcome::NoNodes;
    }
    let diagnosis = |verdict| Outcome::Unschedulable(Diagnosis { nodes: nodes.len(), verdict });
    let prepared = match Prepared::new(scene) {
        Ok(prepared) => prepared,
        Err(rejection) => return diagnosis(Verdict::Beforehand(rejection)),
    };
    let nominated = scene.snapshot.node(&scene.pod.status.nominated_node);
    if let Some(node) = nominated.filter(|node| fits(scene, node, &prepared).is_ok()) {
        return Outcome::Placed { node: node.name.clone(), filtered: 1 };
    }
    let wanted = feasible_nodes_wanted(nodes.len(), search.percentage);
    let mut feasible = Vec::new();
    let mut rejected = BTreeMap::new();
    let mut filtered = 0;
    let start = search.start % nodes.len();
    for node in nodes[start..].iter().chain(&nodes[..start]) {
        filtered += 1;
        match fits(scene, node, &prepared) {
            Ok(()) => feasible.push(node),
            Err(rejection) => {
                rejected.insert(node.name.clone(), rejection);
            }
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    match pick(scene, &feasible, search.seed) {
        Some(node) => Outcome::Placed { node: node.name.clone(), filtered },
        None => diagnosis(Verdict::PerNode(rejected)),
    }
}

/// Whether the pod fits now, and also once the pods nominated to the node have come.
pub fn fits(scene: Scene<'_>, node: &NodeFacts, prepared: &Prepared) -> Result<(), Rejection> {
    let ahead =
        |other: &&Arc<PodFacts>| other.id.uid != scene.pod.id.uid && other.priority.value >= scene.pod.priority.value;
    let mut nominated = scene.snapshot.nominated(&node.name).iter().filter(ahead).peekable();
    if nominated.peek().is_some() {
        let mut crowded = node.clone();
        let mut prepared = prepared.clone();
        for other in nominated {
            prepared.with(scene, other, node);
            crowded.load.add(Arc::clone(other));
        }
        plugins::filter(scene, &crowded, &prepared)?;
    }
    plugins::filter(scene, node, prepared)
}

fn feasible_nodes_wanted(nodes: usize, percentage: usize) -> usize {
    if nodes < FEASIBLE_NODES_MIN || percentage >= 100 {
        return nodes;
    }
    let adaptive = || ADAPTIVE_PERCENTAGE_MAX.saturating_sub(nodes / NODES_PER_PERCENT).max(ADAPTIVE_PERCENTAGE_MIN);
    let percentage = if percentage == 0 { adaptive() } else { percentage };
    (nodes * percentage / 100).max(FEASIBLE_NODES_MIN)
}

/// One of the best nodes.
fn pick<'a>(scene: Scene<'_>, feasible: &[&'a NodeFacts], seed: u64) -> Option<&'a NodeFacts> {
    if let [] | [_] = feasible {
        return feasible.first().copied();
    }
    let scores = plugins::scores(scene, feasible);
    let best = scores.iter().max()?;
    let best: Vec<_> =
        feasible.iter().zip(&scores).filter(|(_, score)| *score == best).map(|(node, _)| *node).collect();
    best.get((seed % best.len() as u64) as usize).copied()
}

impl Diagnosis {
    /// The plugins that spoke against the pod: what they look at has to change.
    pub fn plugins(&self) -> Vec<&'static str> {
        let mut plugins: Vec<_> = match &self.verdict {
            Verdict::Beforehand(rejection) => vec![rejection.plugin],
            Verdict::PerNode(rejected) => rejected.values().map(|rejection| rejection.plugin).collect(),
        };
        plugins.sort_unstable();
        plugins.dedup();
        plugins
    }

    /// Nodes on which the removal of other pods could help.
    pub fn resolvable(&self) -> Vec<&str> {
        match &self.verdict {
            Verdict::Beforehand(_) => Vec::new(),
            Verdict::PerNode(rejected) => {
                let resolvable = rejected.iter().filter(|(_, rejection)| rejection.remedy == Remedy::Preemption);
                resolvable.map(|(node, _)| node.as_str()).collect()
            }
        }
    }

    /// `0/3 nodes are available: 1 …, 2 ….`
    pub fn text(&self) -> String {
        match &self.verdict {
            Verdict::Beforehand(rejection) => {
                format!("0/{} nodes are available: {}.", self.nodes, rejection.reasons.join(", "))
            }
            Verdict::PerNode(rejected) => {
                let reasons = rejected.values().flat_map(|rejection| &rejection.reasons);
                histogram(self.nodes, reasons.map(AsRef::as_ref))
            }
        }
    }
}

/// Counts reasons, and orders them as text, as upstream does.
pub fn histogram<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    match parts.as_slice() {
        [] => format!("0/{nodes} nodes are available:"),
        parts => format!("0/{nodes} nodes are available: {}.", parts.join(", ")),
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{plugins::Surroundings, snapshot::Snapshot};

    /// A pod `name` of namespace `ns`, with `spec` laid over the default one, label `app: name`.
    pub fn pod(name: &str, spec: Value) -> PodFacts {
        let mut full = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let pod = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name, "labels": {"app": name.trim_end_matches(char::is_numeric)}},
            "spec": full,
        });
        PodFacts::read(&serde_json::from_value(pod).unwrap())
    }

    /// A node with 4 cpus and room for 10 pods, with `spec` and hostname and zone labels.
    pub fn node(name: &str, zone: &str, spec: Value) -> NodeFacts {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
            "spec": spec,
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
        });
        NodeFacts::read(&serde_json::from_value(node).unwrap())
    }

    /// Nodes and `(pod, node)` placements.
    pub fn cluster(nodes: Vec<NodeFacts>, placed: Vec<(PodFacts, &str)>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            snapshot.set_node(node);
        }
        for (pod, node) in placed {
            snapshot.assume(Arc::new(pod), node);
        }
        snapshot
    }

    fn outcome(snapshot: &Snapshot, pod: &PodFacts) -> String {
        let scene = Scene { pod, snapshot, surroundings: &Surroundings::default() };
        match schedule(scene, Search::default()) {
            Outcome::Placed { node, .. } => node,
            Outcome::Unschedulable(diagnosis) => diagnosis.text(),
            Outcome::NoNodes => "no nodes".to_owned(),
        }
    }

    fn check(nodes: Vec<NodeFacts>, placed: Vec<(PodFacts, &str)>, spec: Value, expected: &str) {
        assert_eq!(outcome(&cluster(nodes, placed), &pod("new", spec)), expected);
    }

    #[test]
    fn the_emptier_node_wins() {
        let nodes = || vec![node("a", "z", json!({})), node("b", "z", json!({}))];
        check(nodes(), vec![(pod("x", json!({})), "a")], json!({}), "b");
        check(vec![], vec![], json!({}), "no nodes");
    }

    #[test]
    fn every_reason_is_counted() {
        let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let nodes =
            vec![node("a", "z", taint), node("b", "z", json!({"unschedulable": true})), node("c", "z", json!({}))];
        let greedy = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "5", "memory": "9Gi"}}}]});
        let expected = "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, \
                        1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.";
        check(nodes, vec![], greedy, expected);
    }

    #[test]
    fn selectors_and_ports_are_heeded() {
        let nodes = || vec![node("a", "z1", json!({})), node("b", "z2", json!({}))];
        check(nodes(), vec![], json!({"nodeSelector": {"topology.kubernetes.io/zone": "z2"}}), "b");
        let nowhere = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
        check(nodes(), vec![], json!({"nodeSelector": {"disk": "ssd"}}), nowhere);
        let listens = || json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
        check(nodes(), vec![(pod("x", listens()), "a")], listens(), "b");
        let taken = vec![(pod("x", listens()), "a"), (pod("y", listens()), "b")];
        let no_port = "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
        check(nodes(), taken, listens(), no_port);
    }

    #[test]
    fn hard_spread_evens_out_zones() {
        let nodes = || vec![node("a", "z1", json!({})), node("b", "z1", json!({})), node("c", "z2", json!({}))];
        let spread = |app: &str| {
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}]})
        };
        check(nodes(), vec![(pod("new1", json!({})), "a")], spread("new"), "c");
        let mut labelless = nodes();
        labelless[2].labels.clear();
        let missing = "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
                       2 node(s) didn't match pod topology spread constraints.";
        let mut strict = spread("new");
        strict["topologySpreadConstraints"][0]["minDomains"] = json!(2);
        check(labelless, vec![(pod("new1", json!({})), "a")], strict, missing);
    }

    #[test]
    fn soft_spread_prefers_the_emptier_zone() {
        let nodes = vec![node("a", "z1", json!({})), node("b", "z2", json!({}))];
        let soft = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "new"}}}]});
        let placed = vec![(pod("new1", json!({})), "a"), (pod("other1", json!({})), "b")];
        check(nodes, placed, soft, "b");
    }

    fn affinity(kind: &str, app: &str, key: &str) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]}}})
    }

    #[test]
    fn pods_go_near_and_away() {
        let nodes = || vec![node("a", "z1", json!({})), node("b", "z2", json!({}))];
        let zone = "topology.kubernetes.io/zone";
        let db = || vec![(pod("db", json!({})), "a")];
        check(nodes(), db(), affinity("podAffinity", "db", zone), "a");
        check(nodes(), db(), affinity("podAntiAffinity", "db", zone), "b");
        let lonely = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.";
        check(nodes(), vec![], affinity("podAffinity", "db", zone), lonely);
        let first = vec![node("a", "z1", json!({}))];
        check(first, vec![], affinity("podAffinity", "new", zone), "a");
    }

    #[test]
    fn anti_affinity_of_placed_pods_counts() {
        let nodes = || vec![node("a", "z1", json!({})), node("b", "z2", json!({}))];
        let hates = || pod("db", affinity("podAntiAffinity", "new", "kubernetes.io/hostname"));
        check(nodes(), vec![(hates(), "a")], json!({}), "b");
        let both = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.";
        check(vec![node("a", "z1", json!({}))], vec![(hates(), "a")], json!({}), both);
    }

    #[test]
    fn preferred_affinity_beats_emptiness() {
        let nodes = vec![node("a", "z1", json!({})), node("b", "z2", json!({}))];
        let near = json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}}]}}});
        check(nodes, vec![(pod("db", json!({})), "a")], near, "a");
    }

    #[test]
    fn pods_make_way_for_nominated_ones_of_higher_priority() {
        let mut snapshot = cluster(vec![node("a", "z", json!({}))], vec![]);
        let vip =
            pod("vip", json!({"priority": 10, "containers": [{"name": "c", "resources": {"requests": {"cpu": "4"}}}]}));
        snapshot.nominate(Arc::new(vip), "a");
        assert_eq!(outcome(&snapshot, &pod("new", json!({}))), "0/1 nodes are available: 1 Insufficient cpu.");
        assert_eq!(outcome(&snapshot, &pod("new", json!({"priority": 20}))), "a");
    }

    #[test]
    fn large_clusters_are_sampled() {
        for (nodes, percentage, expected) in [
            (50, 0, 50),
            (99, 10, 99),
            (100, 0, 100),
            (1000, 0, 420),
            (6000, 0, 300),
            (10_000, 0, 500),
            (1000, 30, 300),
            (1000, 100, 1000),
        ] {
            assert_eq!(feasible_nodes_wanted(nodes, percentage), expected, "{nodes} {percentage}");
        }
    }

    #[test]
    fn chance_picks_among_the_best() {
        let nodes = ["a", "b", "c"].map(|name| node(name, "z", json!({}))).to_vec();
        let snapshot = cluster(nodes, vec![]);
        let pod = pod("new", json!({}));
        let scene = Scene { pod: &pod, snapshot: &snapshot, surroundings: &Surroundings::default() };
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..3 {
            if let Outcome::Placed { node, .. } = schedule(scene, Search { seed, ..Search::default() }) {
                seen.insert(node);
            }
        }
        assert_eq!(seen.len(), 3);
    }
}
