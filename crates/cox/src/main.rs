//! `cox`: a command line for any Kubernetes, and for what only Coxswain's daemons can tell.

mod apply;
mod catalog;
mod commands;
mod flags;
mod manifest;
mod output;
mod server;
mod target;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    flags::{Cli, Command, Doctor},
    server::Server,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // What needs no server.
    let command = match cli.command {
        Command::Certs(command) => return commands::certs::run(command).await,
        Command::Doctor(Doctor::Security { dir }) => return commands::doctor::security(dir.as_deref()),
        command => command,
    };
    let server = Server::connect(&cli.global).await?;
    match command {
        Command::Get(flags) => commands::get::run(&server, flags).await?,
        Command::Describe(flags) => commands::describe::run(&server, flags).await?,
        Command::Apply(flags) => commands::apply::run(&server, flags).await?,
        Command::Create(flags) => commands::create::run(&server, flags).await?,
        Command::Delete(flags) => commands::delete::run(&server, flags).await?,
        Command::Logs(flags) => commands::logs::run(&server, flags).await?,
        Command::Exec(flags) => return commands::exec::run(&server, flags).await,
        Command::Scale(flags) => commands::scale::run(&server, flags).await?,
        Command::Rollout(flags) => commands::rollout::run(&server, flags).await?,
        Command::Wait(flags) => commands::wait::run(&server, flags).await?,
        Command::Why(flags) => commands::why::run(&server, flags).await?,
        Command::Auth(flags) => return commands::auth::run(&server, flags).await,
        Command::Certs(_) | Command::Doctor(_) => unreachable!("answered above"),
    }
    Ok(ExitCode::SUCCESS)
}
