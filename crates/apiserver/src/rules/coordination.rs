//! Leases: the heartbeats of nodes and of whoever leads.

use api_types::k8s::coordination::Lease;

use super::{
    PLAIN, Rules, check,
    edit::child,
    path::{Errors, Path},
};

const SPEC: Path = Path::root("spec");

/// Source: pkg/apis/coordination/validation/validation.go.
pub const LEASE: Rules = Rules {
    default: |lease| {
        child(lease, "spec");
    },
    validate: |lease| check(lease, validate_lease),
    validate_update: |lease, _| check(lease, validate_lease),
    create_on_update: true,
    unconditional_update: false,
    ..PLAIN
};

fn validate_lease(lease: &Lease, errors: &mut Errors) {
    let Some(spec) = &lease.spec else { return };
    if let Some(duration_s) = spec.lease_duration_seconds.filter(|duration_s| *duration_s <= 0) {
        errors.invalid(&SPEC.field("leaseDurationSeconds"), duration_s, "must be greater than 0");
    }
    if let Some(transitions) = spec.lease_transitions.filter(|transitions| *transitions < 0) {
        let detail = "must be greater than or equal to 0";
        errors.invalid(&SPEC.field("leaseTransitions"), transitions, detail);
    }
    if spec.holder_identity.as_ref().is_some_and(String::is_empty) && spec.strategy.is_some() {
        errors.invalid(&SPEC.field("holderIdentity"), "", "must not be empty");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn leases_last() {
        let lease = json!({"spec": {"leaseDurationSeconds": 0}});
        assert_eq!(
            texts((LEASE.validate)(&lease)),
            ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
        );
    }
}
