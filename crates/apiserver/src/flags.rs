//! The command line, with upstream's names where the flag exists there.

use std::path::PathBuf;

use clap::Parser;
use daemon::{LogFlags, ServingFlags};
use ipnet::IpNet;

use crate::{
    allocate::range::Ports, audit::flags::AuditFlags, authn::flags::AuthenticationFlags,
    authz::flags::AuthorizationFlags,
};

pub const DEFAULT_PORT: u16 = 6443;

/// kube-apiserver: the cluster's API over HTTPS, its state in etcd or in a file of its own.
#[derive(Clone, Debug, Parser)]
// As upstream: of a flag that is given twice the last counts.
#[command(name = "kube-apiserver", version, args_override_self = true)]
pub struct Flags {
    #[command(flatten)]
    pub serving: ServingFlags,
    #[command(flatten)]
    pub log: LogFlags,
    #[command(flatten)]
    pub storage: StorageFlags,
    #[command(flatten)]
    pub etcd: EtcdFlags,
    #[command(flatten)]
    pub tokens: TokenFlags,
    #[command(flatten)]
    pub authentication: AuthenticationFlags,
    #[command(flatten)]
    pub authorization: AuthorizationFlags,
    #[command(flatten)]
    pub kubelet: KubeletFlags,
    #[command(flatten)]
    pub services: ServiceFlags,
    #[command(flatten)]
    pub access: AccessFlags,
    #[command(flatten)]
    pub audit: AuditFlags,
    /// The address under which the cluster reaches this server.
    #[arg(long)]
    pub advertise_address: Option<std::net::IpAddr>,
    /// Requests take turns by priority levels and flows; the places in flight are shared among the levels.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_priority_and_fairness: bool,
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// Time for a request that is no watch.
    #[arg(long, value_parser = daemon::flags::duration, default_value = "60s")]
    pub request_timeout: std::time::Duration,
    /// How long requests are served as ever, but for readyz, after the signal to end.
    #[arg(long, value_parser = daemon::flags::duration, default_value = "0s")]
    pub shutdown_delay_duration: std::time::Duration,
}

impl Flags {
    pub fn port(&self) -> u16 {
        self.serving.secure_port.unwrap_or(DEFAULT_PORT)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    #[value(alias = "etcd3")]
    Etcd,
    /// A file of this process.
    Embedded,
}

#[derive(Clone, Debug, clap::Args)]
pub struct StorageFlags {
    /// Where objects are kept; upstream's name of the flag is `--storage-backend`.
    #[arg(long, alias = "storage-backend", value_enum, default_value = "etcd")]
    pub storage: Storage,
    /// The folder of the embedded store; no two apiservers may share it.
    #[arg(long, required_if_eq("storage", "embedded"))]
    pub data_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, clap::Args)]
pub struct EtcdFlags {
    /// `https://host:port`, separated by commas.
    #[arg(long, value_delimiter = ',', required_unless_present = "data_dir")]
    pub etcd_servers: Vec<String>,
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// An EncryptionConfiguration; read again when it changes.
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// How much history is kept; 0: all of it.
    #[arg(long, value_parser = daemon::flags::duration, default_value = "5m")]
    pub etcd_compaction_interval: std::time::Duration,
}

#[derive(Clone, Debug, clap::Args)]
pub struct TokenFlags {
    /// Keys that verify ServiceAccount tokens.
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// The key that signs them.
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// The first is the one in new tokens.
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: Vec<String>,
    /// Who the tokens are for; the issuers if not given.
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Where the keys can be fetched, for the discovery document; this server's own path if not given.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// A pod's own token outlives its hour by a year, for clients that never read it again.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub service_account_extend_token_expiration: bool,
    /// No token is valid longer, whoever asks.
    #[arg(long, value_parser = daemon::flags::duration)]
    pub service_account_max_token_expiration: Option<std::time::Duration>,
}

#[derive(Clone, Debug, clap::Args)]
pub struct KubeletFlags {
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")]
    pub kubelet_preferred_address_types: Vec<String>,
}

#[derive(Clone, Debug, clap::Args)]
pub struct ServiceFlags {
    /// One network, or one of each family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// `first-last`.
    #[arg(long, value_parser = ports, default_value = "30000-32767")]
    pub service_node_port_range: Ports,
}

fn ports(text: &str) -> Result<Ports, String> {
    let (first, last) = text.split_once('-').ok_or("must be first-last, such as 30000-32767")?;
    let number = |text: &str| text.trim().parse::<u16>().map_err(|error| format!("{text:?}: {error}"));
    let ports = Ports { first: number(first)?, last: number(last)? };
    if ports.first == 0 || ports.first > ports.last {
        return Err("the first port must be above 0 and not above the last".to_owned());
    }
    Ok(ports)
}

#[derive(Clone, Debug, clap::Args)]
pub struct AccessFlags {
    /// Adds those that are off by default.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
}
