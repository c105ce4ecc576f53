//! What the operator has chosen, as the decisions need it.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use pki::Ca;

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
    /// Signs certificates that were asked for; `None`: none are signed.
    pub signer: Option<Arc<Ca>>,
    /// No certificate lives longer.
    pub signing_longest: Duration,
    /// Pods that have ended and nobody deletes: how many may be kept.
    pub terminated_pods_max: usize,
}
