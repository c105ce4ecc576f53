//! Real plugins connect a real sandbox. Skipped, with a message, where there is no engine or no plugin.

use std::process::Command;

use super::*;
use crate::runtime::{Runtime, SandboxSpec, docker::Engine, labels::Owner};

const ENDPOINT: &str = "unix:///var/run/docker.sock";
const PLUGINS: &str = "/usr/lib/cni";
const BRIDGE: &str = "coxtest0";

#[tokio::test]
async fn a_sandbox_is_connected_and_everything_is_given_back() {
    if !Path::new("/var/run/docker.sock").exists() || !Path::new(PLUGINS).join("bridge").exists() {
        println!("skipped: needs a Docker engine at {ENDPOINT} and CNI plugins in {PLUGINS}");
        return;
    }
    let owner = Owner { node: "test-network".to_owned(), cluster: format!("test-{}", std::process::id()) };
    let engine = match Engine::connect(ENDPOINT, owner, None).await {
        Ok(engine) => engine,
        Err(error) => return println!("skipped: {error}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let dirs = Dirs { bin: vec![PLUGINS.into()], conf: dir.path().join("absent"), state: dir.path().join("state") };
    let network = Network::new(dirs, BRIDGE).unwrap();
    assert_eq!(network.unready_reason().as_deref(), Some("network plugin is not ready: cni config uninitialized"));
    network.set_pod_cidr("10.253.253.0/29");
    assert_eq!(network.unready_reason(), None);

    let pod = PodIdentity { uid: "u".to_owned(), namespace: "ns".to_owned(), name: "p".to_owned() };
    let spec = SandboxSpec { pod: pod.clone(), hostname: "p".to_owned(), ..SandboxSpec::default() };
    let id = engine.create_sandbox(&spec).await.unwrap();
    let pid = engine.pid(&id).await.unwrap();
    let connected = network.connect(&id, pid, &pod, vec![]).await;
    let known = network.ips(&id);
    let leftovers = network.leftovers(&BTreeSet::new());
    let kept = network.leftovers(&BTreeSet::from([id.clone()]));
    let disconnected = network.disconnect(&id).await;
    let again = network.disconnect(&id).await;
    engine.remove(&id).await.unwrap();
    let _gone = Command::new("ip").args(["link", "del", BRIDGE]).status();

    let ips = connected.unwrap();
    assert_eq!(ips, ["10.253.253.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(known, Some(ips));
    assert_eq!((leftovers, kept), (vec![id.clone()], vec![]));
    disconnected.unwrap();
    again.unwrap();
    assert_eq!(network.ips(&id), None);
    let reserved = dir.path().join("state/addresses/coxswain/10.253.253.2");
    assert!(!reserved.exists(), "the address was not given back");
}
