//! How costs grow with sizes: each law is measured at several sizes, and the exponent of the power that fits
//! best may not exceed its bound. Costs are CPU time or memory, so a busy machine does not bend them.

use std::time::Duration;

use super::{
    figures::{Law, laws_table},
    reads,
    subject::Subject,
    watchers::{self, Plan},
    writes,
};

/// Growth of what should not grow; measuring has its own scatter.
const CONSTANT: f64 = 0.1;
/// Growth in proportion.
const LINEAR: f64 = 1.05;
/// What a stored byte may take, and an object besides.
const RSS_PER_STORED_BYTE: f64 = 1.3;
const RSS_PER_OBJECT_BYTES: f64 = 300.0;
const RSS_PER_WATCHER_BYTES: f64 = 64.0 * 1024.0;

struct Sizes {
    objects: &'static [usize],
    watchers: &'static [usize],
    /// Operations of each measurement.
    operations: usize,
}

const FULL: Sizes =
    Sizes { objects: &[1_000, 3_000, 10_000, 30_000], watchers: &[10, 50, 250, 1_000], operations: 4_000 };
const QUICK: Sizes = Sizes { objects: &[500, 1_000, 2_000, 4_000], watchers: &[10, 30, 100, 300], operations: 1_000 };

pub async fn check(subject: &mut Subject, is_quick: bool) -> anyhow::Result<()> {
    let sizes = if is_quick { QUICK } else { FULL };
    let padding = writes::prepare(&subject.client()?).await?;
    let mut laws = watched(subject, &sizes).await?;
    laws.extend(history(subject, &sizes).await?);
    laws.extend(stored(subject, &sizes, padding).await?);
    print!("\n{}", laws_table(&laws));
    let broken: Vec<&str> = laws.iter().filter(|law| !law.holds()).map(|law| law.name).collect();
    anyhow::ensure!(broken.is_empty(), "broken: {}", broken.join("; "));
    Ok(())
}

/// What depends on how much is stored.
async fn stored(subject: &mut Subject, sizes: &Sizes, padding: usize) -> anyhow::Result<Vec<Law>> {
    let mut lists = Law::new("list: CPU by objects returned", LINEAR);
    let mut none = Law::new("list that matches nothing: CPU by objects passed over", CONSTANT);
    let mut pages = Law::new("page of 500: CPU by objects stored", CONSTANT);
    let mut gets = Law::new("get: CPU by objects stored", CONSTANT);
    let mut patches = Law::new("patch: CPU by objects stored", CONSTANT);
    let mut restarts = Law::new("restart: time by objects", LINEAR);
    let slope_max = writes::POD_BYTES as f64 * RSS_PER_STORED_BYTE + RSS_PER_OBJECT_BYTES;
    let mut memory = Law::slope("RSS after a restart: bytes by objects", slope_max);
    let mut from = 0;
    for &size in sizes.objects {
        writes::create(subject, from..size, padding).await?;
        from = size;
        if let Some(start) = subject.restart().await? {
            restarts.add(size, start.took.as_secs_f64() * 1e6);
            memory.add(size, start.used.resident_bytes as f64);
        }
        let count = (sizes.operations * 50 / size).max(10);
        lists.add(size, reads::list(subject, "list", reads::ALL, count).await?.cpu_us);
        none.add(size, reads::list(subject, "list, nothing", reads::NOTHING, sizes.operations).await?.cpu_us);
        pages.add(size, reads::list(subject, "list, page", reads::PAGE, sizes.operations / 10).await?.cpu_us);
        gets.add(size, reads::get(subject, "get", "", size, sizes.operations * 2).await?.cpu_us);
        patches.add(size, writes::patch(subject, sizes.objects[0], sizes.operations).await?.cpu_us);
    }
    Ok([lists, none, pages, gets, patches, restarts, memory].into())
}

/// What depends on who watches.
async fn watched(subject: &Subject, sizes: &Sizes) -> anyhow::Result<Vec<Law>> {
    let mut deaf = Law::new("write: CPU by watchers that do not match", CONSTANT);
    let mut told = Law::new("delivery: CPU by watchers that match", CONSTANT);
    let mut memory = Law::slope("RSS: bytes by watchers", RSS_PER_WATCHER_BYTES);
    fn plan<'a>(workload: &'a str, watchers: usize, writes: usize, selector: &'a str) -> Plan<'a> {
        Plan { workload, watchers, writes, gap: Duration::from_millis(10), selector }
    }
    let alone = watchers::watched(subject, plan("unwatched", 0, sizes.operations / 4, "")).await?;
    for &watchers in sizes.watchers {
        let selector = "&fieldSelector=metadata.name%3Dnobody";
        let name = format!("unheard-{watchers}");
        let row = watchers::watched(subject, plan(&name, watchers, sizes.operations / 4, selector)).await?;
        deaf.add(watchers, row.write_cpu_us);
        let name = format!("heard-{watchers}");
        let writes = (sizes.operations * 10 / watchers).clamp(20, sizes.operations / 2);
        let row = watchers::watched(subject, plan(&name, watchers, writes, "")).await?;
        told.add(watchers, (row.write_cpu_us - alone.write_cpu_us) / watchers as f64);
        memory.add(watchers, row.row.rss_mb * 1e6);
    }
    watchers::clean(&subject.client()?).await?;
    Ok([deaf, told, memory].into())
}

/// Memory must not follow what has happened, only what is.
async fn history(subject: &Subject, sizes: &Sizes) -> anyhow::Result<Vec<Law>> {
    const OBJECTS: usize = 512;
    let mut memory = Law::new("RSS by changes that have happened", CONSTANT);
    let client = subject.client()?;
    for number in 0..OBJECTS {
        watchers::create(&client, number).await?;
    }
    let mut happened = 0;
    for turn in [1, 1, 2, 4] {
        let count = sizes.operations * 3 * turn;
        watchers::change(subject, OBJECTS, count).await?;
        happened += count;
        memory.add(happened, subject.used().await?.resident_bytes as f64);
    }
    watchers::clean(&client).await?;
    Ok(vec![memory])
}
