//! What a real apiserver answered, request by request, compared with what ours answers.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tests::{Cluster, Reply, control_plane};

/// What is made anew in each run; the recording client had no name.
const NOT_COMPARED: [&str; 17] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "manager",
    "time",
    "lastTransitionTime",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "token",
    "expirationTimestamp",
    "continue",
    "description",
    "username",
    "extra",
    "generateName",
];
/// Texts that leak Go, or that count revisions: free.
const FREE_TEXT: [&str; 14] = [
    "wrong type",
    "wrong kind",
    "broken json",
    "empty body",
    "put: other uid",
    "json patch malformed",
    "pod update forbidden",
    "impersonate: group without user",
    "bad continue",
    "garbage resourceVersion",
    "rolebinding: roleRef immutable 2",
    "not acceptable",
    "future resourceVersion",
    "future resourceVersion, get",
];

/// Why an exchange is not the same here.
fn expected_difference(title: &str) -> Option<&'static str> {
    Some(match title {
        "anonymous" => "requests without credentials may ask for health only",
        "finalizer: adding while deleting" => "each error is named once",
        title if title.starts_with("cr:") => "custom resources are another issue",
        _ => return None,
    })
}

/// Semantics lines 1-61 as recorded; each exchange in order, as later ones stand on earlier ones.
#[test]
fn answers_are_those_of_a_real_apiserver() {
    let shared = std::env::var_os("COXSWAIN_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into());
    let Ok(recorded) = std::fs::read_to_string(shared.join("golden/exchanges.jsonl")) else {
        return println!("skipped: there is no recording in {}", shared.display());
    };
    let cluster = control_plane!();
    let mut token = String::new();
    let mut differences = Vec::new();
    for exchange in recorded.lines().map(|line| serde_json::from_str::<Value>(line).expect("a recorded exchange")) {
        let title = exchange["title"].as_str().expect("a title");
        if title == "list limit=2" {
            stand_ins(&cluster);
        }
        let reply = asked(&cluster, title, &exchange["request"], &token);
        if let Ok(list) = serde_json::from_slice::<Value>(&reply.body)
            && let Some(next) = list["metadata"]["continue"].as_str()
        {
            token = next.to_owned();
        }
        if expected_difference(title).is_none() {
            let found = compared(title, &exchange["response"], &reply);
            differences.extend(found.into_iter().map(|difference| format!("{title}: {difference}")));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// The recording lists objects whose creation it does not show.
fn stand_ins(cluster: &Cluster) {
    for number in 0..5 {
        let object = json!({"metadata": {"name": format!("page{number}"), "labels": {"page": "y"}}});
        cluster.post("/api/v1/namespaces/golden/configmaps", &object).expect(201);
    }
}

fn asked(cluster: &Cluster, title: &str, request: &Value, token: &str) -> Reply {
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let mut path = text("path").to_owned();
    if let Some((before, _)) = path.split_once("continue=")
        && !title.starts_with("bad")
    {
        path = format!("{before}continue={token}");
    }
    let headers = request["headers"].as_object().into_iter().flatten();
    let headers: Vec<String> =
        headers.map(|(name, value)| format!("{name}: {}", value.as_str().unwrap_or_default())).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let is_anonymous = request["anonymous"] == true || headers.iter().any(|header| header.starts_with("Authorization"));
    let body = match &request["body"] {
        _ if title.starts_with("body of 3 MiB") => json!({"data": {"a": "x".repeat((3 << 20) + 10)}}).to_string(),
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        object => object.to_string(),
    };
    let user = if is_anonymous { "" } else { "admin" };
    cluster.http(user, text("method"), &path, &headers, body.as_bytes())
}

fn compared(title: &str, wanted: &Value, reply: &Reply) -> Vec<String> {
    let mut differences = Vec::new();
    if wanted["status"] != reply.code {
        differences.push(format!("status {} is {}", wanted["status"], reply.code));
    }
    for header in ["content-type", "warning"] {
        let found = reply.header(header);
        if wanted["headers"][header].as_str().is_some_and(|wanted| Some(wanted) != found) {
            differences.push(format!("{header} {} is {found:?}", wanted["headers"][header]));
        }
    }
    let is_free = FREE_TEXT.contains(&title);
    let (wanted, found) = match &wanted["body"] {
        Value::String(text) => (frames(text), frames(&reply.text())),
        body => (vec![body.clone()], frames(&reply.text())),
    };
    let [wanted, found] = [wanted, found].map(|values| normal(&Value::Array(values), is_free));
    diff("", &wanted, &found, &mut differences);
    differences
}

/// The events of a watch, or the lines of a text. YAML may quote what it need not.
fn frames(text: &str) -> Vec<Value> {
    let is_compared = |line: &&str| {
        let name = line.trim_start().split(':').next();
        !name.is_some_and(|name| NOT_COMPARED.contains(&name))
    };
    let lines = || text.lines().filter(is_compared).map(|line| line.replace('"', "").into()).collect();
    serde_json::Deserializer::from_str(text).into_iter::<Value>().collect::<Result<_, _>>().unwrap_or_else(|_| lines())
}

fn normal(value: &Value, is_free: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .filter(|(name, _)| !(NOT_COMPARED.contains(&name.as_str()) || is_free && name.as_str() == "message"));
            kept.map(|(name, value)| (name.clone(), normal(value, is_free))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(|item| normal(item, is_free)).collect(),
        Value::String(text) => text.split(' ').map(word).collect::<Vec<_>>().join(" ").into(),
        other => other.clone(),
    }
}

/// Ages, addresses, uids and made-up names differ in each run.
fn word(word: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
    let is_uid = bare.len() == 36 && bare.split('-').count() == 5;
    let is_address = bare.split('.').count() == 4 && bare.split('.').all(digits);
    let is_age = word.strip_suffix('s').is_some_and(digits);
    let is_time = word.parse::<f64>().is_err() && word.len() >= 20 && word.ends_with('Z') && word.contains('T');
    let made_up = ["gen-", "kube-api-access-"].into_iter().find(|prefix| word.starts_with(prefix));
    match () {
        () if is_uid => word.replace(bare, "UID"),
        () if is_address => word.replace(bare, "ADDRESS"),
        () if is_age => "AGE".to_owned(),
        () if is_time => "TIME".to_owned(),
        () => made_up.unwrap_or(word).to_owned(),
    }
}

fn diff(path: &str, wanted: &Value, found: &Value, differences: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for name in wanted.keys().chain(found.keys().filter(|name| !wanted.contains_key(*name))) {
                let absent = Value::Null;
                let [a, b] = [wanted, found].map(|object| object.get(name).unwrap_or(&absent));
                diff(&format!("{path}.{name}"), a, b, differences);
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (at, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                diff(&format!("{path}[{at}]"), wanted, found, differences);
            }
        }
        (wanted, found) if wanted == found => {}
        (wanted, found) => differences.push(format!("{path}: {wanted} is {found}")),
    }
}
