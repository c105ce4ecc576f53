//! Reviews: questions about identity and access, answered at once and stored nowhere.
//!
//! Source: kubernetes/pkg/registry/{authentication,authorization}.

use std::collections::BTreeMap;

use api_types::{ApiError, FieldError};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::key;
use crate::{
    authn::User,
    authz::{Attributes, Decision},
    verbs::{
        create::now,
        hook::{Answer, Call},
    },
};

/// On an access review: the reason of a refusal also names the roles that would allow it.
const EXPLAIN: &str = "coxswain.dev/explain";

type Reply = BoxFuture<'static, Result<Answer, ApiError>>;

/// TokenReview: whose token is this, and for which audiences is it good?
pub fn token(call: Call, mut review: Value) -> Reply {
    Box::pin(async move {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = texts(&review["spec"]["audiences"]);
        review["status"] = match call.server.authenticator.review(token, &audiences).await {
            Ok(found) => {
                let mut status = json!({"authenticated": true, "user": user_info(&found.user.authenticated())});
                if !audiences.is_empty() {
                    status["audiences"] = json!(found.audiences);
                }
                status
            }
            Err(why) => json!({"user": {}, "error": why}),
        };
        Ok(Answer::created(review))
    })
}

/// SelfSubjectReview: who am I?
pub fn own_identity(call: Call, mut review: Value) -> Reply {
    Box::pin(async move {
        review["metadata"]["creationTimestamp"] = json!(now());
        review["status"] = json!({"userInfo": user_info(&call.user)});
        Ok(Answer::created(review))
    })
}

/// SubjectAccessReview: may they?
pub fn access(call: Call, review: Value) -> Reply {
    let user = named_user(&review["spec"]);
    Box::pin(async move { decided(&call, user, review, "").await })
}

/// LocalSubjectAccessReview: may they, in this namespace?
pub fn local_access(call: Call, review: Value) -> Reply {
    let (user, namespace) = (named_user(&review["spec"]), key(&call).namespace);
    Box::pin(async move { decided(&call, user, review, &namespace).await })
}

/// SelfSubjectAccessReview: may I?
pub fn own_access(call: Call, review: Value) -> Reply {
    Box::pin(async move { decided(&call, Some(call.user.clone()), review, "").await })
}

/// SelfSubjectRulesReview: what may I, in a namespace?
pub fn own_rules(call: Call, mut review: Value) -> Reply {
    Box::pin(async move {
        let Some(namespace) = review["spec"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()) else {
            return Err(ApiError::bad_request("no namespace on request"));
        };
        let (rules, gaps) = call.server.authorizer.rules_for(&call.user, namespace);
        let with_names = |mut rule: Value, names: &[String]| {
            if !names.is_empty() {
                rule["resourceNames"] = json!(names);
            }
            rule
        };
        let of_resources: Vec<Value> = rules
            .iter()
            .filter(|rule| !rule.resources.is_empty())
            .map(|rule| {
                let shown = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                with_names(shown, &rule.resource_names)
            })
            .collect();
        let of_paths: Vec<Value> = rules
            .iter()
            .filter(|rule| !rule.non_resource_urls.is_empty())
            .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}))
            .collect();
        review["status"] =
            json!({"resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": !gaps.is_empty()});
        if !gaps.is_empty() {
            review["status"]["evaluationError"] = json!(gaps.join(", "));
        }
        Ok(Answer::created(review))
    })
}

/// `namespace` is that of a local review, else empty.
async fn decided(call: &Call, user: Option<User>, mut review: Value, namespace: &str) -> Result<Answer, ApiError> {
    let errors = errors(&review["spec"], user.as_ref(), namespace);
    if !errors.is_empty() {
        let resource = &call.kind.resource;
        return Err(ApiError::invalid(&resource.group, &resource.kind, "", &errors));
    }
    let asked = &review["spec"]["resourceAttributes"];
    let fields = selector(&asked["fieldSelector"], field_term, ",");
    let labels = selector(&asked["labelSelector"], label_term, ",");
    let authorizer = &call.server.authorizer;
    let attributes = attributes(&review["spec"], &fields, &labels);
    let decision = authorizer.authorize(&user.unwrap_or_default(), &attributes).await;
    let mut status = match &decision {
        Decision::Allow { .. } => json!({"allowed": true}),
        Decision::NoOpinion { .. } => json!({"allowed": false}),
        Decision::Deny { .. } => json!({"allowed": false, "denied": true}),
    };
    let is_refused = matches!(decision, Decision::NoOpinion { .. });
    let (Decision::Allow { mut reason } | Decision::NoOpinion { mut reason } | Decision::Deny { mut reason }) =
        decision;
    if is_refused && review["metadata"]["annotations"][EXPLAIN] == "true" {
        reason = [reason, would_allow(call, &attributes).await].join("\n").trim().to_owned();
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    review["status"] = status;
    Ok(Answer::created(review))
}

/// Which roles would, if bound: upstream's own, and those that the caller may see.
async fn would_allow(call: &Call, asked: &Attributes<'_>) -> String {
    let list = |resource, namespace| Attributes {
        verb: "list",
        group: "rbac.authorization.k8s.io",
        version: "v1",
        resource,
        namespace,
        resource_request: true,
        ..Attributes::default()
    };
    let authorizer = &call.server.authorizer;
    let sees_cluster_roles = authorizer.allows(&call.user, &list("clusterroles", "")).await;
    let sees_roles = authorizer.allows(&call.user, &list("roles", asked.namespace)).await;
    match authorizer.rbac().would_allow(asked, sees_cluster_roles, sees_roles) {
        none if none.is_empty() => "no role that you may see allows it".to_owned(),
        roles => format!("not bound, but would allow it: {}", roles.join(", ")),
    }
}

fn errors(spec: &Value, user: Option<&User>, namespace: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (of_resource, of_path) = (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object());
    if of_resource && of_path {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", &spec["nonResourceAttributes"], why));
    }
    if !of_resource && !of_path {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid("spec.resourceAttributes", Value::Null, why));
    }
    if user.is_none() {
        errors.push(FieldError::invalid("spec.user", "", "at least one of user or group must be specified"));
    }
    let asked = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    if !namespace.is_empty() && asked != namespace {
        let why = "must match metadata.namespace";
        errors.push(FieldError::invalid("spec.resourceAttributes.namespace", asked, why));
    }
    if !namespace.is_empty() && of_path {
        let why = "disallowed on this kind of request";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", &spec["nonResourceAttributes"], why));
    }
    errors
}

/// `None`: nobody is named.
fn named_user(spec: &Value) -> Option<User> {
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let extra = spec["extra"].as_object().into_iter().flatten();
    let user = User {
        name: text("user"),
        uid: text("uid"),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.to_lowercase(), texts(values))).collect::<BTreeMap<_, _>>(),
    };
    (!user.name.is_empty() || !user.groups.is_empty()).then_some(user)
}

fn attributes<'a>(spec: &'a Value, field_selector: &'a str, label_selector: &'a str) -> Attributes<'a> {
    let text = |object: &'a Value, field: &str| object[field].as_str().unwrap_or_default();
    let of_path = &spec["nonResourceAttributes"];
    if of_path.is_object() {
        return Attributes { verb: text(of_path, "verb"), path: text(of_path, "path"), ..Attributes::default() };
    }
    let asked = &spec["resourceAttributes"];
    Attributes {
        verb: text(asked, "verb"),
        group: text(asked, "group"),
        version: text(asked, "version"),
        resource: text(asked, "resource"),
        subresource: text(asked, "subresource"),
        namespace: text(asked, "namespace"),
        name: text(asked, "name"),
        field_selector,
        label_selector,
        resource_request: true,
        ..Attributes::default()
    }
}

/// As a query would have it. Requirements that a query cannot say narrow nothing.
fn selector(selector: &Value, term: fn(&str, &str, &[String]) -> Option<String>, separator: &str) -> String {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return raw.to_owned();
    }
    let terms = selector["requirements"].as_array().into_iter().flatten().filter_map(|requirement| {
        let text = |field: &str| requirement[field].as_str().unwrap_or_default();
        term(text("key"), text("operator"), &texts(&requirement["values"]))
    });
    terms.collect::<Vec<_>>().join(separator)
}

fn field_term(key: &str, operator: &str, values: &[String]) -> Option<String> {
    match (operator, values) {
        ("In", [value]) => Some(format!("{key}={value}")),
        ("NotIn", [value]) => Some(format!("{key}!={value}")),
        _ => None,
    }
}

fn label_term(key: &str, operator: &str, values: &[String]) -> Option<String> {
    let values = values.join(",");
    match operator {
        "In" => Some(format!("{key} in ({values})")),
        "NotIn" => Some(format!("{key} notin ({values})")),
        "Exists" => Some(key.to_owned()),
        "DoesNotExist" => Some(format!("!{key}")),
        _ => None,
    }
}

/// `authentication.k8s.io` UserInfo, without what is empty.
pub fn user_info(user: &User) -> Value {
    Value::Object(user_fields(user, "username"))
}

/// The same under the name that the API has there for the name: `username` or `user`.
pub fn user_fields(user: &User, name: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert(name.to_owned(), json!(user.name));
    if !user.uid.is_empty() {
        fields.insert("uid".to_owned(), json!(user.uid));
    }
    if !user.groups.is_empty() {
        fields.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        fields.insert("extra".to_owned(), json!(user.extra));
    }
    fields
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_review_must_say() {
        let fields = |spec: Value, namespace: &str| -> Vec<String> {
            errors(&spec, named_user(&spec).as_ref(), namespace).into_iter().map(|error| error.field).collect()
        };
        let good = json!({"user": "bob", "resourceAttributes": {"verb": "get", "namespace": "n"}});
        assert!(fields(good.clone(), "").is_empty() && fields(good.clone(), "n").is_empty());
        assert_eq!(fields(good, "other"), ["spec.resourceAttributes.namespace"]);
        assert_eq!(fields(json!({"groups": ["g"]}), ""), ["spec.resourceAttributes"]);
        assert_eq!(fields(json!({"resourceAttributes": {}}), ""), ["spec.user"]);
        assert_eq!(
            fields(json!({"user": "bob", "resourceAttributes": {}, "nonResourceAttributes": {}}), ""),
            ["spec.nonResourceAttributes"]
        );
    }

    #[test]
    fn attributes_are_what_was_asked() {
        let spec = json!({"resourceAttributes": {
            "verb": "list", "resource": "pods",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]},
        }});
        let fields = selector(&spec["resourceAttributes"]["fieldSelector"], field_term, ",");
        assert_eq!(fields, "spec.nodeName=n1");
        let requirements = json!({"requirements": [
            {"key": "app", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"},
        ]});
        assert_eq!(selector(&requirements, label_term, ","), "app in (a,b),!x");
        let asked = attributes(&spec, &fields, "");
        assert!(asked.resource_request && asked.verb == "list" && asked.resource == "pods");
        let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}});
        assert_eq!(attributes(&path, "", ""), Attributes { verb: "get", path: "/metrics", ..Attributes::default() });
    }

    #[test]
    fn user_info_omits_what_is_empty() {
        assert_eq!(user_info(&User::new("bob", &["g"])), json!({"username": "bob", "groups": ["g"]}));
    }
}
