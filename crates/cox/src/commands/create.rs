//! `cox create`: from files, or the few kinds that are often made by hand.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Map, Value, json};

use super::apply::{namespace_of, resource_of};
use crate::{
    flags::{Create, CreateWhat},
    manifest, output,
    server::{JSON, Server},
};

pub async fn run(server: &Server, flags: Create) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let objects = match flags.what {
        Some(what) => vec![object(what)?],
        None if flags.files.is_empty() => bail!("say what to create, or give a file with -f"),
        None => manifest::read(&flags.files)?,
    };
    for object in objects {
        let resource = resource_of(&catalog, &object)?;
        let path = server.path(resource, Some(namespace_of(server, &object)), "");
        let created = server.write(Method::POST, &path, JSON, &object).await?;
        println!("{} created", output::reference(resource, output::name(&created)));
    }
    Ok(())
}

fn object(what: CreateWhat) -> anyhow::Result<Value> {
    Ok(match what {
        CreateWhat::Deployment { name, image, replicas } => {
            let labels = json!({"app": name});
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
                "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels},
                        "spec": {"containers": [{"name": container_name(&image), "image": image}]}}}})
        }
        CreateWhat::Namespace { name } => json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        CreateWhat::Serviceaccount { name } => {
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        }
        CreateWhat::Configmap { name, from_literal } => {
            let pair = |literal: &String| -> anyhow::Result<(String, Value)> {
                let (key, value) = literal.split_once('=').with_context(|| format!("{literal:?} is not KEY=VALUE"))?;
                Ok((key.to_owned(), value.into()))
            };
            let data: Map<String, Value> = from_literal.iter().map(pair).collect::<Result<_, _>>()?;
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
        }
    })
}

/// The image's last path segment without tag or digest, as kubectl names it.
fn container_name(image: &str) -> &str {
    let segment = image.rsplit('/').next().unwrap_or(image);
    segment.split([':', '@']).next().unwrap_or(segment)
}
