//! Drives a workload from several workers and accounts for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use client::Client;
use tokio::task::JoinSet;

use super::{figures::Row, subject::Subject};

/// As many as in the reference.
pub const WORKERS: usize = 16;
/// Workers share connections, as a client's threads do.
const CONNECTIONS: usize = 4;

/// Does `count` operations, `workers` at a time; `operation` is given a connection and its number.
pub async fn measure<F, D>(
    subject: &Subject,
    workload: &str,
    workers: usize,
    count: usize,
    operation: F,
) -> anyhow::Result<Row>
where
    F: Fn(Client, usize) -> D + Clone + Send + 'static,
    D: Future<Output = anyhow::Result<()>> + Send,
{
    let clients = (0..CONNECTIONS.min(workers)).map(|_| subject.client()).collect::<anyhow::Result<Vec<_>>>()?;
    for client in &clients {
        client.request(http::Method::GET, "/version", "", Default::default()).await?;
    }
    let before = subject.used().await?;
    let begun = Instant::now();
    let latencies = drive(&clients, workers, count, operation).await?;
    let took = begun.elapsed();
    let after = subject.used().await?;
    let row = Row::new(workload, latencies, took, after.cpu - before.cpu, after.resident_bytes);
    eprintln!("{workload}: {:.1} µs of CPU each, {:.0} per s", row.cpu_us, row.per_second);
    Ok(row)
}

/// What each operation took.
pub async fn drive<F, D>(
    clients: &[Client],
    workers: usize,
    count: usize,
    operation: F,
) -> anyhow::Result<Vec<Duration>>
where
    F: Fn(Client, usize) -> D + Clone + Send + 'static,
    D: Future<Output = anyhow::Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let (next, operation, client) = (next.clone(), operation.clone(), clients[worker % clients.len()].clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(latencies);
                }
                let begun = Instant::now();
                operation(client.clone(), number).await?;
                latencies.push(begun.elapsed());
            }
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    Ok(latencies)
}
