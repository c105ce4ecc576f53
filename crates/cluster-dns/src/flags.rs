//! The DNS server's command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use daemon::{ClientFlags, LogFlags};

#[derive(Debug, Parser)]
#[command(name = "cluster-dns", version, about = "The cluster's DNS server.")]
pub struct Flags {
    #[command(flatten)]
    pub log: LogFlags,
    #[command(flatten)]
    pub client: ClientFlags,
    /// A file with these flags as fields.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
    /// Where to answer by UDP and TCP.
    #[arg(long, value_delimiter = ',', default_value = "0.0.0.0:53")]
    pub listen: Vec<SocketAddr>,
    /// Who is asked for other names: addresses, with a port or without, or a file like resolv.conf.
    #[arg(long, value_delimiter = ',', default_value = "/etc/resolv.conf")]
    pub forward: Vec<String>,
    /// Where `/health` says that the process lives.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub health_address: SocketAddr,
    /// Where `/ready` says that the zone is complete.
    #[arg(long, default_value = "0.0.0.0:8181")]
    pub ready_address: SocketAddr,
    #[arg(long, default_value = "0.0.0.0:9153")]
    pub metrics_address: SocketAddr,
}
