//! The proxy subresources: a client's HTTP to a pod, a Service's endpoint or a kubelet.
//!
//! Source: `ResourceLocation` of kubernetes/pkg/registry/core/{pod,service,node}.

use std::net::{IpAddr, SocketAddr};

use api_types::{ApiError, Key, k8s::core, resources};
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use hyper::body::Incoming;
use rand::seq::IndexedRandom;
use serde_json::Value;

use super::{
    connect::redirected,
    current, key, kubelet,
    tunnel::{self, Trust},
};
use crate::{
    codec::body::{self, Body},
    reader::Reader,
    verbs::hook::Call,
};

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

pub fn proxy(call: Call, request: Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>, ApiError>> {
    Box::pin(async move {
        let target = call.request.target.clone().unwrap_or_default();
        if target.subpath.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(with_slash(request.uri()));
        }
        let place = Place::parse(&key(&call))?;
        let (to, trust) = match call.kind.resource.plural.as_ref() {
            "pods" => to_pod(&call, &place).await?,
            "services" => to_service(&call, &place).await?,
            _ => to_node(&call, &place).await?,
        };
        if !tunnel::is_proxyable(to.ip()) {
            return Err(ApiError::bad_request("address not allowed"));
        }
        let subpath = if target.subpath.is_empty() { "/" } else { &target.subpath };
        let path = match request.uri().query() {
            Some(query) => format!("{subpath}?{query}"),
            None => subpath.to_owned(),
        };
        let prefix = request.uri().path().strip_suffix(target.subpath.as_str()).unwrap_or_default().to_owned();
        let mut response = call.server.dialer.relay(to, trust, &path, request).await?;
        if response.status().is_redirection() {
            if trust == Trust::Kubelet {
                return Err(redirected());
            }
            relocate(&mut response, &prefix, to);
        }
        Ok(response)
    })
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    is_secure: bool,
    key: Key,
    /// A number or, for a Service, a name; empty for the only one.
    port: String,
}

impl Place {
    fn parse(named: &Key) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request(format!("invalid proxy request {:?}", named.name));
        let parts: Vec<&str> = named.name.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return Err(invalid()),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(invalid());
        }
        let key = Key::new(named.namespace.as_str(), name);
        Ok(Self { is_secure: scheme == "https", key, port: port.to_owned() })
    }
    fn trust(&self) -> Trust {
        if self.is_secure { Trust::Unverified } else { Trust::Plain }
    }
    fn default_port(&self) -> u16 {
        if self.is_secure { HTTPS_PORT } else { HTTP_PORT }
    }
    fn number(&self) -> Result<Option<u16>, ApiError> {
        let wrong = |_| ApiError::bad_request(format!("{:?} is no port", self.port));
        if self.port.is_empty() { Ok(None) } else { self.port.parse().map(Some).map_err(wrong) }
    }
}

async fn to_pod(call: &Call, place: &Place) -> Result<(SocketAddr, Trust), ApiError> {
    let pod = current::<core::Pod>(&call.server, &place.key).await?;
    let first_ip = &items(&pod["status"]["podIPs"]).first().map_or(&pod["status"]["podIP"], |ip| &ip["ip"]);
    let ip: Option<IpAddr> = first_ip.as_str().and_then(|text| text.parse().ok());
    let ip = ip.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    let declared = items(&pod["spec"]["containers"]).iter().find_map(|container| items(&container["ports"]).first());
    let declared = declared.and_then(|port| port["containerPort"].as_u64()).and_then(|port| u16::try_from(port).ok());
    let port = place.number()?.or(declared).unwrap_or(place.default_port());
    Ok((SocketAddr::new(ip, port), place.trust()))
}

async fn to_service(call: &Call, place: &Place) -> Result<(SocketAddr, Trust), ApiError> {
    let service = current::<core::Service>(&call.server, &place.key).await?;
    let name = port_name(&service, place)?;
    let slices = call.server.cache.list(&resources::ENDPOINT_SLICE, &place.key.namespace);
    let mine = slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == place.key.name.as_str());
    let ready: Vec<SocketAddr> = mine.flat_map(|slice| endpoints(slice, &name)).collect();
    let chosen = ready.choose(&mut rand::rng()).copied();
    let none = || ApiError::unavailable(format!("no endpoints available for service {:?}", place.key.name));
    Ok((chosen.ok_or_else(none)?, place.trust()))
}

/// The name of the Service's port; a single port may have none.
fn port_name(service: &Value, place: &Place) -> Result<String, ApiError> {
    let ports = items(&service["spec"]["ports"]);
    let named = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    if place.port.is_empty() {
        if let [only] = ports {
            return Ok(named(only));
        }
        return Ok(String::new());
    }
    if let Ok(number) = place.port.parse::<u64>() {
        let found = ports.iter().find(|port| port["port"] == number).map(named);
        let none = || ApiError::unavailable(format!("no service port {number} found for service {:?}", place.key.name));
        return found.ok_or_else(none);
    }
    Ok(place.port.clone())
}

fn endpoints(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let port = items(&slice["ports"]).iter().find(|port| port["name"].as_str().unwrap_or_default() == port_name);
    let Some(port) = port.and_then(|port| port["port"].as_u64()).and_then(|port| u16::try_from(port).ok()) else {
        return Vec::new();
    };
    let ready = items(&slice["endpoints"]).iter().filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let addresses = ready.filter_map(|endpoint| items(&endpoint["addresses"]).first()?.as_str()?.parse().ok());
    addresses.map(|ip| SocketAddr::new(ip, port)).collect()
}

/// The kubelet's own port with our certificate; any other port of the node without.
async fn to_node(call: &Call, place: &Place) -> Result<(SocketAddr, Trust), ApiError> {
    let node = current::<core::Node>(&call.server, &Key::cluster(place.key.name.as_str())).await?;
    let kubelet = kubelet::of_node(&node, &call.server.flags.kubelet.kubelet_preferred_address_types)?;
    Ok(match place.number()? {
        Some(port) if port != kubelet.port => (SocketAddr::new(kubelet.ip, port), place.trust()),
        _ => (SocketAddr::new(kubelet.ip, kubelet.port), Trust::Kubelet),
    })
}

/// Relative links of a page need the slash.
fn with_slash(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()));
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().extend(location.ok().map(|location| (header::LOCATION, location)));
    response
}

/// A redirect within the backend leads back through this proxy.
fn relocate(response: &mut Response<Body>, prefix: &str, backend: SocketAddr) {
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let Some(uri) = location.and_then(|text| text.parse::<Uri>().ok()) else { return };
    let is_there = uri.authority().is_none_or(|authority| authority.as_str() == backend.to_string());
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if let (true, Ok(value)) = (is_there, HeaderValue::from_str(&format!("{prefix}{path}"))) {
        response.headers_mut().insert(header::LOCATION, value);
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(name: &str) -> Option<Place> {
        Place::parse(&Key::new("ns", name)).ok()
    }

    #[test]
    fn places() {
        let expected = |is_secure, name: &str, port: &str| {
            Some(Place { is_secure, key: Key::new("ns", name), port: port.to_owned() })
        };
        assert_eq!(place("web"), expected(false, "web", ""));
        assert_eq!(place("web:80"), expected(false, "web", "80"));
        assert_eq!(place("https:web:api"), expected(true, "web", "api"));
        assert_eq!(place("http:web:"), expected(false, "web", ""));
        for wrong in ["", ":80", "ftp:web:1", "a:b:c:d"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn service_ports() {
        let service = json!({"spec": {"ports": [{"name": "http", "port": 80}, {"name": "api", "port": 81}]}});
        let single = json!({"spec": {"ports": [{"port": 80}]}});
        let check = |service: &Value, name: &str| port_name(service, &place(name).expect("a place")).ok();
        assert_eq!(check(&service, "s:api").as_deref(), Some("api"));
        assert_eq!(check(&service, "s:80").as_deref(), Some("http"));
        assert_eq!(check(&service, "s:99"), None);
        assert_eq!(check(&single, "s").as_deref(), Some(""));
        let slice = json!({
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            ],
        });
        assert_eq!(endpoints(&slice, "http"), ["10.0.0.1:8080".parse().expect("an address")]);
        assert!(endpoints(&slice, "api").is_empty());
    }

    #[test]
    fn redirects_stay_behind_the_proxy() {
        let backend: SocketAddr = "10.0.0.1:8080".parse().expect("an address");
        for (location, expected) in [
            ("/login?x=1", "/prefix/proxy/login?x=1"),
            ("http://10.0.0.1:8080/a", "/prefix/proxy/a"),
            ("https://elsewhere.example/a", "https://elsewhere.example/a"),
        ] {
            let mut response = Response::new(body::empty());
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(location));
            relocate(&mut response, "/prefix/proxy", backend);
            assert_eq!(response.headers()[header::LOCATION], expected);
        }
    }
}
