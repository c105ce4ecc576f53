//! The audit trail: what the policy wants is in the log, in upstream's words, before the client is answered.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use tests::{Cluster, Daemon, control_plane, eventually};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: None
  nonResourceURLs: ["/livez*", "/readyz*", /metrics]
- level: RequestResponse
  omitStages: [RequestReceived]
  namespaces: [full]
  resources: [{group: "", resources: [configmaps]}]
- level: Request
  omitStages: [RequestReceived]
  namespaces: [sent]
- level: Metadata
"#;

fn audited(cluster: &Cluster, path: &Path, mode: &str) -> Daemon {
    let policy = cluster.dir().join("audit/test-policy.yaml");
    fs::write(&policy, POLICY).expect("a policy");
    let flags = [
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", path.display()),
        format!("--audit-log-mode={mode}"),
    ];
    cluster.restart_apiserver(&flags.each_ref().map(String::as_str))
}

fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the log");
    text.lines().map(|line| serde_json::from_str(line).expect("an event a line")).collect()
}

/// The events of one request, which bore this Audit-Id.
fn trail(path: &Path, id: &str) -> Vec<Value> {
    events(path).into_iter().filter(|event| event["auditID"] == id).collect()
}

fn stages(trail: &[Value]) -> Vec<&str> {
    trail.iter().filter_map(|event| event["stage"].as_str()).collect()
}

/// Attack row 22: Secrets are in no event of level Metadata; semantics lines 58, 60 and 61.
#[test]
fn who_did_what_can_be_read_afterwards() {
    let cluster = control_plane!();
    for namespace in ["full", "sent"] {
        cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).expect(201);
    }
    let log = cluster.dir().join("audit/test.log");
    let _apiserver = audited(&cluster, &log, "blocking-strict");
    assert_eq!(fs::metadata(&log).expect("the log").permissions().mode() & 0o777, 0o600);
    let ask = |user: &str, id: &str, method: &str, path: &str, headers: &[&str], body: &Value| {
        let id = format!("Audit-Id: {id}");
        let content = match method {
            "PATCH" => "Content-Type: application/merge-patch+json",
            _ => "Content-Type: application/json",
        };
        let headers: Vec<&str> = headers.iter().copied().chain([id.as_str(), content]).collect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        cluster.http(user, method, path, &headers, body.as_bytes())
    };

    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "canary-of-a-secret"}});
    let forwarded = ["X-Forwarded-For: 192.0.2.7"];
    let reply = ask("admin", "secret", "POST", "/api/v1/namespaces/default/secrets", &forwarded, &secret);
    assert_eq!((reply.code, reply.header("audit-id")), (201, Some("secret")));
    let found = trail(&log, "secret");
    assert_eq!(stages(&found), ["RequestReceived", "ResponseComplete"]);
    let event = &found[1];
    assert_eq!((&event["level"], &event["verb"]), (&json!("Metadata"), &json!("create")));
    assert_eq!(event["user"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(event["sourceIPs"], json!(["192.0.2.7", "127.0.0.1"]));
    assert_eq!(event["userAgent"], "coxswain-tests");
    let object = json!({"resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1"});
    assert_eq!(event["objectRef"], object);
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");

    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    ask("admin", "full", "POST", "/api/v1/namespaces/full/configmaps", &[], &map).expect(201);
    let found = trail(&log, "full");
    assert_eq!(stages(&found), ["ResponseComplete"]);
    assert_eq!(found[0]["requestObject"]["data"], map["data"]);
    assert_eq!(found[0]["requestObject"]["kind"], "ConfigMap");
    assert!(found[0]["responseObject"]["metadata"]["uid"].is_string());
    assert!(found[0]["responseObject"]["metadata"]["managedFields"].is_null());
    let list = ask("admin", "list", "GET", "/api/v1/namespaces/full/configmaps", &[], &Value::Null).expect(200);
    assert_eq!(trail(&log, "list")[0]["responseObject"], list);

    ask("admin", "sent", "POST", "/api/v1/namespaces/sent/configmaps", &[], &map).expect(201);
    let patch = json!({"data": {"a": "2"}});
    ask("admin", "patch", "PATCH", "/api/v1/namespaces/sent/configmaps/m", &[], &patch).expect(200);
    let found = trail(&log, "patch");
    assert_eq!((&found[0]["requestObject"], &found[0]["responseObject"]), (&patch, &Value::Null));

    let refused = ask("proxy", "refused", "GET", "/api/v1/namespaces/default/secrets", &[], &Value::Null);
    let found = trail(&log, "refused");
    assert_eq!(found[1]["responseStatus"]["message"], refused.json()["message"]);
    assert_eq!(found[1]["annotations"]["authorization.k8s.io/decision"], "forbid");

    let _ = ask("", "nobody", "GET", "/api/v1/pods", &["Authorization: Bearer canary-of-a-token"], &Value::Null);
    let found = trail(&log, "nobody");
    assert_eq!(stages(&found), ["ResponseStarted"]);
    assert_eq!((&found[0]["user"], &found[0]["responseStatus"]["code"]), (&json!({}), &json!(401)));

    let _ = ask("admin", "as", "GET", "/api/v1/pods", &["Impersonate-User: bob"], &Value::Null);
    let found = trail(&log, "as");
    assert_eq!(found[1]["user"]["username"], "kubernetes-admin");
    assert_eq!(found[1]["impersonatedUser"], json!({"username": "bob", "groups": ["system:authenticated"]}));
    assert_eq!(found[1]["responseStatus"]["code"], 403);

    let watch = "/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=1";
    assert_eq!(ask("admin", "watch", "GET", watch, &[], &Value::Null).code, 200);
    eventually("the watch has ended", || (trail(&log, "watch").len() == 3).then_some(()));
    assert_eq!(stages(&trail(&log, "watch")), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);

    let deleted = ask("admin", "delete", "DELETE", "/api/v1/namespaces/full/configmaps/m", &[], &Value::Null);
    assert_eq!(trail(&log, "delete")[0]["responseStatus"]["details"], deleted.json()["details"]);
    let text = fs::read_to_string(&log).expect("the log");
    assert!(!text.contains("canary-of-a") && !text.contains("/readyz"), "{text}");
}

/// R9: without room for the log, `blocking` goes on and counts what is lost, `blocking-strict` refuses.
#[test]
fn a_full_disk() {
    let cluster = control_plane!();
    let metric = |name: &str| {
        let text = cluster.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    let full = Path::new("/dev/full");
    {
        let _apiserver = audited(&cluster, full, "blocking");
        assert_eq!(cluster.get("/api/v1/namespaces/default").code, 200);
        // Both stages, and whatever others asked meanwhile.
        assert!(metric(r#"apiserver_audit_error_total{plugin="log"}"#) >= 2.0);
        assert_eq!(metric("apiserver_audit_requests_rejected_total"), 0.0);
    }
    cluster.up();
    let _apiserver = audited(&cluster, full, "blocking-strict");
    let (code, reason, message) = cluster.get("/api/v1/namespaces/default").refusal();
    assert_eq!((code, reason.as_str()), (500, "InternalError"));
    assert!(message.contains("failed to store audit event"), "{message}");
    assert!(metric("apiserver_audit_requests_rejected_total") >= 1.0);
}
