//! Which pod is meant by something that has pods.

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    catalog::Catalog,
    output,
    server::{JSON, Server, query},
    target,
};

/// The pod itself, or the first running pod that a workload selects.
pub async fn pod_of(server: &Server, catalog: &Catalog, word: &str) -> anyhow::Result<String> {
    let (resource, name) = target::one(catalog, word)?;
    if resource.kind == "Pod" {
        return Ok(name);
    }
    let object: Value = server.get(&server.path(resource, None, &name), JSON).await?;
    let labels =
        object["spec"]["selector"]["matchLabels"].as_object().or_else(|| object["spec"]["selector"].as_object());
    let Some(labels) = labels else { bail!("{word} selects no pods") };
    let selector: Vec<String> =
        labels.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    let pods = catalog.find("pods").context("the server serves no pods")?;
    let path = format!("{}?labelSelector={}", server.path(pods, None, ""), query(&selector.join(",")));
    let list: Value = server.get(&path, JSON).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let running = items.iter().find(|pod| pod["status"]["phase"] == "Running").or_else(|| items.first());
    running.map(|pod| output::name(pod).to_owned()).with_context(|| format!("{word} has no pods"))
}
