//! The files that every container of a pod finds in /etc: hosts and resolv.conf. Pure.

use std::net::IpAddr;

use api_types::k8s::core::{HostAlias, PodSpec};

/// glibc and musl read no more; upstream warns beyond.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// The head of a hosts file that the kubelet keeps; it also says that edits are lost.
const HOSTS_HEAD: &str = "# Kubernetes-managed hosts file.\n";
const HOSTS_HEAD_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";

/// `/etc/hosts` of a pod with its own network.
pub fn hosts(ips: &[IpAddr], hostname: &str, domain: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut text = String::from(HOSTS_HEAD);
    text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
    for ip in ips {
        match domain {
            Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
            None => text.push_str(&format!("{ip}\t{hostname}\n")),
        }
    }
    text + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod in the node's network: the node's own file and the aliases.
pub fn hosts_of_node(node_file: &str, aliases: &[HostAlias]) -> String {
    format!("{HOSTS_HEAD_HOST_NETWORK}{node_file}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let line = |alias: &HostAlias| {
        format!("{}\t{}\n", alias.ip, alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t"))
    };
    format!("\n# Entries added by HostAliases.\n{}", aliases.iter().map(line).collect::<String>())
}

/// The content of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                Some(_) | None => {}
            }
        }
        resolver
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// A pod's resolv.conf by its dnsPolicy and dnsConfig.
///
/// Source: `GetPodDNS` in pkg/kubelet/network/dns.
pub fn resolver(
    spec: &PodSpec,
    namespace: &str,
    cluster_dns: &[String],
    cluster_domain: &str,
    node: &Resolver,
) -> Resolver {
    let host_network = spec.host_network.unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = || {
        let mut searches = vec![];
        if !cluster_domain.is_empty() {
            searches.extend([
                format!("{namespace}.svc.{cluster_domain}"),
                format!("svc.{cluster_domain}"),
                cluster_domain.to_owned(),
            ]);
        }
        searches.extend(node.searches.iter().cloned());
        Resolver { nameservers: cluster_dns.to_vec(), searches, options: vec!["ndots:5".to_owned()] }
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "Default" => node.clone(),
        "ClusterFirstWithHostNet" if !cluster_dns.is_empty() => cluster(),
        "ClusterFirst" if !host_network && !cluster_dns.is_empty() => cluster(),
        _ => node.clone(),
    };
    if let Some(config) = &spec.dns_config {
        resolver.nameservers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|known| known.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                Some(_) | None => name.clone(),
            });
        }
    }
    for list in [&mut resolver.nameservers, &mut resolver.searches] {
        let mut seen = std::collections::HashSet::new();
        list.retain(|entry| seen.insert(entry.clone()));
    }
    resolver.nameservers.truncate(NAMESERVERS_MAX);
    resolver.searches.truncate(SEARCHES_MAX);
    resolver
}

/// Linux's limit on a host name.
const HOSTNAME_BYTES_MAX: usize = 63;

/// A pod's host name and, with a subdomain, its domain.
///
/// Source: `GeneratePodHostNameAndDomain` in pkg/kubelet/kubelet_pods.go.
pub fn hostname(spec: &PodSpec, pod_name: &str, namespace: &str, cluster_domain: &str) -> (String, Option<String>) {
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), None);
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod_name);
    let short = name.get(..HOSTNAME_BYTES_MAX.min(name.len())).unwrap_or(name).trim_end_matches(['-', '.']);
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
    let domain = subdomain.map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}"));
    match (&domain, spec.set_hostname_as_fqdn.unwrap_or_default()) {
        (Some(full), true) => (format!("{short}.{full}"), domain),
        (_, _) => (short.to_owned(), domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> PodSpec {
        let mut spec = json;
        spec["containers"] = serde_json::json!([]);
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn resolvers() {
        use serde_json::json;
        let node = Resolver::parse("search corp.example\nnameserver 192.0.2.1\noptions edns0\n");
        let check = |json: serde_json::Value, expected: &str| {
            let text = resolver(&spec(json), "ns", &["10.96.0.10".to_owned()], "cluster.local", &node).render();
            assert_eq!(text, expected);
        };
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        let own = "search corp.example\nnameserver 192.0.2.1\noptions edns0\n";
        check(json!({}), cluster);
        check(json!({"hostNetwork": true}), own);
        check(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster);
        check(json!({"dnsPolicy": "Default"}), own);
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "search x\nnameserver 192.0.2.9\noptions ndots:2 edns0\n",
        );
        check(
            json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
            &cluster.replace("ndots:5", "ndots:2"),
        );
    }

    #[test]
    fn host_names() {
        use serde_json::json;
        let check = |json: serde_json::Value, name: &str, domain: Option<&str>| {
            let got = hostname(&spec(json), "pod-1", "ns", "cluster.local");
            assert_eq!((got.0.as_str(), got.1.as_deref()), (name, domain));
        };
        check(json!({}), "pod-1", None);
        check(json!({"hostname": "h", "subdomain": "s"}), "h", Some("s.ns.svc.cluster.local"));
        check(
            json!({"subdomain": "s", "setHostnameAsFQDN": true}),
            "pod-1.s.ns.svc.cluster.local",
            Some("s.ns.svc.cluster.local"),
        );
        check(json!({"hostname": format!("{}-z", "a".repeat(62))}), &"a".repeat(62), None);
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let alias = HostAlias { ip: "192.0.2.7".to_owned(), hostnames: Some(vec!["a".to_owned(), "b".to_owned()]) };
        let text = hosts(&["10.244.0.2".parse().unwrap()], "h", Some("s.ns.svc.c"), &[alias]);
        assert!(text.contains("10.244.0.2\th.s.ns.svc.c\th\n"), "{text}");
        assert!(text.ends_with("192.0.2.7\ta\tb\n"), "{text}");
    }
}
