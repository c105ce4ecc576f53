//! What a pod's specification asks of this node, reduced to what decides about containers.

use api_types::{
    Object,
    jiff::{SignedDuration, Timestamp},
    k8s::core::{Container, Pod},
};
use sha2::{Digest, Sha256};

/// The decider's view of a pod's specification.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    pub lifecycle: Lifecycle,
    /// What containers get to end by themselves; `None` for what each one was made with.
    pub grace_s: Option<i64>,
    /// `activeDeadlineSeconds` after the pod's start.
    pub deadline: Option<Timestamp>,
    /// `name_namespace(uid)`, as messages name the pod.
    pub label: String,
    /// Init containers in their order, then the others, then ephemeral ones.
    pub containers: Vec<Wish>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    Run,
    /// Succeeded or Failed: nothing may run any more, but logs stay.
    Finished,
    /// The API waits for the node to let go.
    Terminate,
    /// The API does not know the pod any more.
    Gone,
}

/// One container that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub name: String,
    pub role: Role,
    pub restart: Restart,
    /// Exit codes after which the container is started again whatever `restart` says.
    pub restart_rules: Vec<RestartRule>,
    /// Changes when the container has to be replaced.
    pub hash: String,
    pub image: String,
    /// A startup probe has to succeed before the container counts as started.
    pub startup_probe: bool,
}

/// One of `restartPolicyRules`: the first that fits decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartRule {
    In(Vec<i32>),
    NotIn(Vec<i32>),
}

impl Wish {
    /// Whether the container is started again when it ended so.
    pub fn restarts_after(&self, exit_code: i32) -> bool {
        let fits = |rule: &RestartRule| match rule {
            RestartRule::In(codes) => codes.contains(&exit_code),
            RestartRule::NotIn(codes) => !codes.contains(&exit_code),
        };
        self.restart_rules.iter().any(fits) || self.restart.after(exit_code)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that keeps running.
    Sidecar,
    Main,
    /// Started once, for debugging.
    Ephemeral,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        }
    }
    /// Whether a container that ended so is started again.
    pub fn after(self, exit_code: i32) -> bool {
        match self {
            Restart::Always => true,
            Restart::OnFailure => exit_code != 0,
            Restart::Never => false,
        }
    }
}

/// Reads a pod; `start_time` is the status's, or when the kubelet first saw the pod.
pub fn desired(pod: &Pod, start_time: Timestamp) -> Desired {
    let empty = Default::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let policy = Restart::parse(spec.restart_policy.as_deref());
    let init = spec.init_containers.iter().flatten().map(|container| {
        let own = container.restart_policy.as_deref();
        match own {
            Some("Always") => wish(container, Role::Sidecar, Restart::Always),
            // An init container that succeeded has done its work under any policy.
            _ if policy == Restart::Always => wish(container, Role::Init, Restart::OnFailure),
            _ => wish(container, Role::Init, policy),
        }
    });
    let main = spec.containers.iter().map(|container| {
        let own = container.restart_policy.as_deref();
        wish(container, Role::Main, own.map_or(policy, |own| Restart::parse(Some(own))))
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| Wish {
        name: container.name.clone(),
        role: Role::Ephemeral,
        restart: Restart::Never,
        restart_rules: vec![],
        hash: hash(&container.name, container.image.as_deref()),
        image: container.image.clone().unwrap_or_default(),
        startup_probe: false,
    });
    let deadline = spec
        .active_deadline_seconds
        .map(|seconds| start_time.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX));
    Desired {
        lifecycle: lifecycle(pod),
        grace_s: pod.meta().deletion_grace_period_seconds.or(spec.termination_grace_period_seconds),
        deadline,
        label: format!("{}_{}({})", pod.name(), pod.namespace(), pod.uid()),
        containers: init.chain(main).chain(ephemeral).collect(),
    }
}

fn lifecycle(pod: &Pod) -> Lifecycle {
    if pod.is_terminating() {
        return Lifecycle::Terminate;
    }
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded" | "Failed") => Lifecycle::Finished,
        _ => Lifecycle::Run,
    }
}

fn wish(container: &Container, role: Role, restart: Restart) -> Wish {
    Wish {
        name: container.name.clone(),
        role,
        restart,
        restart_rules: restart_rules(container),
        hash: hash(&container.name, container.image.as_deref()),
        image: container.image.clone().unwrap_or_default(),
        startup_probe: container.startup_probe.is_some(),
    }
}

/// The container that an ephemeral one is to debug.
pub fn target_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let ephemeral = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    ephemeral.iter().find(|container| container.name == name)?.target_container_name.as_deref()
}

/// A container of any list by its name; an ephemeral one has the same fields.
pub fn container_of(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    let mut plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if let Some(container) = plain.find(|container| container.name == name) {
        return Some(container.clone());
    }
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name)?;
    serde_json::from_value(serde_json::to_value(ephemeral).ok()?).ok()
}

/// Only the action Restart exists for a single container.
fn restart_rules(container: &Container) -> Vec<RestartRule> {
    let rules = container.restart_policy_rules.iter().flatten().filter(|rule| rule.action == "Restart");
    let codes = rules.filter_map(|rule| rule.exit_codes.as_ref());
    codes
        .map(|codes| {
            let values = codes.values.clone().unwrap_or_default();
            if codes.operator == "NotIn" { RestartRule::NotIn(values) } else { RestartRule::In(values) }
        })
        .collect()
}

/// Over the only fields of a running pod's containers whose change needs a new container.
///
/// Source: `pickFieldsToHash` in pkg/kubelet/container.
fn hash(name: &str, image: Option<&str>) -> String {
    let digest = Sha256::digest(format!("{name}\0{}", image.unwrap_or_default()));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
