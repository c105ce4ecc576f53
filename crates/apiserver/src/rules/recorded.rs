//! Creates recorded from a real v1.36 server, replayed through defaults, admission,
//! preparation and validation: what comes out must be what that server answered.

use std::path::PathBuf;

use api_types::{FieldError, Key, Resource, resources};
use serde_json::{Value, json};

use super::{edit, meta, rules, texts};
use crate::{
    admission::{self, Operation, fixture},
    authn::User,
};

/// Given by the allocators, which are not at work here.
const ALLOCATED: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];

fn exchanges() -> Option<Vec<Value>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let root = std::env::var("COXSWAIN_SHARED").unwrap_or_else(|_| default.to_owned());
    let text = std::fs::read_to_string(PathBuf::from(root).join("golden/exchanges.jsonl")).ok()?;
    Some(text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect())
}

/// The resource and namespace of a collection's path.
fn target(path: &str) -> Option<(Resource, String)> {
    let parts: Vec<&str> = path.split('?').next()?.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts[..] {
        ["api", version, ref rest @ ..] => ("", version, rest),
        ["apis", group, version, ref rest @ ..] => (group, version, rest),
        _ => return None,
    };
    let (namespace, plural) = match *rest {
        ["namespaces", namespace, plural] => (namespace, plural),
        [plural] => ("", plural),
        _ => return None,
    };
    let is_it = |row: &&Resource| row.group == group && row.version == version && row.plural == plural;
    Some((resources::BUILT_IN.iter().find(is_it)?.clone(), namespace.to_owned()))
}

fn cluster() -> fixture::Objects {
    fixture::Objects::default()
        .with(resources::NAMESPACE, json!({"metadata": {"name": "golden"}, "status": {"phase": "Active"}}))
        .with(resources::SERVICE_ACCOUNT, json!({"metadata": {"name": "default", "namespace": "golden"}}))
        .with(resources::PRIORITY_CLASS, json!({"metadata": {"name": "hi"}, "value": 1000}))
}

/// What a create makes of `object`, and what is wrong with it.
fn create(resource: &Resource, namespace: &str, mut object: Value, answer: &Value) -> (Value, Vec<FieldError>) {
    let rules = rules(resource);
    (rules.default)(&mut object);
    let metadata = edit::child(&mut object, "metadata");
    for field in ["name", "uid", "creationTimestamp"] {
        if let Some(value) = answer.get("metadata").and_then(|metadata| metadata.get(field)) {
            edit::set(metadata, field, value.clone());
        }
    }
    if resource.is_namespaced() {
        edit::set(metadata, "namespace", namespace);
    }
    let volumes = answer.get("spec").map(|spec| edit::list(spec, "volumes")).unwrap_or_default();
    let suffix = volumes.iter().find_map(|volume| edit::text(volume, "name").strip_prefix("kube-api-access-"));
    let (user, key) = (User::default(), Key::new(namespace, edit::text(&object["metadata"], "name")));
    let attributes = admission::Attributes {
        suffix: suffix.unwrap_or("xxxxx"),
        ..fixture::attributes(&user, resource, Operation::Create, &key, None)
    };
    admission::mutate(&attributes, &mut object, &cluster()).expect("the recorded server admitted it");
    (rules.prepare_create)(&mut object);
    let mut errors = meta::validate_create(resource, &object, rules.name);
    errors.extend((rules.validate)(&object));
    (object, errors)
}

fn comparable(mut object: Value) -> Value {
    let metadata = edit::child(&mut object, "metadata");
    for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp"] {
        edit::remove(metadata, field);
    }
    if edit::text(&object, "kind") == "Service" {
        ALLOCATED.iter().for_each(|field| {
            edit::remove(&mut object["spec"], field);
        });
    }
    object
}

#[test]
fn creates_come_out_as_recorded() {
    let Some(exchanges) = exchanges() else {
        println!("skipped: no recorded exchanges here");
        return;
    };
    let (mut compared, mut differences) = (0, Vec::new());
    for exchange in &exchanges {
        let (request, response) = (&exchange["request"], &exchange["response"]);
        let title = exchange["title"].as_str().unwrap_or_default();
        let status = response["status"].as_i64().unwrap_or(0);
        if request["method"] != "POST"
            || !request["body"].is_object()
            || !request["headers"]["Impersonate-User"].is_null()
        {
            continue;
        }
        let Some((resource, namespace)) = request["path"].as_str().and_then(target) else { continue };
        let is_stored = resource.verbs.contains(api_types::Verb::Get);
        // Duplicate fields and allocation are others' business.
        let elsewhere = ["nodePort", "clusterIP", "fieldValidation", "dry run", "name missing", "unknown field"];
        if !is_stored || elsewhere.iter().any(|word| title.contains(word)) {
            continue;
        }
        let answer = &response["body"];
        match status {
            201 => {
                let (object, errors) = create(&resource, &namespace, request["body"].clone(), answer);
                if !errors.is_empty() {
                    differences.push(format!("{title}: refused: {:?}", texts(errors)));
                } else if comparable(object.clone()) != comparable(answer.clone()) {
                    let (ours, theirs) = (comparable(object), comparable(answer.clone()));
                    differences.push(format!("{title}:\n ours   {ours}\n theirs {theirs}"));
                }
            }
            422 => {
                let (_, errors) = create(&resource, &namespace, request["body"].clone(), &Value::Null);
                let causes: Vec<String> = edit::list(&answer["details"], "causes")
                    .iter()
                    .map(|cause| format!("{}: {}", edit::text(cause, "field"), edit::text(cause, "message")))
                    .collect();
                let ours = texts(errors);
                if ours != causes {
                    differences.push(format!("{title}:\n ours   {ours:?}\n theirs {causes:?}"));
                }
            }
            _ => continue,
        }
        compared += 1;
    }
    assert!(differences.is_empty(), "{} of {compared} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(compared >= 40, "only {compared} compared");
}
