//! node-ipam: gives every node a part of each cluster network, for its pods.
//!
//! All nodes are one key: two nodes must never be given the same part, so one turn sees what the
//! turn before gave.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use api_types::{Key, Object, k8s::core::Node, resources};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::json;

use crate::{
    action::Action,
    plan::{Plan, Turn, World},
    reconcile::Controller,
    settings::Settings,
};

/// Stands for all nodes.
const ALL: &str = "all";

pub static CONTROLLER: Controller = Controller {
    name: "node-ipam-controller",
    resource: &resources::NODE,
    account: "node-controller",
    component: "cidrAllocator",
    workers: 1,
    watch: |to, queue| {
        let wake = queue.clone();
        to.nodes.push(Box::new(move |_, change| {
            // A node that went leaves room for one that waits.
            if pod_cidrs(change.object()).is_empty() || matches!(change, client::Change::Deleted(_)) {
                wake.add(Key::cluster(ALL));
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| plan(&view(world, turn)),
};

struct View<'a> {
    nodes: Vec<Arc<Node>>,
    settings: &'a Settings,
}

fn view<'a>(world: &World<'a>, _: &Turn<'_>) -> View<'a> {
    View { nodes: world.caches.nodes.list(), settings: world.settings }
}

fn pod_cidrs(node: &Node) -> Vec<&str> {
    let Some(spec) = &node.spec else { return Vec::new() };
    match (&spec.pod_cidrs, &spec.pod_cidr) {
        (Some(all), _) if !all.is_empty() => all.iter().map(String::as_str).collect(),
        (_, one) => one.iter().map(String::as_str).filter(|one| !one.is_empty()).collect(),
    }
}

fn plan(view: &View<'_>) -> Plan {
    if view.settings.cluster_cidrs.is_empty() {
        return Plan::nothing("NoClusterCIDR", "--allocate-node-cidrs with --cluster-cidr is not given");
    }
    let mut used: HashSet<IpNet> =
        view.nodes.iter().flat_map(|node| pod_cidrs(node)).filter_map(|text| text.parse().ok()).collect();
    let mut plan = Plan::default();
    for node in view.nodes.iter().filter(|node| pod_cidrs(node).is_empty() && !node.is_terminating()) {
        let given: Option<Vec<IpNet>> =
            view.settings.cluster_cidrs.iter().map(|network| free(*network, view.settings, &used)).collect();
        let Some(given) = given else {
            plan.because("CIDRNotAvailable", format!("no part of the cluster network is free for {}", node.name()));
            continue;
        };
        used.extend(&given);
        let texts: Vec<String> = given.iter().map(IpNet::to_string).collect();
        let patch = json!({ "spec": { "podCIDR": texts[0], "podCIDRs": texts } });
        plan.act(Action::patch(&**node, patch, "every node has a network for its pods"));
    }
    plan
}

/// The lowest part of `network` that nobody has.
fn free(network: IpNet, settings: &Settings, used: &HashSet<IpNet>) -> Option<IpNet> {
    let reserved = |part: &IpNet| settings.service_cidrs.iter().any(|it| it.contains(part) || part.contains(it));
    let is_free = |part: &IpNet| !used.contains(part) && !reserved(part);
    match network {
        IpNet::V4(net) => net.subnets(settings.node_mask_bits_ipv4).ok()?.map(v4).find(is_free),
        IpNet::V6(net) => net.subnets(settings.node_mask_bits_ipv6).ok()?.map(v6).find(is_free),
    }
}

fn v4(net: Ipv4Net) -> IpNet {
    IpNet::new(IpAddr::V4(net.network()), net.prefix_len()).expect("the prefix of a network that exists")
}

fn v6(net: Ipv6Net) -> IpNet {
    IpNet::new(IpAddr::V6(net.network()), net.prefix_len()).expect("the prefix of a network that exists")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api_types::k8s::{core::NodeSpec, meta::ObjectMeta};
    use client::Patch;

    use super::*;
    use crate::action::Write;

    /// `name` or `name=cidr`; gives the same for those that get one.
    fn check(cluster: &str, service: &str, nodes: &str, expected: &str) {
        let settings = Settings {
            cluster_cidrs: vec![cluster.parse().unwrap()],
            node_mask_bits_ipv4: 24,
            node_mask_bits_ipv6: 64,
            service_cidrs: vec![service.parse().unwrap()],
            root_ca: String::new(),
            node_monitor_grace_period: Duration::from_secs(50),
            signers: Arc::default(),
            signing_longest: Duration::ZERO,
            terminated_pods_max: 1,
        };
        let nodes = nodes.split(' ').map(|word| {
            let (name, cidr) = word.split_once('=').unwrap_or((word, ""));
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            let spec = NodeSpec { pod_cidr: (!cidr.is_empty()).then(|| cidr.into()), ..NodeSpec::default() };
            Arc::new(Node { metadata, spec: Some(spec), status: None })
        });
        let plan = plan(&View { nodes: nodes.collect(), settings: &settings });
        let given = plan.actions.iter().map(|action| {
            let Write::Patch { patch: Patch::Strategic(patch), .. } = &action.write else { panic!("not a patch") };
            format!("{}={}", action.key.name, patch["spec"]["podCIDR"].as_str().unwrap_or("none"))
        });
        assert_eq!(given.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn nodes_get_the_lowest_free_network_each() {
        check("10.244.0.0/16", "10.96.0.0/16", "a b", "a=10.244.0.0/24 b=10.244.1.0/24");
        check(
            "10.244.0.0/16",
            "10.96.0.0/16",
            "a=10.244.0.0/24 b c=10.244.2.0/24 d",
            "b=10.244.1.0/24 d=10.244.3.0/24",
        );
    }
    #[test]
    fn service_networks_are_left_out() {
        check("10.0.0.0/16", "10.0.0.0/24", "a", "a=10.0.1.0/24");
    }
    #[test]
    fn an_exhausted_network_gives_nothing() {
        check("10.0.0.0/24", "10.96.0.0/16", "a b", "a=10.0.0.0/24");
    }
}
