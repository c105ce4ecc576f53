//! Flow schemas and priority levels.
//!
//! Source: pkg/apis/flowcontrol/v1/defaults.go.

use serde_json::Value;

use super::{
    PLAIN, Rules,
    edit::{child, field, fill, set},
    workload,
};

/// Precedence of a schema that names none.
const MATCHING_PRECEDENCE: i64 = 1000;

pub const FLOW_SCHEMA: Rules = Rules {
    default: |schema| {
        child(schema, "status");
        let spec = child(schema, "spec");
        if spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(0) == 0 {
            set(spec, "matchingPrecedence", MATCHING_PRECEDENCE);
        }
    },
    prepare_create: workload::prepare_create,
    prepare_update: workload::prepare_update,
    ..PLAIN
};

pub const PRIORITY_LEVEL: Rules = Rules {
    default: |level| {
        child(level, "status");
        let spec = child(level, "spec");
        if let Some(limited) = field(spec, "limited") {
            fill(limited, "nominalConcurrencyShares", 30);
            fill(limited, "lendablePercent", 0);
            let response = child(limited, "limitResponse");
            if let Some(queuing) = field(response, "queuing") {
                for (name, default) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                    fill(queuing, name, default);
                }
            }
        }
        if let Some(exempt) = field(spec, "exempt") {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
    },
    prepare_create: workload::prepare_create,
    prepare_update: workload::prepare_update,
    ..PLAIN
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn queues_have_a_usual_size() {
        let mut level =
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        (PRIORITY_LEVEL.default)(&mut level);
        let limited = &level["spec"]["limited"];
        assert_eq!(limited["nominalConcurrencyShares"], 30);
        assert_eq!(limited["limitResponse"]["queuing"], json!({"handSize": 8, "queues": 64, "queueLengthLimit": 50}));
    }
}
