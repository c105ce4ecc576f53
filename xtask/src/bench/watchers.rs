//! Watches: what a delivery costs, one by one and in bursts, and whether every watcher is told everything.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use client::Client;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    figures::Row,
    load::{WORKERS, drive, measure},
    subject::Subject,
    writes::{NAMESPACE, post},
};

/// What one of the reference's watched objects took.
const OBJECT_BYTES: usize = 3_900;
/// Watchers are told within this long, or something is lost.
const PATIENCE: Duration = Duration::from_secs(60);
const JSON: &str = "application/json";
const REVISION: &[u8] = br#""resourceVersion":""#;

fn maps() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
}

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "text": "x".repeat(OBJECT_BYTES) } })
}

/// The first resourceVersion in an object or event.
fn revision(bytes: &[u8]) -> anyhow::Result<u64> {
    let at = memchr::memmem::find(bytes, REVISION).context("no resourceVersion")? + REVISION.len();
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    Ok(std::str::from_utf8(&bytes[at..at + digits])?.parse()?)
}

#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub workload: &'a str,
    pub watchers: usize,
    pub writes: usize,
    /// Writes begin this far apart; zero: as fast as [`WORKERS`] writers can.
    pub gap: Duration,
    /// Added to the watches' query; empty: they are told everything, else nothing.
    pub selector: &'a str,
}

/// What one watcher was told, and when.
struct Told {
    events: Vec<(u64, Instant)>,
    is_closed: bool,
}

/// Watches that are open, and the way to tell them how much there is to see.
struct Audience {
    tasks: JoinSet<anyhow::Result<Told>>,
    expected: watch::Sender<Option<usize>>,
}

impl Audience {
    /// Opens the watches, each over a connection of its own.
    async fn gather(subject: &Subject, path: &str, watchers: usize) -> anyhow::Result<Self> {
        let (expected, _) = watch::channel(None);
        let mut tasks = JoinSet::new();
        for _ in 0..watchers {
            let client = subject.client()?;
            let body = client.stream(path, JSON).await?;
            tasks.spawn(follow(client, body, expected.subscribe()));
        }
        Ok(Self { tasks, expected })
    }

    async fn told(mut self, expected: usize) -> anyhow::Result<Vec<Told>> {
        self.expected.send_replace(Some(expected));
        let mut told = Vec::new();
        while let Some(one) = self.tasks.join_next().await {
            told.push(one??);
        }
        Ok(told)
    }
}

/// Reads until everything expected has come, nothing comes any more, or the stream ends. `_client` keeps the connection.
async fn follow(
    _client: Client,
    mut body: Incoming,
    mut expected: watch::Receiver<Option<usize>>,
) -> anyhow::Result<Told> {
    let mut told = Told { events: Vec::new(), is_closed: false };
    let mut rest: Vec<u8> = Vec::new();
    loop {
        if expected.borrow_and_update().is_some_and(|expected| told.events.len() >= expected) {
            return Ok(told);
        }
        let frame = tokio::select! {
            frame = timeout(PATIENCE, body.frame()) => frame,
            changed = expected.changed() => {
                changed.context("the audience was dropped")?;
                continue;
            }
        };
        let Ok(frame) = frame else { return Ok(told) };
        let Some(Ok(frame)) = frame else {
            told.is_closed = true;
            return Ok(told);
        };
        let Some(data) = frame.data_ref() else { continue };
        let now = Instant::now();
        rest.extend_from_slice(data);
        let mut begin = 0;
        while let Some(length) = memchr::memchr(b'\n', &rest[begin..]) {
            told.events.push((revision(&rest[begin..begin + length])?, now));
            begin += length + 1;
        }
        rest.drain(..begin);
    }
}

/// What came of a plan.
pub struct Watched {
    /// An operation is a delivery.
    pub row: Row,
    /// CPU time of the apiserver for each write, its deliveries included.
    pub write_cpu_us: f64,
}

/// Writes while others watch, and checks that each of them was told each write once and in order.
pub async fn watched(subject: &Subject, plan: Plan<'_>) -> anyhow::Result<Watched> {
    let client = subject.client()?;
    let begin = revision(&client.request(Method::GET, &format!("{}?limit=1", maps()), "", Bytes::new()).await?)?;
    let path = format!("{}?watch=true&resourceVersion={begin}&timeoutSeconds=1800{}", maps(), plan.selector);
    let audience = Audience::gather(subject, &path, plan.watchers).await?;
    let before = subject.used().await?;
    let begun = Instant::now();
    let written = written(subject, plan).await?;
    let told = audience.told(if plan.selector.is_empty() { written.len() } else { 0 }).await?;
    let took = begun.elapsed();
    let after = subject.used().await?;
    let verdict = if plan.selector.is_empty() { verdict(&written, &told) } else { String::new() };
    let writes = written.len() as f64;
    let sent: HashMap<u64, Instant> = written.into_iter().collect();
    let waits = told.iter().flat_map(|told| &told.events);
    let waits =
        waits.map(|(revision, at)| sent.get(revision).map_or(PATIENCE, |sent| at.saturating_duration_since(*sent)));
    let row = Row::new(plan.workload, waits.collect(), took, after.cpu - before.cpu, after.resident_bytes);
    eprintln!("{}: {:.1} µs of CPU each; {verdict}", plan.workload, row.cpu_us);
    let cpu_us = (after.cpu - before.cpu).as_secs_f64() * 1e6;
    Ok(Watched { row: row.noted(verdict), write_cpu_us: cpu_us / writes })
}

type Written = Vec<(u64, Instant)>;

async fn write(client: &Client, name: &str) -> anyhow::Result<(u64, Instant)> {
    let reply = post(client, &maps(), &map(name)).await?;
    Ok((revision(&reply)?, Instant::now()))
}

/// Writes, and says which revision was acknowledged when.
async fn written(subject: &Subject, plan: Plan<'_>) -> anyhow::Result<Written> {
    let clients = (0..WORKERS).map(|_| subject.client()).collect::<anyhow::Result<Vec<_>>>()?;
    let written = Arc::new(Mutex::new(Vec::new()));
    let (log, workload, gap, begun) = (written.clone(), plan.workload.to_owned(), plan.gap, Instant::now());
    drive(&clients, WORKERS, plan.writes, move |client, number| {
        let (log, name) = (log.clone(), name(&workload, number));
        let begin = begun + gap * u32::try_from(number).unwrap_or(u32::MAX);
        async move {
            if !gap.is_zero() {
                sleep_until(begin.into()).await;
            }
            let one = write(&client, &name).await?;
            log.lock().await.push(one);
            Ok(())
        }
    })
    .await?;
    let mut written = std::mem::take(&mut *written.lock().await);
    written.sort_unstable();
    Ok(written)
}

fn name(workload: &str, number: usize) -> String {
    format!("{}-{number:06}", workload.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_lowercase())
}

/// What went wrong, if anything.
fn verdict(written: &[(u64, Instant)], told: &[Told]) -> String {
    let is_right = |one: &&Told| {
        let right = written.iter().map(|(revision, _)| *revision);
        one.events.iter().map(|(revision, _)| *revision).eq(right)
    };
    let closed = told.iter().filter(|one| one.is_closed).count();
    let right = told.iter().filter(is_right).count();
    format!("{right} of {} watchers were told all in order, {closed} closed", told.len())
}

/// Creates one object.
pub async fn create(client: &Client, number: usize) -> anyhow::Result<()> {
    write(client, &name("map", number)).await.map(drop)
}

/// Changes `count` times, going round among `stored` objects that [`create`] made.
pub async fn change(subject: &Subject, stored: usize, count: usize) -> anyhow::Result<Row> {
    measure(subject, "change", WORKERS, count, move |client, number| async move {
        let path = format!("{}/{}", maps(), name("map", number % stored));
        let patch = json!({ "metadata": { "labels": { "turn": format!("turn-{number}") } } });
        client.request(Method::PATCH, &path, "application/merge-patch+json", patch.to_string().into()).await?;
        Ok(())
    })
    .await
}

pub async fn clean(client: &Client) -> anyhow::Result<()> {
    client.request(Method::DELETE, &maps(), JSON, Bytes::new()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_repeated_events_are_found() {
        let now = Instant::now();
        let written = [(3, now), (5, now), (9, now)];
        for (events, is_closed, expected) in [
            (&[3, 5, 9][..], false, "1 of 1 watchers were told all in order, 0 closed"),
            (&[3, 9], false, "0 of 1 watchers were told all in order, 0 closed"),
            (&[3, 5, 5, 9], true, "0 of 1 watchers were told all in order, 1 closed"),
            (&[3, 9, 5], false, "0 of 1 watchers were told all in order, 0 closed"),
        ] {
            let events = events.iter().map(|revision| (*revision, now)).collect();
            assert_eq!(verdict(&written, &[Told { events, is_closed }]), expected);
        }
    }

    #[test]
    fn revisions_are_read_from_bytes() {
        assert_eq!(revision(br#"{"metadata":{"name":"a","resourceVersion":"42"}}"#).unwrap(), 42);
        assert!(revision(b"{}").is_err());
    }
}
