//! Questions that are not the cluster's go to the node's resolvers, and their answers are
//! kept as long as they may be.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use hickory_server::{
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, Record, RecordType},
    },
    resolver::{
        TokioResolver,
        config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    },
};

const CACHED_ANSWERS_MAX: u64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// As CoreDNS: whatever the owner says, an hour is enough.
const TTL_MAX: Duration = Duration::from_secs(3600);
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("{path} cannot be read: give --forward")]
    ResolvConf { path: String, source: io::Error },
    #[error("--forward={text}: neither an address, nor address:port, nor a file")]
    Server { text: String },
    #[error("the resolver cannot be made")]
    Resolver(#[source] Box<NetError>),
}

/// Where to ask.
#[derive(Clone)]
pub struct Forwarder {
    /// `None`: nowhere; outside names are refused.
    resolver: Option<TokioResolver>,
}

/// What came back.
#[derive(Debug)]
pub struct Outside {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

impl Outside {
    fn empty(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new() }
    }
}

impl Forwarder {
    /// `to`: addresses, or files like `/etc/resolv.conf`. Our own addresses are left out: a question must not come back.
    pub fn new(to: &[String], listen: &[SocketAddr]) -> Result<Self, ForwardError> {
        let mut servers = Vec::new();
        for text in to {
            servers.extend(servers_of(text)?);
        }
        let (own, others): (Vec<_>, Vec<_>) = servers.into_iter().partition(|server| is_own(*server, listen));
        for server in own {
            tracing::warn!(%server, "not asked, as it is this server itself");
        }
        if others.is_empty() {
            tracing::warn!("no resolver for outside names: they are refused; give --forward");
            return Ok(Self { resolver: None });
        }
        let configs = others.into_iter().map(config).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), configs);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options();
        let resolver = builder.build().map_err(|error| ForwardError::Resolver(Box::new(error)))?;
        Ok(Self { resolver: Some(resolver) })
    }

    pub async fn ask(&self, name: Name, kind: RecordType) -> Outside {
        let Some(resolver) = &self.resolver else { return Outside::empty(ResponseCode::Refused) };
        match resolver.lookup(name, kind).await {
            Ok(lookup) => Outside {
                code: ResponseCode::NoError,
                answers: lookup.answers().to_vec(),
                authorities: lookup.authorities().to_vec(),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let soa = none.soa.map(|soa| (*soa).into_record_of_rdata());
                Outside { code: none.response_code, answers: Vec::new(), authorities: soa.into_iter().collect() }
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Outside::empty(code),
            Err(error) => {
                tracing::debug!(%error, "no answer from outside");
                Outside::empty(ResponseCode::ServFail)
            }
        }
    }
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.cache_size = CACHED_ANSWERS_MAX;
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    options.use_hosts_file = ResolveHosts::Never;
    // Clients want to see the aliases on the way.
    options.preserve_intermediates = true;
    options
}

fn config(server: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    config
}

fn servers_of(text: &str) -> Result<Vec<SocketAddr>, ForwardError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, DNS_PORT)]);
    }
    if !Path::new(text).is_absolute() {
        return Err(ForwardError::Server { text: text.to_owned() });
    }
    let file =
        std::fs::read_to_string(text).map_err(|source| ForwardError::ResolvConf { path: text.to_owned(), source })?;
    Ok(nameservers(&file))
}

const DNS_PORT: u16 = 53;

/// The `nameserver` lines of a resolv.conf.
fn nameservers(file: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // An IPv6 address may name its interface.
        let address = words.next()?.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(address, DNS_PORT))
    };
    file.lines().filter_map(server).collect()
}

/// Whether asking `server` would be asking ourselves.
fn is_own(server: SocketAddr, listen: &[SocketAddr]) -> bool {
    listen.iter().any(|own| {
        let same = own.ip() == server.ip() || own.ip().is_unspecified() && server.ip().is_loopback();
        same && own.port() == server.port()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let file =
            "# comment\nnameserver 10.0.0.1\nsearch a b\nnameserver fe80::1%eth0\nnameserver x\noptions ndots:5\n";
        let found: Vec<String> = nameservers(file).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fe80::1]:53"]);
    }

    #[test]
    fn servers() {
        assert_eq!(servers_of("1.1.1.1").unwrap(), ["1.1.1.1:53".parse().unwrap()]);
        assert_eq!(servers_of("1.1.1.1:5353").unwrap(), ["1.1.1.1:5353".parse().unwrap()]);
        assert!(servers_of("example").is_err());
        assert!(servers_of("/no/such/file").is_err());
    }

    #[test]
    fn a_question_does_not_come_back() {
        let check = |server: &str, listen: &str, expected: bool| {
            assert_eq!(is_own(server.parse().unwrap(), &[listen.parse().unwrap()]), expected, "{server} {listen}");
        };
        check("127.0.0.1:53", "0.0.0.0:53", true);
        check("127.0.0.53:53", "0.0.0.0:53", true);
        check("10.0.0.1:53", "0.0.0.0:53", false);
        check("10.0.0.1:53", "10.0.0.1:53", true);
        check("127.0.0.1:5353", "0.0.0.0:53", false);
    }
}
