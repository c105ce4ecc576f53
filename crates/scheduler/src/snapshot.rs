//! The cluster as the scheduler counts on it: nodes with what runs on them, including pods
//! whose binding is still on its way. Changed by one event at a time, never rebuilt.

use std::{collections::HashMap, sync::Arc};

use crate::{
    affinity::Namespaces,
    facts::{Load, NodeFacts, PodFacts},
};

#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeFacts>,
    /// Position in `nodes` by name.
    index: HashMap<String, usize>,
    /// Pods on nodes that are not known (yet, or any more), by node name.
    homeless: HashMap<String, Load>,
    /// Where each pod is counted, by UID.
    placed: HashMap<String, Placed>,
    /// On how many nodes an image is, by its name.
    image_nodes: HashMap<String, usize>,
    /// Pods that wait for victims to leave a node, by node name.
    nominated: HashMap<String, Vec<Arc<PodFacts>>>,
    pub namespaces: Namespaces,
}

#[derive(Debug)]
struct Placed {
    node: String,
    /// We bound it, the server's copy does not show it yet.
    assumed: bool,
}

/// What is new about a node, as far as it may help a pod that did not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeNews {
    pub added: bool,
    pub allocatable: bool,
    pub labels: bool,
    pub taints: bool,
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeFacts] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        Some(&self.nodes[*self.index.get(name)?])
    }

    /// On how many nodes the image is.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or_default()
    }

    /// Takes in a node as the server shows it; its load stays.
    pub fn set_node(&mut self, mut node: NodeFacts) -> NodeNews {
        self.count_images(&node, 1);
        let Some(position) = self.index.get(&node.name).copied() else {
            node.load = self.homeless.remove(&node.name).unwrap_or_default();
            self.index.insert(node.name.clone(), self.nodes.len());
            self.nodes.push(node);
            return NodeNews { added: true, ..NodeNews::default() };
        };
        node.load = std::mem::take(&mut self.nodes[position].load);
        let old = std::mem::replace(&mut self.nodes[position], node);
        self.count_images(&old, -1);
        let new = &self.nodes[position];
        NodeNews {
            added: false,
            allocatable: old.allocatable != new.allocatable,
            labels: old.labels != new.labels,
            taints: old.taints != new.taints || old.unschedulable != new.unschedulable,
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(position) = self.index.remove(name) else { return };
        let node = self.nodes.swap_remove(position);
        if let Some(moved) = self.nodes.get(position) {
            self.index.insert(moved.name.clone(), position);
        }
        self.count_images(&node, -1);
        if !node.load.pods.is_empty() {
            self.homeless.insert(node.name, node.load);
        }
    }

    /// Takes in a bound pod as the server shows it. Gives it as it was counted on that node before.
    pub fn place(&mut self, pod: Arc<PodFacts>) -> Option<Arc<PodFacts>> {
        let node = pod.place.node.clone();
        self.put(pod, node, false)
    }

    /// Counts a pod on a node while its binding is on its way.
    pub fn assume(&mut self, pod: Arc<PodFacts>, node: &str) {
        self.put(pod, node.to_owned(), true);
    }

    /// The binding failed. A pod that the server shows as bound stays.
    pub fn forget(&mut self, uid: &str) {
        if self.placed.get(uid).is_some_and(|placed| placed.assumed) {
            self.remove_pod(uid);
        }
    }

    fn put(&mut self, pod: Arc<PodFacts>, node: String, assumed: bool) -> Option<Arc<PodFacts>> {
        let before = self.take(&pod.id.uid).filter(|(there, _)| *there == node);
        let uid = pod.id.uid.clone();
        self.load_mut(&node).add(pod);
        self.placed.insert(uid, Placed { node, assumed });
        before.map(|(_, pod)| pod)
    }

    /// True if the pod was counted somewhere.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        self.take(uid).is_some()
    }

    /// Takes the pod off its node; gives both.
    fn take(&mut self, uid: &str) -> Option<(String, Arc<PodFacts>)> {
        let node = self.placed.remove(uid)?.node;
        let pod = self.load_mut(&node).remove(uid);
        if self.homeless.get(&node).is_some_and(|load| load.pods.is_empty()) {
            self.homeless.remove(&node);
        }
        Some((node, pod?))
    }

    fn load_mut(&mut self, node: &str) -> &mut Load {
        match self.index.get(node) {
            Some(position) => &mut self.nodes[*position].load,
            None => self.homeless.entry(node.to_owned()).or_default(),
        }
    }

    fn count_images(&mut self, node: &NodeFacts, delta: isize) {
        for name in node.images.keys() {
            let count = self.image_nodes.entry(name.clone()).or_default();
            *count = count.saturating_add_signed(delta);
            if *count == 0 {
                self.image_nodes.remove(name);
            }
        }
    }

    /// Lets `pod` wait for room on `node`; pods of lower priority may not take it meanwhile.
    pub fn nominate(&mut self, pod: Arc<PodFacts>, node: &str) {
        self.withdraw(&pod.id.uid);
        self.nominated.entry(node.to_owned()).or_default().push(pod);
    }

    /// Ends the wait of a pod. True if it had waited: others may have its place.
    pub fn withdraw(&mut self, uid: &str) -> bool {
        let mut had_waited = false;
        self.nominated.retain(|_, pods| {
            let before = pods.len();
            pods.retain(|pod| pod.id.uid != uid);
            had_waited |= pods.len() < before;
            !pods.is_empty()
        });
        had_waited
    }

    /// Pods that wait for room on `node`.
    pub fn nominated(&self, node: &str) -> &[Arc<PodFacts>] {
        self.nominated.get(node).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use api_types::Key;

    use super::*;
    use crate::{
        facts::{Id, Needs, Place},
        resources::Resources,
    };

    fn pod(uid: &str, node: &str, cpu_m: i64) -> Arc<PodFacts> {
        Arc::new(PodFacts {
            id: Id { key: Key::new("ns", uid), uid: uid.to_owned(), ..Id::default() },
            needs: Needs { resources: Resources { cpu_m, ..Resources::default() }, ..Needs::default() },
            place: Place { node: node.to_owned(), ..Place::default() },
            ..PodFacts::default()
        })
    }

    fn node(name: &str) -> NodeFacts {
        NodeFacts { name: name.to_owned(), ..NodeFacts::default() }
    }

    /// Requested cpu of each node, by name.
    fn cpu(snapshot: &Snapshot) -> Vec<(String, i64)> {
        let mut all: Vec<_> = snapshot.nodes().iter().map(|n| (n.name.clone(), n.load.requested.cpu_m)).collect();
        all.sort();
        all
    }

    #[test]
    fn an_assumed_pod_is_counted_once_when_the_server_shows_it() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("n"));
        snapshot.assume(pod("a", "", 100), "n");
        assert!(snapshot.place(pod("a", "n", 100)).is_some());
        assert_eq!(cpu(&snapshot), [("n".to_owned(), 100)]);
        snapshot.forget("a");
        assert_eq!(cpu(&snapshot), [("n".to_owned(), 100)], "what the server shows stays");
        assert!(snapshot.remove_pod("a"));
        assert_eq!(cpu(&snapshot), [("n".to_owned(), 0)]);
    }

    #[test]
    fn a_failed_binding_frees_the_node() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("n"));
        snapshot.assume(pod("a", "", 100), "n");
        snapshot.forget("a");
        assert_eq!(cpu(&snapshot), [("n".to_owned(), 0)]);
    }

    #[test]
    fn pods_may_come_before_their_node_and_outlive_it() {
        let mut snapshot = Snapshot::default();
        snapshot.place(pod("a", "n", 100));
        snapshot.set_node(node("n"));
        snapshot.set_node(node("m"));
        assert_eq!(cpu(&snapshot), [("m".to_owned(), 0), ("n".to_owned(), 100)]);
        snapshot.remove_node("n");
        assert_eq!(snapshot.node("m").unwrap().name, "m");
        snapshot.set_node(node("n"));
        assert_eq!(cpu(&snapshot), [("m".to_owned(), 0), ("n".to_owned(), 100)]);
    }

    #[test]
    fn a_node_update_keeps_its_load_and_tells_what_is_new() {
        let mut snapshot = Snapshot::default();
        assert!(snapshot.set_node(node("n")).added);
        snapshot.place(pod("a", "n", 100));
        assert_eq!(snapshot.set_node(node("n")), NodeNews::default());
        let changed = NodeFacts { unschedulable: true, ..node("n") };
        assert_eq!(snapshot.set_node(changed), NodeNews { taints: true, ..NodeNews::default() });
        assert_eq!(cpu(&snapshot), [("n".to_owned(), 100)]);
    }

    #[test]
    fn images_are_counted_over_nodes() {
        let mut snapshot = Snapshot::default();
        let with_image = |name: &str| NodeFacts { images: [("i".to_owned(), 5)].into(), ..node(name) };
        snapshot.set_node(with_image("n"));
        snapshot.set_node(with_image("m"));
        snapshot.set_node(with_image("m"));
        assert_eq!(snapshot.nodes_with_image("i"), 2);
        snapshot.remove_node("n");
        snapshot.set_node(node("m"));
        assert_eq!(snapshot.nodes_with_image("i"), 0);
    }

    #[test]
    fn nominations_end() {
        let mut snapshot = Snapshot::default();
        snapshot.nominate(pod("a", "", 1), "n");
        snapshot.nominate(pod("a", "", 1), "m");
        assert!(snapshot.nominated("n").is_empty());
        assert_eq!(snapshot.nominated("m").len(), 1);
        snapshot.withdraw("a");
        assert!(snapshot.nominated("m").is_empty());
    }
}
