//! The flags of audit, with upstream's names and defaults.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    log::Retention,
    sink::{Batching, Mode, Throttle},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How an event is written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Json,
    Legacy,
}

#[derive(Clone, Debug, Args)]
pub struct AuditFlags {
    /// What is recorded; without it, nothing.
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// `-`: standard output.
    #[arg(long)]
    pub audit_log_path: Option<PathBuf>,
    /// Days that a file is kept; 0: for ever.
    #[arg(long, default_value_t = 366)]
    pub audit_log_maxage: u32,
    /// Files that are kept; 0: all.
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxbackup: usize,
    /// MiB of a file.
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub audit_log_compress: bool,
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub audit_log_format: Format,
    #[arg(long, value_enum, default_value_t = Mode::Blocking)]
    pub audit_log_mode: Mode,
    #[arg(long, default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    #[arg(long, default_value_t = 1)]
    pub audit_log_batch_max_size: usize,
    #[arg(long, value_parser = daemon::flags::duration, default_value = "0s")]
    pub audit_log_batch_max_wait: Duration,
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub audit_log_batch_throttle_enable: bool,
    #[arg(long, default_value_t = 0.0)]
    pub audit_log_batch_throttle_qps: f32,
    #[arg(long, default_value_t = 0)]
    pub audit_log_batch_throttle_burst: u32,
    /// A kubeconfig: where events are sent.
    #[arg(long)]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Before the second try of a batch.
    #[arg(long, value_parser = daemon::flags::duration, default_value = "10s")]
    pub audit_webhook_initial_backoff: Duration,
    #[arg(long, value_enum, default_value_t = Mode::Batch)]
    pub audit_webhook_mode: Mode,
    #[arg(long, default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    #[arg(long, default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    #[arg(long, value_parser = daemon::flags::duration, default_value = "30s")]
    pub audit_webhook_batch_max_wait: Duration,
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub audit_webhook_batch_throttle_enable: bool,
    #[arg(long, default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f32,
    #[arg(long, default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
}

impl AuditFlags {
    pub fn retention(&self) -> Retention {
        Retention {
            size_bytes_max: self.audit_log_maxsize.max(1) << 20,
            age_max: DAY * self.audit_log_maxage,
            backups_max: self.audit_log_maxbackup,
            is_compressed: self.audit_log_compress,
        }
    }

    pub fn log_batching(&self) -> Batching {
        Batching {
            buffer: self.audit_log_batch_buffer_size,
            size_max: self.audit_log_batch_max_size,
            wait_max: self.audit_log_batch_max_wait,
            throttle: self.audit_log_batch_throttle_enable.then_some(Throttle {
                per_second: self.audit_log_batch_throttle_qps,
                burst: self.audit_log_batch_throttle_burst,
            }),
        }
    }

    pub fn webhook_batching(&self) -> Batching {
        Batching {
            buffer: self.audit_webhook_batch_buffer_size,
            size_max: self.audit_webhook_batch_max_size,
            wait_max: self.audit_webhook_batch_max_wait,
            throttle: self.audit_webhook_batch_throttle_enable.then_some(Throttle {
                per_second: self.audit_webhook_batch_throttle_qps,
                burst: self.audit_webhook_batch_throttle_burst,
            }),
        }
    }
}
