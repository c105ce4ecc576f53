//! A pod that names a node goes there or nowhere.

use super::Rejection;
use crate::facts::{NodeFacts, PodFacts};

pub const NAME: &str = "NodeName";

pub fn filter(pod: &PodFacts, node: &NodeFacts) -> Result<(), Rejection> {
    if pod.place.node.is_empty() || pod.place.node == node.name {
        return Ok(());
    }
    Err(Rejection::unresolvable(NAME, "node(s) didn't match the requested node name"))
}
