//! Sources of identity and authorisers beyond certificates and RBAC, asked of a second apiserver over the same
//! etcd, with a real issuer and real webhooks over TLS.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tests::{Cluster, Second, control_plane, eventually};

/// Issuer and webhooks; gone with the test.
struct Foreign {
    child: Child,
    url: String,
    tokens: Value,
}

impl Foreign {
    fn start(cluster: &Cluster) -> Self {
        let pki = cluster.dir().join("pki");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/blackbox/issuer.py");
        let python = std::env::var_os("COXSWAIN_PYTHON").unwrap_or_else(|| "python3".into());
        let mut child = Command::new(python)
            .arg(script)
            .arg(cluster.dir())
            .args([pki.join("apiserver.crt"), pki.join("apiserver.key")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().expect("the issuer says where it is").expect("text");
        let url = format!("https://127.0.0.1:{}", line());
        let tokens = serde_json::from_str(&line()).expect("tokens");
        Self { child, url, tokens }
    }

    fn token(&self, name: &str) -> &str {
        self.tokens[name].as_str().expect(name)
    }

    /// As webhooks are configured.
    fn kubeconfig(&self, cluster: &Cluster) -> String {
        let path = cluster.dir().join("webhook.kubeconfig");
        let ca = cluster.dir().join("pki/ca.crt");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "w", "user": "u"}}],
            "clusters": [{"name": "w", "cluster": {"server": format!("{}/review", self.url), "certificate-authority": ca}}],
            "users": [{"name": "u", "user": {}}],
        });
        fs::write(&path, text.to_string()).expect("written");
        path.display().to_string()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who a token is there; `None`: 401.
fn who(server: &Second, token: &str) -> Option<Value> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let headers = [&*format!("Authorization: Bearer {token}"), "Content-Type: application/json"];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let reply = server.http("", "POST", path, &headers, review.to_string().as_bytes());
    match reply.code {
        401 => None,
        _ => Some(reply.expect(201)["status"]["userInfo"].take()),
    }
}

/// Attack table: `alg: none`, HS256 with the public key, kid traversal, wrong aud and iss, expired, not yet valid: 401.
#[test]
fn tokens_of_a_foreign_issuer() {
    let cluster = control_plane!("--storage=etcd");
    let foreign = Foreign::start(&cluster);
    let ca = fs::read_to_string(cluster.dir().join("pki/ca.crt")).expect("the authority");
    let configuration = |prefix: &str| {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": foreign.url, "audiences": ["coxswain"], "certificateAuthority": ca},
                "claimMappings": {
                    "username": {"claim": "sub", "prefix": prefix}, "groups": {"claim": "groups", "prefix": prefix},
                },
            }],
            "anonymous": {"enabled": true, "conditions": [{"path": "/version"}]},
        })
        .to_string()
    };
    let file = cluster.dir().join("authentication.yaml");
    fs::write(&file, configuration("idp:")).expect("written");
    let server = cluster.second_apiserver(&[&format!("--authentication-config={}", file.display())]);
    let ada = who(&server, foreign.token("good")).expect("known");
    assert_eq!((&ada["username"], &ada["groups"]), (&json!("idp:ada"), &json!(["idp:crew", "system:authenticated"])));
    for (name, token) in foreign.tokens.as_object().expect("tokens") {
        if name != "good" {
            assert_eq!(who(&server, token.as_str().expect("a token")), None, "{name}");
        }
    }
    assert_eq!(server.http("", "GET", "/version", &[], b"").code, 200, "a condition admits the anonymous");
    assert_eq!(server.http("", "GET", "/api", &[], b"").code, 401);
    fs::write(&file, configuration("new:")).expect("written");
    eventually("the file is read again", || {
        (who(&server, foreign.token("good"))?["username"] == "new:ada").then_some(())
    });
}

/// Static and bootstrap tokens, a webhook that knows tokens and one that decides, in a configured order.
#[test]
fn webhooks_and_written_tokens() {
    let cluster = control_plane!("--storage=etcd");
    let foreign = Foreign::start(&cluster);
    let kubeconfig = foreign.kubeconfig(&cluster);
    let tokens = cluster.dir().join("tokens.csv");
    fs::write(&tokens, "static-token,bob,7,\"devs,ops\"\n").expect("written");
    let server = cluster.second_apiserver(&[
        &format!("--authentication-token-webhook-config-file={kubeconfig}"),
        "--authentication-token-webhook-version=v1",
        "--authorization-mode=Node,RBAC,Webhook",
        &format!("--authorization-webhook-config-file={kubeconfig}"),
        "--authorization-webhook-version=v1",
        &format!("--token-auth-file={}", tokens.display()),
        "--enable-bootstrap-token-auth",
    ]);
    let bob = who(&server, "static-token").expect("known");
    assert_eq!((&bob["username"], &bob["uid"]), (&json!("bob"), &json!("7")));
    assert_eq!(bob["groups"], json!(["devs", "ops", "system:authenticated"]));
    let hooked = who(&server, "webhook-token").expect("known");
    assert_eq!((&hooked["username"], &hooked["groups"]), (&json!("hooked"), &json!(["hooks", "system:authenticated"])));
    assert_eq!(who(&server, "nobodys-token"), None);
    let get = |token: &str, resource: &str| {
        let header = format!("Authorization: Bearer {token}");
        server.http("", "GET", &format!("/api/v1/namespaces/default/{resource}"), &[&header], b"")
    };
    assert_eq!(get("webhook-token", "configmaps").code, 200, "the webhook allows");
    let (code, _, message) = get("webhook-token", "secrets").refusal();
    assert!(code == 403 && message.ends_with(": the webhook says so"), "{message}");
    assert_eq!(get("static-token", "configmaps").code, 403);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"},
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:crew",
        },
    });
    cluster.post("/api/v1/namespaces/kube-system/secrets", &secret).expect(201);
    let node = eventually("the token is seen", || who(&server, "abcdef.0123456789abcdef"));
    assert_eq!(node["username"], "system:bootstrap:abcdef");
    assert_eq!(who(&server, "abcdef.0123456789abcdee"), None);
    cluster.delete("/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef");
    eventually("the token ends with its Secret", || who(&server, "abcdef.0123456789abcdef").is_none().then_some(()));
}

/// A proxy's headers count with its certificate, of its authority and by its name, and from nobody else.
#[test]
fn headers_of_a_proxy() {
    let cluster = control_plane!("--storage=etcd");
    let ca = cluster.dir().join("pki/ca.crt");
    let server = cluster.second_apiserver(&[
        &format!("--requestheader-client-ca-file={}", ca.display()),
        "--requestheader-allowed-names=system:kube-proxy",
    ]);
    let ask = |user: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let headers = ["X-Remote-User: bob", "X-Remote-Group: devs", "Content-Type: application/json"];
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        server.http(user, "POST", path, &headers, review.to_string().as_bytes())
    };
    let bob = ask("proxy").expect(201);
    assert_eq!(bob["status"]["userInfo"], json!({"username": "bob", "groups": ["devs", "system:authenticated"]}));
    let other = ask("scheduler").expect(201);
    assert_eq!(other["status"]["userInfo"]["username"], "system:kube-scheduler", "not an allowed name");
    assert_eq!(ask("").code, 401, "headers without a certificate");
}
