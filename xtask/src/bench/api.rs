//! The workloads by which our apiserver is held against others, in the order in which they build on each other.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::Method;

use super::{
    figures::{Row, Run, table},
    laws, reads,
    subject::{Start, Subject},
    watchers::{self, Plan},
    writes,
};
use crate::build;

#[derive(Args)]
pub struct Flags {
    /// Measure the apiserver that this file names. Without it our own is started on an empty etcd.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The process of that apiserver, if it runs on this machine; else its /metrics are believed.
    #[arg(long, requires = "kubeconfig")]
    pid: Option<i32>,
    /// A tenth of the load.
    #[arg(long)]
    quick: bool,
    /// Fit how costs grow with sizes instead, and fail where one grows faster than it may.
    #[arg(long)]
    laws: bool,
    /// Only workloads whose group is named: start, write, read, watch, many.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the figures are kept.
    #[arg(long, default_value = "benches/api.json")]
    json: PathBuf,
}

/// Objects in the store while reads are measured, and how often each workload is done.
struct Sizes {
    pods: usize,
    gets: usize,
    lists: usize,
    changes: usize,
    paced: usize,
    burst: usize,
    many: usize,
    idle: Duration,
}

const FULL: Sizes = Sizes {
    pods: 10_000,
    gets: 20_000,
    lists: 20,
    changes: 5_000,
    paced: 200,
    burst: 1_000,
    many: 50_000,
    idle: Duration::from_secs(20),
};
const QUICK: Sizes = Sizes {
    pods: 1_000,
    gets: 4_000,
    lists: 20,
    changes: 500,
    paced: 30,
    burst: 100,
    many: 5_000,
    idle: Duration::from_secs(3),
};

pub fn run(flags: &Flags) -> anyhow::Result<()> {
    if flags.kubeconfig.is_none() && std::env::var_os("COXSWAIN_BIN").is_none() {
        build::cargo(&["build", "--release", "--package", "apiserver"])?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (mut subject, start) = match &flags.kubeconfig {
            Some(kubeconfig) => (Subject::given(kubeconfig, flags.pid)?, None),
            None => {
                let (subject, start) = Subject::start().await?;
                (subject, Some(start))
            }
        };
        let outcome = match flags.laws {
            true => laws::check(&mut subject, flags.quick).await,
            false => workloads(&mut subject, start, flags).await,
        };
        subject.stop()?;
        outcome
    })
}

async fn workloads(subject: &mut Subject, start: Option<Start>, flags: &Flags) -> anyhow::Result<()> {
    let sizes = if flags.quick { QUICK } else { FULL };
    let has = |group: &str| flags.only.is_empty() || flags.only.iter().any(|only| only == group);
    let client = subject.client()?;
    let mut rows: Vec<Row> = start.map(|start| started("start, empty", start)).into_iter().collect();
    if has("start") {
        rows.push(idle(subject, "idle, empty", sizes.idle).await?);
    }
    let padding = writes::prepare(&client).await?;
    if has("watch") {
        rows.extend(watches(subject, &sizes).await?);
        watchers::clean(&client).await?;
    }
    let needs_pods = ["write", "read", "many"].into_iter().any(has);
    if needs_pods {
        rows.push(writes::create(subject, 0..sizes.pods, padding).await?);
        rows.push(idle(subject, "idle, with the pods", sizes.idle).await?);
    }
    if has("read") {
        rows.extend(reads::gets(subject, sizes.pods, sizes.gets).await?);
        rows.extend(reads::lists(subject, sizes.lists).await?);
        rows.push(reads::storm(subject).await?);
    }
    if has("write") {
        rows.extend(writes::change(subject, sizes.changes).await?);
    }
    if has("many") && start.is_some() {
        writes::create(subject, sizes.pods..sizes.many, padding).await?;
        let workload = format!("start, {} pods", sizes.many);
        rows.extend(subject.restart().await?.map(|start| started(&workload, start)));
    }
    if needs_pods {
        rows.push(writes::delete(&*subject, sizes.changes).await?);
    }
    let client = subject.client()?;
    client.request(Method::DELETE, &writes::pods(), "", Bytes::new()).await.context("cleaning up")?;

    print!("\n{}", table(&rows));
    let server = client.request(Method::GET, "/version", "", Bytes::new()).await?;
    let run = Run {
        server: serde_json::from_slice(&server)?,
        cpu: cpu(),
        cores: std::thread::available_parallelism()?.get(),
        rows,
    };
    std::fs::write(build::workspace().join(&flags.json), format!("{}\n", serde_json::to_string_pretty(&run)?))
        .with_context(|| flags.json.display().to_string())
}

async fn watches(subject: &Subject, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (workload, watchers, writes, per_second) in [
        ("watch, 10/s to 100", 100, sizes.paced, 10),
        ("watch, 10/s to 500", 500, sizes.paced, 10),
        ("watch, burst to 500", 500, sizes.burst, 0),
        ("watch, 1000/s to 200", 200, sizes.burst, 1000),
    ] {
        let gap = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        let plan = Plan { workload, watchers, writes, gap, selector: "" };
        rows.push(watchers::watched(subject, plan).await?.row);
    }
    Ok(rows)
}

fn started(workload: &str, start: Start) -> Row {
    let Start { took, used } = start;
    let row = Row::new(workload, vec![took], took, used.cpu, used.resident_bytes);
    row.noted(format!("ready after {:.3} s", took.as_secs_f64()))
}

/// What it costs to be there, in microseconds of CPU per second.
async fn idle(subject: &Subject, workload: &str, idle: Duration) -> anyhow::Result<Row> {
    let before = subject.used().await?;
    tokio::time::sleep(idle).await;
    let after = subject.used().await?;
    let cpu_us = (after.cpu - before.cpu).as_secs_f64() * 1e6 / idle.as_secs_f64();
    let row = Row::new(workload, Vec::new(), idle, Duration::ZERO, after.resident_bytes);
    Ok(Row { cpu_us, ..row }.noted(format!("{:.2} % of a core", cpu_us / 1e4)))
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map(|(_, model)| model.to_owned()).unwrap_or_default()
}
