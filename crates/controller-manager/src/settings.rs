//! What the operator has chosen, as the decisions need it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use pki::{Ca, PkiError};

/// Given to every decision; read once at start.
#[derive(Clone)]
pub struct Settings {
    /// Networks that nodes get their pod network from; empty: they get none.
    pub cluster_cidrs: Vec<IpNet>,
    pub node_mask_bits_ipv4: u8,
    pub node_mask_bits_ipv6: u8,
    /// Never given to a node.
    pub service_cidrs: Vec<IpNet>,
    /// PEM of what pods are to trust as the apiserver's CA; empty: not published.
    pub root_ca: String,
    /// A node that was silent for this long is Unknown.
    pub node_monitor_grace_period: Duration,
    /// Sign certificates that were asked for.
    pub signers: Arc<Signers>,
    /// No certificate lives longer.
    pub signing_longest: Duration,
    /// Pods that have ended and nobody deletes: how many may be kept.
    pub terminated_pods_max: usize,
}

/// The authorities that sign requests, by their files: read at each signature, so that a new authority needs
/// no restart.
#[derive(Debug, Default)]
pub struct Signers {
    /// Signs whatever has none of its own.
    pub general: Option<Authority>,
    /// By the signer's name in the API.
    pub of_signer: Vec<(&'static str, Authority)>,
}

#[derive(Clone, Debug)]
pub struct Authority {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Signers {
    pub fn of(&self, signer: &str) -> Option<&Authority> {
        let own = self.of_signer.iter().find(|(name, _)| *name == signer).map(|(_, authority)| authority);
        own.or(self.general.as_ref())
    }

    pub fn all(&self) -> impl Iterator<Item = &Authority> {
        self.general.iter().chain(self.of_signer.iter().map(|(_, authority)| authority))
    }
}

impl Authority {
    pub fn load(&self) -> Result<Ca, PkiError> {
        Ca::load(&self.certificate, &self.key)
    }
}
