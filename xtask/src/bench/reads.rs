//! Gets and lists.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use client::Client;
use http::Method;
use http_body_util::BodyExt;
use tokio::time::sleep;

use super::{
    figures::{Row, megabytes},
    load::{WORKERS, measure},
    subject::Subject,
    writes::{pod_path, pods},
};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const SAMPLE: Duration = Duration::from_millis(5);
/// How long memory may take to be given back.
const SETTLE: Duration = Duration::from_secs(15);
/// Lists at once.
const STORM: usize = 8;

pub async fn gets(subject: &Subject, stored: usize, count: usize) -> anyhow::Result<Vec<Row>> {
    let any = get(subject, "get at any revision", "?resourceVersion=0", stored, count).await?;
    Ok(vec![any, get(subject, "get", "", stored, count).await?])
}

/// Gets `count` of the first `stored` pods.
pub async fn get(
    subject: &Subject,
    workload: &str,
    query: &'static str,
    stored: usize,
    count: usize,
) -> anyhow::Result<Row> {
    measure(subject, workload, WORKERS, count, move |client, number| async move {
        // A stride that is prime to any likely count visits all of them.
        let path = format!("{}{query}", pod_path(number * 7919 % stored));
        client.request(Method::GET, &path, "", Bytes::new()).await?;
        Ok(())
    })
    .await
}

/// How many bytes an answer has; they are thrown away as they come.
async fn size(client: &Client, path: &str, accept: &str) -> anyhow::Result<usize> {
    let mut body = client.stream(path, accept).await?;
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        size += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(size)
}

/// A list: what the client accepts, and the query.
pub type Kind = (&'static str, &'static str);
pub const ALL: Kind = (JSON, "resourceVersion=0");
pub const NOTHING: Kind = (JSON, "labelSelector=nothing%3Dhas");
pub const PAGE: Kind = (JSON, "limit=500");

pub async fn lists(subject: &Subject, count: usize) -> anyhow::Result<Vec<Row>> {
    let protobuf = (PROTOBUF, "resourceVersion=0");
    let mut kinds = vec![
        ("list at any revision", ALL, count),
        ("list", (JSON, ""), count),
        ("list as protobuf", protobuf, count),
        ("list as a table", (TABLE, "resourceVersion=0"), count.div_ceil(5)),
        ("list of a page of 500", PAGE, count * 20),
        ("list that matches nothing", NOTHING, count * 50),
        ("list of no node's pods", (JSON, "fieldSelector=spec.nodeName%3Dnone"), count * 50),
    ];
    if let Err(error) = size(&subject.client()?, &path(protobuf), PROTOBUF).await {
        eprintln!("no list as protobuf: {error}");
        kinds.retain(|(_, kind, _)| *kind != protobuf);
    }
    let mut rows = Vec::new();
    for (workload, kind, count) in kinds {
        rows.push(list(subject, workload, kind, count).await?);
    }
    Ok(rows)
}

fn path((_, query): Kind) -> String {
    format!("{}?{query}", pods())
}

/// One list after the other.
pub async fn list(subject: &Subject, workload: &str, kind: Kind, count: usize) -> anyhow::Result<Row> {
    let bytes = size(&subject.client()?, &path(kind), kind.0).await.with_context(|| workload.to_owned())?;
    let row = measure(subject, workload, 1, count, move |client, _| async move {
        size(&client, &path(kind), kind.0).await.map(drop)
    });
    Ok(row.await?.noted(format!("{:.1} MB each", megabytes(bytes as u64))))
}

/// Several lists at once: the memory that they take, and what is left of it.
pub async fn storm(subject: &Subject) -> anyhow::Result<Row> {
    let before = subject.used().await?.resident_bytes;
    let work = measure(subject, "8 lists at once", STORM, STORM * 4, move |client, _| async move {
        size(&client, &path(ALL), JSON).await.map(drop)
    });
    tokio::pin!(work);
    let mut peak = before;
    let row = loop {
        tokio::select! {
            row = &mut work => break row?,
            () = sleep(SAMPLE) => peak = peak.max(subject.used().await?.resident_bytes),
        }
    };
    let begun = Instant::now();
    let mut after = subject.used().await?.resident_bytes;
    while after > before && begun.elapsed() < SETTLE {
        sleep(SAMPLE * 20).await;
        after = subject.used().await?.resident_bytes;
    }
    let note = format!(
        "RSS before {:.1}, at most {:.1}, {:.0} s later {:.1} MB",
        megabytes(before),
        megabytes(peak),
        begun.elapsed().as_secs_f64(),
        megabytes(after)
    );
    Ok(row.noted(note))
}
