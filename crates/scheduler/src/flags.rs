//! The scheduler's command line and the part of KubeSchedulerConfiguration that it knows.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;
use daemon::{ClientFlags, LeaderElectionFlags, LogFlags, ServingFlags};
use serde::Deserialize;

const DEFAULT_PROFILE: &str = "default-scheduler";

/// Fields of KubeSchedulerConfiguration whose flag bears another name.
pub const CONFIG_FIELDS: &[(&str, &str)] = &[
    ("clientConnection.kubeconfig", "kubeconfig"),
    ("leaderElection.leaseDuration", "leader-elect-lease-duration"),
    ("leaderElection.renewDeadline", "leader-elect-renew-deadline"),
    ("leaderElection.retryPeriod", "leader-elect-retry-period"),
    ("leaderElection.resourceNamespace", "leader-elect-resource-namespace"),
    ("leaderElection.resourceName", "leader-elect-resource-name"),
];

#[derive(Debug, Parser)]
#[command(name = "kube-scheduler", version, about = "Assigns pods to nodes.")]
pub struct Flags {
    #[command(flatten)]
    pub log: LogFlags,
    #[command(flatten)]
    pub client: ClientFlags,
    #[command(flatten)]
    pub serving: ServingFlags,
    #[command(flatten)]
    pub election: LeaderElectionFlags,
    /// A KubeSchedulerConfiguration: profiles (schedulerName), percentageOfNodesToScore, leaderElection, clientConnection.kubeconfig.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Profiles as JSON objects, separated by commas; the field of that name in the configuration file.
    #[arg(long)]
    profiles: Option<String>,
    /// Share of the nodes to find feasible before scoring; 0: by the size of the cluster.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    percentage_of_nodes_to_score: u8,
    /// Accepted for upstream's command lines; callers are reviewed through --kubeconfig.
    #[arg(long, hide = true)]
    authentication_kubeconfig: Option<PathBuf>,
    /// Accepted for upstream's command lines; callers are reviewed through --kubeconfig.
    #[arg(long, hide = true)]
    authorization_kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Names of the schedulers that this one is.
    pub profiles: Vec<String>,
    pub percentage: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    scheduler_name: Option<String>,
}

impl Flags {
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let text = self.profiles.as_deref().unwrap_or("{}");
        let profiles: Vec<Profile> = serde_json::from_str(&format!("[{text}]"))
            .context("profiles: only schedulerName is known of a profile, plugins cannot be configured")?;
        let names = profiles.into_iter().map(|it| it.scheduler_name.unwrap_or_else(|| DEFAULT_PROFILE.to_owned()));
        let names: Vec<String> = names.collect();
        for (position, name) in names.iter().enumerate() {
            if names[..position].contains(name) {
                bail!("profiles: {name:?} is there twice: give each profile its own schedulerName");
            }
        }
        Ok(Settings { profiles: names, percentage: self.percentage_of_nodes_to_score.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &str) -> anyhow::Result<Settings> {
        let words = std::iter::once("kube-scheduler").chain(arguments.split_whitespace());
        Flags::try_parse_from(words)?.settings()
    }

    #[test]
    fn profiles() {
        let check = |arguments: &str, expected: Option<&[&str]>| {
            let found = settings(arguments).ok().map(|settings| settings.profiles);
            assert_eq!(
                found,
                expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
                "{arguments}"
            );
        };
        check("", Some(&["default-scheduler"]));
        check(r#"--profiles={"schedulerName":"a"},{"schedulerName":"b"}"#, Some(&["a", "b"]));
        check(r#"--profiles={"schedulerName":"a"},{"schedulerName":"a"}"#, None);
        check(r#"--profiles={"plugins":{}}"#, None);
        check("--percentage-of-nodes-to-score=101", None);
    }
}
