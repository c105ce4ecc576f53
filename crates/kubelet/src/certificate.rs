//! The kubelet's own certificates: the first one is asked for with what a new node is given
//! (`--bootstrap-kubeconfig`), each later one by its predecessor when two thirds of its life are over.
//! Files and names are upstream's: `kubelet-client-current.pem` and `kubelet-server-current.pem`, certificate
//! and key in one file, a link that is swapped.
//!
//! Source: client-go/util/certificate, kubernetes/pkg/kubelet/certificate.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        ByteString,
        certificates::{CertificateSigningRequest, CertificateSigningRequestSpec},
        meta::ObjectMeta,
    },
};
use client::{Cache, Client, Config};
use daemon::clock;
use pki::{Facts, State};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::flags::Flags;

const NODES: &str = "system:nodes";
/// How long somebody may think about a request; then another one is made.
const SIGNED_WITHIN: Duration = Duration::from_secs(15 * 60);
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(256);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Client => "client",
            Purpose::Server => "server",
        }
    }
    fn signer(self) -> &'static str {
        match self {
            Purpose::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Purpose::Server => "kubernetes.io/kubelet-serving",
        }
    }
}

/// One certificate of a node, and where it lies.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub purpose: Purpose,
    pub node: String,
    /// Of a server; empty for a client.
    pub addresses: Vec<IpAddr>,
    pub folder: PathBuf,
}

impl Certificate {
    /// The link to the certificate and key in use.
    pub fn current(&self) -> PathBuf {
        self.folder.join(format!("kubelet-{}-current.pem", self.purpose.word()))
    }

    fn user(&self) -> String {
        format!("system:node:{}", self.node)
    }

    fn dns_names(&self) -> Vec<String> {
        match self.purpose {
            Purpose::Client => Vec::new(),
            Purpose::Server => vec![self.node.clone()],
        }
    }

    /// Seconds until the certificate needs a successor: none, if there is none or if it is not the node's as
    /// the node is called and reached now.
    fn due_in_s(&self, facts: Option<&Facts>, now_s: i64) -> i64 {
        let Some(facts) = facts else { return 0 };
        let is_ours =
            facts.common_name == self.user() && self.addresses.iter().all(|address| facts.addresses.contains(address));
        if is_ours { (facts.renew_at_s() - now_s).max(0) } else { 0 }
    }

    fn facts(&self) -> Option<Facts> {
        Facts::parse(&fs::read_to_string(self.current()).ok()?).ok()
    }

    /// Makes the pair the current one: a file of its own, then the link.
    pub fn store(&self, certificate_pem: &str, key_pem: &str) -> anyhow::Result<()> {
        let stamp = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
        let file = self.folder.join(format!("kubelet-{}-{stamp}.pem", self.purpose.word()));
        pki::write_secret(&file, &format!("{}\n{key_pem}", certificate_pem.trim_end()))?;
        let link = self.folder.join(format!(".kubelet-{}-current", self.purpose.word()));
        let swap = || {
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(&file, &link)?;
            fs::rename(&link, self.current())
        };
        swap().with_context(|| self.current().display().to_string())
    }

    /// Asks for a certificate as `api` and waits until it is signed.
    async fn obtain(&self, api: &Client, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let asked = pki::ask(&self.user(), NODES, &self.dns_names(), &self.addresses)?;
        let created = api.create(&self.request(&asked.request_pem)).await.context("a CertificateSigningRequest")?;
        let name = created.name().to_owned();
        tracing::info!(request = name, signer = self.purpose.signer(), "asked for a certificate");
        let signed = tokio::time::timeout(SIGNED_WITHIN, signed(api, &name, shutdown)).await;
        let pem = signed.with_context(|| {
            format!("nobody has signed it: `kubectl certificate approve {name}`, and see to kube-controller-manager")
        })??;
        self.store(&pem, &asked.key_pem)
    }

    fn request(&self, request_pem: &str) -> CertificateSigningRequest {
        let auth = format!("{} auth", self.purpose.word());
        CertificateSigningRequest {
            metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request_pem.as_bytes().to_vec()),
                signer_name: self.purpose.signer().to_owned(),
                usages: Some(vec!["digital signature".to_owned(), auth]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }

    /// Has a successor made whenever it is time, until `shutdown`.
    pub async fn renew(self, api: Client, shutdown: CancellationToken) {
        let mut failures = 0;
        loop {
            let now = Timestamp::now();
            let due_in_s = self.due_in_s(self.facts().as_ref(), now.as_second());
            let due = if due_in_s > 0 {
                now + Duration::from_secs(due_in_s.unsigned_abs())
            } else if let Err(error) = self.obtain(&api, &shutdown).await {
                if shutdown.is_cancelled() {
                    return;
                }
                tracing::warn!(error = format!("{error:#}"), purpose = self.purpose.word(), "no new certificate");
                failures += 1;
                now + retry_pause(failures)
            } else {
                failures = 0;
                continue;
            };
            tokio::select! {
                () = clock::until(due) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

fn retry_pause(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX)
}

/// The certificate of a request, as soon as it is there.
async fn signed(api: &Client, name: &str, shutdown: &CancellationToken) -> anyhow::Result<String> {
    let changed = Arc::new(Notify::new());
    let stop = shutdown.child_token();
    let _stopped = stop.clone().drop_guard();
    let wake = changed.clone();
    let requests = Cache::<CertificateSigningRequest>::builder(api.clone())
        .fields(&format!("metadata.name={name}"))
        .on_change(move |_| wake.notify_one())
        .start(stop.clone());
    loop {
        for request in requests.list() {
            if let Some(pem) = outcome(&request)? {
                return Ok(pem);
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            () = stop.cancelled() => bail!("shutting down"),
        }
    }
}

/// `None`: not decided yet.
fn outcome(request: &CertificateSigningRequest) -> anyhow::Result<Option<String>> {
    let Some(status) = &request.status else { return Ok(None) };
    for condition in status.conditions.iter().flatten() {
        if condition.type_ == "Denied" || condition.type_ == "Failed" {
            let why = condition.message.as_deref().or(condition.reason.as_deref()).unwrap_or("no reason given");
            bail!("{} was {}: {why}", request.name(), condition.type_.to_lowercase());
        }
    }
    Ok(status.certificate.as_ref().map(|pem| String::from_utf8_lossy(&pem.0).into_owned()))
}

/// The way to the apiserver: by the kubeconfig; where there is none yet, by one that is made of a certificate
/// that the bootstrap kubeconfig's holder may ask for.
pub async fn client(flags: &Flags, node: &str, shutdown: &CancellationToken) -> anyhow::Result<Client> {
    let certificate = client_certificate(flags, node);
    if let (Some(bootstrap), Some(kubeconfig)) = (&flags.bootstrap_kubeconfig, &flags.client.kubeconfig)
        && !is_usable(kubeconfig)
    {
        let config = Config::from_kubeconfig(bootstrap).context("--bootstrap-kubeconfig")?;
        let api = daemon::flags::client(config.clone(), "kubelet")?;
        let mut failures = 0;
        while let Err(error) = certificate.obtain(&api, shutdown).await {
            tracing::warn!(error = format!("{error:#}"), "no certificate yet");
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(retry_pause(failures)) => {}
                () = shutdown.cancelled() => bail!("shut down before there was a certificate"),
            }
        }
        pki::write_secret(kubeconfig, &config.kubeconfig(&certificate.current())?)?;
    }
    let config = Config::load(flags.client.kubeconfig.as_deref())?;
    if !flags.rotate_certificates {
        return Ok(daemon::flags::client(config, "kubelet")?);
    }
    if certificate.facts().is_none()
        && let Some([pem, key]) = config.certificate()?
    {
        certificate.store(&String::from_utf8_lossy(&pem), &String::from_utf8_lossy(&key))?;
    }
    Ok(daemon::flags::client(config.with_certificate_file(certificate.current()), "kubelet")?)
}

pub fn client_certificate(flags: &Flags, node: &str) -> Certificate {
    let (purpose, node, folder) = (Purpose::Client, node.to_owned(), flags.cert_dir.clone());
    Certificate { purpose, node, addresses: Vec::new(), folder }
}

/// Is there a kubeconfig whose certificate has not expired?
fn is_usable(kubeconfig: &Path) -> bool {
    let certificate = || Config::from_kubeconfig(kubeconfig).ok()?.certificate().ok();
    match certificate() {
        None => false,
        Some(None) => true,
        Some(Some([pem, _])) => Facts::parse(&String::from_utf8_lossy(&pem))
            .is_ok_and(|facts| facts.state(Timestamp::now().as_second()) != State::Expired),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use api_types::k8s::certificates::{CertificateSigningRequestCondition, CertificateSigningRequestStatus};

    use super::*;

    fn certificate(folder: &Path, purpose: Purpose, addresses: &[&str]) -> Certificate {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Certificate { purpose, node: "n1".to_owned(), addresses, folder: folder.to_owned() }
    }

    fn stored(certificate: &Certificate, user: &str, addresses: &[&str]) -> Facts {
        let (ca, _) = pki::Ca::create("ca").unwrap();
        let leaf = pki::Leaf {
            common_name: user,
            organization: Some(NODES),
            dns_names: Vec::new(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            usage: pki::Usage::Client,
            days: 3,
        };
        let pair = ca.issue(&leaf).unwrap();
        certificate.store(&pair.certificate_pem, &pair.key_pem).unwrap();
        certificate.facts().unwrap()
    }

    #[test]
    fn a_successor_is_due_after_two_thirds_or_when_the_node_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let client = certificate(folder.path(), Purpose::Client, &[]);
        assert_eq!(client.due_in_s(None, 0), 0);
        let facts = stored(&client, "system:node:n1", &[]);
        assert_eq!(client.due_in_s(Some(&facts), facts.not_before_s), facts.renew_at_s() - facts.not_before_s);
        // A test that moves the clock past a year.
        assert_eq!(client.due_in_s(Some(&facts), facts.not_before_s + 366 * 24 * 60 * 60), 0);
        assert_eq!(client.due_in_s(Some(&stored(&client, "kubernetes-admin", &[])), facts.not_before_s), 0);

        let server = certificate(folder.path(), Purpose::Server, &["10.0.0.1"]);
        assert!(server.due_in_s(Some(&stored(&server, "system:node:n1", &["10.0.0.1"])), facts.not_before_s) > 0);
        assert_eq!(server.due_in_s(Some(&stored(&server, "system:node:n1", &["10.0.0.2"])), facts.not_before_s), 0);
    }

    #[test]
    fn certificate_and_key_lie_in_one_secret_file_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let client = certificate(folder.path(), Purpose::Client, &[]);
        stored(&client, "system:node:n1", &[]);
        let text = fs::read_to_string(client.current()).unwrap();
        assert!(text.contains("BEGIN CERTIFICATE") && text.contains("PRIVATE KEY"), "{text}");
        assert!(fs::symlink_metadata(client.current()).unwrap().is_symlink());
        assert_eq!(fs::metadata(client.current()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_request_says_what_its_signer_signs() {
        let folder = tempfile::tempdir().unwrap();
        let check = |purpose, addresses: &[&str], signer: &str, usage: &str| {
            let certificate = certificate(folder.path(), purpose, addresses);
            let asked = pki::ask(&certificate.user(), NODES, &certificate.dns_names(), &certificate.addresses).unwrap();
            let request = pki::Request::parse(&asked.request_pem).unwrap();
            assert_eq!((request.common_name().as_str(), request.organization().as_str()), ("system:node:n1", NODES));
            assert_eq!(request.hosts(), request.alternative_names());
            assert_eq!(request.hosts() > 0, purpose == Purpose::Server);
            let spec = certificate.request(&asked.request_pem).spec;
            assert_eq!(spec.signer_name, format!("kubernetes.io/{signer}"));
            assert_eq!(spec.usages.unwrap(), ["digital signature", usage]);
        };
        check(Purpose::Client, &[], "kube-apiserver-client-kubelet", "client auth");
        check(Purpose::Server, &["10.0.0.1"], "kubelet-serving", "server auth");
    }

    #[test]
    fn a_denial_is_told() {
        let mut request = CertificateSigningRequest::default();
        assert!(outcome(&request).unwrap().is_none());
        let denied = CertificateSigningRequestCondition {
            type_: "Denied".to_owned(),
            message: Some("not today".to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        let status = CertificateSigningRequestStatus { conditions: Some(vec![denied]), certificate: None };
        request.status = Some(status);
        assert!(outcome(&request).unwrap_err().to_string().contains("denied: not today"));
        let certificate = Some(ByteString(b"pem".to_vec()));
        request.status = Some(CertificateSigningRequestStatus { conditions: None, certificate });
        assert_eq!(outcome(&request).unwrap().as_deref(), Some("pem"));
    }
}
