//! Whom to remove so that a pod of higher priority fits: the cheapest set of victims on one
//! node. Pure; the removal itself is done by the binder.
//!
//! Source: scheduler/framework/preemption, plugins/defaultpreemption.

use std::{cmp::Reverse, sync::Arc};

use api_types::{jiff::Timestamp, labels::Selector};

use crate::{
    cycle::{self, Diagnosis, histogram},
    facts::{NodeFacts, PodFacts},
    plugins::{self, Prepared, Scene},
};

/// Share of the nodes that are tried, and at least how many.
const CANDIDATES_PERCENTAGE_MIN: usize = 10;
const CANDIDATES_MIN: usize = 100;

/// How many more pods a PodDisruptionBudget allows to be disrupted.
#[derive(Clone, Debug)]
pub struct Budget {
    pub namespace: String,
    pub selector: Selector,
    pub allowed: i64,
}

#[derive(Debug)]
pub enum Plan {
    /// Remove `victims`; then there is room on `node`.
    Evict { node: String, victims: Vec<Arc<PodFacts>> },
    /// In upstream's words, why not.
    Nothing(String),
}

#[derive(Debug)]
struct Candidate<'a> {
    node: &'a NodeFacts,
    victims: Vec<Arc<PodFacts>>,
    /// Victims whose budget does not allow it.
    violations: i64,
}

/// `offset` is where among the nodes the search begins.
pub fn plan(scene: Scene<'_>, diagnosis: &Diagnosis, budgets: &[Budget], offset: usize) -> Plan {
    if scene.pod.priority.waits {
        return Plan::Nothing("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if let Some(node) = scene.snapshot.node(&scene.pod.status.nominated_node) {
        let leaving = |pod: &Arc<PodFacts>| pod.status.terminating && pod.priority.value < scene.pod.priority.value;
        if node.load.pods.iter().any(leaving) {
            return Plan::Nothing("not eligible due to a terminating pod on the nominated node.".to_owned());
        }
    }
    let nodes: Vec<&NodeFacts> =
        diagnosis.resolvable().into_iter().filter_map(|name| scene.snapshot.node(name)).collect();
    let unhelpful = "Preemption is not helpful for scheduling";
    let mut refused: Vec<String> = vec![unhelpful.to_owned(); diagnosis.nodes - nodes.len()];
    let Ok(prepared) = Prepared::new(scene) else {
        return Plan::Nothing(histogram(diagnosis.nodes, refused.iter().map(String::as_str)));
    };
    let wanted = (nodes.len() * CANDIDATES_PERCENTAGE_MIN / 100).max(CANDIDATES_MIN);
    let mut candidates = Vec::new();
    let start = offset % nodes.len().max(1);
    for node in nodes[start..].iter().chain(&nodes[..start]) {
        match candidate(scene, node, &prepared, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(reasons) => refused.extend(reasons),
        }
        if candidates.len() >= wanted {
            break;
        }
    }
    match candidates.into_iter().min_by_key(cost) {
        Some(best) => Plan::Evict { node: best.node.name.clone(), victims: best.victims },
        None => Plan::Nothing(histogram(diagnosis.nodes, refused.iter().map(String::as_str))),
    }
}

/// Removes all pods of lower priority, then takes back as many as still fit, the most important first.
fn candidate<'a>(
    scene: Scene<'_>,
    node: &'a NodeFacts,
    prepared: &Prepared,
    budgets: &[Budget],
) -> Result<Candidate<'a>, Vec<String>> {
    let lower = |pod: &&Arc<PodFacts>| pod.priority.value < scene.pod.priority.value;
    let mut possible: Vec<Arc<PodFacts>> = node.load.pods.iter().filter(lower).cloned().collect();
    if possible.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    let mut emptied = node.clone();
    let mut prepared = prepared.clone();
    for pod in &possible {
        emptied.load.remove(&pod.id.uid);
        prepared.without(scene, pod, node);
    }
    cycle::fits(scene, &emptied, &prepared)
        .map_err(|rejection| rejection.reasons.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    possible.sort_by_key(importance);
    let (violating, rest) = split_by_budget(possible, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    let number_violating = violating.len();
    for (position, pod) in violating.into_iter().chain(rest).enumerate() {
        emptied.load.add(Arc::clone(&pod));
        prepared.with(scene, &pod, node);
        if plugins::filter(scene, &emptied, &prepared).is_err() {
            emptied.load.remove(&pod.id.uid);
            prepared.without(scene, &pod, node);
            violations += i64::from(position < number_violating);
            victims.push(pod);
        }
    }
    victims.sort_by_key(importance);
    Ok(Candidate { node, victims, violations })
}

/// Sorts the most important pod first: by priority, then by how long it runs.
fn importance(pod: &Arc<PodFacts>) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority.value), pod.status.started.unwrap_or(Timestamp::MAX))
}

/// Those whose removal a budget forbids come first: they are the first to be spared.
fn split_by_budget(pods: Vec<Arc<PodFacts>>, budgets: &[Budget]) -> (Vec<Arc<PodFacts>>, Vec<Arc<PodFacts>>) {
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            let counts = budget.namespace == pod.namespace() && !budget.selector.is_empty();
            if counts && budget.selector.matches(&pod.labels) {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

/// Fewest violated budgets, lowest highest priority, lowest sum of priorities, fewest
/// victims, and among those the latest start of the most important ones.
fn cost(candidate: &Candidate<'_>) -> (i64, i32, i64, usize, Reverse<Timestamp>) {
    let victims = &candidate.victims;
    let highest = victims.first().map_or(i32::MIN, |pod| pod.priority.value);
    // Shifted so that more victims of negative priority do not look cheaper.
    let sum = victims.iter().map(|pod| i64::from(pod.priority.value) - i64::from(i32::MIN)).sum();
    let most_important = victims.iter().filter(|pod| pod.priority.value == highest);
    let earliest = most_important.map(|pod| pod.status.started.unwrap_or(Timestamp::MAX)).min();
    (candidate.violations, highest, sum, victims.len(), Reverse(earliest.unwrap_or(Timestamp::MAX)))
}

/// What a failed pod's message says of preemption. Upstream's plugin for resource claims
/// speaks first, also for pods without any.
pub fn message(diagnosis: &str, preemption: &str) -> String {
    format!("{diagnosis} no new claims to deallocate, preemption: {preemption}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cycle::{
            Outcome, Search, schedule,
            tests::{cluster, node, pod},
        },
        plugins::Surroundings,
    };

    /// A pod that takes `cpu`, with a priority.
    fn worth(name: &str, priority: i32, cpu: &str) -> PodFacts {
        pod(name, json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn check(nodes: Vec<NodeFacts>, placed: Vec<(PodFacts, &str)>, new: PodFacts, budgets: &[Budget], expected: &str) {
        let snapshot = cluster(nodes, placed);
        let scene = Scene { pod: &new, snapshot: &snapshot, surroundings: &Surroundings::default() };
        let Outcome::Unschedulable(diagnosis) = schedule(scene, Search::default()) else { panic!("it fits") };
        let text = match plan(scene, &diagnosis, budgets, 0) {
            Plan::Evict { node, victims } => {
                let names: Vec<_> = victims.iter().map(|pod| pod.id.key.name.clone()).collect();
                format!("{node}: {}", names.join(" "))
            }
            Plan::Nothing(why) => message(&diagnosis.text(), &why),
        };
        assert_eq!(text, expected);
    }

    fn empty_node(name: &str) -> NodeFacts {
        node(name, "z", json!({}))
    }

    #[test]
    fn only_as_many_victims_as_needed() {
        let placed = || vec![(worth("a", 1, "2"), "n"), (worth("b", 2, "2"), "n")];
        check(vec![empty_node("n")], placed(), worth("new", 10, "2"), &[], "n: a");
        check(vec![empty_node("n")], placed(), worth("new", 10, "3"), &[], "n: b a");
    }

    #[test]
    fn the_cheapest_node_is_chosen() {
        let placed = vec![(worth("a", 5, "4"), "n"), (worth("b", 2, "4"), "m")];
        check(vec![empty_node("n"), empty_node("m")], placed, worth("new", 10, "2"), &[], "m: b");
    }

    #[test]
    fn budgets_are_spared_where_possible() {
        let budget = Budget { namespace: "ns".into(), selector: Selector::parse("app=b").unwrap(), allowed: 0 };
        let placed = vec![(worth("a", 5, "4"), "n"), (worth("b", 2, "4"), "m")];
        check(vec![empty_node("n"), empty_node("m")], placed, worth("new", 10, "2"), &[budget], "n: a");
    }

    #[test]
    fn says_why_not() {
        let taint: Value = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let nodes = || vec![empty_node("n"), node("m", "z", taint.clone())];
        let full = || vec![(worth("a", 10, "4"), "n")];
        let equal = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). \
                     no new claims to deallocate, preemption: 0/2 nodes are available: \
                     1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.";
        check(nodes(), full(), worth("new", 10, "1"), &[], equal);
        let mut polite = worth("new", 20, "1");
        polite.priority.waits = true;
        let never = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). \
                     no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.";
        check(nodes(), full(), polite, &[], never);
    }

    #[test]
    fn anti_affinity_of_a_victim_no_longer_counts() {
        let hates = json!({"priority": 1, "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "new"}}}]}}});
        check(vec![empty_node("n")], vec![(pod("a", hates), "n")], worth("new", 10, "1"), &[], "n: a");
    }
}
