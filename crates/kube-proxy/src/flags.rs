//! The proxy's command line and the part of KubeProxyConfiguration that it knows.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::Parser;
use daemon::{ClientFlags, LogFlags};
use ipnet::IpNet;

use crate::{layout::Layout, ruleset::Family};

/// Fields of KubeProxyConfiguration whose flag bears another name.
pub const CONFIG_FIELDS: &[(&str, &str)] = &[
    ("clientConnection.kubeconfig", "kubeconfig"),
    ("mode", "proxy-mode"),
    ("nodePortAddresses", "nodeport-addresses"),
];

#[derive(Debug, Parser)]
#[command(name = "kube-proxy", version, about = "Leads connections to Services to their endpoints, by nftables.")]
pub struct Flags {
    #[command(flatten)]
    pub log: LogFlags,
    #[command(flatten)]
    pub client: ClientFlags,
    /// A KubeProxyConfiguration.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Networks of pods: connections from elsewhere to cluster addresses get the node's address as their source.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// Name of this node; the host's by default.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Only nftables.
    #[arg(long, default_value = "nftables")]
    proxy_mode: String,
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: SocketAddr,
    /// Give all connections through cluster addresses the node's address as their source.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    masquerade_all: bool,
    /// Bit of the packet mark that says: hide the source.
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    masquerade_bit: u8,
    /// Networks on whose addresses node ports answer; all of the node but loopback by default.
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Where health check node ports listen.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Name of the nftables table, which is ours alone.
    #[arg(long, default_value = "kube-proxy")]
    nftables_table: String,
    /// Take the table away and exit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub cleanup: bool,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub node: String,
    pub bind_address: IpAddr,
    pub healthz: SocketAddr,
    pub metrics: SocketAddr,
    /// One for each address family.
    pub layouts: Vec<Layout>,
}

impl Flags {
    pub fn settings(&self) -> anyhow::Result<Settings> {
        if !matches!(self.proxy_mode.as_str(), "" | "nftables") {
            bail!("--proxy-mode={}: only nftables is there", self.proxy_mode);
        }
        let table = &self.nftables_table;
        let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if !table.starts_with(|c: char| c.is_ascii_alphabetic()) || !is_word(table) {
            bail!("--nftables-table={table}: not a table name: letters, digits, - and _, a letter first");
        }
        let node = match &self.hostname_override {
            Some(name) => name.clone(),
            None => std::fs::read_to_string("/proc/sys/kernel/hostname").context("the host has no name")?,
        };
        let layout = |family| Layout {
            family,
            table: table.clone(),
            cluster_cidrs: self.cluster_cidr.clone(),
            masquerade_all: self.masquerade_all,
            masquerade_mark: 1 << self.masquerade_bit,
            nodeport_addresses: Vec::new(),
        };
        let mut layouts = vec![layout(Family::V4), layout(Family::V6)];
        // "primary" means the node's own addresses, which is what is left when loopback is not served.
        for network in self.nodeport_addresses.iter().filter(|text| *text != "primary") {
            let network: IpNet = network.parse().with_context(|| format!("--nodeport-addresses={network}"))?;
            layouts.iter_mut().for_each(|layout| layout.nodeport_addresses.push(network));
        }
        Ok(Settings {
            node: node.trim().to_ascii_lowercase(),
            bind_address: self.bind_address,
            healthz: self.healthz_bind_address,
            metrics: self.metrics_bind_address,
            layouts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let settings = |arguments: &str| {
            let words = std::iter::once("kube-proxy").chain(arguments.split_whitespace());
            Flags::try_parse_from(words).map_err(anyhow::Error::from).and_then(|flags| flags.settings())
        };
        let good =
            settings("--hostname-override=N1 --cluster-cidr=10.244.0.0/16,fd00::/48 --nodeport-addresses=10.0.0.0/8");
        let good = good.unwrap();
        assert_eq!((good.node.as_str(), good.layouts[0].cluster_cidrs.len()), ("n1", 2));
        assert_eq!(good.layouts[0].nodeport_addresses.len(), 1);
        assert!(settings("--proxy-mode=iptables").is_err());
        assert!(settings("--nftables-table=a;b").is_err());
        assert!(settings("--nodeport-addresses=primary").is_ok());
        assert!(settings("--nodeport-addresses=x").is_err());
    }
}
