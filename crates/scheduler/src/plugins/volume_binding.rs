//! The claims of a pod must be bound, and the node must reach their volumes.
//!
//! Source: scheduler/framework/plugins/volumebinding.

use std::borrow::Cow;

use super::Rejection;
use crate::{affinity::NodeTerms, facts::NodeFacts};

pub const NAME: &str = "VolumeBinding";

/// What is known of one claim of the pod.
#[derive(Clone, Debug)]
pub enum Claim {
    /// Holds the node affinity of the volume, if it has one.
    Bound(Option<NodeTerms>),
    /// Bound to a volume that is not there.
    Lost,
    Missing {
        name: String,
    },
    /// Its class binds at once, and has not yet.
    Unbound,
    /// Its class waits for a pod to be scheduled, and no volume is there for it.
    WaitsForConsumer,
}

/// Errs when no node at all will do.
pub fn pre_filter(claims: &[Claim]) -> Result<(), Rejection> {
    let reason: Option<Cow<'static, str>> = claims.iter().find_map(|claim| match claim {
        Claim::Missing { name } => Some(format!("persistentvolumeclaim \"{name}\" not found").into()),
        Claim::Unbound => Some("pod has unbound immediate PersistentVolumeClaims".into()),
        Claim::Bound(_) | Claim::Lost | Claim::WaitsForConsumer => None,
    });
    reason.map_or(Ok(()), |reason| Err(Rejection::unresolvable(NAME, reason)))
}

pub fn filter(claims: &[Claim], node: &NodeFacts) -> Result<(), Rejection> {
    for claim in claims {
        let reason = match claim {
            Claim::Bound(terms) if terms.as_ref().is_none_or(|terms| terms.matches(node)) => continue,
            Claim::Bound(_) => "node(s) didn't match PersistentVolume's node affinity",
            Claim::Lost => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Claim::WaitsForConsumer => "node(s) didn't find available persistent volumes to bind",
            // Found by `pre_filter`.
            Claim::Missing { .. } | Claim::Unbound => continue,
        };
        return Err(Rejection::unresolvable(NAME, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(claim: Claim, expected: &str) {
        let claims = [claim];
        let outcome = pre_filter(&claims).and_then(|()| filter(&claims, &NodeFacts::default()));
        let reason = outcome.err().map(|rejection| rejection.reasons.join(", ")).unwrap_or_default();
        assert_eq!(reason, expected);
    }

    #[test]
    fn claims() {
        check(Claim::Bound(None), "");
        check(Claim::Missing { name: "data".into() }, "persistentvolumeclaim \"data\" not found");
        check(Claim::Unbound, "pod has unbound immediate PersistentVolumeClaims");
        check(Claim::Lost, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
        check(Claim::Bound(Some(NodeTerms::default())), "node(s) didn't match PersistentVolume's node affinity");
    }
}
