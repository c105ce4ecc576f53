//! The audit trail: what the policy wants is in the log, in upstream's words, before the client is answered.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
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
// long: one cluster is asked each kind of question in turn
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
    let mut list = ask("admin", "list", "GET", "/api/v1/namespaces/full/configmaps", &[], &Value::Null).expect(200);
    list["items"][0]["metadata"].as_object_mut().expect("metadata").remove("managedFields").expect("owners");
    assert_eq!(trail(&log, "list")[0]["responseObject"], list);

    ask("admin", "sent", "POST", "/api/v1/namespaces/sent/configmaps", &[], &map).expect(201);
    let patch = json!({"data": {"a": "2"}});
    ask("admin", "patch", "PATCH", "/api/v1/namespaces/sent/configmaps/m", &[], &patch).expect(200);
    let found = trail(&log, "patch");
    assert_eq!((&found[0]["requestObject"], &found[0]["responseObject"]), (&patch, &Value::Null));

    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    cluster.patch("/api/v1/namespaces/default", "merge-patch+json", &label).expect(200);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    ask("admin", "pod", "POST", "/api/v1/namespaces/default/pods", &[], &pod).expect(201);
    let annotations = &trail(&log, "pod")[1]["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let violations = annotations["pod-security.kubernetes.io/audit-violations"].as_str().expect("violations");
    assert!(violations.starts_with(r#"would violate PodSecurity "restricted:latest": "#), "{violations}");

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

/// Serves HTTPS as the apiserver's own certificate allows, and hands on each body; the first it refuses.
fn receiver(cluster: &Cluster) -> (u16, mpsc::Receiver<Value>) {
    let pki = cluster.dir().join("pki");
    let chain = CertificateDer::pem_file_iter(pki.join("apiserver.crt")).expect("a file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(pki.join("apiserver.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("TLS 1.3").with_no_client_auth();
    let config = Arc::new(builder.with_single_cert(chain, key).expect("a pair"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (sender, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let connection = ServerConnection::new(config.clone()).expect("a server");
            let mut stream = BufReader::new(StreamOwned::new(connection, stream.expect("a connection")));
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a body");
            let status = if number == 0 { "503 Service Unavailable" } else { "200 OK" };
            let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.get_mut().write_all(reply.as_bytes()).expect("a reply");
            let body = serde_json::from_slice(&body).expect("JSON");
            if number > 0 && sender.send(body).is_err() {
                return; // the test is over
            }
        }
    });
    (port, bodies)
}

/// Events come to the webhook in batches, and a batch that was refused comes again.
#[test]
fn a_webhook_is_told() {
    let cluster = control_plane!();
    let (port, lists) = receiver(&cluster);
    let ca = cluster.dir().join("pki/ca.crt");
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "w",
        "clusters": [{"name": "w", "cluster":
            {"server": format!("https://127.0.0.1:{port}/audit"), "certificate-authority": ca}}],
        "users": [{"name": "w", "user": {"token": "t"}}],
        "contexts": [{"name": "w", "context": {"cluster": "w", "user": "w"}}]});
    let file = cluster.dir().join("audit/webhook.kubeconfig");
    fs::write(&file, kubeconfig.to_string()).expect("a kubeconfig");
    let flags = [
        format!("--audit-webhook-config-file={}", file.display()),
        "--audit-webhook-initial-backoff=10ms".to_owned(),
        "--audit-webhook-batch-max-wait=50ms".to_owned(),
    ];
    let _apiserver = cluster.restart_apiserver(&flags.each_ref().map(String::as_str));
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "told"}})).expect(201);
    let is_told = |event: &Value| event["requestURI"] == "/api/v1/namespaces" && event["objectRef"]["name"] == "told";
    loop {
        let list = lists.recv_timeout(Duration::from_secs(60)).expect("the event");
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
        if list["items"].as_array().expect("events").iter().any(is_told) {
            return;
        }
    }
}
