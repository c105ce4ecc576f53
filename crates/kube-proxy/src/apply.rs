//! Hands text to `nft -f -`: the only place where the kernel's tables are changed.

use std::{io, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("nft cannot be run: install nftables, and run as root")]
    Run(#[source] io::Error),
    /// The kernel or nft refused; nothing was changed.
    #[error("nft refused: {0}")]
    Refused(String),
}

/// Carries out one transaction: all of it or nothing.
pub async fn apply(text: &str) -> Result<(), ApplyError> {
    if text.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(ApplyError::Run)?;
    let mut input = child.stdin.take().expect("stdin is piped");
    let write = async {
        let written = input.write_all(text.as_bytes()).await;
        drop(input);
        written
    };
    let (written, output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(ApplyError::Run)?;
    if output.status.success() {
        return written.map_err(ApplyError::Run);
    }
    const LINES_MAX: usize = 4;
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ApplyError::Refused(said.lines().take(LINES_MAX).collect::<Vec<_>>().join("; ")))
}
