//! The labels by which a kubelet knows its containers again, and the containers' names. Names and the `io.kubernetes`
//! labels are those that upstream's kubelet used with Docker, so that other tools read them too.

use std::collections::{BTreeMap, HashMap};

use super::PodIdentity;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const CONTAINER_TYPE: &str = "io.kubernetes.docker.type";
pub const SANDBOX_ID: &str = "io.kubernetes.sandbox.id";
pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
pub const HASH: &str = "io.kubernetes.container.hash";
pub const TERMINATION_FILE: &str = "io.kubernetes.container.terminationMessageFile";
pub const GRACE_S: &str = "io.kubernetes.pod.terminationGracePeriod";
/// The node that a container belongs to; several nodes may share one engine.
pub const NODE: &str = "io.coxswain.node";
/// The cluster that a container belongs to.
pub const CLUSTER: &str = "io.coxswain.cluster";

pub const TYPE_SANDBOX: &str = "podsandbox";
pub const TYPE_CONTAINER: &str = "container";
/// The container name of a sandbox.
pub const SANDBOX_NAME: &str = "POD";

/// Who owns the containers: one node of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub node: String,
    pub cluster: String,
}

impl Owner {
    /// The label filter that finds the owner's containers, of one pod or of all.
    pub fn filter(&self, pod_uid: Option<&str>) -> HashMap<String, Vec<String>> {
        let mut labels = vec![format!("{NODE}={}", self.node), format!("{CLUSTER}={}", self.cluster)];
        labels.extend(pod_uid.map(|uid| format!("{POD_UID}={uid}")));
        HashMap::from([("label".to_owned(), labels)])
    }
    /// The labels that every container of a pod bears.
    pub fn labels(&self, pod: &PodIdentity) -> BTreeMap<String, String> {
        [
            (NODE, self.node.as_str()),
            (CLUSTER, &self.cluster),
            (POD_NAME, &pod.name),
            (POD_NAMESPACE, &pod.namespace),
            (POD_UID, &pod.uid),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }
}

/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`
pub fn container_name(name: &str, pod: &PodIdentity, attempt: u32) -> String {
    format!("k8s_{name}_{}_{}_{}_{attempt}", pod.name, pod.namespace, pod.uid)
}
