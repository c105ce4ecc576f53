//! The command line, with upstream's names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use daemon::{ClientFlags, LeaderElectionFlags, LogFlags, ServingFlags, flags::duration};
use ipnet::IpNet;

use crate::{
    settings::{Authority, Settings, Signers},
    signing,
};

/// Runs the controllers of a cluster.
#[derive(Debug, Parser)]
#[command(name = "kube-controller-manager", version)]
pub struct Flags {
    #[command(flatten)]
    pub log: LogFlags,
    #[command(flatten)]
    pub client: ClientFlags,
    #[command(flatten)]
    pub serving: ServingFlags,
    #[command(flatten)]
    pub election: LeaderElectionFlags,
    /// `*`: all, `name`: this one, `-name`: not this one. `name-controller` is as good as `name`.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// Gives every node a part of --cluster-cidr.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// Networks of the pods, one of each IP family.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    #[arg(long, value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    #[arg(long, default_value_t = 24)]
    pub node_cidr_mask_size: u8,
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    #[arg(long, default_value_t = 64)]
    pub node_cidr_mask_size_ipv6: u8,
    /// PEM file that is published in every namespace.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Accepted for upstream's sake: token Secrets are not made.
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// Signs for every signer that has no authority of its own below.
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_kubelet_serving_key_file")]
    pub cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_kubelet_serving_cert_file")]
    pub cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_kubelet_client_key_file")]
    pub cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_kubelet_client_cert_file")]
    pub cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_kube_apiserver_client_key_file")]
    pub cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_kube_apiserver_client_cert_file")]
    pub cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_legacy_unknown_key_file")]
    pub cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_legacy_unknown_cert_file")]
    pub cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    #[arg(long, default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// A node that is silent for this long is Unknown.
    #[arg(long, default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// How many pods that have ended may be kept.
    #[arg(long, default_value_t = 12_500)]
    pub terminated_pod_gc_threshold: usize,
    /// Each controller acts as a ServiceAccount of its own; false: all act as the kubeconfig's user.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub use_service_account_credentials: bool,
    #[command(flatten)]
    pub accepted: Accepted,
}

/// Flags of upstream that change nothing here: accepted so that its command lines work.
#[derive(Debug, clap::Args)]
pub struct Accepted {
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    #[arg(long)]
    pub cluster_name: Option<String>,
    #[arg(long)]
    pub feature_gates: Option<daemon::flags::Pairs>,
    #[arg(long, value_parser = duration)]
    pub node_monitor_period: Option<Duration>,
    #[arg(long)]
    pub concurrent_deployment_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_replicaset_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_endpoint_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_service_endpoint_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_gc_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_job_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_namespace_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_statefulset_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_daemonset_syncs: Option<u32>,
    #[arg(long)]
    pub concurrent_resource_quota_syncs: Option<u32>,
    #[arg(long)]
    pub kube_api_qps: Option<f32>,
    #[arg(long)]
    pub kube_api_burst: Option<u32>,
}

impl Flags {
    /// What the decisions are given. Reads the files named.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let root_ca = match &self.root_ca_file {
            Some(file) => std::fs::read_to_string(file)
                .with_context(|| format!("--root-ca-file {}: give a readable PEM file", file.display()))?,
            None => String::new(),
        };
        let signers = self.signers();
        for authority in signers.all() {
            authority.load().context("--cluster-signing-…-cert-file and -key-file")?;
        }
        Ok(Settings {
            signers: Arc::new(signers),
            signing_longest: self.cluster_signing_duration,
            cluster_cidrs: if self.allocate_node_cidrs { self.cluster_cidr.clone() } else { Vec::new() },
            node_mask_bits_ipv4: self.node_cidr_mask_size_ipv4.unwrap_or(self.node_cidr_mask_size),
            node_mask_bits_ipv6: self.node_cidr_mask_size_ipv6,
            service_cidrs: self.service_cluster_ip_range.clone(),
            root_ca,
            node_monitor_grace_period: self.node_monitor_grace_period,
            terminated_pods_max: self.terminated_pod_gc_threshold,
        })
    }

    fn signers(&self) -> Signers {
        let authority = |certificate: &Option<PathBuf>, key: &Option<PathBuf>| {
            Some(Authority { certificate: certificate.clone()?, key: key.clone()? })
        };
        let own = [
            (
                signing::KUBELET_SERVING,
                &self.cluster_signing_kubelet_serving_cert_file,
                &self.cluster_signing_kubelet_serving_key_file,
            ),
            (
                signing::KUBELET_CLIENT,
                &self.cluster_signing_kubelet_client_cert_file,
                &self.cluster_signing_kubelet_client_key_file,
            ),
            (
                signing::CLIENT,
                &self.cluster_signing_kube_apiserver_client_cert_file,
                &self.cluster_signing_kube_apiserver_client_key_file,
            ),
            (
                signing::LEGACY,
                &self.cluster_signing_legacy_unknown_cert_file,
                &self.cluster_signing_legacy_unknown_key_file,
            ),
        ];
        let own = own.into_iter().filter_map(|(name, certificate, key)| Some((name, authority(certificate, key)?)));
        Signers {
            general: authority(&self.cluster_signing_cert_file, &self.cluster_signing_key_file),
            of_signer: own.collect(),
        }
    }

    /// Whether `--controllers` wants the one called `name`; an exact word goes before `*`.
    pub fn wants(&self, name: &str) -> bool {
        let short = name.strip_suffix("-controller").unwrap_or(name);
        let is = |word: &str| word == name || word == short;
        if self.controllers.iter().any(|word| word.strip_prefix('-').is_some_and(is)) {
            return false;
        }
        self.controllers.iter().any(|word| word == "*" || is(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(controllers: &str, name: &str, expected: bool) {
        let flags = Flags::try_parse_from(["test", &format!("--controllers={controllers}")]).unwrap();
        assert_eq!(flags.wants(name), expected, "{controllers} {name}");
    }

    #[test]
    fn controllers_are_chosen_by_name() {
        check("*", "job-controller", true);
        check("*,-job", "job-controller", false);
        check("*,-job-controller", "job-controller", false);
        check("deployment", "deployment-controller", true);
        check("deployment", "job-controller", false);
    }

    #[test]
    fn upstreams_command_line_is_taken() {
        let line = "test --use-service-account-credentials=true --allocate-node-cidrs --cluster-cidr=10.244.0.0/16 \
                    --concurrent-gc-syncs=20 --node-monitor-grace-period=40s --leader-elect=false";
        let flags = Flags::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(flags.settings().unwrap().cluster_cidrs.len(), 1);
        assert_eq!(flags.node_monitor_grace_period.as_secs(), 40);
    }
}
