//! Who may do what, from the first request.

use serde_json::json;
use tests::{Reply, control_plane};

#[track_caller]
fn refused(reply: &Reply, code: u16, message: &str) {
    let (found, _, text) = reply.refusal();
    assert_eq!((found, text.as_str()), (code, message));
}

/// Semantics lines 59 and 60: nobody is anonymous admin.
#[test]
fn without_credentials_and_without_rights() {
    let cluster = control_plane!();
    for path in ["/api/v1/pods", "/apis", "/metrics", "/api/v1/namespaces/default/secrets"] {
        refused(&cluster.http("", "GET", path, &[], b""), 401, "Unauthorized");
    }
    assert_eq!(cluster.http("", "GET", "/livez", &[], b"").code, 200);
    refused(&cluster.http("", "GET", "/api/v1/pods", &["Authorization: Bearer nonsense"], b""), 401, "Unauthorized");
    refused(
        &cluster.http("proxy", "GET", "/api/v1/namespaces/default/secrets", &[], b""),
        403,
        r#"secrets is forbidden: User "system:kube-proxy" cannot list resource "secrets" in API group "" in the namespace "default""#,
    );
    assert_eq!(cluster.http("proxy", "GET", "/api/v1/services", &[], b"").code, 200);
    let pods = cluster.http("scheduler", "GET", "/api/v1/pods", &[], b"");
    assert_eq!(pods.code, 200, "{}", pods.text());
}

/// A ServiceAccount's token: signed, verified, bound, and worth what its bindings say.
#[test]
fn service_account_tokens() {
    let cluster = control_plane!();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.post(accounts, &json!({"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"robot"}})).expect(201);
    let request =
        json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":600}});
    let reply = cluster.post(&format!("{accounts}/robot/token"), &request).expect(201);
    let token = reply["status"]["token"].as_str().expect("a token");
    let bearer = format!("Authorization: Bearer {token}");
    let list = || cluster.http("", "GET", "/api/v1/namespaces/default/configmaps", &[&bearer], b"");
    refused(
        &list(),
        403,
        r#"configmaps is forbidden: User "system:serviceaccount:default:robot" cannot list resource "configmaps" in API group "" in the namespace "default""#,
    );
    cluster.kubectl(&["create", "role", "reader", "--verb=list", "--resource=configmaps"]);
    cluster.kubectl(&["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:robot"]);
    tests::eventually("the binding is seen", || (list().code == 200).then_some(()));
    let who = cluster.kubectl(&["auth", "whoami", &format!("--token={token}"), "-o", "name"]);
    assert!(who.contains("selfsubjectreview"), "{who}");
    cluster.delete(&format!("{accounts}/robot"));
    tests::eventually("the account's token dies with it", || (list().code == 401).then_some(()));
}

#[test]
fn kubectl_auth_can_i() {
    let cluster = control_plane!();
    assert_eq!(cluster.kubectl(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    let other = cluster.kubectl_output(&["auth", "can-i", "create", "pods", "--as=nobody"]);
    assert_eq!(String::from_utf8_lossy(&other.stdout).trim(), "no");
}

/// `cox auth why` names the rule that allows, or the roles that would; stock kubectl is told no more than upstream tells.
#[test]
fn cox_auth_why() {
    let cluster = control_plane!();
    let said = |arguments: &[&str]| {
        let output = cluster.cox(arguments);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let why = ["auth", "why", "list", "pods", "--as=bob"];
    let (allowed, text) = said(&why);
    assert!(!allowed && text.starts_with("no: not bound, but would allow it: "), "{text}");
    assert!(text.contains(r#"ClusterRole "edit""#), "{text}");
    cluster.kubectl(&["create", "rolebinding", "bob-views", "--clusterrole=view", "--user=bob"]);
    let by = r#"yes: RBAC: allowed by RoleBinding "bob-views/default" of ClusterRole "view" to User "bob""#;
    tests::eventually("the binding is seen", || (said(&why) == (true, by.to_owned())).then_some(()));
    assert_eq!(said(&["auth", "can-i", "list", "pods", "--as=bob", "-A"]), (false, "no".to_owned()));
    assert_eq!(said(&["auth", "can-i", "get", "/livez", "--as=bob"]), (true, "yes".to_owned()));
    assert_eq!(said(&["auth", "can-i", "delete", "nodes"]), (true, "yes".to_owned()));
}
