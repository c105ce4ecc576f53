//! Devices that pods claim: resource.k8s.io.

use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    edit::{child, copy, each, field, fill, fill_text, first_generation, set, text},
    networking::count_specs,
    path::{Errors, Path},
};

const SPEC: Path = Path::root("spec");

/// Device classes and resource slices have no status; their generation counts their spec.
pub const COUNTED: Rules = Rules { prepare_create: first_generation, prepare_update: count_specs, ..PLAIN };

/// Source: pkg/registry/resource/resourceclaim/strategy.go.
pub const RESOURCE_CLAIM: Rules = Rules {
    default: |claim| {
        child(claim, "status");
        default_claim_spec(child(claim, "spec"));
    },
    prepare_create: |claim| set(claim, "status", json!({})),
    prepare_update: |new, old| copy(new, old, "status"),
    validate_update: |new, old| {
        let mut errors = Errors::default();
        errors.immutable(&SPEC, &new.get("spec"), &old.get("spec"));
        errors.0
    },
    ..PLAIN
};

pub const RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: |template| default_claim_spec(child(child(template, "spec"), "spec")),
    validate_update: RESOURCE_CLAIM.validate_update,
    ..PLAIN
};

/// A request that says no count asks for exactly one device.
fn default_claim_spec(spec: &mut Value) {
    let Some(devices) = field(spec, "devices") else { return };
    for request in each(devices, "requests") {
        if let Some(exactly) = field(request, "exactly") {
            default_device_request(exactly);
        }
        each(request, "firstAvailable").for_each(default_device_request);
    }
}

fn default_device_request(request: &mut Value) {
    fill_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        fill(request, "count", 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_one_device() {
        let mut claim =
            json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}});
        (RESOURCE_CLAIM.default)(&mut claim);
        let exactly = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
        assert_eq!(claim["spec"]["devices"]["requests"][0]["exactly"], exactly);
    }
}
