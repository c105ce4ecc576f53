//! `cox exec`: a command in a container, with its streams and exit code.

use std::process::ExitCode;

use anyhow::Context;
use api_types::k8s::{core::Pod, meta::Status};
use kube::api::{Api, AttachParams, AttachedProcess, TerminalSize};
use rustix::termios;
use tokio::io::{AsyncRead, AsyncWriteExt};

use super::pods::pod_of;
use crate::{flags::Exec, server::Server};

pub async fn run(server: &Server, flags: Exec) -> anyhow::Result<ExitCode> {
    let catalog = server.catalog().await?;
    let pod = pod_of(server, &catalog, &flags.target).await?;
    let pods: Api<Pod> = Api::namespaced(server.client.clone(), &server.namespace);
    let params = AttachParams {
        container: flags.container.clone(),
        stdin: flags.stdin,
        stdout: true,
        stderr: !flags.tty,
        tty: flags.tty,
        ..AttachParams::default()
    };
    let process = pods.exec(&pod, &flags.command, &params).await?;
    let terminal = flags.tty.then(RawTerminal::enter).transpose()?;
    let status = streams(process, flags.stdin).await?;
    drop(terminal);
    Ok(exit_code(&status))
}

/// Copies until the command ends. Standard input may outlive it.
async fn streams(mut process: AttachedProcess, stdin: bool) -> anyhow::Result<Status> {
    let status = process.take_status().context("the server sends no status")?;
    if let Some(size) = termios::tcgetwinsize(std::io::stdout()).ok().filter(|size| size.ws_col > 0)
        && let Some(mut sizes) = process.terminal_size()
    {
        let _ = sizes.try_send(TerminalSize { width: size.ws_col, height: size.ws_row });
    }
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let input = process.stdin().filter(|_| stdin);
    let feeder = tokio::spawn(async move {
        if let Some(mut input) = input {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut input).await;
            let _ = input.shutdown().await;
        }
    });
    let copied = tokio::try_join!(copy(stdout, tokio::io::stdout()), copy(stderr, tokio::io::stderr()));
    let status = status.await.context("the connection ended before the command did");
    feeder.abort();
    copied?;
    status
}

async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl tokio::io::AsyncWrite + Unpin) -> std::io::Result<()> {
    if let Some(mut from) = from {
        tokio::io::copy(&mut from, &mut to).await?;
        to.flush().await?;
    }
    Ok(())
}

fn exit_code(status: &Status) -> ExitCode {
    if status.status.as_deref() == Some("Success") {
        return ExitCode::SUCCESS;
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse::<u8>().ok());
    if code.is_none() {
        eprintln!("error: {}", status.message.as_deref().unwrap_or("the command failed"));
    }
    ExitCode::from(code.unwrap_or(1))
}

/// The terminal passes every key on, until dropped.
struct RawTerminal(termios::Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(std::io::stdin()).context("-t needs a terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), termios::OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), termios::OptionalActions::Now, &self.0);
    }
}
