//! Whether a node has enough left, and which node is left with most, and most evenly.
//!
//! Source: scheduler/framework/plugins/noderesources.

use std::borrow::Cow;

use super::{Rejection, Remedy, SCORE_MAX};
use crate::facts::{NodeFacts, PodFacts};

pub const NAME: &str = "NodeResourcesFit";

/// Names everything of which there is too little.
pub fn filter(pod: &PodFacts, node: &NodeFacts) -> Result<(), Rejection> {
    let has = &node.allocatable;
    let taken = &node.load.requested;
    let wanted = &pod.needs.resources;
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut remedy = Remedy::Preemption;
    if node.load.pods.len() as i64 + 1 > has.pods {
        reasons.push("Too many pods".into());
    }
    let mut check = |reason: &dyn Fn() -> Cow<'static, str>, wanted: i64, has: i64, taken: i64| {
        if wanted > 0 && wanted > has - taken {
            reasons.push(reason());
            if wanted > has {
                // Even the empty node is too small.
                remedy = Remedy::None;
            }
        }
    };
    check(&|| "Insufficient cpu".into(), wanted.cpu_m, has.cpu_m, taken.cpu_m);
    check(&|| "Insufficient memory".into(), wanted.memory_bytes, has.memory_bytes, taken.memory_bytes);
    let (ephemeral, on_node) = (wanted.ephemeral_bytes, has.ephemeral_bytes);
    check(&|| "Insufficient ephemeral-storage".into(), ephemeral, on_node, taken.ephemeral_bytes);
    for (name, wanted) in &wanted.extended {
        let of = |amounts: &std::collections::BTreeMap<String, i64>| amounts.get(name).copied().unwrap_or_default();
        check(&|| format!("Insufficient {name}").into(), *wanted, of(&has.extended), of(&taken.extended));
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { plugin: NAME, reasons, remedy }) }
}

/// The average share of cpu and memory that is left free with the pod on the node.
pub fn least_allocated(pod: &PodFacts, nodes: &[&NodeFacts]) -> Vec<i64> {
    let free = |has: i64, taken: i64| if has == 0 || taken > has { 0 } else { (has - taken) * SCORE_MAX / has };
    let score = |node: &&NodeFacts| {
        let (has, taken, wanted) = (&node.allocatable, &node.load.compared, &pod.needs.compared);
        let shares =
            [(has.cpu_m, taken.cpu_m + wanted.cpu_m), (has.memory_bytes, taken.memory_bytes + wanted.memory_bytes)];
        let offered = shares.iter().filter(|(has, _)| *has > 0).count() as i64;
        if offered == 0 {
            return 0;
        }
        shares.iter().map(|(has, taken)| free(*has, *taken)).sum::<i64>() / offered
    };
    nodes.iter().map(score).collect()
}

/// The closer the used shares of cpu and memory are to each other, the better. Silent for pods without requests.
pub fn balanced(pod: &PodFacts, nodes: &[&NodeFacts]) -> Vec<i64> {
    let wanted = &pod.needs.resources;
    if wanted.cpu_m == 0 && wanted.memory_bytes == 0 {
        return vec![0; nodes.len()];
    }
    let share = |has: i64, taken: i64| if has == 0 { None } else { Some((taken as f64 / has as f64).min(1.0)) };
    let score = |node: &&NodeFacts| {
        let (has, taken) = (&node.allocatable, &node.load.requested);
        let cpu = share(has.cpu_m, taken.cpu_m + wanted.cpu_m);
        let memory = share(has.memory_bytes, taken.memory_bytes + wanted.memory_bytes);
        // With two shares the standard deviation is half their distance.
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
            (Some(_), None) | (None, Some(_)) | (None, None) => 0.0,
        };
        ((1.0 - deviation) * SCORE_MAX as f64) as i64
    };
    nodes.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{facts::Needs, resources::Resources};

    fn amounts(cpu_m: i64, memory_bytes: i64) -> Resources {
        Resources { cpu_m, memory_bytes, pods: 10, ..Resources::default() }
    }

    fn pod(cpu_m: i64, memory_bytes: i64) -> PodFacts {
        let resources = Resources { pods: 0, ..amounts(cpu_m, memory_bytes) };
        PodFacts { needs: Needs { compared: resources.clone(), resources, ..Needs::default() }, ..PodFacts::default() }
    }

    fn node(has: (i64, i64), taken: (i64, i64)) -> NodeFacts {
        let mut node = NodeFacts { allocatable: amounts(has.0, has.1), ..NodeFacts::default() };
        node.load.requested = amounts(taken.0, taken.1);
        node.load.compared = amounts(taken.0, taken.1);
        node
    }

    fn check(pod: PodFacts, node: NodeFacts, expected: &[&str], remedy: Remedy) {
        match filter(&pod, &node) {
            Ok(()) => assert!(expected.is_empty()),
            Err(rejection) => assert_eq!(
                (rejection.reasons, rejection.remedy),
                (expected.iter().map(|r| (*r).into()).collect(), remedy)
            ),
        }
    }

    #[test]
    fn fits_or_says_everything_that_lacks() {
        check(pod(10, 10), node((10, 10), (0, 0)), &[], Remedy::None);
        check(pod(10, 10), node((10, 10), (1, 0)), &["Insufficient cpu"], Remedy::Preemption);
        check(pod(11, 10), node((10, 10), (0, 0)), &["Insufficient cpu"], Remedy::None);
        check(pod(5, 5), node((10, 10), (6, 6)), &["Insufficient cpu", "Insufficient memory"], Remedy::Preemption);
        check(pod(0, 0), node((10, 10), (20, 20)), &[], Remedy::None);
    }

    #[test]
    fn pods_and_extended_resources_count() {
        let mut full = node((10, 10), (0, 0));
        full.allocatable.pods = 0;
        check(pod(0, 0), full, &["Too many pods"], Remedy::Preemption);
        let mut wants = pod(0, 0);
        wants.needs.resources.extended.insert("example.com/gpu".into(), 1);
        check(wants, node((10, 10), (0, 0)), &["Insufficient example.com/gpu"], Remedy::None);
    }

    #[test]
    fn the_emptier_and_the_more_even_node_scores_higher() {
        let (empty, full) = (node((10, 10), (0, 0)), node((10, 10), (5, 5)));
        assert_eq!(least_allocated(&pod(1, 1), &[&empty, &full]), [90, 40]);
        let lopsided = node((10, 10), (5, 0));
        assert_eq!(balanced(&pod(1, 1), &[&empty, &lopsided]), [100, 75]);
        assert_eq!(balanced(&pod(0, 0), &[&empty, &lopsided]), [0, 0]);
    }
}
