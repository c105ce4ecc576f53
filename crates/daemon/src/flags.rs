//! Command lines as upstream's components take them: `--name=value` or `--name value`,
//! `_` for `-`, booleans with or without a value, lists and maps with commas; and below
//! them, where there is a `--config`, the fields of that file.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, ValueEnum};
use client::{Client, Config, ConfigError, LeaseConfig};
use diagnosis::ADDRESS_ANNOTATION;

use crate::{config_file, tls};

/// Reads the process's command line; prints what is wrong and exits if it is.
pub fn parse<F: Parser>() -> F {
    parse_with_config(&[])
}

/// The same. `fields` maps fields of the `--config` file (`leaderElection.leaseDuration`) to flags
/// (`leader-elect-lease-duration`) where the name does not follow from the field's.
pub fn parse_with_config<F: Parser>(fields: &[(&str, &str)]) -> F {
    let args: Vec<OsString> = std::env::args_os().collect();
    parse_from(args, fields).unwrap_or_else(|error| error.exit())
}

fn parse_from<F: Parser>(args: Vec<OsString>, fields: &[(&str, &str)]) -> Result<F, clap::Error> {
    let mut args: Vec<OsString> = args.into_iter().map(normalize).collect();
    let command = F::command().args_override_self(true);
    if let Some(path) = config_file::path(&args) {
        let from_file = config_file::arguments(&path, fields, &command)
            .map_err(|why| F::command().error(clap::error::ErrorKind::ValueValidation, why))?;
        // Before those of the command line, which override them.
        args.splice(1..1, from_file);
    }
    let mut matches = command.try_get_matches_from(args)?;
    F::from_arg_matches_mut(&mut matches)
}

/// `--feature_gates=a_b` is `--feature-gates=a_b`.
fn normalize(argument: OsString) -> OsString {
    let Some(text) = argument.to_str().filter(|text| text.starts_with("--")) else { return argument };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    OsString::from(format!("{}{value}", name.replace('_', "-")))
}

#[derive(Clone, Debug, Args)]
pub struct LogFlags {
    /// Verbosity: 4 shows debug lines, 6 everything.
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
    #[arg(long, value_enum, default_value = "text")]
    pub logging_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFlags {
    /// Libraries speak only at high verbosity; what rustls warns of is what peers send, and any
    /// peer, known or not, could fill the log with it.
    pub(crate) fn directives(&self) -> &'static str {
        match self.verbosity {
            0..=3 => "info,hyper=warn,h2=warn,rustls=error,tonic=warn,tower=warn,bollard=warn,hickory_server=warn",
            4..=5 => {
                "debug,hyper=warn,hyper_util=warn,h2=warn,rustls=error,tonic=warn,tower=warn,bollard=warn,hickory_server=warn"
            }
            6..=8 => "trace,hyper=info,hyper_util=info,h2=info,rustls=info,tonic=info,tower=info,bollard=info",
            _ => "trace",
        }
    }
}

/// How to reach the apiserver.
#[derive(Clone, Debug, Args)]
pub struct ClientFlags {
    /// Path of a kubeconfig; without it the pod's ServiceAccount or KUBECONFIG.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

impl ClientFlags {
    /// A client that calls itself `component/version`.
    pub fn client(&self, component: &str) -> Result<Client, ConfigError> {
        client(Config::load(self.kubeconfig.as_deref())?, component)
    }
}

/// A client that calls itself `component/version`.
pub fn client(config: Config, component: &str) -> Result<Client, ConfigError> {
    Client::new(config, &format!("{component}/{} coxswain", env!("CARGO_PKG_VERSION")))
}

/// The daemon's own HTTPS port.
#[derive(Clone, Debug, Args)]
pub struct ServingFlags {
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// 0: serve nothing.
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// Without it a certificate is made in memory that nobody trusts.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Clients with a certificate of this authority are known by its subject.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
}

impl ServingFlags {
    /// Where to listen; `None` where the port is 0.
    pub fn address(&self, default_port: u16) -> Option<SocketAddr> {
        let port = self.secure_port.unwrap_or(default_port);
        (port != 0).then(|| SocketAddr::new(self.bind_address, port))
    }

    /// TLS by the files named, reloading; client certificates are optional, as health needs none.
    pub fn tls(&self, name: &str) -> Result<tls::ReloadingServerConfig, tls::TlsError> {
        self.tls_also_for(name, None)
    }

    /// The same, where clients of another authority are let in too.
    pub fn tls_also_for(&self, name: &str, ca: Option<&Path>) -> Result<tls::ReloadingServerConfig, tls::TlsError> {
        let client_cas: Vec<PathBuf> = self.client_ca_file.iter().cloned().chain(ca.map(Path::to_owned)).collect();
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => {
                tls::server_config(certificate, key, &client_cas, tls::ClientAuth::Optional)
            }
            _ => tls::self_signed(name, &client_cas),
        }
    }
}

/// Which of several replicas works.
#[derive(Clone, Debug, Args)]
pub struct LeaderElectionFlags {
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    /// Name of the Lease; the component's by default.
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
}

impl LeaderElectionFlags {
    /// The election of `component`. Who holds a port of an address is one process, so host name and address
    /// are an identity that a restarted daemon keeps: it goes on leading at once. Where the address
    /// is not named, the identity is host name and a random part, as upstream's.
    pub fn lease(&self, component: &str, address: Option<SocketAddr>) -> LeaseConfig {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let told = address.filter(|address| !address.ip().is_unspecified());
        let distinction = told.map_or_else(uuid, |address| address.to_string());
        LeaseConfig {
            namespace: self.leader_elect_resource_namespace.clone(),
            name: self.leader_elect_resource_name.clone().unwrap_or_else(|| component.to_owned()),
            identity: format!("{}_{distinction}", host.trim()),
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
            annotations: told.map(|it| (ADDRESS_ANNOTATION.to_owned(), it.to_string())).into_iter().collect(),
        }
    }
}

/// The kernel's, so that no generator is needed.
fn uuid() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    text.trim().to_owned()
}

/// A duration as Go writes it: `300ms`, `1.5h`, `1m30s`, `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 10s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        total =
            Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?.checked_add(total).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// `A=true,B=false`, as in `--feature-gates`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(pub BTreeMap<String, String>);

impl std::str::FromStr for Pairs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=VALUE"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect::<Result<_, String>>().map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        log: LogFlags,
        #[command(flatten)]
        serving: ServingFlags,
        #[command(flatten)]
        election: LeaderElectionFlags,
        #[arg(long)]
        feature_gates: Option<Pairs>,
        #[arg(long, value_delimiter = ',')]
        cluster_dns: Vec<IpAddr>,
        #[arg(long)]
        config: Option<PathBuf>,
    }

    fn flags(args: &[&str]) -> Flags {
        let args = std::iter::once("test").chain(args.iter().copied()).map(OsString::from).collect();
        parse_from(args, &[("leaderElection.leaseDuration", "leader-elect-lease-duration")]).unwrap()
    }

    #[test]
    fn flags_are_taken_as_go_writes_them() {
        let flags = flags(&["-v=4", "--leader-elect=false", "--secure_port", "0", "--feature-gates=A=true,B=false"]);
        assert_eq!(flags.log.verbosity, 4);
        assert!(!flags.election.leader_elect);
        assert_eq!(flags.serving.address(1), None);
        assert_eq!(flags.feature_gates.unwrap().0.len(), 2);
    }

    #[test]
    fn a_boolean_needs_no_value_and_the_last_word_counts() {
        assert!(flags(&["--leader-elect"]).election.leader_elect);
        assert_eq!(flags(&["--v=1", "--v=2"]).log.verbosity, 2);
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            &file,
            "apiVersion: x/v1\nkind: TestConfiguration\nclusterDNS: [10.0.0.1, 10.0.0.2]\nsecurePort: 7\n\
             leaderElection: {leaderElect: false, leaseDuration: 20s}\n",
        )
        .unwrap();
        let flags = flags(&["--config", file.path().to_str().unwrap(), "--secure-port=8"]);
        assert_eq!(flags.cluster_dns.len(), 2);
        assert_eq!(flags.serving.secure_port, Some(8));
        assert_eq!(flags.election.leader_elect_lease_duration, Duration::from_secs(20));
        assert!(!flags.election.leader_elect);
        assert_eq!(flags.config.as_deref(), Some(file.path()));
    }

    #[test]
    fn durations() {
        let check = |text: &str, expected_ms: Option<u128>| {
            assert_eq!(duration(text).ok().map(|duration| duration.as_millis()), expected_ms, "{text}");
        };
        check("300ms", Some(300));
        check("1m30s", Some(90_000));
        check("1.5h", Some(5_400_000));
        check("0", Some(0));
        for wrong in ["", "5", "s", "5 s", "-1s", "1.2.3s", "9999999999999999h"] {
            check(wrong, None);
        }
    }

    #[test]
    fn peers_cannot_fill_the_log() {
        for (verbosity, rustls) in [(0, "rustls=error"), (4, "rustls=error"), (6, "rustls=info")] {
            let directives = LogFlags { verbosity, logging_format: LogFormat::Text }.directives();
            assert!(directives.split(',').any(|directive| directive == rustls), "{directives}");
        }
    }
}
