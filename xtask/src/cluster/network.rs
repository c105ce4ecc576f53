//! The link between the nodes: a bridge, a network namespace for each node beyond the
//! first, routes to every node's pods, and leave to pass Docker's FORWARD policy.

use std::{path::Path, process::Command};

use super::{Cluster, components};
use crate::install::run;

fn ip(arguments: &str) -> anyhow::Result<String> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// `ip` inside a node's network.
fn ip_on(cluster: &Cluster, node: u8, arguments: &str) -> anyhow::Result<String> {
    match cluster.namespace(node) {
        Some(namespace) => ip(&format!("-n {namespace} {arguments}")),
        None => ip(arguments),
    }
}

/// Makes what is missing.
pub fn create(cluster: &Cluster) -> anyhow::Result<()> {
    let bridge = cluster.id();
    if !exists(&bridge) {
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", cluster.node_address(1)))?;
    }
    ip(&format!("link set {bridge} up"))?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    for rule in forward_rules(cluster) {
        if run(Command::new("iptables").args(["-w", "-C", "FORWARD"]).args(&rule)).is_err() {
            run(Command::new("iptables").args(["-w", "-I", "FORWARD"]).args(&rule))?;
        }
    }
    for node in 2..=cluster.node_count() {
        attach(cluster, node)?;
    }
    for node in 1..=cluster.node_count() {
        masquerade(cluster, node)?;
    }
    Ok(())
}

fn exists(link: &str) -> bool {
    Path::new("/sys/class/net").join(link).exists()
}

/// Docker sets the FORWARD policy to DROP; what crosses our bridge needs its own rule.
fn forward_rules(cluster: &Cluster) -> [[String; 4]; 2] {
    let bridge = cluster.id();
    [["-i", "-o"], ["-o", "-i"]]
        .map(|[direction, _]| [direction.to_owned(), bridge.clone(), "-j".to_owned(), "ACCEPT".to_owned()])
}

/// Gives the namespace behind a node's anchor container its name, link and routes.
fn attach(cluster: &Cluster, node: u8) -> anyhow::Result<()> {
    let namespace = cluster.node_name(node);
    let pid = super::host::anchor(&namespace)?;
    let file = format!("/run/netns/{namespace}");
    if same_namespace(&file, &format!("/proc/{pid}/ns/net")) {
        return Ok(());
    }
    let _ = ip(&format!("netns del {namespace}"));
    ip(&format!("netns attach {namespace} {pid}"))?;
    let link = link_name(cluster, node);
    let _ = ip(&format!("link del {link}"));
    ip(&format!("link add {link} type veth peer name eth0 netns {namespace}"))?;
    ip(&format!("link set {link} master {} up", cluster.id()))?;
    ip_on(cluster, node, "link set lo up")?;
    ip_on(cluster, node, &format!("addr add {}/24 dev eth0", cluster.node_address(node)))?;
    ip_on(cluster, node, "link set eth0 up")?;
    ip_on(cluster, node, &format!("route add default via {}", cluster.node_address(1)))?;
    run(Command::new("nsenter").args([&format!("--net={file}"), "--", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]))?;
    Ok(())
}

fn same_namespace(a: &str, b: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.ino(), a.dev()) == (b.ino(), b.dev()),
        _ => false,
    }
}

fn link_name(cluster: &Cluster, node: u8) -> String {
    format!("{}n{node}", cluster.id())
}

/// Pods reach the world beyond the cluster by their node's address.
fn masquerade(cluster: &Cluster, node: u8) -> anyhow::Result<()> {
    let table = egress_table(cluster);
    let (pods, nodes) = (cluster.pod_network(), cluster.node_network());
    let rules = format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n chain postrouting {{\n  \
         type nat hook postrouting priority srcnat; policy accept;\n  \
         ip saddr {pods} ip daddr != {{ {pods}, {nodes} }} masquerade\n }}\n}}\n"
    );
    nft(cluster, node, &rules)
}

fn egress_table(cluster: &Cluster) -> String {
    format!("{}-egress", cluster.id())
}

fn nft(cluster: &Cluster, node: u8, rules: &str) -> anyhow::Result<()> {
    let file = cluster.dir.join("egress.nft");
    std::fs::write(&file, rules)?;
    let mut command = match cluster.namespace(node) {
        Some(namespace) => {
            let mut enter = Command::new("nsenter");
            enter.args([&format!("--net=/run/netns/{namespace}"), "--", "nft"]);
            enter
        }
        None => Command::new("nft"),
    };
    run(command.arg("-f").arg(&file)).map(drop)
}

/// Routes from every node to every other node's pods. `pod_networks` by node, from 1.
pub fn route(cluster: &Cluster, pod_networks: &[String]) -> anyhow::Result<()> {
    for from in 1..=cluster.node_count() {
        for (to, pods) in (1..).zip(pod_networks) {
            if from != to {
                ip_on(cluster, from, &format!("route replace {pods} via {}", cluster.node_address(to)))?;
            }
        }
    }
    Ok(())
}

/// Removes everything that the cluster left in the machine's network. Goes on past failures.
pub fn remove(cluster: &Cluster) {
    for node in 2..=cluster.node_count() {
        let _ = ip(&format!("netns del {}", cluster.node_name(node)));
        let _ = ip(&format!("link del {}", link_name(cluster, node)));
    }
    for rule in forward_rules(cluster) {
        let _ = run(Command::new("iptables").args(["-w", "-D", "FORWARD"]).args(&rule));
    }
    for link in [cluster.id(), format!("cni{}", cluster.slot)] {
        let _ = ip(&format!("link del {link}"));
    }
    for family in ["ip", "ip6"] {
        for table in [egress_table(cluster), components::proxy_table(cluster)] {
            let _ = run(Command::new("nft").args(["delete", "table", family, &table]));
        }
    }
    remove_plugin_rules(cluster);
}

/// The CNI plugins' iptables rules that name our pods, and their chains once empty.
fn remove_plugin_rules(cluster: &Cluster) {
    let prefix = cluster.pod_network();
    let prefix = prefix.trim_end_matches("0.0/16"); // "10.244."
    for table in ["filter", "nat"] {
        let rules = run(Command::new("iptables").args(["-w", "-t", table, "-S"])).unwrap_or_default();
        let ours = rules.lines().filter(|rule| rule.starts_with("-A CNI-") && rule.contains(prefix));
        for rule in ours {
            let delete = rule.replacen("-A", "-D", 1);
            let _ = run(Command::new("iptables").args(["-w", "-t", table]).args(words(&delete)));
        }
    }
}

/// After the last cluster: the CNI plugins' own chains, if no pod of anybody is in them.
pub fn remove_plugin_chains() {
    for table in ["filter", "nat"] {
        let iptables = |arguments: &str| {
            run(Command::new("iptables").args(["-w", "-t", table]).args(words(arguments))).unwrap_or_default()
        };
        let rules = iptables("-S");
        let chains: Vec<&str> = rules.lines().filter_map(|rule| rule.strip_prefix("-N CNI-")).collect();
        if chains.is_empty() || rules.lines().any(names_a_pod) {
            continue;
        }
        for rule in rules.lines().filter(|rule| rule.starts_with("-A") && rule.contains("-j CNI-")) {
            iptables(&rule.replacen("-A", "-D", 1));
        }
        for chain in &chains {
            iptables(&format!("-F CNI-{chain}"));
        }
        for chain in &chains {
            iptables(&format!("-X CNI-{chain}"));
        }
    }
}

/// The arguments of a rule as `iptables -S` prints it: what stands in quotes is one.
fn words(rule: &str) -> Vec<&str> {
    let parts = rule.split('"').enumerate();
    parts.flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }).collect()
}

/// A rule that a CNI plugin made for one pod: it stands in a plugin's chain and names an address,
/// or leads to a chain of the pod's own.
fn names_a_pod(rule: &str) -> bool {
    let for_address = rule.starts_with("-A CNI-") && (rule.contains(" -s ") || rule.contains(" -d "));
    let for_ports = rule.starts_with("-N CNI-DN-") || rule.starts_with("-N CNI-SN-");
    for_address || for_ports
}

#[cfg(test)]
mod tests {
    use super::{names_a_pod, words};

    #[test]
    fn a_quoted_comment_is_one_word() {
        assert_eq!(words("-D X --comment \"a b\" -j Y"), ["-D", "X", "--comment", "a b", "-j", "Y"]);
    }

    #[test]
    fn a_plugins_rules_for_pods_are_told_from_its_own() {
        for (rule, pod) in [
            ("-A CNI-FORWARD -d 10.244.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", true),
            ("-N CNI-DN-0123456789abcdef", true),
            ("-A CNI-FORWARD -m comment --comment x -j CNI-ADMIN", false),
            ("-A CNI-HOSTPORT-SETMARK -m comment --comment x -j MARK --set-xmark 0x2000/0x2000", false),
            ("-A FORWARD -j CNI-FORWARD", false),
        ] {
            assert_eq!(names_a_pod(rule), pod, "{rule}");
        }
    }
}
