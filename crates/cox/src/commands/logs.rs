//! `cox logs`: a container's log, followed if asked.

use std::io::Write;

use futures::{TryStreamExt, pin_mut};

use super::pods::pod_of;
use crate::{
    flags::Logs,
    server::{Server, query},
};

pub async fn run(server: &Server, flags: Logs) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let pod = pod_of(server, &catalog, &flags.target).await?;
    let mut path = format!("/api/v1/namespaces/{}/pods/{pod}/log?follow={}", server.namespace, flags.follow);
    if let Some(container) = &flags.container {
        path.push_str(&format!("&container={}", query(container)));
    }
    for (key, value) in [("tailLines", flags.tail), ("sinceSeconds", flags.since_seconds)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={value}"));
        }
    }
    for (key, value) in [("previous", flags.previous), ("timestamps", flags.timestamps)] {
        if value {
            path.push_str(&format!("&{key}=true"));
        }
    }
    let lines = server.lines(&path, "*/*").await?;
    pin_mut!(lines);
    let mut output = std::io::stdout().lock();
    while let Some(line) = lines.try_next().await? {
        writeln!(output, "{line}")?;
    }
    Ok(())
}
