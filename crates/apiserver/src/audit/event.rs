//! One request as audit sees it: what the layers noted of it, and the event that this makes at a stage.
//!
//! Source: apiserver/pkg/apis/audit/v1/types.go and apiserver/pkg/audit/{request,context}.go.

use std::{collections::BTreeMap, net::IpAddr};

use api_types::jiff::Timestamp;
use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::policy::{Level, Stage, Verdict};
use crate::{authn::User, codec::decode, request::Request};

/// Upstream's limit; what is longer ends in [`TRUNCATED`].
const USER_AGENT_BYTES_MAX: usize = 1024;
const TRUNCATED: &str = "...TRUNCATED";

/// What is known of a request when it arrives.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub audit_id: String,
    pub uri: String,
    pub source_ips: Vec<IpAddr>,
    pub user_agent: String,
    pub received: Timestamp,
    pub request: Request,
}

impl Arrival {
    pub fn new<B>(http: &http::Request<B>, request: &Request, peer: IpAddr, audit_id: &str, now: Timestamp) -> Self {
        let agent = http.headers().get(http::header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
        Self {
            audit_id: audit_id.to_owned(),
            uri: http.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned(),
            source_ips: source_ips(http.headers(), peer),
            user_agent: truncated(agent.unwrap_or_default().into_owned()),
            received: now,
            request: request.clone(),
        }
    }
}

fn truncated(mut agent: String) -> String {
    if agent.len() > USER_AGENT_BYTES_MAX {
        agent.truncate(agent.floor_char_boundary(USER_AGENT_BYTES_MAX));
        agent.push_str(TRUNCATED);
    }
    agent
}

/// The way that the request came: what proxies say, and at the end the peer, which cannot be spoofed.
///
/// Source: `SourceIPs` in apimachinery/pkg/util/net/http.go.
pub fn source_ips(headers: &HeaderMap, peer: IpAddr) -> Vec<IpAddr> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut ips: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(|part| part.trim().parse().ok()).collect();
    if let Ok(real) = text("x-real-ip").trim().parse()
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    let peer = peer.to_canonical();
    if ips.last() != Some(&peer) {
        ips.push(peer);
    }
    ips
}

/// What the layers noted on the way.
#[derive(Debug, Default)]
pub struct Notes {
    /// `None` until it is known who asks.
    pub verdict: Option<Verdict>,
    pub user: Option<User>,
    pub impersonated: Option<User>,
    pub annotations: BTreeMap<String, String>,
    /// Of the object that was sent, where the path does not tell.
    pub sent: ObjectIdentity,
    pub request_object: Option<Box<RawValue>>,
    pub response_object: Option<Box<RawValue>>,
    /// A `Status`, or one with nothing but its code.
    pub response_status: Option<Value>,
    /// Credentials did not hold: there is one event, and it is an early one.
    pub is_unauthenticated: bool,
    pub is_long_running: bool,
}

#[derive(Debug, Default)]
pub struct ObjectIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl Notes {
    pub fn level(&self) -> Level {
        self.verdict.as_ref().map_or(Level::None, |verdict| verdict.level)
    }

    pub fn wants(&self, stage: Stage) -> bool {
        self.verdict
            .as_ref()
            .is_some_and(|verdict| verdict.level > Level::None && !verdict.omit_stages.contains(&stage))
    }

    pub fn omits_managed_fields(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.omit_managed_fields)
    }

    /// Once set, an annotation stays; the level may not be known yet.
    pub fn annotate(&mut self, key: &str, value: String) {
        if self.verdict.is_none() || self.level() > Level::None {
            self.annotations.entry(key.to_owned()).or_insert(value);
        }
    }

    /// The object of a write, decoded.
    pub fn sent(&mut self, object: &Value) {
        if self.level() < Level::Metadata {
            return;
        }
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        self.sent = ObjectIdentity {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        };
        if self.level() >= Level::Request {
            let mut object = object.clone();
            if self.omits_managed_fields() {
                drop_managed_fields(&mut object);
            }
            self.request_object = serde_json::value::to_raw_value(&object).ok();
        }
    }

    /// A patch is recorded as it came; an apply may be YAML.
    pub fn patch(&mut self, body: &Bytes) {
        if self.level() >= Level::Request {
            let yaml = || serde_json::value::to_raw_value(&decode::yaml(body).ok()?).ok();
            self.request_object = serde_json::from_slice(body).ok().or_else(yaml);
        }
    }

    /// The object of a reply; a `Status` is told apart at every level.
    pub fn replied(&mut self, object: &mut Value) {
        if object["kind"] == "Status" && object["apiVersion"] == "v1" {
            self.response_status = Some(bounded(object));
        }
        if self.level() == Level::RequestResponse {
            if self.omits_managed_fields() {
                drop_managed_fields(object);
            }
            self.response_object = serde_json::value::to_raw_value(object).ok();
        }
    }

    pub fn code(&mut self, code: u16) {
        self.response_status.get_or_insert_with(|| json!({"metadata": {}}))["code"] = code.into();
    }
}

/// What of a Status does not grow with the request.
fn bounded(status: &Value) -> Value {
    let mut kept = json!({"metadata": {}});
    for field in ["status", "message", "reason", "details", "code"] {
        if let Some(value) = status.get(field) {
            kept[field] = value.clone();
        }
    }
    kept
}

/// Of an object, or of each in a list or table.
fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for list in ["items", "rows"] {
        for item in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            // The object of a table's row, or the item itself.
            let object = if list == "rows" { &mut item["object"] } else { item };
            drop_managed_fields(object);
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: UserInfo<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<UserInfo<'a>>,
    #[serde(rename = "sourceIPs")]
    source_ips: &'a [IpAddr],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<&'a RawValue>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct UserInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

impl<'a> UserInfo<'a> {
    fn of(user: &'a User) -> Self {
        Self { username: &user.name, uid: &user.uid, groups: &user.groups, extra: &user.extra }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

fn object_ref<'a>(arrival: &'a Arrival, sent: &'a ObjectIdentity) -> Option<ObjectRef<'a>> {
    let target = arrival.request.target.as_ref()?;
    let or = |text: &'a str, other: &'a str| if text.is_empty() { other } else { text };
    Some(ObjectRef {
        resource: &target.resource,
        namespace: or(&target.key.namespace, &sent.namespace),
        name: or(&target.authorized_name, &sent.name),
        uid: &sent.uid,
        api_group: &target.group,
        api_version: &target.version,
        resource_version: &sent.resource_version,
        subresource: &target.subresource,
    })
}

/// The event as `audit.k8s.io/v1` JSON.
pub fn json(arrival: &Arrival, notes: &Notes, stage: Stage, now: Timestamp) -> Vec<u8> {
    let nobody = User::default();
    let stage_time = if stage == Stage::RequestReceived { arrival.received } else { now };
    let event = Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: notes.level().name(),
        audit_id: &arrival.audit_id,
        stage: stage.name(),
        request_uri: &arrival.uri,
        verb: arrival.request.verb,
        user: UserInfo::of(notes.user.as_ref().unwrap_or(&nobody)),
        impersonated_user: notes.impersonated.as_ref().map(UserInfo::of),
        source_ips: &arrival.source_ips,
        user_agent: &arrival.user_agent,
        object_ref: object_ref(arrival, &notes.sent),
        response_status: notes.response_status.as_ref(),
        request_object: notes.request_object.as_deref(),
        response_object: notes.response_object.as_deref(),
        request_received_timestamp: micro_time(arrival.received),
        stage_timestamp: micro_time(stage_time),
        annotations: &notes.annotations,
    };
    serde_json::to_vec(&event).expect("an event serialises into memory")
}

fn micro_time(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// The event as one line of text, with less in it.
///
/// Source: `EventString` in apiserver/pkg/audit/format.go.
pub fn legacy(arrival: &Arrival, notes: &Notes, stage: Stage) -> Vec<u8> {
    let list = |groups: &[String]| groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join(",");
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let user = notes.user.clone().unwrap_or_default();
    let (as_user, as_groups) = match &notes.impersonated {
        Some(user) => (user.name.clone(), or(list(&user.groups), "<lookup>")),
        None => ("<self>".to_owned(), "<lookup>".to_owned()),
    };
    let namespace = object_ref(arrival, &notes.sent).map_or("", |reference| reference.namespace).to_owned();
    let code = notes.response_status.as_ref().and_then(|status| status["code"].as_u64());
    format!(
        "{time} AUDIT: id={id:?} stage={stage:?} ip={ip:?} method={verb:?} user={user:?} groups={groups:?} \
         as={as_user:?} asgroups={as_groups:?} user-agent={agent:?} namespace={namespace:?} uri={uri:?} response=\"{code}\"",
        time = micro_time(arrival.received),
        id = arrival.audit_id,
        stage = stage.name(),
        ip = arrival.source_ips.first().map_or_else(|| "<unknown>".to_owned(), IpAddr::to_string),
        verb = arrival.request.verb,
        groups = or(list(&user.groups), "<none>"),
        user = or(user.name.clone(), "<none>"),
        agent = arrival.user_agent,
        namespace = or(namespace, "<none>"),
        uri = arrival.uri,
        code = code.map_or_else(|| "<deferred>".to_owned(), |code| code.to_string()),
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    fn arrival(method: &str, uri: &str) -> Arrival {
        let http = http::Request::builder().method(method).uri(uri).header("User-Agent", "kubectl").body(()).unwrap();
        let request = request::read(http.method(), http.uri());
        let now = "2026-01-02T03:04:05.6Z".parse().unwrap();
        Arrival::new(&http, &request, [127, 0, 0, 1].into(), "id", now)
    }

    fn notes(level: Level) -> Notes {
        let verdict = Some(Verdict { level, omit_managed_fields: true, ..Verdict::default() });
        Notes { verdict, user: Some(User::new("u", &["g"])), ..Notes::default() }
    }

    fn event(arrival: &Arrival, notes: &Notes, stage: Stage) -> Value {
        serde_json::from_slice(&json(arrival, notes, stage, "2026-01-02T03:04:06Z".parse().unwrap())).unwrap()
    }

    const SECRETS: &str = "/api/v1/namespaces/a/secrets?dryRun=All";

    #[test]
    fn an_event_is_upstreams() {
        let mut notes = notes(Level::Metadata);
        notes.sent(&json!({"metadata": {"name": "s", "uid": "1"}, "data": {"k": "c2VjcmV0"}}));
        notes.annotate("authorization.k8s.io/decision", "allow".to_owned());
        notes.code(201);
        let expected = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "id",
            "stage": "ResponseComplete", "requestURI": SECRETS, "verb": "create",
            "user": {"username": "u", "groups": ["g"]}, "sourceIPs": ["127.0.0.1"], "userAgent": "kubectl",
            "objectRef": {"resource": "secrets", "namespace": "a", "name": "s", "uid": "1", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 201},
            "requestReceivedTimestamp": "2026-01-02T03:04:05.600000Z", "stageTimestamp": "2026-01-02T03:04:06.000000Z",
            "annotations": {"authorization.k8s.io/decision": "allow"},
        });
        assert_eq!(event(&arrival("POST", SECRETS), &notes, Stage::ResponseComplete), expected);
    }

    /// Attack row 22: what a secret holds is in no event of level Metadata.
    #[test]
    fn bodies_are_where_the_level_wants_them() {
        for (level, has_request, has_response) in
            [(Level::Metadata, false, false), (Level::Request, true, false), (Level::RequestResponse, true, true)]
        {
            let mut notes = notes(level);
            let mut object = json!({"metadata": {"name": "s", "managedFields": []}, "data": {"k": "c2VjcmV0"}});
            notes.sent(&object);
            notes.replied(&mut object);
            let event = event(&arrival("POST", SECRETS), &notes, Stage::ResponseComplete);
            assert_eq!(event["requestObject"].is_object(), has_request, "{level:?}");
            assert_eq!(event["responseObject"].is_object(), has_response, "{level:?}");
            assert_eq!(event.to_string().contains("c2VjcmV0"), has_request);
            assert!(!event.to_string().contains("managedFields"));
        }
    }

    #[test]
    fn patches_are_recorded_as_they_come() {
        for (body, expected) in [(r#"[{"op": "test"}]"#, json!([{"op": "test"}])), ("a: 1\n", json!({"a": 1}))] {
            let mut notes = notes(Level::Request);
            notes.patch(&Bytes::from(body));
            let event = event(&arrival("PATCH", SECRETS), &notes, Stage::ResponseComplete);
            assert_eq!(event["requestObject"], expected);
        }
    }

    #[test]
    fn a_refusal_is_told_at_every_level() {
        let mut notes = notes(Level::Metadata);
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {"continue": "x"},
            "status": "Failure", "message": "no", "reason": "Forbidden", "details": {"kind": "pods"}, "code": 403});
        notes.replied(&mut status);
        notes.code(403);
        let expected = json!({"metadata": {}, "status": "Failure", "message": "no", "reason": "Forbidden",
            "details": {"kind": "pods"}, "code": 403});
        assert_eq!(event(&arrival("GET", SECRETS), &notes, Stage::ResponseComplete)["responseStatus"], expected);
    }

    #[test]
    fn an_annotation_stays_as_it_was_first_set() {
        let mut notes = notes(Level::Metadata);
        notes.annotate("a", "1".to_owned());
        notes.annotate("a", "2".to_owned());
        assert_eq!(notes.annotations["a"], "1");
    }

    #[test]
    fn where_a_request_came_from() {
        for (forwarded, real, expected) in [
            ("", "", "[10.0.0.9]"),
            ("1.1.1.1, 2.2.2.2", "", "[1.1.1.1, 2.2.2.2, 10.0.0.9]"),
            ("1.1.1.1, nonsense", "3.3.3.3", "[1.1.1.1, 3.3.3.3, 10.0.0.9]"),
            ("1.1.1.1", "1.1.1.1", "[1.1.1.1, 10.0.0.9]"),
            ("10.0.0.9", "", "[10.0.0.9]"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            headers.insert("x-real-ip", real.parse().unwrap());
            assert_eq!(format!("{:?}", source_ips(&headers, [10, 0, 0, 9].into())), expected);
        }
    }

    #[test]
    fn the_old_format_is_one_line() {
        let mut notes = notes(Level::Metadata);
        notes.code(200);
        let line = String::from_utf8(legacy(&arrival("GET", SECRETS), &notes, Stage::ResponseComplete)).unwrap();
        let expected = r#"2026-01-02T03:04:05.600000Z AUDIT: id="id" stage="ResponseComplete" ip="127.0.0.1" method="list" user="u" groups="\"g\"" as="<self>" asgroups="<lookup>" user-agent="kubectl" namespace="a" uri="/api/v1/namespaces/a/secrets?dryRun=All" response="200""#;
        assert_eq!(line, expected);
    }

    #[test]
    fn long_user_agents_are_cut() {
        assert_eq!(truncated("é".repeat(600)).len(), USER_AGENT_BYTES_MAX + TRUNCATED.len());
    }
}
