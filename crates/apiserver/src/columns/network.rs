//! Services, endpoints, ingresses and the rest of the network.

use serde_json::Value;

use super::{
    AGE,
    About::{Field, Words},
    NAME, Spec, text,
    view::{View, first_few},
    wide,
};

pub const SERVICE: &[Spec] = &[
    NAME,
    text("Type", Field("core.v1.ServiceSpec", "type")),
    text("Cluster-IP", Field("core.v1.ServiceSpec", "clusterIP")),
    text("External-IP", Field("core.v1.ServiceSpec", "externalIPs")),
    text("Port(s)", Field("core.v1.ServiceSpec", "ports")),
    AGE,
    wide("Selector", Field("core.v1.ServiceSpec", "selector")),
];

pub fn service(service: &View) -> Vec<Value> {
    let ports: Vec<String> = service
        .items("/spec/ports")
        .map(|port| match (port.int("/port"), port.int("/nodePort"), port.text("/protocol")) {
            (number, 0, protocol) => format!("{number}/{protocol}"),
            (number, node_port, protocol) => format!("{number}:{node_port}/{protocol}"),
        })
        .collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        service.name(),
        service.text("/spec/type").into(),
        service.text_or("/spec/clusterIPs/0", "<none>").into(),
        external_ip(service).into(),
        ports.into(),
        service.age(),
        service.labels("/spec/selector").into(),
    ]
}

fn external_ip(service: &View) -> String {
    let external = service.texts("/spec/externalIPs");
    let or =
        |addresses: Vec<&str>, none: &str| if addresses.is_empty() { none.to_owned() } else { addresses.join(",") };
    match service.text("/spec/type") {
        "ClusterIP" | "NodePort" => or(external, "<none>"),
        "LoadBalancer" => or([load_balancer(service), external].concat(), "<pending>"),
        "ExternalName" => service.text("/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses or names that a load balancer has given, sorted.
fn load_balancer<'a>(view: &View<'a>) -> Vec<&'a str> {
    let points = view.items("/status/loadBalancer/ingress");
    let mut points: Vec<&str> = points.map(|point| point.text_or("/ip", point.text("/hostname"))).collect();
    points.retain(|point| !point.is_empty());
    points.sort_unstable();
    points.dedup();
    points
}

pub const ENDPOINTS: &[Spec] = &[NAME, text("Endpoints", Field("core.v1.Endpoints", "subsets")), AGE];

pub fn endpoints(endpoints: &View) -> Vec<Value> {
    let mut shown = Vec::new();
    for subset in endpoints.items("/subsets") {
        let addresses = || subset.items("/addresses").map(|address| address.text("/ip"));
        if subset.list("/ports").is_empty() {
            shown.extend(addresses().map(str::to_owned));
        }
        for port in subset.items("/ports") {
            shown.extend(addresses().map(|ip| host_port(ip, port.int("/port"))));
        }
    }
    let text = if endpoints.list("/subsets").is_empty() { "<none>".to_owned() } else { first_few(shown, "") };
    vec![endpoints.name(), text.into(), endpoints.age()]
}

/// IPv6 addresses stand in brackets.
fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub const ENDPOINT_SLICE: &[Spec] = &[
    NAME,
    text("AddressType", Field("discovery.v1.EndpointSlice", "addressType")),
    text("Ports", Field("discovery.v1.EndpointSlice", "ports")),
    text("Endpoints", Field("discovery.v1.EndpointSlice", "endpoints")),
    AGE,
];

pub fn endpoint_slice(slice: &View) -> Vec<Value> {
    let port = |port: View| match port.get("/port") {
        Some(number) => number.to_string(),
        None if port.has("/name") => port.text("/name").to_owned(),
        None => "*".to_owned(),
    };
    let addresses = slice.items("/endpoints").flat_map(|endpoint| endpoint.texts("/addresses")).map(str::to_owned);
    vec![
        slice.name(),
        slice.text("/addressType").into(),
        first_few(slice.items("/ports").map(port).collect(), "<unset>").into(),
        first_few(addresses.collect(), "<unset>").into(),
        slice.age(),
    ]
}

pub const INGRESS: &[Spec] = &[
    NAME,
    text("Class", Words("The class that says who implements the ingress.")),
    text("Hosts", Words("Hosts that the rules are for.")),
    text("Address", Words("Where the load balancer is reached.")),
    text("Ports", Words("Ports that are open.")),
    AGE,
];

pub fn ingress(ingress: &View) -> Vec<Value> {
    let hosts: Vec<String> = ingress
        .items("/spec/rules")
        .map(|rule| rule.text("/host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let ports = if ingress.list("/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        ingress.name(),
        ingress.text_or("/spec/ingressClassName", "<none>").into(),
        first_few(hosts, "*").into(),
        load_balancer(ingress).join(",").into(),
        ports.into(),
        ingress.age(),
    ]
}

pub const INGRESS_CLASS: &[Spec] = &[
    NAME,
    text("Controller", Words("The controller that implements the class.")),
    text("Parameters", Words("An object with the class's parameters.")),
    AGE,
];

pub fn ingress_class(class: &View) -> Vec<Value> {
    let parameter = |field: &str| class.text(&format!("/spec/parameters/{field}"));
    let parameters = match (class.has("/spec/parameters"), parameter("apiGroup")) {
        (false, _) => "<none>".to_owned(),
        (true, "") => format!("{}/{}", parameter("kind"), parameter("name")),
        (true, group) => format!("{}.{group}/{}", parameter("kind"), parameter("name")),
    };
    vec![class.name(), class.text("/spec/controller").into(), parameters.into(), class.age()]
}

pub const NETWORK_POLICY: &[Spec] =
    &[NAME, text("Pod-Selector", Field("networking.v1.NetworkPolicySpec", "podSelector")), AGE];

pub fn network_policy(policy: &View) -> Vec<Value> {
    vec![policy.name(), policy.selector("/spec/podSelector", "<none>").into(), policy.age()]
}

pub const IP_ADDRESS: &[Spec] = &[NAME, text("ParentRef", Field("networking.v1.IPAddressSpec", "parentRef"))];

pub fn ip_address(address: &View) -> Vec<Value> {
    let part = |field: &str| address.text(&format!("/spec/parentRef/{field}"));
    let mut parent = part("resource").to_lowercase();
    for (before, text) in [(".", part("group")), ("/", part("namespace")), ("/", part("name"))] {
        if !text.is_empty() {
            parent = format!("{parent}{before}{text}");
        }
    }
    let parent = if parent.is_empty() { "<none>".to_owned() } else { parent };
    vec![address.name(), parent.into()]
}

pub const SERVICE_CIDR: &[Spec] = &[NAME, text("CIDRs", Field("networking.v1.ServiceCIDRSpec", "cidrs")), AGE];

pub fn service_cidr(range: &View) -> Vec<Value> {
    vec![range.name(), range.texts("/spec/cidrs").join(",").into(), range.age()]
}
