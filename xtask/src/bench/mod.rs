//! Measurements. Timings are reported and never decide a test.

mod api;
mod figures;
mod laws;
mod load;
mod reads;
mod startup;
mod subject;
mod watchers;
mod writes;

use std::time::Duration;

use clap::Subcommand;

#[derive(Subcommand)]
pub enum Bench {
    /// From `up` to readyz, to node Ready, to the first pod Running; idle memory and CPU of each daemon.
    Startup {
        /// Seconds over which idle CPU is measured.
        #[arg(long, default_value_t = 10)]
        idle_s: u64,
    },
    /// What an apiserver spends on each operation: ours, or the one that a kubeconfig names.
    Api(api::Flags),
}

pub fn run(bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Startup { idle_s } => startup::run(Duration::from_secs(*idle_s)),
        Bench::Api(flags) => api::run(flags),
    }
}
