//! Daemons as detached processes with a pid file and a log file.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot.
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    /// The process that a pid file names, if it still runs.
    pub fn from_file(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let process = Self { pid: pid.parse().ok()?, started: started.parse().ok()? };
        (start_time(process.pid)? == process.started).then_some(process)
    }

    /// Sends SIGTERM, and SIGKILL after `patience`.
    pub fn stop(self, patience: Duration) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let deadline = Instant::now() + patience;
        let _ = kill_process(pid, Signal::TERM);
        while start_time(self.pid) == Some(self.started) {
            if Instant::now() >= deadline {
                let _ = kill_process(pid, Signal::KILL);
                return;
            }
            #[allow(clippy::disallowed_methods)] // a process that is not our child sends no event
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Starts a daemon unless the one in its pid file still runs. True if it was started.
pub fn start(command: &[String], log: &Path, pid_file: &Path) -> anyhow::Result<bool> {
    if Process::from_file(pid_file).is_some() {
        return Ok(false);
    }
    for file in [log, pid_file] {
        fs::create_dir_all(file.parent().expect("a file in a folder"))?;
    }
    let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let child = Command::new("setsid")
        .args(command)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("{} could not be started", command[0]))?;
    let pid = i32::try_from(child.id())?;
    let started = start_time(pid).with_context(|| format!("{} ended at once; see {}", command[0], log.display()))?;
    fs::write(pid_file, format!("{pid} {started}\n"))?;
    Ok(true)
}

/// Field 22 of /proc/PID/stat; none for a process that is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let (state, threads, started) = (fields.first()?, fields.get(17)?, fields.get(19)?);
    // The first thread of a killed process may be gone while others still hold its sockets.
    (*state != "Z" || *threads != "1").then_some(())?;
    started.parse().ok()
}

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_bytes: u64,
}

const TICKS_PER_SECOND: u64 = 100; // USER_HZ, fixed on Linux
const PAGE_BYTES: u64 = 4096;

pub fn usage(process: Process) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let pages: u64 = fields.get(21)?.parse().ok()?;
    Some(Usage { cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND), resident_bytes: pages * PAGE_BYTES })
}
