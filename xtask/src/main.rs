//! All automation of the project: bring a cluster up and down, run every test,
//! measure, check the floors of the tree, derive the schema tables.

mod bench;
mod build;
mod cluster;
mod install;
mod protobuf;
mod schema;
mod test;
mod tidy;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cluster::{Shape, Storage};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run, test and measure Coxswain")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster: install what is missing, build, start, wait until it answers.
    Up(UpFlags),
    /// Stop a cluster and remove everything that it left on this machine.
    Down(DirFlag),
    /// Run all test suites, installing what they need.
    Test(test::Flags),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check the floors of the tree.
    Tidy,
    /// Make what deploy/compose needs: images of the release binaries, certificates, flags.
    Images {
        /// Use the binaries as they are and install nothing.
        #[arg(long)]
        no_build: bool,
    },
    /// Derive the schema tables from the pinned public package.
    Schema,
    /// Derive the field numbers of protobuf from the pinned public package.
    Protobuf,
}

#[derive(Args)]
struct DirFlag {
    /// Where the cluster keeps its state.
    #[arg(long, default_value = ".cluster")]
    dir: PathBuf,
}

#[derive(Args)]
struct UpFlags {
    #[command(flatten)]
    dir: DirFlag,
    /// Nodes in all; each beyond the first is a network namespace of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50))]
    nodes: u8,
    /// Start the apiserver and its store alone.
    #[arg(long)]
    control_plane_only: bool,
    /// Where objects are kept; etcd if nothing is said.
    #[arg(long, value_enum)]
    storage: Option<Storage>,
    /// Use the release binaries as they are and install nothing.
    #[arg(long)]
    no_build: bool,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Up(flags) => {
            let shape = if flags.control_plane_only { Shape::ControlPlane } else { Shape::Nodes(flags.nodes) };
            if !flags.no_build {
                install::ensure(install::for_cluster(shape, flags.storage.unwrap_or_default()))?;
                build::release()?;
            }
            cluster::up(&flags.dir.dir, shape, flags.storage).map(drop)
        }
        Command::Down(flags) => cluster::down(&flags.dir),
        Command::Test(flags) => test::run(&flags),
        Command::Bench(bench) => bench::run(&bench),
        Command::Tidy => tidy::run(),
        Command::Images { no_build } => {
            if !no_build {
                install::ensure(install::for_cluster(Shape::Nodes(1), Storage::Etcd))?;
                build::release()?;
            }
            cluster::compose::prepare()
        }
        Command::Schema => schema::run(),
        Command::Protobuf => protobuf::run(),
    }
}
