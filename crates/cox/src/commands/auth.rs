//! `cox auth`: an access review, and in its reason the rule that allows or the roles that would.

use std::process::ExitCode;

use anyhow::Context;
use http::Method;
use serde_json::{Map, Value, json};

use crate::{
    catalog::Catalog,
    flags::{Access, Auth, AuthWhat},
    server::{JSON, Server},
};

/// Our apiserver then says which roles would allow what is refused; others take no notice.
const EXPLAIN: &str = "coxswain.dev/explain";

pub async fn run(server: &Server, flags: Auth) -> anyhow::Result<ExitCode> {
    let (access, with_reason) = match flags.what {
        AuthWhat::CanI(access) => (access, false),
        AuthWhat::Why(access) => (access, true),
    };
    let namespace = if access.all_namespaces { "" } else { &server.namespace };
    let review = review(&server.catalog().await?, namespace, &access)?;
    let kind = if access.user.is_some() { "subjectaccessreviews" } else { "selfsubjectaccessreviews" };
    let path = format!("/apis/authorization.k8s.io/v1/{kind}");
    let status = server.write(Method::POST, &path, JSON, &review).await?["status"].take();
    let is_allowed = status["allowed"] == true;
    let reason = status["reason"].as_str().filter(|reason| with_reason && !reason.is_empty());
    let answer = if is_allowed { "yes" } else { "no" };
    match reason {
        Some(reason) => println!("{answer}: {reason}"),
        None => println!("{answer}"),
    }
    Ok(if is_allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn review(catalog: &Catalog, namespace: &str, access: &Access) -> anyhow::Result<Value> {
    let mut spec = Map::new();
    if access.resource.starts_with('/') {
        spec.insert("nonResourceAttributes".to_owned(), json!({"verb": access.verb, "path": access.resource}));
    } else {
        let (resource, subresource) = access.resource.split_once('/').unwrap_or((&access.resource, ""));
        let found = catalog.find(resource).with_context(|| format!("the server has no resource {resource:?}"))?;
        let namespace = if found.is_namespaced() { namespace } else { "" };
        spec.insert(
            "resourceAttributes".to_owned(),
            json!({
                "verb": access.verb, "group": found.group, "version": found.version, "resource": found.plural,
                "subresource": subresource, "namespace": namespace, "name": access.name.as_deref().unwrap_or_default(),
            }),
        );
    }
    let kind = match &access.user {
        Some(user) => {
            spec.insert("user".to_owned(), json!(user));
            spec.insert("groups".to_owned(), json!(access.groups));
            "SubjectAccessReview"
        }
        None => "SelfSubjectAccessReview",
    };
    let metadata = json!({"annotations": {EXPLAIN: "true"}});
    Ok(json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}))
}
