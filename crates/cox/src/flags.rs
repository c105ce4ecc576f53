//! The command line, as data.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cox", version, about = "Talk to a Kubernetes cluster, and ask it why")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args)]
pub struct Global {
    /// Kubeconfig file; default $KUBECONFIG, then ~/.kube/config.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show objects, as tables that the server makes.
    Get(Get),
    /// Show one object in detail, with its events.
    Describe(Describe),
    /// Make the cluster hold what files say.
    Apply(Apply),
    /// Create an object.
    Create(Create),
    /// Delete objects.
    Delete(Delete),
    /// Print a container's log.
    Logs(Logs),
    /// Run a command in a container.
    Exec(Exec),
    /// Set the number of replicas.
    Scale(Scale),
    /// Look after a rollout.
    Rollout(Rollout),
    /// Wait until objects are as wanted.
    Wait(Wait),
    /// Ask every daemon why an object is as it is.
    Why(Why),
    /// Ask who may do what, and by which rule.
    Auth(Auth),
    /// Make, check and renew the certificates of a cluster. Needs no apiserver.
    #[command(subcommand)]
    Certs(Certs),
    /// Examine the daemons of this machine. Needs no apiserver.
    #[command(subcommand)]
    Doctor(Doctor),
}

#[derive(Subcommand)]
pub enum Doctor {
    /// By the items of the CIS Kubernetes Benchmark; fails if one is broken.
    Security {
        /// Only daemons whose files are in this folder, such as a cluster's --dir.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub enum Certs {
    /// Make the authorities, certificates, keys and kubeconfigs that are missing in a folder.
    Init(InitCerts),
    /// Show what expires when; fails if something has.
    Check(CertsFolder),
    /// Replace certificates that have lived two thirds of their time; daemons read them again by themselves.
    Renew {
        #[command(flatten)]
        folder: CertsFolder,
        /// Whatever their age.
        #[arg(long)]
        all: bool,
        /// Stay, and look every hour.
        #[arg(long)]
        watch: bool,
        /// These, whatever their age: `apiserver`, `scheduler`.
        names: Vec<String>,
    },
}

#[derive(Args)]
pub struct CertsFolder {
    #[arg(long, default_value = "/etc/coxswain/pki")]
    pub dir: PathBuf,
}

#[derive(Args)]
pub struct InitCerts {
    #[command(flatten)]
    pub folder: CertsFolder,
    /// How clients reach the apiserver: `https://host:6443`.
    #[arg(long)]
    pub server: String,
    /// An address of the apiserver beside 127.0.0.1; may be repeated.
    #[arg(long = "address")]
    pub addresses: Vec<IpAddr>,
    /// A DNS name of the apiserver; may be repeated.
    #[arg(long = "name")]
    pub names: Vec<String>,
    /// First address of --service-cluster-ip-range.
    #[arg(long, default_value = "10.96.0.1")]
    pub service_address: IpAddr,
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// `NAME=ADDRESS,…`: a node whose certificate is made here; other nodes ask for theirs (kubelet --bootstrap-kubeconfig).
    #[arg(long = "node")]
    pub nodes: Vec<String>,
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Wide,
    Yaml,
    Json,
    Name,
}

#[derive(Args)]
pub struct Get {
    /// `pods`, `pod/web`, `deploy web api`, `pods,services`.
    #[arg(required = true)]
    pub targets: Vec<String>,
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    #[arg(long)]
    pub field_selector: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Go on with changes.
    #[arg(short, long)]
    pub watch: bool,
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Args)]
pub struct Describe {
    #[arg(required = true)]
    pub targets: Vec<String>,
}

#[derive(Args)]
pub struct Files {
    /// File or folder of YAML or JSON; `-` for standard input.
    #[arg(short = 'f', long = "filename", required = true)]
    pub files: Vec<PathBuf>,
}

#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// Merge on the server, which knows who owns which field.
    #[arg(long)]
    pub server_side: bool,
    /// Take over fields that others own; with --server-side.
    #[arg(long, requires = "server_side")]
    pub force_conflicts: bool,
}

#[derive(Args)]
pub struct Create {
    #[arg(short = 'f', long = "filename")]
    pub files: Vec<PathBuf>,
    #[command(subcommand)]
    pub what: Option<CreateWhat>,
}

#[derive(Subcommand)]
pub enum CreateWhat {
    /// A Deployment of one container.
    Deployment {
        name: String,
        #[arg(long)]
        image: String,
        #[arg(long, default_value_t = 1)]
        replicas: u32,
    },
    Namespace {
        name: String,
    },
    Serviceaccount {
        name: String,
    },
    Configmap {
        name: String,
        /// KEY=VALUE, may be repeated.
        #[arg(long)]
        from_literal: Vec<String>,
    },
}

#[derive(Args)]
pub struct Delete {
    pub targets: Vec<String>,
    #[arg(short = 'f', long = "filename")]
    pub files: Vec<PathBuf>,
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Seconds that the object gets to end; 0 is at once.
    #[arg(long)]
    pub grace_period: Option<i64>,
    /// Do not wait until the objects are gone.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Args)]
pub struct Logs {
    /// A pod, or something that has pods: `web-1`, `deployment/web`.
    pub target: String,
    #[arg(short, long)]
    pub container: Option<String>,
    #[arg(short, long)]
    pub follow: bool,
    #[arg(short, long)]
    pub previous: bool,
    #[arg(long)]
    pub tail: Option<i64>,
    /// Only lines of so many last seconds.
    #[arg(long)]
    pub since_seconds: Option<i64>,
    #[arg(long)]
    pub timestamps: bool,
}

#[derive(Args)]
pub struct Exec {
    pub target: String,
    #[arg(short, long)]
    pub container: Option<String>,
    #[arg(short = 'i', long)]
    pub stdin: bool,
    #[arg(short = 't', long)]
    pub tty: bool,
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Args)]
pub struct Scale {
    #[arg(required = true)]
    pub targets: Vec<String>,
    #[arg(long)]
    pub replicas: u32,
}

#[derive(Args)]
pub struct Rollout {
    #[command(subcommand)]
    pub what: RolloutWhat,
}

#[derive(Subcommand)]
pub enum RolloutWhat {
    /// Wait until a rollout is complete.
    Status {
        target: String,
        /// Seconds.
        #[arg(long, default_value_t = 600)]
        timeout_s: u64,
    },
    /// Replace every pod, step by step.
    Restart {
        target: String,
    },
    Pause {
        target: String,
    },
    Resume {
        target: String,
    },
}

#[derive(Args)]
pub struct Wait {
    #[arg(required = true)]
    pub targets: Vec<String>,
    /// `condition=Ready`, `condition=Ready=False` or `delete`.
    #[arg(long = "for")]
    pub wanted: String,
    /// Seconds.
    #[arg(long, default_value_t = 30)]
    pub timeout_s: u64,
}

#[derive(Args)]
pub struct Why {
    pub target: String,
}

#[derive(Args)]
pub struct Auth {
    #[command(subcommand)]
    pub what: AuthWhat,
}

#[derive(Subcommand)]
pub enum AuthWhat {
    /// Print `yes` or `no`; the exit code says the same.
    CanI(Access),
    /// Print which rule allows it, or which roles would.
    Why(Access),
}

#[derive(Args)]
pub struct Access {
    pub verb: String,
    /// `pods`, `pods/log`, `deployments.apps`, or a path such as `/metrics`.
    pub resource: String,
    pub name: Option<String>,
    /// Another user, in place of oneself.
    #[arg(long = "as")]
    pub user: Option<String>,
    /// A group of that user, may be repeated.
    #[arg(long = "as-group", requires = "user")]
    pub groups: Vec<String>,
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}
