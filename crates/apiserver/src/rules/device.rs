//! Devices that pods claim: resource.k8s.io.
//!
//! Source: pkg/registry/resource, pkg/apis/resource/{v1/defaults.go,validation/validation.go}.

use api_types::{FieldError, names};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    edit::{child, copy, each, field, fill, fill_text, first_generation, is_present, list, set, text},
    facts::{self, Fact, Must, check, frozen},
    networking::count_specs,
    path::{Errors, Path},
    pod::volume::csi_driver,
    take_status_alone,
};

const STATUS: Path = Path::root("status");
const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIG_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const EXPRESSION_MAX: usize = 10 * 1024;
const PARAMETERS_MAX: usize = 10 * 1024;
const CONSUMERS_MAX: usize = 256;
const DEVICES_MAX: usize = 128;
const POOL_NAME_MAX: usize = 253;
const TOLERATIONS_MAX: usize = 16;

/// Kinds without a status, whose generation counts their spec.
pub const COUNTED: Rules = Rules { prepare_create: first_generation, prepare_update: count_specs, ..PLAIN };

pub const DEVICE_CLASS: Rules =
    Rules { validate: |class| check(class, CLASS), validate_update: |class, _| check(class, CLASS), ..COUNTED };

pub const RESOURCE_SLICE: Rules = Rules {
    validate: |slice| check(slice, SLICE),
    validate_update: |new, old| {
        let mut errors = check(new, SLICE);
        let fixed = ["spec.driver", "spec.pool.name", "spec.nodeName"];
        errors.extend(frozen(new, old, &fixed));
        errors
    },
    selectable: |slice| {
        let spec = |field: &str| slice.get("spec").map(|spec| text(spec, field)).unwrap_or_default().to_owned();
        vec![("spec.driver", spec("driver")), ("spec.nodeName", spec("nodeName"))]
    },
    selectable_names: &["spec.driver", "spec.nodeName"],
    ..COUNTED
};

pub const RESOURCE_CLAIM: Rules = Rules {
    default: |claim| {
        child(claim, "status");
        default_claim_spec(child(claim, "spec"));
    },
    prepare_create: |claim| set(claim, "status", json!({})),
    prepare_update: |new, old| copy(new, old, "status"),
    prepare_status_update: take_status_alone,
    validate: |claim| {
        check(claim, &[Fact("spec.devices", Must::Hold(CLAIM)), Fact("spec.devices", Must::Pass(names_of_requests))])
    },
    validate_update: |new, old| frozen(new, old, &["spec"]),
    validate_status_update: validate_status,
    ..PLAIN
};

pub const RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: |template| default_claim_spec(child(child(template, "spec"), "spec")),
    validate: |template| {
        check(
            template,
            &[Fact("spec.spec.devices", Must::Hold(CLAIM)), Fact("spec.spec.devices", Must::Pass(names_of_requests))],
        )
    },
    validate_update: |new, old| frozen(new, old, &["spec"]),
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
    each(request, "tolerations").for_each(|toleration| fill_text(toleration, "operator", "Equal"));
}

const SELECTOR: &[Fact] = &[
    Fact("cel", Must::Exist("")),
    Fact("cel", Must::Hold(&[Fact("expression", Must::BeShorterThan(EXPRESSION_MAX))])),
];
const CONFIG: &[Fact] = &[
    Fact("opaque", Must::Exist("")),
    Fact(
        "opaque",
        Must::Hold(&[
            Fact("driver", Must::Pass(driver)),
            Fact("driver", Must::Exist("")),
            Fact("parameters", Must::Exist("")),
            Fact("parameters", Must::Pass(parameters)),
        ]),
    ),
];
const CLASS: &[Fact] = &[
    Fact("spec.selectors", Must::HoldAtMost(SELECTORS_MAX)),
    Fact("spec.selectors[]", Must::Hold(SELECTOR)),
    Fact("spec.config", Must::HoldAtMost(CONFIG_MAX)),
    Fact("spec.config[]", Must::Hold(CONFIG)),
    Fact("spec.extendedResourceName", Must::BeNamed(names::qualified_name)),
];
const TOLERATION: &[Fact] = &[
    Fact("key", Must::BeNamed(names::label_key)),
    Fact("operator", Must::ExistAsOneOf(&["Equal", "Exists"])),
    Fact("effect", Must::BeOneOf(&["NoExecute", "NoSchedule", "None"])),
];
const WANTED: &[Fact] = &[
    Fact("deviceClassName", Must::ExistAs(names::dns1123_subdomain)),
    Fact("selectors", Must::HoldAtMost(SELECTORS_MAX)),
    Fact("selectors[]", Must::Hold(SELECTOR)),
    Fact("tolerations", Must::HoldAtMost(TOLERATIONS_MAX)),
    Fact("tolerations[]", Must::Hold(TOLERATION)),
];
const CLAIM: &[Fact] = &[
    Fact("requests", Must::HoldAtMost(REQUESTS_MAX)),
    Fact("requests", Must::HoldUnique("name")),
    Fact(
        "requests[]",
        Must::Hold(&[
            Fact("name", Must::ExistAs(names::dns1123_label)),
            Fact("exactly", Must::Hold(WANTED)),
            Fact("exactly", Must::Pass(count)),
            Fact("firstAvailable", Must::HoldAtMost(ALTERNATIVES_MAX)),
            Fact("firstAvailable", Must::HoldUnique("name")),
            Fact("firstAvailable[]", Must::Hold(&[Fact("name", Must::ExistAs(names::dns1123_label))])),
            Fact("firstAvailable[]", Must::Hold(WANTED)),
            Fact("firstAvailable[]", Must::Pass(count)),
        ]),
    ),
    Fact("requests[]", Must::Pass(one_way)),
    Fact("constraints", Must::HoldAtMost(CONSTRAINTS_MAX)),
    Fact("constraints[]", Must::Hold(&[Fact("requests", Must::HoldUnique(""))])),
    Fact("constraints[]", Must::Pass(constraint)),
    Fact("config", Must::HoldAtMost(CONFIG_MAX)),
    Fact("config[]", Must::Hold(CONFIG)),
];
const SLICE: &[Fact] = &[
    Fact("spec.driver", Must::Exist("")),
    Fact("spec.driver", Must::Pass(driver)),
    Fact("spec.pool.name", Must::ExistAs(pool_name)),
    Fact("spec.pool.resourceSliceCount", Must::BePositive("must be greater than zero")),
    Fact("spec.pool.generation", Must::NotBeNegative),
    Fact("spec.nodeName", Must::BeNamed(names::dns1123_subdomain)),
    Fact("spec", Must::Pass(where_devices_are)),
    Fact("spec.devices", Must::HoldAtMost(DEVICES_MAX)),
    Fact("spec.devices", Must::HoldUnique("name")),
    Fact("spec.devices[].name", Must::ExistAs(names::dns1123_label)),
    Fact("spec.sharedCounters[].name", Must::ExistAs(names::dns1123_label)),
];

fn as_text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn driver(name: &Value, path: &Path, errors: &mut Errors) {
    if !as_text(name).is_empty() {
        csi_driver(as_text(name), path, errors);
    }
}

fn pool_name(name: &str) -> Vec<String> {
    let mut errors: Vec<String> = name.split('/').flat_map(names::dns1123_subdomain).collect();
    if name.len() > POOL_NAME_MAX {
        errors.push(format!("must be no more than {POOL_NAME_MAX} characters"));
    }
    errors
}

fn parameters(parameters: &Value, path: &Path, errors: &mut Errors) {
    if !parameters.is_object() {
        errors.invalid(path, "<value omitted>", "parameters must be a valid JSON object");
    } else if parameters.to_string().len() > PARAMETERS_MAX {
        errors.too_long(path, PARAMETERS_MAX);
    }
}

fn count(request: &Value, path: &Path, errors: &mut Errors) {
    let count = request.get("count").and_then(Value::as_i64).unwrap_or(0);
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            errors.invalid(&path.field("count"), count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => errors.invalid(&path.field("count"), count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        mode => errors.not_supported(&path.field("allocationMode"), mode, &["All", "ExactCount"]),
    }
}

fn one_way(request: &Value, path: &Path, errors: &mut Errors) {
    match (is_present(request, "exactly"), list(request, "firstAvailable").is_empty()) {
        (false, true) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, (), detail);
        }
        (true, true) | (false, false) => {}
    }
}

fn constraint(constraint: &Value, path: &Path, errors: &mut Errors) {
    let attribute = match (text(constraint, "matchAttribute"), text(constraint, "distinctAttribute")) {
        ("", "") => return errors.required(&path.field("matchAttribute"), ""),
        ("", _) => "distinctAttribute",
        _ => "matchAttribute",
    };
    let (path, name) = (path.field(attribute), text(constraint, attribute));
    if !name.contains('/') {
        errors.invalid(&path, name, "must include a domain");
    }
}

/// Constraints and configuration name requests of the claim, as `request` or `request/alternative`.
fn names_of_requests(devices: &Value, path: &Path, errors: &mut Errors) {
    for part in ["constraints", "config"] {
        for (i, item) in list(devices, part).iter().enumerate() {
            for (j, name) in list(item, "requests").iter().map(as_text).enumerate() {
                let path = path.field(part);
                let path = path.index(i);
                request_reference(devices, name, &path.field("requests").index(j), errors);
            }
        }
    }
}

fn request_reference(devices: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let (request, alternative) = name.split_once('/').map_or((name, None), |(one, other)| (one, Some(other)));
    let is_known = |known: &&Value| text(known, "name") == request;
    let is_found = list(devices, "requests").iter().find(is_known).is_some_and(|found| {
        alternative.is_none_or(|wanted| list(found, "firstAvailable").iter().any(|one| text(one, "name") == wanted))
    });
    if !is_found {
        let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated \
                      by '/'";
        errors.invalid(path, name, detail);
    }
}

fn where_devices_are(spec: &Value, path: &Path, errors: &mut Errors) {
    let is_set = |field: &str| match spec.get(field) {
        Some(Value::Bool(is_set)) => *is_set,
        Some(Value::String(text)) => !text.is_empty(),
        other => other.is_some_and(|value| !value.is_null()),
    };
    let places = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let words = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let set: Vec<&str> = places.into_iter().filter(|place| is_set(place)).collect();
    match set.len() {
        // A slice may hold counters alone.
        0 if !list(spec, "sharedCounters").is_empty() => {}
        0 => errors.required(path, words),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", set.join(", ")), format!("{words}, but multiple fields are set")),
    }
}

/// Who uses the claim may change while it is allocated; the allocation itself never does.
fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let none = Value::Null;
    let (status, before) = (new.get("status").unwrap_or(&none), old.get("status").unwrap_or(&none));
    facts::hold(status, Some(&STATUS), CLAIM_STATUS, &mut errors);
    let path = STATUS.field("reservedFor");
    let consumers = list(status, "reservedFor");
    if !consumers.is_empty() && !is_present(status, "allocation") {
        errors.forbidden(&path, "may not be specified when `allocated` is not set");
    } else if new.pointer("/metadata/deletionTimestamp").is_some()
        && consumers.iter().any(|consumer| !list(before, "reservedFor").contains(consumer))
    {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(&path, detail);
    }
    match (is_present(before, "allocation"), is_present(status, "allocation")) {
        (true, true) => errors.0.extend(frozen(new, old, &["status.allocation"])),
        (false, true) => allocation(&new["spec"]["devices"], &status["allocation"], &mut errors),
        (_, false) => {}
    }
    errors.0
}

const CLAIM_STATUS: &[Fact] = &[
    Fact("reservedFor", Must::HoldAtMost(CONSUMERS_MAX)),
    Fact("reservedFor", Must::HoldUnique("uid")),
    Fact(
        "reservedFor[]",
        Must::Hold(&[Fact("resource", Must::Exist("")), Fact("name", Must::Exist("")), Fact("uid", Must::Exist(""))]),
    ),
    Fact(
        "devices[]",
        Must::Hold(&[
            Fact("driver", Must::Pass(driver)),
            Fact("pool", Must::ExistAs(pool_name)),
            Fact("device", Must::ExistAs(names::dns1123_label)),
        ]),
    ),
];
const RESULT: &[Fact] = &[
    Fact("driver", Must::Exist("")),
    Fact("driver", Must::Pass(driver)),
    Fact("pool", Must::ExistAs(pool_name)),
    Fact("device", Must::ExistAs(names::dns1123_label)),
];

fn allocation(devices: &Value, allocation: &Value, errors: &mut Errors) {
    let path = STATUS.field("allocation.devices.results");
    let results = list(&allocation["devices"], "results");
    if results.len() > REQUESTS_MAX {
        errors.too_many(&path, results.len(), REQUESTS_MAX);
    }
    for (i, result) in results.iter().enumerate() {
        let path = path.index(i);
        request_reference(devices, text(result, "request"), &path.field("request"), errors);
        facts::hold(result, Some(&path), RESULT, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn claim(request: Value) -> Value {
        let mut claim = json!({"spec": {"devices": {"requests": [request]}}});
        (RESOURCE_CLAIM.default)(&mut claim);
        claim
    }

    #[test]
    fn a_request_is_for_one_device() {
        let claim = claim(json!({"name": "r", "exactly": {"deviceClassName": "c"}}));
        let exactly = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
        assert_eq!(claim["spec"]["devices"]["requests"][0]["exactly"], exactly);
        assert_eq!(texts((RESOURCE_CLAIM.validate)(&claim)), [""; 0]);
    }

    #[test]
    fn claims_make_sense() {
        let mut wrong = claim(json!({"name": "R", "exactly": {"allocationMode": "All", "count": 2}}));
        wrong["spec"]["devices"]["constraints"] = json!([{"requests": ["x"], "matchAttribute": "a"}]);
        let found = texts((RESOURCE_CLAIM.validate)(&wrong));
        let fields: Vec<&str> = found.iter().map(|text| text.split(": ").next().unwrap_or(text)).collect();
        assert_eq!(
            fields,
            [
                "spec.devices.requests[0].name",
                "spec.devices.requests[0].exactly.deviceClassName",
                "spec.devices.requests[0].exactly.count",
                "spec.devices.constraints[0].matchAttribute",
                "spec.devices.constraints[0].requests[0]",
            ]
        );
        assert_eq!(
            texts((RESOURCE_CLAIM.validate)(&claim(json!({"name": "r"})))),
            ["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"]
        );
    }

    #[test]
    fn an_allocation_stays() {
        let old = claim(json!({"name": "r", "exactly": {"deviceClassName": "c"}}));
        let mut new = old.clone();
        new["status"] = json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}]});
        assert_eq!(
            texts(validate_status(&new, &old)),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        new["status"]["allocation"] =
            json!({"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x"}]}});
        assert_eq!(texts(validate_status(&new, &old)), [""; 0]);
        let mut moved = new.clone();
        moved["status"]["allocation"]["devices"]["results"][0]["device"] = json!("y");
        assert_eq!(texts(validate_status(&moved, &new)).len(), 1);
    }

    #[test]
    fn slices_are_somewhere() {
        let slice = json!({"spec": {"driver": "d", "pool": {"name": "p", "resourceSliceCount": 1}}});
        assert_eq!(
            texts((RESOURCE_SLICE.validate)(&slice)),
            [
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
            ]
        );
    }
}
