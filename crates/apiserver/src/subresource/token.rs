//! TokenRequest: a token for a ServiceAccount, bound to a pod, a secret or a node.
//!
//! Source: kubernetes/pkg/registry/core/serviceaccount/storage/token.go.

use api_types::{
    ApiError, FieldError, Key, Object,
    jiff::{SignedDuration, Timestamp},
    k8s::core,
};
use daemon::reload::Reloading;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{current, key};
use crate::{
    authn::token::{Bound, Claims, Reference, service_account_name},
    authz::node,
    reader::Reader,
    verbs::hook::{Answer, Call},
};

const DEFAULT_S: i64 = 3600;
const MIN_S: i64 = 600;
const MAX_S: i64 = 1 << 32;
/// What a kubelet asks for when the pod did not choose: such a token may be extended.
const EXTENDABLE_S: i64 = 3607;
const EXTENDED_S: i64 = 365 * 24 * 3600;

pub fn request(call: Call, mut request: Value) -> BoxFuture<'static, Result<Answer, ApiError>> {
    Box::pin(async move {
        let account_key = key(&call);
        let server = call.server.clone();
        let Some(issuer) = server.issuer.as_ref().map(Reloading::current) else {
            return Err(ApiError::unknown_resource());
        };
        place(&mut request, &account_key)?;
        let spec = &mut request["spec"];
        if spec["expirationSeconds"].is_null() {
            spec["expirationSeconds"] = json!(DEFAULT_S);
        }
        if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
            spec["audiences"] = json!(issuer.api_audiences());
        }
        let errors = errors(spec);
        if !errors.is_empty() {
            return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", "", &errors));
        }
        if let Some(node) = node::name_of(&call.user) {
            let forbidden = |why: String| ApiError::forbidden(&call.kind.resource, &account_key.name, why);
            node_may_ask(node, spec, &account_key, &*server.cache, issuer.api_audiences()).map_err(forbidden)?;
        }
        let account = current::<core::ServiceAccount>(&server, &account_key).await?;
        let mut bound = Bound {
            namespace: account_key.namespace.clone(),
            serviceaccount: Reference { name: account_key.name.clone(), uid: uid(&account).to_owned() },
            ..Bound::default()
        };
        if spec["boundObjectRef"].is_object() {
            bind(&call, &spec["boundObjectRef"], &mut bound).await?;
        }
        let now = Timestamp::now();
        let flags = &server.flags.tokens;
        if let Some(most) = flags.service_account_max_token_expiration {
            let most_s = i64::try_from(most.as_secs()).unwrap_or(MAX_S);
            spec["expirationSeconds"] = json!(spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_S).min(most_s));
        }
        let mut claims = claims(spec, bound, issuer.issuer(), now, uuid::Uuid::new_v4().to_string());
        let expires = Timestamp::from_second(claims.exp).unwrap_or(now + SignedDuration::from_secs(DEFAULT_S));
        if flags.service_account_extend_token_expiration {
            extend(&mut claims, issuer.api_audiences());
        }
        let token =
            issuer.sign(&claims).map_err(|why| ApiError::internal(format!("failed to generate token: {why}")))?;
        let time = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        request["metadata"]["creationTimestamp"] = json!(time(now));
        request["status"] = json!({"token": token, "expirationTimestamp": time(expires)});
        Ok(Answer::created(request))
    })
}

/// Fills in name and namespace, or refuses others.
fn place(request: &mut Value, account: &Key) -> Result<(), ApiError> {
    for (field, ours) in [("name", &account.name), ("namespace", &account.namespace)] {
        let theirs = request["metadata"][field].as_str().unwrap_or_default();
        if theirs.is_empty() {
            request["metadata"][field] = json!(ours);
        } else if theirs != ours {
            return Err(ApiError::bad_request(format!("{field} in URL does not match {field} in TokenRequest object")));
        }
    }
    Ok(())
}

fn errors(spec: &Value) -> Vec<FieldError> {
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(0);
    let invalid = |why: &str| vec![FieldError::invalid("spec.expirationSeconds", seconds, why)];
    if seconds < MIN_S {
        invalid("may not specify a duration less than 10 minutes")
    } else if seconds > MAX_S {
        invalid("may not specify a duration larger than 2^32 seconds")
    } else {
        Vec::new()
    }
}

/// A kubelet gets tokens for its own pods only, for nobody but whom the pod names.
///
/// Source: `admitServiceAccount` in kubernetes/plugin/pkg/admission/noderestriction.
fn node_may_ask(
    node: &str,
    spec: &Value,
    account: &Key,
    reader: &dyn Reader,
    own_audiences: &[String],
) -> Result<(), String> {
    let reference = &spec["boundObjectRef"];
    if reference["kind"] != "Pod" || reference["apiVersion"] != "v1" {
        return Err("node requested token not bound to a pod".to_owned());
    }
    let wanted = reference["uid"].as_str().unwrap_or_default();
    if wanted.is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    let name = reference["name"].as_str().unwrap_or_default();
    let pod = reader.get(core::Pod::RESOURCE, &Key::new(account.namespace.as_str(), name));
    let pod = pod.ok_or_else(|| format!("pod {name:?} not found"))?;
    if uid(&pod) != wanted {
        return Err(format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record ({})",
            uid(&pod)
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let projected = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let sources = projected.filter_map(|volume| volume["projected"]["sources"].as_array()).flatten();
    let named: Vec<&Value> = sources.map(|source| &source["serviceAccountToken"]["audience"]).collect();
    for audience in spec["audiences"].as_array().into_iter().flatten() {
        let is_own = own_audiences.iter().any(|own| audience == own);
        if !is_own && !named.contains(&audience) {
            return Err(format!("audience {audience} not found in pod spec volume"));
        }
    }
    Ok(())
}

fn claims(spec: &Value, bound: Bound, issuer: &str, now: Timestamp, jti: String) -> Claims {
    let now_s = now.as_second();
    let audiences = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Claims {
        aud: audiences.map(str::to_owned).collect(),
        exp: now_s + spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_S),
        iat: now_s,
        nbf: now_s,
        iss: issuer.to_owned(),
        jti,
        sub: service_account_name(&bound.namespace, &bound.serviceaccount.name),
        bound,
    }
}

/// A pod's token for the apiserver holds for a year, for clients that never read it again. It says when they should
/// have, and the kubelet, which is told nothing of the year, replaces it in time.
///
/// Source: KEP-1205; `--service-account-extend-token-expiration`.
fn extend(claims: &mut Claims, own_audiences: &[String]) {
    let is_ours = claims.aud.iter().all(|audience| own_audiences.contains(audience));
    if claims.exp - claims.iat == EXTENDABLE_S && claims.bound.pod.is_some() && is_ours {
        claims.bound.warnafter = Some(claims.exp);
        claims.exp = claims.iat + EXTENDED_S;
    }
}

/// Looks up the object that the token is to die with.
async fn bind(call: &Call, reference: &Value, bound: &mut Bound) -> Result<(), ApiError> {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let name = text("name");
    let in_namespace = Key::new(bound.namespace.as_str(), name);
    let object = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => current::<core::Pod>(&call.server, &in_namespace).await?,
        ("v1", "Secret") => current::<core::Secret>(&call.server, &in_namespace).await?,
        ("v1", "Node") => current::<core::Node>(&call.server, &Key::cluster(name)).await?,
        (_, kind) => return Err(ApiError::bad_request(format!("cannot bind token to object of type {kind}"))),
    };
    let found = uid(&object);
    let wanted = text("uid");
    if !wanted.is_empty() && wanted != found {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        let resource = match text("kind") {
            "Pod" => core::Pod::RESOURCE,
            "Secret" => core::Secret::RESOURCE,
            _ => core::Node::RESOURCE,
        };
        return Err(ApiError::conflict(resource, name, why));
    }
    let bound_to = Some(Reference { name: name.to_owned(), uid: found.to_owned() });
    match text("kind") {
        "Secret" => bound.secret = bound_to,
        "Node" => bound.node = bound_to,
        _ => {
            let account = &bound.serviceaccount.name;
            if object["spec"]["serviceAccountName"] != account.as_str() {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            bound.node = node_of(call, &object).await;
            bound.pod = bound_to;
        }
    }
    Ok(())
}

/// The pod's node, for information; its uid only if it is registered.
async fn node_of(call: &Call, pod: &Value) -> Option<Reference> {
    let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
    let node = current::<core::Node>(&call.server, &Key::cluster(name)).await.ok();
    Some(Reference { name: name.to_owned(), uid: node.as_deref().map(uid).unwrap_or_default().to_owned() })
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api_types::Resource;

    use super::*;

    #[test]
    fn durations() {
        for (seconds, refused) in [(599, true), (600, false), (3607, false), (MAX_S, false), (MAX_S + 1, true)] {
            assert_eq!(!errors(&json!({"expirationSeconds": seconds})).is_empty(), refused, "{seconds}");
        }
        let refusal =
            ApiError::invalid("authentication.k8s.io", "TokenRequest", "", &errors(&json!({"expirationSeconds": 60})));
        assert_eq!(
            refusal.message(),
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"
        );
    }

    #[test]
    fn claims_follow_the_request() {
        let spec = json!({"audiences": ["vault"], "expirationSeconds": 600});
        let bound = Bound {
            namespace: "ns".to_owned(),
            serviceaccount: Reference { name: "sa".to_owned(), uid: "u".to_owned() },
            ..Bound::default()
        };
        let claims = claims(&spec, bound, "iss", Timestamp::from_second(1000).expect("a time"), "j".to_owned());
        assert_eq!((claims.exp, claims.nbf, claims.iat), (1600, 1000, 1000));
        assert_eq!(
            (claims.sub.as_str(), claims.aud.as_slice()),
            ("system:serviceaccount:ns:sa", &["vault".to_owned()][..])
        );
        assert_eq!(claims.jti, "j");
    }

    #[test]
    fn only_a_pods_unchosen_token_for_us_is_extended() {
        let own = ["api".to_owned()];
        for (seconds, audience, is_pods, expected) in [
            (3607, "api", true, 1000 + EXTENDED_S),
            (3600, "api", true, 4600),
            (3607, "vault", true, 4607),
            (3607, "api", false, 4607),
        ] {
            let pod = is_pods.then(Reference::default);
            let bound = Bound { pod, ..Bound::default() };
            let mut claims =
                Claims { aud: vec![audience.to_owned()], iat: 1000, exp: 1000 + seconds, bound, ..Claims::default() };
            extend(&mut claims, &own);
            assert_eq!(claims.exp, expected, "{seconds} {audience} {is_pods}");
            assert_eq!(claims.bound.warnafter, (expected > 5000).then_some(4607));
        }
    }

    struct OnePod;
    impl Reader for OnePod {
        fn get(&self, _: &Resource, key: &Key) -> Option<Arc<Value>> {
            let audiences = json!([{"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]);
            let pod = json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n1", "volumes": audiences}});
            (key.to_string() == "ns/p").then(|| Arc::new(pod))
        }
        fn list(&self, _: &Resource, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    #[test]
    fn nodes_ask_for_their_own_pods() {
        let own = ["api".to_owned()];
        for (node, reference, audience, refusal) in [
            ("n1", json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"}), "api", None),
            ("n1", json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"}), "vault", None),
            (
                "n1",
                json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"}),
                "bank",
                Some("audience \"bank\" not"),
            ),
            (
                "n2",
                json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"}),
                "api",
                Some("a different node"),
            ),
            ("n1", json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "v"}), "api", Some("does not match")),
            ("n1", json!({"kind": "Pod", "apiVersion": "v1", "name": "q", "uid": "u"}), "api", Some("not found")),
            ("n1", json!({"kind": "Pod", "apiVersion": "v1", "name": "p"}), "api", Some("without a uid")),
            (
                "n1",
                json!({"kind": "Secret", "apiVersion": "v1", "name": "p", "uid": "u"}),
                "api",
                Some("not bound to a pod"),
            ),
            ("n1", Value::Null, "api", Some("not bound to a pod")),
        ] {
            let spec = json!({"boundObjectRef": reference, "audiences": [audience]});
            let got = node_may_ask(node, &spec, &Key::new("ns", "sa"), &OnePod, &own).err().unwrap_or_default();
            assert!(
                got.contains(refusal.unwrap_or_default()) && got.is_empty() == refusal.is_none(),
                "{spec}: {got:?}"
            );
        }
    }

    #[test]
    fn names_must_agree() {
        let account = Key::new("ns", "sa");
        let mut request = json!({});
        place(&mut request, &account).expect("filled in");
        assert_eq!(request["metadata"], json!({"name": "sa", "namespace": "ns"}));
        assert!(place(&mut json!({"metadata": {"name": "other"}}), &account).is_err());
    }
}
