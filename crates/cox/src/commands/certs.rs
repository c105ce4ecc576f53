//! `cox certs`: the certificates of a cluster that this machine keeps: made, looked at, renewed in time.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use api_types::jiff::Timestamp;
use pki::{Entry, Layout, NodeNames, State};

use crate::flags::{Certs, InitCerts};

/// How often `renew --watch` looks.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
const DAY_S: i64 = 24 * 60 * 60;

pub async fn run(command: Certs) -> anyhow::Result<ExitCode> {
    match command {
        Certs::Init(flags) => {
            layout(&flags)?.ensure(&flags.folder.dir)?;
            println!("certificates and kubeconfigs are in {}", flags.folder.dir.display());
        }
        Certs::Check(folder) => {
            let entries = pki::inventory(&folder.dir)?;
            let now_s = Timestamp::now().as_second();
            print!("{}", table(&entries, now_s));
            if entries.iter().any(|entry| entry.facts.state(now_s) == State::Expired) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Certs::Renew { folder, all, watch, names } => loop {
            renew(&folder.dir, all, &names)?;
            if !watch {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn renew(folder: &Path, all: bool, names: &[String]) -> anyhow::Result<()> {
    let now_s = Timestamp::now().as_second();
    let wanted = |entry: &Entry| match names {
        [] => all || entry.is_due(now_s),
        names => names.contains(&entry.name),
    };
    for name in pki::renew(folder, wanted)? {
        println!("{name} renewed");
    }
    Ok(())
}

fn layout(flags: &InitCerts) -> anyhow::Result<Layout> {
    let nodes = flags.nodes.iter().map(|text| node(text)).collect::<anyhow::Result<_>>()?;
    Ok(Layout {
        addresses: flags.addresses.clone(),
        dns_names: flags.names.clone(),
        service_address: flags.service_address,
        domain: flags.cluster_domain.clone(),
        nodes,
        ..Layout::local(&flags.server, &flags.folder.dir)
    })
}

/// `NAME=ADDRESS[,ADDRESS…]`
fn node(text: &str) -> anyhow::Result<NodeNames> {
    let (name, addresses) = text.split_once('=').with_context(|| format!("--node {text}: NAME=ADDRESS is needed"))?;
    let addresses = addresses.split(',').map(str::parse).collect::<Result<_, _>>();
    Ok(NodeNames { name: name.to_owned(), addresses: addresses.with_context(|| format!("--node {text}"))? })
}

/// One line for each certificate.
fn table(entries: &[Entry], now_s: i64) -> String {
    let mut text =
        format!("{:<26} {:<34} {:<16} {:<11} {:>6}  STATE\n", "NAME", "SUBJECT", "AUTHORITY", "EXPIRES", "DAYS");
    for Entry { name, facts, .. } in entries {
        let state = match facts.state(now_s) {
            State::Expired => "expired",
            State::NotYetValid => "not valid yet",
            State::Due if facts.is_ca => "make a new authority soon",
            State::Due => "due: cox certs renew",
            State::Good => "good",
        };
        let expires = Timestamp::from_second(facts.not_after_s).map(|it| it.strftime("%Y-%m-%d").to_string());
        text.push_str(&format!(
            "{name:<26} {:<34} {:<16} {:<11} {:>6}  {state}\n",
            facts.common_name,
            facts.issuer,
            expires.unwrap_or_default(),
            (facts.not_after_s - now_s) / DAY_S,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_addresses() {
        let parsed = node("n1=10.0.0.1,fd00::1").unwrap();
        assert_eq!((parsed.name.as_str(), parsed.addresses.len()), ("n1", 2));
        assert!(node("n1").is_err() && node("n1=here").is_err());
    }
}
