//! The table as text for `nft -f`: whole at the start, then the difference, each as one
//! transaction. Pure.

use std::fmt::Write;

use crate::layout::{Layout, Map, Name, Table, Touched};

/// Elements per command; longer lines gain nothing.
const ELEMENTS_PER_LINE: usize = 512;

/// Replaces the whole table by what `table` holds. Connections see the old or the new one, never none.
pub fn whole(layout: &Layout, table: &Table) -> String {
    let mut text = frame(layout);
    text.push_str(&difference(layout, table, &table.everything()));
    text
}

/// Takes the table away.
pub fn nothing(layout: &Layout) -> String {
    let (ip, name) = (layout.ip(), &layout.table);
    format!("add table {ip} {name}\ndelete table {ip} {name}\n")
}

/// What leads from what was to what is, for the things touched; empty if nothing changed.
pub fn difference(layout: &Layout, table: &Table, touched: &Touched) -> String {
    let mut steps = Steps::default();
    for (name, old) in touched {
        match (old, table.get(name)) {
            (None, None) => {}
            (Some(old), Some(new)) if old == new => {}
            (None, Some(new)) => steps.add(name, new, Before::Absent),
            (Some(_), Some(new)) => steps.add(name, new, Before::Present),
            (Some(_), None) => steps.remove(name),
        }
    }
    steps.text(&format!("{} {}", layout.ip(), layout.table))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Absent,
    Present,
}

/// Commands by the order in which they have to come: nothing may be named before it is there,
/// and nothing may go while it is named.
#[derive(Default)]
struct Steps<'a> {
    new_sets: Vec<(&'a str, &'a str)>,
    new_chains: Vec<&'a str>,
    emptied_chains: Vec<&'a str>,
    old_elements: Vec<(Map, String)>,
    rules: Vec<(&'a str, &'a str)>,
    new_elements: Vec<(Map, String)>,
    old_chains: Vec<&'a str>,
    old_sets: Vec<&'a str>,
}

impl<'a> Steps<'a> {
    fn add(&mut self, name: &'a Name, body: &'a [String], before: Before) {
        match name {
            Name::Set(set) => {
                self.new_sets.extend(body.first().map(|declaration| (set.as_str(), declaration.as_str())))
            }
            Name::Chain(chain) => {
                match before {
                    Before::Absent => self.new_chains.push(chain),
                    Before::Present => self.emptied_chains.push(chain),
                }
                self.rules.extend(body.iter().map(|rule| (chain.as_str(), rule.as_str())));
            }
            Name::Element(map, key) => {
                if before == Before::Present {
                    self.old_elements.push((*map, key.clone()));
                }
                let value = body.first().map(|value| format!("{key} : {value}"));
                self.new_elements.push((*map, value.unwrap_or_else(|| key.clone())));
            }
        }
    }

    fn remove(&mut self, name: &'a Name) {
        match name {
            Name::Set(set) => self.old_sets.push(set),
            Name::Chain(chain) => self.old_chains.push(chain),
            Name::Element(map, key) => self.old_elements.push((*map, key.clone())),
        }
    }

    fn text(&self, table: &str) -> String {
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| {
            text.write_fmt(words).expect("a String takes everything");
            text.push('\n');
        };
        for (set, declaration) in &self.new_sets {
            line(format_args!("add set {table} {set} {{ {declaration} }}"));
        }
        for chain in &self.new_chains {
            line(format_args!("add chain {table} {chain}"));
        }
        for chain in self.emptied_chains.iter().chain(&self.old_chains) {
            line(format_args!("flush chain {table} {chain}"));
        }
        elements("delete", table, &self.old_elements, &mut line);
        for (chain, rule) in &self.rules {
            line(format_args!("add rule {table} {chain} {rule}"));
        }
        elements("add", table, &self.new_elements, &mut line);
        for chain in &self.old_chains {
            line(format_args!("delete chain {table} {chain}"));
        }
        for set in &self.old_sets {
            line(format_args!("delete set {table} {set}"));
        }
        text
    }
}

fn elements(verb: &str, table: &str, all: &[(Map, String)], line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    for map in Map::ALL {
        let mine: Vec<&str> = all.iter().filter(|(of, _)| *of == map).map(|(_, element)| element.as_str()).collect();
        for some in mine.chunks(ELEMENTS_PER_LINE) {
            line(format_args!("{verb} element {table} {} {{ {} }}", map.name(), some.join(", ")));
        }
    }
}

/// What is there whatever the Services are: maps, hooks and the way through them.
fn frame(layout: &Layout) -> String {
    let (ip, address) = (layout.ip(), layout.address_type());
    let table = format!("{ip} {}", layout.table);
    let mut text = format!("add table {table}\ndelete table {table}\nadd table {table}\n");
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    for map in Map::ALL {
        line(declaration(map, &table, ip, address));
    }
    for (chain, hook) in [
        ("nat-prerouting", "type nat hook prerouting priority -100"),
        ("nat-output", "type nat hook output priority -100"),
        ("nat-postrouting", "type nat hook postrouting priority 100"),
        ("filter-input", "type filter hook input priority 0"),
        ("filter-forward", "type filter hook forward priority 0"),
        ("filter-output", "type filter hook output priority 0"),
    ] {
        line(format!("add chain {table} {chain} {{ {hook} ; }}"));
    }
    for chain in ["balance", "inside", "refuse", "nobody"] {
        line(format!("add chain {table} {chain}"));
    }
    for (chain, rule) in rules(layout) {
        line(format!("add rule {table} {chain} {rule}"));
    }
    text
}

fn declaration(map: Map, table: &str, ip: &str, address: &str) -> String {
    let (kind, types) = match map {
        Map::Services | Map::InsideServices | Map::NoEndpoints => {
            ("map", format!("type {address} . inet_proto . inet_service : verdict"))
        }
        Map::NodePorts | Map::InsideNodePorts | Map::NoEndpointNodePorts => {
            ("map", "type inet_proto . inet_service : verdict".to_owned())
        }
        Map::Endpoints(protocol) => {
            let port = format!("{} dport", protocol.name());
            ("map", format!("typeof {ip} daddr . {port} . numgen random mod 2 : {ip} daddr . {port}"))
        }
        Map::NodePortEndpoints(protocol) => {
            let port = format!("{} dport", protocol.name());
            ("map", format!("typeof {port} . numgen random mod 2 : {ip} daddr . {port}"))
        }
        Map::ClusterAddresses => ("set", format!("type {address}")),
        Map::Hairpins => ("set", format!("type {address} . {address}")),
    };
    format!("add {kind} {table} {} {{ {types} ; }}", map.name())
}

fn rules(layout: &Layout) -> Vec<(&'static str, String)> {
    let ip = layout.ip();
    let by_address = format!("{ip} daddr . meta l4proto . th dport vmap");
    let loopback = match ip {
        "ip" => "127.0.0.0/8",
        _ => "::1",
    };
    let only = layout.networks(&layout.nodeport_addresses).map(|networks| format!("{ip} daddr {networks} "));
    let by_nodeport = format!(
        "fib daddr type local {ip} daddr != {loopback} {}meta l4proto . th dport vmap",
        only.unwrap_or_default()
    );
    let mark = layout.masquerade_mark;
    let mut rules = vec![
        ("nat-prerouting", "jump balance".to_owned()),
        ("nat-output", "jump balance".to_owned()),
        ("balance", "fib saddr type local jump inside".to_owned()),
    ];
    if let Some(networks) = layout.networks(&layout.cluster_cidrs) {
        rules.push(("balance", format!("{ip} saddr {networks} jump inside")));
    }
    rules.extend([
        ("balance", format!("{by_address} @services")),
        ("balance", format!("{by_nodeport} @nodeports")),
        ("inside", format!("{by_address} @inside-services")),
        ("inside", format!("{by_nodeport} @inside-nodeports")),
        ("nat-postrouting", format!("{ip} saddr . {ip} daddr @hairpins masquerade fully-random")),
        ("nat-postrouting", format!("meta mark & {mark:#x} == 0 return")),
        // The bit is not left to whoever looks at the packet next.
        ("nat-postrouting", format!("meta mark set meta mark ^ {mark:#x}")),
        ("nat-postrouting", "masquerade fully-random".to_owned()),
        ("refuse", "reject".to_owned()),
        ("nobody", format!("{by_address} @no-endpoints")),
        ("nobody", format!("{by_nodeport} @no-endpoint-nodeports")),
        ("nobody", format!("{ip} daddr @cluster-addresses goto refuse")),
    ]);
    for hook in ["filter-input", "filter-forward", "filter-output"] {
        rules.push((hook, "ct state new jump nobody".to_owned()));
    }
    rules
}

#[cfg(test)]
mod tests {
    use api_types::Key;
    use serde_json::json;

    use super::*;
    use crate::layout::tests::{layout, part};

    fn check(before: &str, after: &str, expected: &[&str]) {
        let mut table = Table::default();
        let key = Key::new("ns", "web");
        table.set(&key, part(json!({}), before), &mut Touched::new());
        let mut touched = Touched::new();
        table.set(&key, part(json!({}), after), &mut touched);
        let text = difference(&layout(), &table, &touched);
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_changed_says_nothing() {
        check("10.244.0.1", "10.244.0.1", &[]);
    }

    #[test]
    fn one_endpoint_replaced_is_one_element() {
        check(
            "10.244.0.1 10.244.0.2",
            "10.244.0.1 10.244.0.3",
            &[
                "delete element ip kube-proxy endpoints-tcp { 10.96.0.5 . 80 . 1 }",
                "add element ip kube-proxy endpoints-tcp { 10.96.0.5 . 80 . 1 : 10.244.0.3 . 8080 }",
            ],
        );
    }

    #[test]
    fn the_last_endpoint_gone_is_refused() {
        check(
            "10.244.0.1",
            "",
            &[
                "flush chain ip kube-proxy cluster-tcp-1",
                "delete element ip kube-proxy services { 10.96.0.5 . tcp . 80 }",
                "delete element ip kube-proxy endpoints-tcp { 10.96.0.5 . 80 . 0 }",
                "add element ip kube-proxy no-endpoints { 10.96.0.5 . tcp . 80 : goto refuse }",
                "delete chain ip kube-proxy cluster-tcp-1",
            ],
        );
    }
}
