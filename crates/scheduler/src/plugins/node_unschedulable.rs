//! Cordoned nodes take no new pods, except those that tolerate it.

use api_types::k8s::core::Taint;

use super::Rejection;
use crate::facts::{NodeFacts, PodFacts, tolerates};

pub const NAME: &str = "NodeUnschedulable";

pub fn filter(pod: &PodFacts, node: &NodeFacts) -> Result<(), Rejection> {
    if !node.unschedulable {
        return Ok(());
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if tolerates(&pod.place.tolerations, &taint) {
        return Ok(());
    }
    Err(Rejection::unresolvable(NAME, "node(s) were unschedulable"))
}
