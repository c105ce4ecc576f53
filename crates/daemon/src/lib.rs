//! What every `main` shares: flags in Go's manner, logging, orderly shutdown, TLS that
//! reloads, metrics, and the HTTPS port with health, metrics and diagnosis.

pub mod access;
pub mod answers;
pub mod clock;
mod config_file;
pub mod diagnosis;
pub mod flags;
pub mod metrics;
pub mod plain;
pub mod reload;
pub mod serve;
pub mod tls;

use std::process;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub use flags::{ClientFlags, LeaderElectionFlags, LogFlags, ServingFlags};

/// Installs the one crypto provider and the log; to be called once, first thing in `main`.
/// `RUST_LOG` goes before the flags.
pub fn start(name: &'static str, log: &LogFlags) {
    // Fails only if one is installed already, and there is only this one in the build.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(log.directives()));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match log.logging_format {
        flags::LogFormat::Text => lines.with_ansi(false).init(),
        flags::LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    tracing::info!(name, version = env!("CARGO_PKG_VERSION"), pid = process::id(), "starting");
    allow_descriptors();
}

/// As many open files as the system lets this process have: shells start it with a thousand, which a
/// hundred watching nodes use up.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// A token that SIGTERM and SIGINT cancel; the second signal ends the process at once.
/// To be called inside the runtime.
pub fn shutdown() -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    let mut terminate = signal(SignalKind::terminate()).expect("a Unix process can listen to SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a Unix process can listen to SIGINT");
    // Lives as long as the process.
    tokio::spawn(async move {
        for round in 0.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if round > 0 {
                process::exit(1);
            }
            tracing::info!(signal = name, "shutting down");
            cancel.cancel();
        }
    });
    token
}
