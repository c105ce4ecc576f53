//! Kinds whose rules are a few lines each.

use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    edit::{canonical_amounts, child, copy, each, field, fill, fill_text, set},
};

pub const RESOURCE_QUOTA: Rules = Rules {
    default: |quota| {
        canonical_amounts(child(quota, "spec"), "hard");
        let status = child(quota, "status");
        canonical_amounts(status, "hard");
        canonical_amounts(status, "used");
    },
    prepare_create: |quota| set(quota, "status", json!({})),
    prepare_update: |new, old| copy(new, old, "status"),
    returns_deleted: true,
    ..PLAIN
};

pub const LIMIT_RANGE: Rules = Rules { default: default_limit_range, ..PLAIN };

/// Source: `SetDefaults_LimitRangeItem`: for containers, max gives default, default gives defaultRequest, and
/// min is the last resort for the request.
fn default_limit_range(range: &mut Value) {
    let Some(spec) = field(range, "spec") else { return };
    for item in each(spec, "limits") {
        for amounts in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            canonical_amounts(item, amounts);
        }
        if super::edit::text(item, "type") != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(Value::Object(amounts)) = item.get(from).cloned() else { continue };
            let filled = child(item, to);
            for (name, amount) in amounts {
                fill(filled, &name, amount);
            }
        }
    }
}
