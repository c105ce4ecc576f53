//! Creating, changing and deleting pods.

use anyhow::Context;
use bytes::Bytes;
use client::Client;
use http::Method;
use serde_json::{Value, json};

use super::{
    figures::Row,
    load::{WORKERS, measure},
    subject::Subject,
};

pub const NAMESPACE: &str = "bench";
/// What one of the reference's pods took in a list.
pub const POD_BYTES: usize = 1_880;
const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

pub fn pods() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

pub fn pod_path(number: usize) -> String {
    format!("{}/{}", pods(), pod_name(number))
}

fn pod_name(number: usize) -> String {
    format!("pod-{number:06}")
}

/// Never scheduled: what a scheduler and kubelets would add is not the apiserver's.
pub fn pod(name: &str, padding: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": { "app": "bench", "tier": "backend", "pod-template-hash": "6d4cf56db6" },
            "annotations": { "bench/padding": "x".repeat(padding) },
        },
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "server",
                "image": "registry.example/server:1.2.3",
                "ports": [{ "containerPort": 8080, "name": "http" }],
                "env": [{ "name": "MODE", "value": "production" }],
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
            }],
        },
    })
}

pub async fn post(client: &Client, path: &str, object: &Value) -> anyhow::Result<Bytes> {
    Ok(client.request(Method::POST, path, JSON, object.to_string().into()).await?)
}

/// The namespace, with the account that pods need, and how much padding makes a pod as large as the reference's.
pub async fn prepare(client: &Client) -> anyhow::Result<usize> {
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    for (path, object) in [
        ("/api/v1/namespaces", json!({ "metadata": { "name": NAMESPACE } })),
        (account.as_str(), json!({ "metadata": { "name": "default" } })),
    ] {
        match client.request(Method::POST, path, JSON, object.to_string().into()).await {
            Err(error) if !error.is_already_exists() => return Err(error).context("preparing the namespace"),
            _ => {}
        }
    }
    let probe = post(client, &pods(), &pod("probe", 0)).await?;
    client.request(Method::DELETE, &format!("{}/probe?gracePeriodSeconds=0", pods()), JSON, Bytes::new()).await?;
    Ok(POD_BYTES.saturating_sub(probe.len()))
}

pub async fn create(subject: &Subject, numbers: std::ops::Range<usize>, padding: usize) -> anyhow::Result<Row> {
    let first = numbers.start;
    measure(subject, "create", WORKERS, numbers.len(), move |client, number| async move {
        post(&client, &pods(), &pod(&pod_name(first + number), padding)).await?;
        Ok(())
    })
    .await
}

/// Updates, patches and status patches, each of `count` pods.
pub async fn change(subject: &Subject, count: usize) -> anyhow::Result<Vec<Row>> {
    let update = measure(subject, "update (get and put)", WORKERS, count, |client, number| async move {
        let cached = format!("{}?resourceVersion=0", pod_path(number));
        let old = client.request(Method::GET, &cached, JSON, Bytes::new()).await?;
        let mut pod: Value = serde_json::from_slice(&old)?;
        pod["metadata"]["labels"]["turn"] = "update".into();
        client.request(Method::PUT, &pod_path(number), JSON, pod.to_string().into()).await?;
        Ok(())
    });
    let update = update.await?;
    let patch = patch(subject, count, count).await?;
    let status = measure(subject, "patch of status", WORKERS, count, |client, number| async move {
        let patch = json!({ "status": { "message": "patched" } });
        let path = format!("{}/status", pod_path(number));
        client.request(Method::PATCH, &path, MERGE_PATCH, patch.to_string().into()).await?;
        Ok(())
    });
    Ok(vec![update, patch, status.await?])
}

/// Patches `count` times, going round among the first `stored` pods.
pub async fn patch(subject: &Subject, stored: usize, count: usize) -> anyhow::Result<Row> {
    measure(subject, "patch", WORKERS, count, move |client, number| async move {
        let patch = json!({ "metadata": { "labels": { "turn": format!("patch-{number}") } } });
        client.request(Method::PATCH, &pod_path(number % stored), MERGE_PATCH, patch.to_string().into()).await?;
        Ok(())
    })
    .await
}

pub async fn delete(subject: &Subject, count: usize) -> anyhow::Result<Row> {
    measure(subject, "delete", WORKERS, count, |client, number| async move {
        let path = format!("{}?gracePeriodSeconds=0", pod_path(number));
        client.request(Method::DELETE, &path, JSON, Bytes::new()).await?;
        Ok(())
    })
    .await
}
