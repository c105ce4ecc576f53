//! `cox get`: tables by the server, whole objects on request, changes as they come.

use anyhow::bail;
use api_types::Resource;
use futures::{TryStreamExt, pin_mut};
use serde_json::Value;

use crate::{
    flags::{Format, Get},
    output::{
        self,
        table::{Printer, View},
    },
    server::{JSON, Server, TABLE, query},
    target::{self, Target},
};

pub async fn run(server: &Server, flags: Get) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let targets = target::parse(&catalog, &flags.targets)?;
    if flags.watch {
        let [only] = targets.as_slice() else { bail!("one type at a time can be watched") };
        return watch(server, only, &flags).await;
    }
    let several = targets.len() > 1;
    let mut found = 0;
    for target in targets {
        let text = one_type(server, &target, &flags, several).await?;
        found += usize::from(!text.is_empty());
        print!("{text}");
    }
    if found == 0 && matches!(flags.output, Format::Table | Format::Wide) {
        eprintln!("No resources found in {} namespace.", server.namespace);
    }
    Ok(())
}

/// The text of all objects of one type; empty if there are none.
async fn one_type(server: &Server, target: &Target<'_>, flags: &Get, several: bool) -> anyhow::Result<String> {
    let tables = matches!(flags.output, Format::Table | Format::Wide);
    let accept = if tables { TABLE } else { JSON };
    let mut replies = Vec::new();
    for name in names(target) {
        replies.push(server.get::<Value>(&path(server, target.resource, name, flags), accept).await?);
    }
    if tables {
        let mut printer = Printer::default();
        let mut text: String = replies.iter().map(|reply| printer.print(&table(reply), view(flags, target))).collect();
        if several && !text.is_empty() {
            text.push('\n');
        }
        return Ok(text);
    }
    let single = replies.len() == 1 && !target.names.is_empty();
    let objects: Vec<Value> = replies.into_iter().flat_map(items).collect();
    output::objects(target.resource, &objects, single, flags.output)
}

/// `""` stands for the whole collection.
fn names<'a>(target: &'a Target<'_>) -> Vec<&'a str> {
    match target.names.is_empty() {
        true => vec![""],
        false => target.names.iter().map(String::as_str).collect(),
    }
}

fn path(server: &Server, resource: &Resource, name: &str, flags: &Get) -> String {
    let namespace = flags.all_namespaces.then_some("");
    let mut path = server.path(resource, namespace, name);
    let mut separator = '?';
    for (key, value) in [("labelSelector", &flags.selector), ("fieldSelector", &flags.field_selector)] {
        if let Some(value) = value {
            path.push_str(&format!("{separator}{key}={}", query(value)));
            separator = '&';
        }
    }
    path
}

fn view(flags: &Get, target: &Target<'_>) -> View {
    View {
        wide: flags.output == Format::Wide,
        namespaces: flags.all_namespaces && target.resource.is_namespaced(),
        headers: !flags.no_headers,
    }
}

/// A server without tables sends the objects; their names make a table.
fn table(reply: &Value) -> Value {
    if reply["kind"] == "Table" {
        return reply.clone();
    }
    let row = |object: &Value| serde_json::json!({"cells": [output::name(object)], "object": object});
    let rows: Vec<Value> = items(reply.clone()).iter().map(row).collect();
    serde_json::json!({"columnDefinitions": [{"name": "Name"}], "rows": rows})
}

/// The items of a list, or the object itself. A list's items carry no kind: the list's own tells it.
fn items(reply: Value) -> Vec<Value> {
    let Some(kind) = reply["kind"].as_str().and_then(|kind| kind.strip_suffix("List")) else { return vec![reply] };
    let of_kind = |item: &Value| {
        let mut item = item.clone();
        if item["kind"].is_null() {
            item["kind"] = kind.into();
            item["apiVersion"] = reply["apiVersion"].clone();
        }
        item
    };
    reply["items"].as_array().map(|items| items.iter().map(of_kind).collect()).unwrap_or_default()
}

async fn watch(server: &Server, target: &Target<'_>, flags: &Get) -> anyhow::Result<()> {
    let mut path = path(server, target.resource, "", flags);
    path.push_str(if path.contains('?') { "&watch=true" } else { "?watch=true" });
    if let [name] = target.names.as_slice() {
        path.push_str(&format!("&fieldSelector=metadata.name%3D{}", query(name)));
    }
    let tables = matches!(flags.output, Format::Table | Format::Wide);
    let lines = server.lines(&path, if tables { TABLE } else { JSON }).await?;
    pin_mut!(lines);
    let mut printer = Printer::default();
    while let Some(frame) = lines.try_next().await? {
        let event: Value = serde_json::from_str(&frame)?;
        if event["type"] == "ERROR" {
            bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch failed"));
        }
        match tables {
            true => print!("{}", printer.print(&table(&event["object"]), view(flags, target))),
            false => print!("{}", output::objects(target.resource, &[event["object"].clone()], true, flags.output)?),
        }
    }
    Ok(())
}
