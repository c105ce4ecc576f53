//! The log backend: one event a line, in a file of mode 0600 that is set aside when it is full, or on standard output.
//!
//! Source: apiserver/plugin/pkg/audit/log and the file names of lumberjack.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use api_types::jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use async_trait::async_trait;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::sink::Destination;

/// How much is kept. Zero: no limit, but for the size of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub size_bytes_max: u64,
    pub age_max: Duration,
    pub backups_max: usize,
    pub is_compressed: bool,
}

const BACKUP_TIME: &str = "%Y-%m-%dT%H-%M-%S";
const COMPRESSED: &str = "gz";

/// Where lines go. Blocking work is done on threads for it, so that a slow disk holds up nobody else.
pub enum Log {
    Stdout,
    /// `None` while a thread has it.
    File(Option<Rotated>),
}

impl Log {
    /// `-` is standard output.
    pub fn open(path: &Path, retention: Retention) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        Rotated::open(path.to_owned(), retention).map(|file| Self::File(Some(file)))
    }
}

#[async_trait]
impl Destination for Log {
    async fn deliver(&mut self, batch: Vec<Bytes>) -> Result<(), String> {
        let lines = batch.iter().flat_map(|event| [event.as_ref(), b"\n"]).collect::<Vec<_>>().concat();
        match self {
            Log::Stdout => tokio::task::spawn_blocking(move || io::stdout().lock().write_all(&lines)).await,
            Log::File(place) => {
                let mut file = place.take().ok_or("the thread that wrote the log panicked")?;
                let written = tokio::task::spawn_blocking(move || {
                    let outcome = file.write(&lines, Timestamp::now());
                    (file, outcome)
                });
                written.await.map(|(file, outcome)| {
                    *place = Some(file);
                    outcome
                })
            }
        }
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
    }
}

/// A file that makes room for another when it is full.
pub struct Rotated {
    path: PathBuf,
    retention: Retention,
    /// `None` after a failure: the next write opens it again.
    file: Option<File>,
    size_bytes: u64,
}

impl Rotated {
    fn open(path: PathBuf, retention: Retention) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut rotated = Self { path, retention, file: None, size_bytes: 0 };
        rotated.reopen()?;
        Ok(rotated)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        self.size_bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, lines: &[u8], now: Timestamp) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.size_bytes > 0 && self.size_bytes + lines.len() as u64 > self.retention.size_bytes_max {
            self.rotate(now)?;
        }
        let file = self.file.as_mut().expect("opened above");
        match file.write_all(lines) {
            Ok(()) => {
                self.size_bytes += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would spoil the next one: cut it off, and look at the file afresh.
                if let Err(error) = file.set_len(self.size_bytes) {
                    tracing::warn!(%error, "a line of the audit log is torn");
                }
                self.file = None;
                Err(error)
            }
        }
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        self.file = None;
        fs::rename(&self.path, self.backup(now))?;
        self.reopen()?;
        if let Err(error) = self.tidy(now) {
            tracing::warn!(%error, "old audit logs were not tidied up");
        }
        Ok(())
    }

    /// `audit-2026-01-02T03-04-05.678.log` of `audit.log`.
    fn backup(&self, now: Timestamp) -> PathBuf {
        let (stem, extension) = self.name();
        let time = now.to_zoned(TimeZone::UTC).strftime(BACKUP_TIME).to_string();
        let millis = now.as_millisecond().rem_euclid(1000);
        self.path.with_file_name(format!("{stem}-{time}.{millis:03}{extension}"))
    }

    fn name(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = part(self.path.extension());
        (part(self.path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
    }

    fn tidy(&self, now: Timestamp) -> io::Result<()> {
        let (stem, extension) = self.name();
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut backups = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(time) = backup_time(&name, &stem, &extension) {
                backups.push((time, entry.path()));
            }
        }
        for step in plan(backups, &self.retention, now) {
            match step {
                Step::Remove(path) => fs::remove_file(path)?,
                Step::Compress(path) => compress(&path)?,
            }
        }
        Ok(())
    }
}

fn backup_time(name: &str, stem: &str, extension: &str) -> Option<Timestamp> {
    let name = name.strip_suffix(&format!(".{COMPRESSED}")).unwrap_or(name);
    let text = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?;
    let (time, _millis) = text.split_once('.')?;
    let time = strtime::parse(BACKUP_TIME, time).ok()?.to_datetime().ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Remove(PathBuf),
    Compress(PathBuf),
}

/// What to do with the files that were set aside.
fn plan(mut backups: Vec<(Timestamp, PathBuf)>, retention: &Retention, now: Timestamp) -> Vec<Step> {
    backups.sort();
    let is_old =
        |time: &Timestamp| !retention.age_max.is_zero() && now.duration_since(*time).unsigned_abs() > retention.age_max;
    let is_beyond = |newer: usize| retention.backups_max > 0 && newer >= retention.backups_max;
    let steps = backups.into_iter().rev().enumerate().filter_map(|(newer, (time, path))| {
        if is_old(&time) || is_beyond(newer) {
            return Some(Step::Remove(path));
        }
        let is_plain = path.extension().is_none_or(|extension| extension != COMPRESSED);
        (retention.is_compressed && is_plain).then_some(Step::Compress(path))
    });
    steps.collect()
}

fn compress(path: &Path) -> io::Result<()> {
    let target = PathBuf::from(format!("{}.{COMPRESSED}", path.display()));
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&target)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const RETENTION: Retention =
        Retention { size_bytes_max: 10, age_max: Duration::from_secs(86_400), backups_max: 2, is_compressed: false };

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_full_file_is_set_aside_and_few_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = Rotated::open(path.clone(), RETENTION).unwrap();
        for (line, now) in [
            ("one\n", "2026-01-02T03:04:05.678Z"),
            ("two\n", "2026-01-02T03:04:06Z"),
            ("three\n", "2026-01-02T03:04:07.5Z"),
            ("much more than fits\n", "2026-01-02T03:04:08Z"),
            ("x\n", "2026-01-02T03:04:09Z"),
        ] {
            log.write(line.as_bytes(), time(now)).unwrap();
        }
        let mut found: Vec<(String, String)> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        found.sort();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(
            found,
            [
                ("audit-2026-01-02T03-04-08.000.log", "three\n"),
                ("audit-2026-01-02T03-04-09.000.log", "much more than fits\n"),
                ("audit.log", "x\n"),
            ]
        );
    }

    #[test]
    fn what_is_kept() {
        let backups = |times: &[&str]| times.iter().map(|t| (time(t), PathBuf::from(t))).collect::<Vec<_>>();
        let days = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"];
        let check = |retention: Retention, expected: &[Step]| {
            assert_eq!(plan(backups(&days), &retention, time("2026-01-03T12:00:00Z")), expected);
        };
        let remove = |index: usize| Step::Remove(days[index].into());
        check(Retention { age_max: Duration::ZERO, ..RETENTION }, &[remove(0)]);
        check(RETENTION, &[remove(1), remove(0)]);
        check(Retention { backups_max: 0, age_max: Duration::ZERO, ..RETENTION }, &[]);
        let compressed = Retention { backups_max: 1, age_max: Duration::ZERO, is_compressed: true, ..RETENTION };
        check(compressed, &[Step::Compress(days[2].into()), remove(1), remove(0)]);
    }

    #[test]
    fn only_its_own_backups_are_touched() {
        for (name, is_backup) in [
            ("audit-2026-01-02T03-04-05.678.log", true),
            ("audit-2026-01-02T03-04-05.678.log.gz", true),
            ("audit.log", false),
            ("audit-yesterday.log", false),
            ("other-2026-01-02T03-04-05.678.log", false),
        ] {
            assert_eq!(backup_time(name, "audit", ".log").is_some(), is_backup, "{name}");
        }
    }

    #[test]
    fn compressed_backups_read_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "line\n").unwrap();
        compress(&path).unwrap();
        let mut text = String::new();
        let file = File::open(folder.path().join("a.log.gz")).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
        assert_eq!((text.as_str(), path.exists()), ("line\n", false));
    }

    /// R9: /dev/full answers every write with ENOSPC.
    #[test]
    fn a_full_disk_is_told() {
        let mut log = Rotated { path: "/dev/full".into(), retention: RETENTION, file: None, size_bytes: 0 };
        let error = log.write(b"line\n", time("2026-01-02T03:04:05Z")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
