//! What belongs to which node: pods bound there, and what they use. Kept by change callbacks.
//!
//! Source: kubernetes/plugin/pkg/auth/authorizer/node/graph.go.

use std::collections::{BTreeMap, HashMap, HashSet};

use api_types::Key;
use serde_json::Value;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a pod can lead its node to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    ConfigMap,
    PersistentVolumeClaim,
    ResourceClaim,
    Secret,
    ServiceAccount,
}

#[derive(Default)]
pub struct Graph {
    pods: HashMap<Key, Pod>,
    /// How many pods of each node use an object.
    uses: HashMap<(Target, Key), BTreeMap<String, usize>>,
    volumes: HashMap<String, Volume>,
    /// Volumes that need a secret to be mounted.
    volumes_by_secret: HashMap<Key, HashSet<String>>,
    attachments: HashMap<String, String>,
    slices: HashMap<String, String>,
}

struct Pod {
    node: String,
    uses: HashSet<(Target, Key)>,
}

struct Volume {
    claim: Key,
    secrets: HashSet<Key>,
}

impl Graph {
    pub fn pod_is_on(&self, key: &Key, node: &str) -> bool {
        self.pods.get(key).is_some_and(|pod| pod.node == node)
    }
    /// Whether a pod on `node` uses the object, for a secret also by way of a volume.
    pub fn is_used_on(&self, target: Target, key: &Key, node: &str) -> bool {
        let direct = self.uses.get(&(target, key.clone())).is_some_and(|nodes| nodes.contains_key(node));
        let by_volume = || {
            let volumes = self.volumes_by_secret.get(key);
            volumes.is_some_and(|names| names.iter().any(|name| self.volume_is_used_on(name, node)))
        };
        direct || (target == Target::Secret && by_volume())
    }
    pub fn volume_is_used_on(&self, name: &str, node: &str) -> bool {
        let volume = self.volumes.get(name);
        volume.is_some_and(|volume| self.is_used_on(Target::PersistentVolumeClaim, &volume.claim, node))
    }
    pub fn attachment_is_to(&self, name: &str, node: &str) -> bool {
        self.attachments.get(name).is_some_and(|attached| attached == node)
    }
    pub fn slice_is_of(&self, name: &str, node: &str) -> bool {
        self.slices.get(name).is_some_and(|owner| owner == node)
    }

    pub fn pod_changed(&mut self, key: &Key, object: Option<&Value>) {
        let new = object.and_then(|object| pod(key, object));
        if let Some(old) = self.pods.remove(key) {
            for used in &old.uses {
                let Some(nodes) = self.uses.get_mut(used) else { continue };
                let count = nodes.get_mut(&old.node).map(|count| {
                    *count -= 1;
                    *count
                });
                if count == Some(0) {
                    nodes.remove(&old.node);
                }
                if nodes.is_empty() {
                    self.uses.remove(used);
                }
            }
        }
        let Some(new) = new else { return };
        for used in &new.uses {
            *self.uses.entry(used.clone()).or_default().entry(new.node.clone()).or_default() += 1;
        }
        self.pods.insert(key.clone(), new);
    }

    pub fn volume_changed(&mut self, key: &Key, object: Option<&Value>) {
        if let Some(old) = self.volumes.remove(&key.name) {
            for secret in &old.secrets {
                let Some(names) = self.volumes_by_secret.get_mut(secret) else { continue };
                names.remove(&key.name);
                if names.is_empty() {
                    self.volumes_by_secret.remove(secret);
                }
            }
        }
        let Some(volume) = object.and_then(volume) else { return };
        for secret in &volume.secrets {
            self.volumes_by_secret.entry(secret.clone()).or_default().insert(key.name.clone());
        }
        self.volumes.insert(key.name.clone(), volume);
    }

    pub fn attachment_changed(&mut self, key: &Key, object: Option<&Value>) {
        replace(&mut self.attachments, key, object.and_then(|object| object["spec"]["nodeName"].as_str()));
    }
    pub fn slice_changed(&mut self, key: &Key, object: Option<&Value>) {
        replace(&mut self.slices, key, object.and_then(|object| object["spec"]["nodeName"].as_str()));
    }
}

fn replace(map: &mut HashMap<String, String>, key: &Key, node: Option<&str>) {
    match node.filter(|node| !node.is_empty()) {
        Some(node) => map.insert(key.name.clone(), node.to_owned()),
        None => map.remove(&key.name),
    };
}

/// `None` before the pod is bound.
fn pod(key: &Key, object: &Value) -> Option<Pod> {
    let node = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())?.to_owned();
    let mut uses = HashSet::new();
    // A node creates its own mirror pods: they must not open anything to it.
    if object["metadata"]["annotations"].get(MIRROR).is_none() {
        let mut note = |target, name: &Value| {
            if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
                uses.insert((target, Key::new(key.namespace.as_str(), name)));
            }
        };
        uses_of_spec(&object["spec"], &key.name, &mut note);
        for claim in items(&object["status"]["resourceClaimStatuses"]) {
            note(Target::ResourceClaim, &claim["resourceClaimName"]);
        }
        note(Target::ResourceClaim, &object["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    }
    Some(Pod { node, uses })
}

fn uses_of_spec(spec: &Value, pod_name: &str, note: &mut dyn FnMut(Target, &Value)) {
    note(Target::ServiceAccount, &spec["serviceAccountName"]);
    for secret in items(&spec["imagePullSecrets"]) {
        note(Target::Secret, &secret["name"]);
    }
    for claim in items(&spec["resourceClaims"]) {
        note(Target::ResourceClaim, &claim["resourceClaimName"]);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(&spec[list]) {
            for source in items(&container["envFrom"]) {
                note(Target::ConfigMap, &source["configMapRef"]["name"]);
                note(Target::Secret, &source["secretRef"]["name"]);
            }
            for variable in items(&container["env"]) {
                note(Target::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
                note(Target::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
            }
        }
    }
    for volume in items(&spec["volumes"]) {
        uses_of_volume(volume, pod_name, note);
    }
}

/// Sources that name a secret by `secretRef.name`.
const SECRET_REF_SOURCES: [&str; 5] = ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO"];

fn uses_of_volume(volume: &Value, pod_name: &str, note: &mut dyn FnMut(Target, &Value)) {
    note(Target::ConfigMap, &volume["configMap"]["name"]);
    note(Target::Secret, &volume["secret"]["secretName"]);
    note(Target::Secret, &volume["azureFile"]["secretName"]);
    note(Target::Secret, &volume["storageos"]["secretRef"]["name"]);
    note(Target::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
    for source in SECRET_REF_SOURCES {
        note(Target::Secret, &volume[source]["secretRef"]["name"]);
    }
    for source in items(&volume["projected"]["sources"]) {
        note(Target::ConfigMap, &source["configMap"]["name"]);
        note(Target::Secret, &source["secret"]["name"]);
    }
    note(Target::PersistentVolumeClaim, &volume["persistentVolumeClaim"]["claimName"]);
    if let (Some(_), Some(name)) = (volume["ephemeral"].as_object(), volume["name"].as_str()) {
        note(Target::PersistentVolumeClaim, &Value::String(format!("{pod_name}-{name}")));
    }
}

/// `None` before the volume is claimed.
fn volume(object: &Value) -> Option<Volume> {
    let spec = &object["spec"];
    let claim = &spec["claimRef"];
    let claim = Key::new(claim["namespace"].as_str()?, claim["name"].as_str()?);
    let csi = &spec["csi"];
    let in_place = |secret: &Value| {
        let name = secret["name"].as_str().filter(|name| !name.is_empty())?;
        Some(Key::new(secret["namespace"].as_str().unwrap_or(&claim.namespace), name))
    };
    let csi_secrets = ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"];
    let mut secrets: HashSet<Key> = csi_secrets.iter().filter_map(|field| in_place(&csi[field])).collect();
    secrets.extend(SECRET_REF_SOURCES.iter().filter_map(|source| in_place(&spec[source]["secretRef"])));
    if let Some(name) = spec["azureFile"]["secretName"].as_str() {
        let namespace = spec["azureFile"]["secretNamespace"].as_str().unwrap_or(&claim.namespace);
        secrets.insert(Key::new(namespace, name));
    }
    Some(Volume { claim, secrets })
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bound(spec: Value) -> Value {
        let mut object = json!({"metadata": {}, "spec": spec});
        object["spec"]["nodeName"] = json!("n1");
        object
    }

    #[test]
    fn each_way_of_use_opens_its_object() {
        let container = |field: &str, source: Value| json!({"containers": [{field: [source]}]});
        let volume = |source: Value| json!({"volumes": [source]});
        for (target, spec) in [
            (Target::ServiceAccount, json!({"serviceAccountName": "x"})),
            (Target::Secret, json!({"imagePullSecrets": [{"name": "x"}]})),
            (Target::ConfigMap, container("envFrom", json!({"configMapRef": {"name": "x"}}))),
            (Target::Secret, container("env", json!({"valueFrom": {"secretKeyRef": {"name": "x"}}}))),
            (Target::Secret, json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]})),
            (Target::Secret, json!({"ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]})),
            (Target::Secret, volume(json!({"secret": {"secretName": "x"}}))),
            (Target::ConfigMap, volume(json!({"configMap": {"name": "x"}}))),
            (Target::Secret, volume(json!({"projected": {"sources": [{"secret": {"name": "x"}}]}}))),
            (Target::ConfigMap, volume(json!({"projected": {"sources": [{"configMap": {"name": "x"}}]}}))),
            (Target::Secret, volume(json!({"csi": {"nodePublishSecretRef": {"name": "x"}}}))),
            (Target::PersistentVolumeClaim, volume(json!({"persistentVolumeClaim": {"claimName": "x"}}))),
            (Target::ResourceClaim, json!({"resourceClaims": [{"resourceClaimName": "x"}]})),
        ] {
            let mut graph = Graph::default();
            let (pod, x) = (Key::new("ns", "p"), Key::new("ns", "x"));
            graph.pod_changed(&pod, Some(&json!({"spec": spec})));
            assert!(!graph.is_used_on(target, &x, "n1"), "unbound: {spec}");
            let object = bound(spec.clone());
            graph.pod_changed(&pod, Some(&object));
            assert!(graph.is_used_on(target, &x, "n1"), "{spec}");
            assert!(!graph.is_used_on(target, &x, "n2"), "{spec}");
            assert!(!graph.is_used_on(target, &Key::new("other", "x"), "n1"), "{spec}");
            graph.pod_changed(&pod, None);
            assert!(!graph.is_used_on(target, &x, "n1") && graph.uses.is_empty(), "deleted: {spec}");
        }
    }

    #[test]
    fn an_object_stays_open_while_one_pod_uses_it() {
        let mut graph = Graph::default();
        let object = bound(json!({"serviceAccountName": "x"}));
        let x = Key::new("ns", "x");
        for name in ["a", "b"] {
            graph.pod_changed(&Key::new("ns", name), Some(&object));
        }
        graph.pod_changed(&Key::new("ns", "a"), None);
        assert!(graph.is_used_on(Target::ServiceAccount, &x, "n1"));
        graph.pod_changed(&Key::new("ns", "b"), None);
        assert!(!graph.is_used_on(Target::ServiceAccount, &x, "n1"));
    }

    #[test]
    fn mirror_pods_open_nothing() {
        let mut graph = Graph::default();
        let mut object = bound(json!({"serviceAccountName": "x", "volumes": [{"secret": {"secretName": "x"}}]}));
        object["metadata"]["annotations"] = json!({MIRROR: "hash"});
        graph.pod_changed(&Key::new("ns", "p"), Some(&object));
        assert!(graph.uses.is_empty());
        assert!(graph.pod_is_on(&Key::new("ns", "p"), "n1"));
    }

    #[test]
    fn a_volume_leads_from_claim_to_secret() {
        let mut graph = Graph::default();
        let object = bound(json!({"volumes": [{"name": "v", "ephemeral": {}}]}));
        graph.pod_changed(&Key::new("ns", "p"), Some(&object));
        let volume = json!({"spec": {
            "claimRef": {"namespace": "ns", "name": "p-v"},
            "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "key"}, "controllerExpandSecretRef": {"namespace": "storage", "name": "root"}},
        }});
        graph.volume_changed(&Key::cluster("pv"), Some(&volume));
        let secret = |name: &str| Key::new("storage", name);
        assert!(graph.volume_is_used_on("pv", "n1") && !graph.volume_is_used_on("pv", "n2"));
        assert!(graph.is_used_on(Target::Secret, &secret("key"), "n1"));
        assert!(!graph.is_used_on(Target::Secret, &secret("root"), "n1"), "the controller's secret is not the node's");
        graph.volume_changed(&Key::cluster("pv"), None);
        assert!(!graph.is_used_on(Target::Secret, &secret("key"), "n1"));
    }
}
