//! A pod with scheduling gates is not looked at until the last one is removed.

use crate::facts::PodFacts;

pub const NAME: &str = "SchedulingGates";
/// Reason of the PodScheduled condition meanwhile.
pub const REASON: &str = "SchedulingGated";
pub const MESSAGE: &str = "Scheduling is blocked due to non-empty scheduling gates";

pub fn is_gated(pod: &PodFacts) -> bool {
    !pod.status.gates.is_empty()
}
