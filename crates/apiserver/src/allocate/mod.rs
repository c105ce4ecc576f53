//! Cluster IPs and node ports: given out so that no two Services ever hold the same. In one
//! apiserver a lock decides; between several the creation of the claim in the store does.

pub mod claims;
pub mod families;
pub mod range;
pub mod repair;
pub mod service;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use api_types::{ApiError, Key, Resource, jiff::Timestamp, resources};
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{reader::Changes, server::Server, store::StoreError};
pub use claims::address_object;
use claims::{Claims, PortClaim, Released};
use range::{Addresses, Ports};
use service::{Held, Source};

/// Other numbers tried when another apiserver was quicker.
const ATTEMPTS_MAX: usize = 10;
pub const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
pub const MANAGED_BY: &str = "ipallocator.k8s.io";

pub struct Allocator {
    /// By family, the cluster's default first.
    ranges: Vec<(&'static str, Addresses)>,
    ports: Ports,
    state: Arc<Mutex<State>>,
    /// Held while the object of a given-up address is deleted or taken over, so that neither undoes the other.
    handing_over: tokio::sync::Mutex<()>,
}

/// Who holds what, as the watch cache and the requests under way have it.
#[derive(Default)]
struct State {
    /// With the Service's uid.
    services: HashMap<Key, (String, Held)>,
    address_owner: HashMap<IpAddr, Key>,
    port_owner: HashMap<u16, Key>,
    /// Addresses that have an IPAddress object, with its uid.
    claimed: HashMap<IpAddr, String>,
    /// Chosen for requests that are not stored yet.
    pending_addresses: HashSet<IpAddr>,
    pending_ports: HashSet<u16>,
    /// Given up by a Service, their IPAddress objects (with these uids) not deleted yet.
    releasing: HashMap<IpAddr, String>,
}

/// Numbers that other apiservers were found to have.
#[derive(Default)]
struct Elsewhere {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

/// A number that another apiserver has.
enum Taken {
    Address(IpAddr),
    Port(u16),
}

impl State {
    fn address_is_free(&self, ip: IpAddr) -> bool {
        !self.address_owner.contains_key(&ip)
            && !self.claimed.contains_key(&ip)
            && !self.pending_addresses.contains(&ip)
    }
    fn port_is_free(&self, port: u16) -> bool {
        !self.port_owner.contains_key(&port) && !self.pending_ports.contains(&port)
    }

    /// Returns what the Service no longer holds.
    fn service_changed(&mut self, key: &Key, service: Option<&Value>) -> Vec<Released> {
        let new = service.map(service::held).unwrap_or_default();
        let (old_uid, old) = self.services.remove(key).unwrap_or_default();
        let metadata = |field: &str| service.and_then(|it| it["metadata"][field].as_str()).unwrap_or_default();
        for ip in &old.addresses {
            self.address_owner.remove(ip);
        }
        for port in &old.ports {
            self.port_owner.remove(port);
        }
        for ip in &new.addresses {
            self.address_owner.insert(*ip, key.clone());
            self.pending_addresses.remove(ip);
            self.releasing.remove(ip);
        }
        for port in &new.ports {
            self.port_owner.insert(*port, key.clone());
            self.pending_ports.remove(port);
        }
        let mut released = Vec::new();
        for ip in old.addresses.difference(&new.addresses) {
            let uid = self.claimed.get(ip).cloned().unwrap_or_default();
            self.releasing.insert(*ip, uid.clone());
            released.push(Released::Address(*ip, uid));
        }
        // A Service that is gone claims nothing any more.
        let before = match metadata("uid") == old_uid {
            true => metadata("resourceVersion").parse().unwrap_or(u64::MAX),
            false => u64::MAX,
        };
        let ports = old.ports.difference(&new.ports);
        released.extend(ports.map(|port| Released::Port { port: *port, uid: old_uid.clone(), before }));
        if service.is_some() {
            self.services.insert(key.clone(), (metadata("uid").to_owned(), new));
        }
        released
    }

    fn object_changed(&mut self, key: &Key, object: Option<&Value>) {
        let Ok(ip) = key.name.parse() else { return };
        if let Some(object) = object {
            self.claimed.insert(ip, object["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            self.claimed.remove(&ip);
            self.releasing.remove(&ip);
        }
    }
}

impl Allocator {
    /// Follows Services and IPAddresses through `changes`. The receiver yields numbers whose
    /// claims are to be deleted; see [`release`].
    pub fn new(nets: &[IpNet], ports: Ports, changes: &dyn Changes) -> (Self, mpsc::UnboundedReceiver<Released>) {
        let state = Arc::new(Mutex::new(State::default()));
        let (released, receiver) = mpsc::unbounded_channel();
        let services = state.clone();
        changes.subscribe(
            &resources::SERVICE,
            Box::new(move |key, service| {
                for number in services.lock().service_changed(key, service) {
                    // Without a receiver the server is shutting down; repair finds the claim later.
                    let _ = released.send(number);
                }
            }),
        );
        let objects = state.clone();
        changes
            .subscribe(&resources::IP_ADDRESS, Box::new(move |key, object| objects.lock().object_changed(key, object)));
        let family = |net: &IpNet| if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let ranges = nets.iter().map(|net| (family(net), Addresses::new(*net))).collect();
        (Self { ranges, ports, state, handing_over: Default::default() }, receiver)
    }

    /// Fills in what an object of this resource lacks, and holds it until the claim is dropped.
    /// Resources that hold nothing get an empty claim.
    pub async fn claim(
        &self,
        resource: &Resource,
        new: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        objects: &dyn Claims,
    ) -> Result<Claim, ApiError> {
        if !(resource.group.is_empty() && resource.kind == "Service") {
            return Ok(Claim::none());
        }
        let mut elsewhere = Elsewhere::default();
        for _ in 0..ATTEMPTS_MAX {
            let mut attempt = new.clone();
            let mut claim = self.claim_here(&mut attempt, old, &elsewhere)?;
            let taken = match dry_run {
                true => None,
                false => self.claim_everywhere(&mut claim, &attempt, old, objects).await?,
            };
            let Some(taken) = taken else {
                *new = attempt;
                return Ok(claim);
            };
            claim.give_back(objects).await;
            match taken {
                Taken::Address(ip) if service::held(new).addresses.contains(&ip) => {
                    return Err(taken_elsewhere(new, ip));
                }
                Taken::Address(ip) => elsewhere.addresses.insert(ip),
                Taken::Port(port) => elsewhere.ports.insert(port),
            };
        }
        Err(ApiError::internal(format!(
            "failed to allocate the Service's numbers: other apiservers were quicker {ATTEMPTS_MAX} times"
        )))
    }

    /// Under the lock of this process. What is in `elsewhere` is not picked.
    fn claim_here(&self, service: &mut Value, old: Option<&Value>, elsewhere: &Elsewhere) -> Result<Claim, ApiError> {
        let offered: Vec<&str> = self.ranges.iter().map(|(family, _)| *family).collect();
        let uid = service["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let mut claim = Claim::none();
        (claim.state, claim.uid) = (Some(self.state.clone()), uid);
        let mut state = self.state.lock();
        let mut source = Locked { allocator: self, state: &mut state, claim: &mut claim, elsewhere };
        let filled = service::fill(service, old, &offered, &mut source);
        drop(state);
        filled.map(|()| claim)
    }

    /// By creating the claims. Returns a number that another apiserver has.
    async fn claim_everywhere(
        &self,
        claim: &mut Claim,
        service: &Value,
        old: Option<&Value>,
        objects: &dyn Claims,
    ) -> Result<Option<Taken>, ApiError> {
        let after = old.and_then(|old| old["metadata"]["resourceVersion"].as_str()?.parse().ok()).unwrap_or(0);
        for port in claim.ports.clone() {
            let port_claim = PortClaim { uid: claim.uid.clone(), after, at_s: Timestamp::now().as_second() };
            if !objects.claim_port(port, port_claim).await? {
                return Ok(Some(Taken::Port(port)));
            }
            claim.claimed_ports.push(port);
        }
        for ip in claim.addresses.clone() {
            let leftover = self.state.lock().releasing.get(&ip).cloned();
            let _turn = if leftover.is_some() { Some(self.handing_over.lock().await) } else { None };
            if let Some(uid) = leftover {
                objects.delete(ip.to_string(), uid).await?;
                self.state.lock().releasing.remove(&ip);
            }
            match objects.create(address_object(ip, &service["metadata"])).await {
                Ok(uid) => claim.created.push((ip, uid)),
                Err(refusal) if refusal.is_already_exists() => return Ok(Some(Taken::Address(ip))),
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(None)
    }

    /// Whether nobody took the address since it was given up.
    fn is_still_released(&self, ip: IpAddr) -> bool {
        let state = self.state.lock();
        let is_taken = state.address_owner.contains_key(&ip) || state.pending_addresses.contains(&ip);
        state.releasing.contains_key(&ip) && !is_taken
    }
}

/// Deletes the claims of numbers that no Service holds any more. Every apiserver does.
pub async fn release(server: Arc<Server>, mut released: mpsc::UnboundedReceiver<Released>) {
    while let Some(number) = released.recv().await {
        let result = match number.clone() {
            Released::Port { port, uid, before } => server.free_port(port, uid, before).await,
            Released::Address(ip, uid) => {
                let _turn = server.allocator.handing_over.lock().await;
                if !server.allocator.is_still_released(ip) {
                    continue;
                }
                let deleted = server.delete(ip.to_string(), uid).await;
                if deleted.is_ok() {
                    server.allocator.state.lock().releasing.remove(&ip);
                }
                deleted
            }
        };
        if let Err(why) = result {
            tracing::warn!(?number, %why, "not released; repair will try again");
        }
    }
}

fn taken_elsewhere(service: &Value, ip: IpAddr) -> ApiError {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let detail = format!("failed to allocate IP {ip}: provided IP is already allocated");
    let error =
        api_types::FieldError::invalid("spec.clusterIPs", service::texts(&service["spec"]["clusterIPs"]), detail);
    ApiError::invalid("", "Service", name, &[error])
}

/// Numbers held for a write that is under way. Dropped, they are free again unless the watch
/// cache has seen the object that holds them.
#[derive(Default)]
pub struct Claim {
    state: Option<Arc<Mutex<State>>>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    /// The addresses whose IPAddress object this claim made, with its uid.
    created: Vec<(IpAddr, String)>,
    claimed_ports: Vec<u16>,
    /// The Service's.
    uid: String,
}

impl Claim {
    fn none() -> Self {
        Self::default()
    }
    /// The write failed. If it may have happened all the same, the claims stay, and repair decides.
    pub async fn refused(self, objects: &dyn Claims, error: &StoreError) {
        if !matches!(error, StoreError::Unavailable(_)) {
            self.give_back(objects).await;
        }
    }

    /// The write was refused: others may have the numbers.
    pub async fn give_back(self, objects: &dyn Claims) {
        for (ip, uid) in &self.created {
            if let Err(why) = objects.delete(ip.to_string(), uid.clone()).await {
                tracing::warn!(%ip, %why, "address not given back; repair will try again");
            }
        }
        for port in &self.claimed_ports {
            if let Err(why) = objects.free_port(*port, self.uid.clone(), u64::MAX).await {
                tracing::warn!(port, %why, "node port not given back; repair will try again");
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(state) = &self.state else { return };
        let mut state = state.lock();
        for ip in &self.addresses {
            state.pending_addresses.remove(ip);
        }
        for port in &self.ports {
            state.pending_ports.remove(port);
        }
    }
}

/// Takes numbers under the lock and notes them in the claim.
struct Locked<'a> {
    allocator: &'a Allocator,
    state: &'a mut State,
    claim: &'a mut Claim,
    elsewhere: &'a Elsewhere,
}

impl Source for Locked<'_> {
    fn address(&mut self, family: &str, chosen: Option<IpAddr>) -> Result<IpAddr, String> {
        let range = self.allocator.ranges.iter().find(|(of, _)| *of == family).map(|(_, range)| range);
        let range = range.ok_or_else(|| format!("{family} is not configured on this cluster"))?;
        let ip = match chosen {
            Some(ip) if !range.contains(ip) => {
                return Err("the provided network does not match the current range".to_owned());
            }
            Some(ip) => {
                let leftover = self.state.releasing.contains_key(&ip)
                    && !self.state.address_owner.contains_key(&ip)
                    && !self.state.pending_addresses.contains(&ip);
                if !leftover && !self.state.address_is_free(ip) {
                    return Err("provided IP is already allocated".to_owned());
                }
                ip
            }
            None => {
                let is_free = |ip| self.state.address_is_free(ip) && !self.elsewhere.addresses.contains(&ip);
                range.pick(rand::random(), is_free).ok_or("range is full")?
            }
        };
        self.state.pending_addresses.insert(ip);
        self.claim.addresses.push(ip);
        Ok(ip)
    }

    fn port(&mut self, chosen: Option<u16>) -> Result<u16, String> {
        let range = self.allocator.ports;
        let is_free = |port| self.state.port_is_free(port) && !self.elsewhere.ports.contains(&port);
        let port = match chosen {
            Some(port) if !range.contains(port) => {
                return Err(format!("provided port is not in the valid range. The range of valid ports is {range}"));
            }
            Some(port) if !is_free(port) => return Err("provided port is already allocated".to_owned()),
            Some(port) => port,
            None => range.pick(rand::random(), is_free).ok_or("range is full")?,
        };
        self.state.pending_ports.insert(port);
        self.claim.ports.push(port);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use serde_json::json;

    use super::*;
    use crate::reader::OnChange;

    /// Keeps the callbacks, to be fed by hand.
    #[derive(Default)]
    struct Fed(Mutex<HashMap<String, OnChange>>);
    impl Changes for Fed {
        fn subscribe(&self, resource: &Resource, on_change: OnChange) {
            self.0.lock().insert(resource.kind.to_string(), on_change);
        }
    }
    impl Fed {
        fn change(&self, kind: &str, key: &Key, object: Option<&Value>) {
            self.0.lock()[kind](key, object);
        }
    }

    /// The claims in the store: by the number's text, the holder's uid.
    #[derive(Default)]
    struct Objects(Mutex<HashMap<String, String>>);
    impl Objects {
        fn add(&self, name: String, uid: String) -> bool {
            self.0.lock().insert(name.clone(), uid).is_none()
        }
        fn remove(&self, name: &str, uid: &str) {
            let mut all = self.0.lock();
            if all.get(name).is_some_and(|found| found == uid) {
                all.remove(name);
            }
        }
        fn addresses(&self) -> usize {
            self.0.lock().keys().filter(|name| name.contains('.')).count()
        }
    }
    impl Claims for Objects {
        fn create(&self, object: Value) -> BoxFuture<'_, Result<String, ApiError>> {
            Box::pin(async move {
                let name = object["metadata"]["name"].as_str().expect("named").to_owned();
                if self.0.lock().contains_key(&name) {
                    return Err(ApiError::already_exists(&resources::IP_ADDRESS, &name));
                }
                self.add(name, "u".to_owned());
                Ok("u".to_owned())
            })
        }
        fn delete(&self, name: String, uid: String) -> BoxFuture<'_, Result<(), ApiError>> {
            Box::pin(async move {
                self.remove(&name, &uid);
                Ok(())
            })
        }
        fn claim_port(&self, port: u16, claim: PortClaim) -> BoxFuture<'_, Result<bool, ApiError>> {
            Box::pin(async move {
                let is_taken = self.0.lock().contains_key(&port.to_string());
                Ok(!is_taken && self.add(port.to_string(), claim.uid))
            })
        }
        fn free_port(&self, port: u16, uid: String, _before: u64) -> BoxFuture<'_, Result<(), ApiError>> {
            Box::pin(async move {
                self.remove(&port.to_string(), &uid);
                Ok(())
            })
        }
    }

    struct Bench {
        fed: Fed,
        objects: Objects,
        allocator: Allocator,
        released: mpsc::UnboundedReceiver<Released>,
    }
    impl Bench {
        /// 14 addresses, two ports.
        fn new() -> Self {
            let fed = Fed::default();
            let nets = ["10.0.0.0/28".parse().expect("a net")];
            let (allocator, released) = Allocator::new(&nets, Ports { first: 30000, last: 30001 }, &fed);
            Self { fed, objects: Objects::default(), allocator, released }
        }
        async fn claim(&self, spec: Value, dry_run: bool) -> (Value, Result<Claim, ApiError>) {
            let mut service = json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec});
            let claim = self.allocator.claim(&resources::SERVICE, &mut service, None, dry_run, &self.objects).await;
            (service, claim)
        }
        async fn create(&self, name: &str, spec: Value) -> Value {
            let (service, claim) = self.claim(spec, false).await;
            let _claim = claim.expect("allocates");
            self.fed.change("Service", &Key::new("ns", name), Some(&service));
            service
        }
    }

    #[tokio::test]
    async fn every_address_once_then_full() {
        let bench = Bench::new();
        let mut seen = HashSet::new();
        for n in 0..14 {
            let service = bench.create(&format!("s{n}"), json!({"type": "ClusterIP"})).await;
            assert!(seen.insert(service["spec"]["clusterIP"].clone()), "twice: {service}");
        }
        let (_, refused) = bench.claim(json!({"type": "ClusterIP"}), false).await;
        assert!(refused.err().expect("full").message().contains("range is full"));
        assert_eq!(bench.objects.addresses(), 14);
    }

    #[tokio::test]
    async fn numbers_under_way_are_not_given_twice() {
        let bench = Bench::new();
        let chosen = json!({"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "ports": [{"port": 80, "nodePort": 30000}]});
        let (_, first) = bench.claim(chosen.clone(), false).await;
        let first = first.expect("free");
        let (_, second) = bench.claim(chosen.clone(), false).await;
        assert_eq!(second.err().expect("taken").code(), 422);
        first.give_back(&bench.objects).await;
        assert!(bench.claim(chosen, false).await.1.is_ok(), "free again");
    }

    #[tokio::test]
    async fn another_apiserver_was_quicker() {
        let bench = Bench::new();
        for n in 1..14 {
            bench.objects.add(format!("10.0.0.{n}"), "u".to_owned());
        }
        // The cache lags behind: it does not know of the last five.
        for n in 1..9 {
            bench.fed.change("IPAddress", &Key::cluster(format!("10.0.0.{n}")), Some(&json!({})));
        }
        let (service, claim) = bench.claim(json!({"type": "ClusterIP"}), false).await;
        assert!(claim.is_ok());
        assert_eq!(service["spec"]["clusterIP"], "10.0.0.14");
        let (_, chosen) = bench
            .claim(json!({"type": "ClusterIP", "clusterIP": "10.0.0.13", "clusterIPs": ["10.0.0.13"]}), false)
            .await;
        assert!(chosen.err().expect("taken").message().contains("provided IP is already allocated"));
        assert_eq!(bench.objects.addresses(), 14, "what others hold is left alone");
    }

    /// The node port that another apiserver has claimed is not given, be it chosen or picked.
    #[tokio::test]
    async fn another_apiserver_has_the_port() {
        let bench = Bench::new();
        bench.objects.add("30000".to_owned(), "theirs".to_owned());
        let spec = |port: Value| json!({"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "ports": [port]});
        let (_, chosen) = bench.claim(spec(json!({"port": 80, "nodePort": 30000})), false).await;
        assert!(chosen.err().expect("taken").message().contains("provided port is already allocated"));
        let (service, picked) = bench.claim(spec(json!({"port": 80})), false).await;
        assert_eq!(service["spec"]["ports"][0]["nodePort"], 30001);
        picked.expect("free").give_back(&bench.objects).await;
        assert_eq!(bench.objects.0.lock().keys().collect::<Vec<_>>(), ["30000"], "what others hold is left alone");
    }

    /// A claim that the same Service makes after it gave the port up must outlive the release.
    #[test]
    fn a_release_knows_what_it_releases() {
        let mut state = State::default();
        let key = Key::new("ns", "s");
        let service = |revision: &str, ports: Value| json!({"metadata": {"uid": "u1", "resourceVersion": revision}, "spec": {"type": "NodePort", "ports": ports}});
        state.service_changed(&key, Some(&service("7", json!([{"port": 80, "nodePort": 30000}]))));
        let released = state.service_changed(&key, Some(&service("9", json!([{"port": 80, "nodePort": 30001}]))));
        assert_eq!(released, [Released::Port { port: 30000, uid: "u1".to_owned(), before: 9 }]);
        let gone = state.service_changed(&key, None);
        assert_eq!(gone, [Released::Port { port: 30001, uid: "u1".to_owned(), before: u64::MAX }]);
    }

    #[tokio::test]
    async fn a_dry_run_leaves_nothing() {
        let bench = Bench::new();
        let (service, claim) = bench.claim(json!({"type": "NodePort", "ports": [{"port": 80}]}), true).await;
        assert!(service["spec"]["clusterIP"].is_string() && service["spec"]["ports"][0]["nodePort"].is_number());
        drop(claim);
        assert!(bench.objects.0.lock().is_empty());
        let state = bench.allocator.state.lock();
        assert!(state.pending_addresses.is_empty() && state.pending_ports.is_empty());
    }

    #[tokio::test]
    async fn deletion_frees() {
        let mut bench = Bench::new();
        let spec = json!({"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "ports": [{"port": 80, "nodePort": 30000}]});
        bench.create("a", spec.clone()).await;
        bench.fed.change("IPAddress", &Key::cluster("10.0.0.5"), Some(&json!({"metadata": {"uid": "u"}})));
        bench.fed.change("Service", &Key::new("ns", "a"), None);
        bench.objects.remove("30000", "");
        // Taken again before the object of the old claim is gone.
        bench.create("b", spec).await;
        let released = bench.released.recv().await.expect("released");
        let Released::Address(ip, uid) = released else { panic!("{released:?}") };
        assert!(!bench.allocator.is_still_released(ip), "b has it");
        assert_eq!(uid, "u", "the object that is known to stand for a");
        assert!(bench.objects.0.lock().contains_key("10.0.0.5"));
    }

    #[tokio::test]
    async fn other_kinds_hold_nothing() {
        let bench = Bench::new();
        let mut pod = json!({"spec": {}});
        let claim = bench.allocator.claim(&resources::POD, &mut pod, None, false, &bench.objects).await;
        assert!(claim.is_ok() && pod == json!({"spec": {}}));
    }
}
