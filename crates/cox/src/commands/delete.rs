//! `cox delete`: by name, selector or file, and waits until the objects are gone.

use anyhow::bail;
use api_types::Resource;
use http::Method;
use serde_json::{Value, json};

use super::{
    apply::{namespace_of, resource_of},
    wait::until_gone,
};
use crate::{
    flags::Delete,
    manifest, output,
    server::{JSON, Server, query, refusal},
    target,
};

pub async fn run(server: &Server, flags: Delete) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let mut objects: Vec<(&Resource, String, String)> = Vec::new();
    if !flags.files.is_empty() {
        for object in manifest::read(&flags.files)? {
            let resource = resource_of(&catalog, &object)?;
            objects.push((resource, namespace_of(server, &object).to_owned(), output::name(&object).to_owned()));
        }
    }
    if !flags.targets.is_empty() {
        for target in target::parse(&catalog, &flags.targets)? {
            let names = match (&flags.selector, target.names.is_empty()) {
                (Some(selector), _) => selected(server, target.resource, selector).await?,
                (None, false) => target.names,
                (None, true) => bail!("name what to delete, or select it with -l"),
            };
            objects.extend(names.into_iter().map(|name| (target.resource, server.namespace.clone(), name)));
        }
    }
    if objects.is_empty() {
        bail!("nothing to delete");
    }
    let mut uids = Vec::new();
    for (resource, namespace, name) in &objects {
        uids.push(one(server, resource, namespace, name, flags.grace_period).await?);
        println!("{} deleted", output::reference(resource, name));
    }
    if !flags.no_wait {
        for ((resource, namespace, name), uid) in objects.iter().zip(uids) {
            until_gone(server, resource, namespace, name, &uid).await?;
        }
    }
    Ok(())
}

async fn selected(server: &Server, resource: &Resource, selector: &str) -> anyhow::Result<Vec<String>> {
    let path = format!("{}?labelSelector={}", server.path(resource, None, ""), query(selector));
    let list: Value = server.get(&path, JSON).await?;
    Ok(list["items"].as_array().into_iter().flatten().map(|item| output::name(item).to_owned()).collect())
}

/// Returns the uid of what was deleted: a new object of the same name is another.
async fn one(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    name: &str,
    grace: Option<i64>,
) -> anyhow::Result<String> {
    let path = server.path(resource, Some(namespace), name);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace,
        "propagationPolicy": "Background"});
    let reply = server.write(Method::DELETE, &path, JSON, &options).await.map_err(|error| match refusal(&error) {
        Some(refusal) => anyhow::anyhow!("{}: {}", output::reference(resource, name), refusal.message()),
        None => error,
    })?;
    let uid = reply["metadata"]["uid"].as_str().or_else(|| reply["details"]["uid"].as_str());
    Ok(uid.unwrap_or_default().to_owned())
}
