//! Exec, attach and logs: Docker's streams as [`Streams`] and [`Output`].

use api_types::jiff::Timestamp;
use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
    query_parameters::{AttachContainerOptionsBuilder, LogsOptionsBuilder},
};
use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::{Engine, refusal};
use crate::runtime::{Exec, ExecRequest, LogRequest, Output, RuntimeError, Streams};

/// The most bytes that one piece of output holds.
const PIECE_BYTES_MAX: usize = 32 * 1024;

impl Engine {
    pub(super) async fn start_exec(&self, id: &str, request: &ExecRequest) -> Result<Exec, RuntimeError> {
        let options = CreateExecOptions {
            attach_stdin: Some(request.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(request.tty),
            cmd: Some(request.command.clone()),
            ..CreateExecOptions::default()
        };
        let exec_id = self.docker.create_exec(id, options).await.map_err(refusal)?.id;
        let options = StartExecOptions { detach: false, tty: request.tty, output_capacity: Some(PIECE_BYTES_MAX) };
        match self.patient.start_exec(&exec_id, Some(options)).await.map_err(refusal)? {
            StartExecResults::Attached { output, input } => {
                let output = output.map(|piece| piece.map(Output::from).map_err(refusal)).boxed();
                Ok(Exec { id: exec_id, streams: Streams { output, input } })
            }
            StartExecResults::Detached => {
                Err(RuntimeError::Refused { message: "the engine detached an exec that was to be attached".to_owned() })
            }
        }
    }

    pub(super) async fn attach_streams(&self, id: &str, stdin: bool) -> Result<Streams, RuntimeError> {
        let options =
            AttachContainerOptionsBuilder::default().stream(true).stdin(stdin).stdout(true).stderr(true).build();
        let attached = self.patient.attach_container(id, Some(options)).await.map_err(refusal)?;
        let output = attached.output.map(|piece| piece.map(Output::from).map_err(refusal)).boxed();
        Ok(Streams { output, input: attached.input })
    }
}

impl From<LogOutput> for Output {
    fn from(piece: LogOutput) -> Self {
        match piece {
            LogOutput::StdErr { message } => Output::Stderr(message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                Output::Stdout(message)
            }
        }
    }
}

pub(super) fn logs(
    docker: &Docker,
    id: &str,
    request: &LogRequest,
) -> impl Stream<Item = Result<Output, RuntimeError>> + use<> {
    let since_s = request.since.map(|since| i32::try_from(since.as_second()).unwrap_or(i32::MAX)).unwrap_or_default();
    let options = LogsOptionsBuilder::default()
        .follow(request.follow)
        .stdout(true)
        .stderr(true)
        .since(since_s)
        // Docker counts `since` in whole seconds; the rest is cut here by the lines' own times.
        .timestamps(request.timestamps || request.since.is_some())
        .tail(&request.tail_lines.map_or("all".to_owned(), |lines| lines.to_string()))
        .build();
    let (since, timestamps) = (request.since, request.timestamps);
    let docker = docker.clone();
    docker.logs(id, Some(options)).filter_map(move |piece| async move {
        match piece {
            Ok(piece) => cut(Output::from(piece), since, timestamps).map(Ok),
            Err(error) => Some(Err(refusal(error))),
        }
    })
}

/// Drops a line that is too old, and its time if nobody asked for it.
fn cut(line: Output, since: Option<Timestamp>, timestamps: bool) -> Option<Output> {
    let Some(since) = since else { return Some(line) };
    let bytes = line.bytes();
    let Some(space) = bytes.iter().position(|byte| *byte == b' ') else { return Some(line) };
    let time: Option<Timestamp> = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok());
    if time.is_some_and(|time| time < since) {
        return None;
    }
    let rest = |bytes: &Bytes| if timestamps || time.is_none() { bytes.clone() } else { bytes.slice(space + 1..) };
    Some(match &line {
        Output::Stdout(bytes) => Output::Stdout(rest(bytes)),
        Output::Stderr(bytes) => Output::Stderr(rest(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_by_their_time() {
        let line = |text: &'static str| Output::Stdout(Bytes::from_static(text.as_bytes()));
        let since: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        assert_eq!(cut(line("2026-01-01T00:00:00.4Z a\n"), Some(since), false), None);
        assert_eq!(cut(line("2026-01-01T00:00:00.6Z a b\n"), Some(since), false), Some(line("a b\n")));
        let whole = "2026-01-01T00:00:00.6Z a\n";
        assert_eq!(cut(line(whole), Some(since), true), Some(line(whole)));
        assert_eq!(cut(line("no time\n"), Some(since), false), Some(line("no time\n")));
    }
}
