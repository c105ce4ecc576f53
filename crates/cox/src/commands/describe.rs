//! `cox describe`: objects in detail, each with its events.

use serde_json::Value;

use crate::{
    flags::Describe,
    output::{self, describe::describe},
    server::{JSON, Server, query},
    target,
};

pub async fn run(server: &Server, flags: Describe) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let mut first = true;
    for target in target::parse(&catalog, &flags.targets)? {
        let objects: Vec<Value> = match target.names.is_empty() {
            true => {
                let list: Value = server.get(&server.path(target.resource, None, ""), JSON).await?;
                let names = list["items"].as_array().into_iter().flatten().map(output::name);
                objects(server, target.resource, names).await?
            }
            false => objects(server, target.resource, target.names.iter().map(String::as_str)).await?,
        };
        for object in objects {
            if !std::mem::take(&mut first) {
                println!("\n");
            }
            print!("{}", describe(&object, &events(server, &object).await?));
        }
    }
    Ok(())
}

async fn objects(
    server: &Server,
    resource: &api_types::Resource,
    names: impl Iterator<Item = &str>,
) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for name in names {
        objects.push(server.get(&server.path(resource, None, name), JSON).await?);
    }
    Ok(objects)
}

async fn events(server: &Server, object: &Value) -> anyhow::Result<Vec<Value>> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let selector = query(&format!("involvedObject.uid={uid}"));
    let list: Value =
        server.get(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}"), JSON).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}
