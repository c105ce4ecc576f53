//! A pod stays for five minutes on a node that is not ready or out of reach, unless it says
//! otherwise.
//!
//! Source: plugin/pkg/admission/defaulttolerationseconds.

use api_types::{ApiError, resources};
use serde_json::{Value, json};

use super::Attributes;
use crate::{
    reader::Reader,
    rules::edit::{child, list, set, text},
};

const TOLERATED_S: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) fn fill(attributes: &Attributes, pod: &mut Value, _: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::POD) && !attributes.updates(&resources::POD) {
        return Ok(());
    }
    let spec = child(pod, "spec");
    let mut tolerations = list(spec, "tolerations").to_vec();
    let given = tolerations.len();
    for taint in TAINTS {
        let tolerates = |toleration: &Value| {
            matches!(text(toleration, "effect"), "" | "NoExecute")
                && (text(toleration, "key") == taint || text(toleration, "key").is_empty())
        };
        if !tolerations[..given].iter().any(tolerates) {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_S,
            }));
        }
    }
    if tolerations.len() > given {
        set(spec, "tolerations", tolerations);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Objects, filled},
        *,
    };

    #[test]
    fn adds_what_is_not_said() {
        for (tolerations, added) in [
            (json!([]), &TAINTS[..]),
            (json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"}]), &TAINTS[1..]),
            (json!([{"operator": "Exists"}]), &[]),
            (json!([{"operator": "Exists", "effect": "NoSchedule"}]), &TAINTS[..]),
        ] {
            let given = tolerations.as_array().unwrap().len();
            let pod = json!({"spec": {"tolerations": tolerations}});
            let pod = filled(fill, &resources::POD, pod, &Objects::default()).unwrap();
            let keys: Vec<&str> = list(&pod["spec"], "tolerations")[given..].iter().map(|t| text(t, "key")).collect();
            assert_eq!(keys, added);
        }
    }
}
