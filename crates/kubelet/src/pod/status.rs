//! What the API is told of a pod: phase, conditions and the state of each container, from what is observed and decided.
//! Pure. What the API already knows is the floor: restart counts and ends are never taken back.
//!
//! Source: pkg/kubelet/kubelet_pods.go and pkg/kubelet/status/generate.go.

use std::{collections::BTreeMap, net::IpAddr};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        core::{
            ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
            HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
        },
        meta::Time,
    },
};

use super::{
    desired::{Desired, Lifecycle, Role, Wish, container_of},
    observed::{Observed, Sandbox},
    resources,
    steps::{Plan, Waiting},
};
use crate::runtime::{Container, Exit, State};

/// Everything that a status is made of.
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub plan: &'a Plan,
    pub node_ips: &'a [IpAddr],
    /// Termination messages, by container id.
    pub messages: &'a BTreeMap<String, String>,
    pub now: Timestamp,
}

/// What a container that vanished is said to have ended with.
const EXIT_CODE_UNKNOWN: i32 = 137;
/// What a container that could not be started is said to have ended with.
const REASON_START_ERROR: &str = "StartError";
const SIGNAL_EXIT_CODE_BASE: i32 = 128;

/// The whole status as it should be now.
pub fn status(facts: &Facts) -> PodStatus {
    let empty = PodStatus::default();
    let old = facts.pod.status.as_ref().unwrap_or(&empty);
    let of = |roles: &[Role], statuses: Option<&Vec<ContainerStatus>>| -> Option<Vec<ContainerStatus>> {
        let wishes = facts.desired.containers.iter().filter(|wish| roles.contains(&wish.role));
        let list: Vec<ContainerStatus> = wishes
            .map(|wish| {
                let old = statuses.into_iter().flatten().find(|status| status.name == wish.name);
                container_status(facts, wish, old)
            })
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let init = of(&[Role::Init, Role::Sidecar], old.init_container_statuses.as_ref());
    let main = of(&[Role::Main], old.container_statuses.as_ref());
    let ephemeral = of(&[Role::Ephemeral], old.ephemeral_container_statuses.as_ref());
    let failure = facts.plan.failure.as_ref();
    let phase = match old.phase.as_deref() {
        Some("Succeeded") => "Succeeded",
        Some("Failed") => "Failed",
        _ if failure.is_some() => "Failed",
        _ => phase(facts, init.as_deref().unwrap_or_default(), main.as_deref().unwrap_or_default()),
    };
    let ips = ips(facts, old);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: failure.map(|failure| failure.reason.clone()).or_else(|| old.reason.clone()),
        message: failure.map(|failure| failure.message.clone()).or_else(|| old.message.clone()),
        init_container_statuses: init,
        container_statuses: main,
        ephemeral_container_statuses: ephemeral,
        qos_class: Some(resources::qos_class(facts.pod).to_owned()),
        start_time: old.start_time.clone().or(Some(Time(facts.now))),
        host_ip: facts.node_ips.first().map(IpAddr::to_string),
        host_ips: Some(facts.node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        observed_generation: facts.pod.meta().generation,
        ..old.clone()
    };
    status.conditions = Some(conditions(facts, old, &status, phase));
    status
}

fn ips(facts: &Facts, old: &PodStatus) -> Vec<String> {
    let host_network = facts.pod.spec.as_ref().is_some_and(|spec| spec.host_network.unwrap_or_default());
    match &facts.observed.sandbox {
        Sandbox::Ready { .. } if host_network => facts.node_ips.iter().map(IpAddr::to_string).collect(),
        Sandbox::Ready { ips, .. } => ips.iter().map(IpAddr::to_string).collect(),
        // An ended pod is still known by its last address.
        Sandbox::Absent | Sandbox::Broken { .. } => {
            old.pod_ips.iter().flatten().map(|entry| entry.ip.clone()).collect()
        }
    }
}

fn container_status(facts: &Facts, wish: &Wish, old: Option<&ContainerStatus>) -> ContainerStatus {
    let waiting = facts.plan.waiting.get(&wish.name);
    let attempts = facts.observed.containers.get(&wish.name).map(Vec::as_slice).unwrap_or_default();
    let Some(newest) = attempts.first() else { return absent(facts, wish, waiting, old) };
    let previous = attempts.get(1).and_then(|container| end_of(facts, container));
    let (state, last_state) = match (&newest.state, waiting) {
        (State::Running { started_at }, _) => {
            let running = ContainerStateRunning { started_at: Some(Time(*started_at)) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, previous)
        }
        (State::Created, waiting) => (waiting_state(waiting), previous),
        (State::Exited(_), Some(waiting)) => (waiting_state(Some(waiting)), end_of(facts, newest)),
        (State::Exited(exit), None) => (terminated_state(terminated(facts, newest, exit)), previous),
    };
    let old_last = old.and_then(|old| old.last_state.clone()).filter(|state| *state != ContainerState::default());
    let started = is_started(facts, wish, newest, old);
    let resources = container_of(facts.pod, &wish.name).and_then(|container| container.resources);
    let resources = resources.filter(|resources| newest.is_running() && *resources != ResourceRequirements::default());
    ContainerStatus {
        name: wish.name.clone(),
        container_id: Some(container_id(newest)),
        image: newest.image.clone(),
        image_id: newest.image_id.clone(),
        ready: is_ready(facts, wish, newest, started, old),
        started: Some(started),
        restart_count: i32::try_from(newest.attempt).unwrap_or(i32::MAX).max(old.map_or(0, |old| old.restart_count)),
        state: Some(state),
        allocated_resources: resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources,
        last_state: last_state.map(terminated_state).or(old_last).or_else(|| Some(ContainerState::default())),
        ..old.cloned().unwrap_or_default()
    }
}

/// A container that the runtime does not know: not made yet, or taken away.
fn absent(facts: &Facts, wish: &Wish, waiting: Option<&Waiting>, old: Option<&ContainerStatus>) -> ContainerStatus {
    let image = || facts.desired.containers.iter().find(|other| other.name == wish.name).map(|wish| wish.image.clone());
    let fresh = || ContainerStatus {
        name: wish.name.clone(),
        image: image().unwrap_or_default(),
        ready: false,
        started: Some(false),
        state: Some(waiting_state(waiting)),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    };
    let Some(old) = old.filter(|old| old.container_id.is_some()) else { return fresh() };
    let state = old.state.clone().unwrap_or_default();
    let end = match (&state.terminated, &state.running) {
        (Some(end), _) => Some(end.clone()),
        (None, Some(running)) => Some(ContainerStateTerminated {
            container_id: old.container_id.clone(),
            exit_code: EXIT_CODE_UNKNOWN,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            started_at: running.started_at.clone(),
            finished_at: Some(Time(facts.now)),
            signal: None,
        }),
        (None, None) => None,
    };
    let is_over = facts.desired.lifecycle != Lifecycle::Run;
    match (end, waiting) {
        (Some(end), _) if is_over => ContainerStatus {
            ready: wish.role == Role::Init && end.exit_code == 0,
            started: Some(false),
            state: Some(terminated_state(end)),
            ..old.clone()
        },
        // An init container that has done its work may well be gone.
        (Some(end), None) if end.exit_code == 0 => old.clone(),
        (Some(end), waiting) => ContainerStatus {
            restart_count: old.restart_count,
            state: Some(waiting_state(waiting)),
            last_state: Some(terminated_state(end)),
            ..fresh()
        },
        (None, waiting) => ContainerStatus { ready: false, state: Some(waiting_state(waiting)), ..old.clone() },
    }
}

fn container_id(container: &Container) -> String {
    format!("docker://{}", container.id)
}

fn waiting_state(waiting: Option<&Waiting>) -> ContainerState {
    let waiting = match waiting {
        Some(waiting) => ContainerStateWaiting {
            reason: Some(waiting.reason.clone()),
            message: Some(waiting.message.clone()).filter(|message| !message.is_empty()),
        },
        None => ContainerStateWaiting { reason: Some("ContainerCreating".to_owned()), message: None },
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated_state(end: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(end), ..ContainerState::default() }
}

fn end_of(facts: &Facts, container: &Container) -> Option<ContainerStateTerminated> {
    match &container.state {
        State::Exited(exit) => Some(terminated(facts, container, exit)),
        State::Created | State::Running { .. } => None,
    }
}

fn terminated(facts: &Facts, container: &Container, exit: &Exit) -> ContainerStateTerminated {
    let reason = match exit {
        Exit { oom_killed: true, .. } => "OOMKilled",
        Exit { error, started_at: None, .. } if !error.is_empty() => REASON_START_ERROR,
        Exit { code: 0, .. } => "Completed",
        Exit { .. } => "Error",
    };
    let message = match facts.messages.get(&container.id) {
        Some(message) if !message.is_empty() => Some(message.clone()),
        Some(_) | None => Some(exit.error.clone()).filter(|error| !error.is_empty()),
    };
    let killed = exit.code > SIGNAL_EXIT_CODE_BASE && exit.started_at.is_some();
    ContainerStateTerminated {
        container_id: Some(container_id(container)),
        exit_code: exit.code,
        reason: Some(reason.to_owned()),
        message,
        started_at: exit.started_at.map(Time).or(Some(Time(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(exit.finished_at)),
        signal: (killed && exit.oom_killed).then_some(exit.code - SIGNAL_EXIT_CODE_BASE),
    }
}

/// The API knows that this very container has passed its startup probe.
pub fn was_started(pod: &Pod, container: &Container) -> bool {
    let Some(status) = &pod.status else { return false };
    let mut statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let id = container_id(container);
    statuses.any(|status| status.container_id.as_deref() == Some(&id) && status.started == Some(true))
}

/// A kubelet that has just begun believes the API about a container that it finds running until its own probes answer.
fn believed<T>(old: Option<&ContainerStatus>, container: &Container, read: fn(&ContainerStatus) -> T) -> Option<T> {
    old.filter(|old| old.container_id.as_deref() == Some(&container_id(container))).map(read)
}

fn is_started(facts: &Facts, wish: &Wish, container: &Container, old: Option<&ContainerStatus>) -> bool {
    let known = facts.observed.probes(&wish.name, &container.id).started;
    container.is_running()
        && (facts.observed.is_started(&wish.name, wish.startup_probe)
            || (known.is_none() && believed(old, container, |old| old.started == Some(true)).unwrap_or_default()))
}

fn is_ready(facts: &Facts, wish: &Wish, container: &Container, started: bool, old: Option<&ContainerStatus>) -> bool {
    match (&container.state, wish.role) {
        (State::Exited(exit), Role::Init) => exit.code == 0,
        (State::Running { .. }, Role::Sidecar | Role::Main) => {
            let ready = facts.observed.probes(&wish.name, &container.id).ready;
            let probed = has_readiness_probe(facts.pod, &wish.name);
            started && (!probed || ready.or_else(|| believed(old, container, |old| old.ready)).unwrap_or_default())
        }
        (State::Running { .. }, Role::Init | Role::Ephemeral) => false,
        (State::Exited(_) | State::Created, _) => false,
    }
}

fn has_readiness_probe(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.any(|container| container.name == name && container.readiness_probe.is_some())
}

/// Source: `getPhase` in pkg/kubelet/kubelet_pods.go.
fn phase(facts: &Facts, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let wishes = |role: Role| facts.desired.containers.iter().filter(move |wish| wish.role == role);
    let find = |list: &[ContainerStatus], name: &str| -> Kind {
        list.iter().find(|status| status.name == name).map_or(Kind::Unknown, kind)
    };
    let main_began = main.iter().any(|status| !matches!(kind(status), Kind::Waiting));
    let mut init_pending = false;
    for wish in wishes(Role::Init) {
        match find(init, &wish.name) {
            Kind::Stopped { code: 0, .. } => {}
            Kind::Stopped { code, ended: true } if !wish.restarts_after(code) => return "Failed",
            Kind::Stopped { .. } | Kind::Running | Kind::Waiting | Kind::Unknown => init_pending = true,
        }
    }
    let sidecar_pending = wishes(Role::Sidecar).any(|wish| {
        let status = init.iter().find(|status| status.name == wish.name);
        status.is_none_or(|status| status.started != Some(true))
    });
    let sidecar_alive = wishes(Role::Sidecar).any(|wish| find(init, &wish.name) == Kind::Running);
    let kinds: Vec<(&Wish, Kind)> = wishes(Role::Main).map(|wish| (wish, find(main, &wish.name))).collect();
    let all_stopped = !kinds.is_empty() && kinds.iter().all(|(_, kind)| matches!(kind, Kind::Stopped { .. }));
    let all_good = kinds.iter().all(|(_, kind)| matches!(kind, Kind::Stopped { code: 0, .. }));
    let over = match facts.desired.lifecycle {
        Lifecycle::Run => kinds.iter().all(|(wish, kind)| match kind {
            Kind::Stopped { code, ended: true } => !wish.restarts_after(*code),
            Kind::Stopped { ended: false, .. } | Kind::Running | Kind::Waiting | Kind::Unknown => false,
        }),
        Lifecycle::Finished | Lifecycle::Terminate | Lifecycle::Gone => true,
    };
    if (init_pending || sidecar_pending) && !main_began {
        return "Pending";
    }
    if kinds.iter().any(|(_, kind)| matches!(kind, Kind::Waiting)) {
        return "Pending";
    }
    match (all_stopped && over && !sidecar_alive, all_good) {
        (true, true) => "Succeeded",
        (true, false) => "Failed",
        (false, _) => "Running",
    }
}

#[derive(PartialEq)]
enum Kind {
    Running,
    /// Ended at least once. `ended`: and not waiting to be started again.
    Stopped {
        code: i32,
        ended: bool,
    },
    Waiting,
    Unknown,
}

fn kind(status: &ContainerStatus) -> Kind {
    let Some(state) = &status.state else { return Kind::Unknown };
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match (&state.running, &state.terminated, last) {
        (Some(_), _, _) => Kind::Running,
        (None, Some(end), _) => Kind::Stopped { code: end.exit_code, ended: true },
        (None, None, Some(last)) => Kind::Stopped { code: last.exit_code, ended: false },
        (None, None, None) => Kind::Waiting,
    }
}

/// Keeps everybody else's conditions, and the times of those that did not change.
fn conditions(facts: &Facts, old: &PodStatus, new: &PodStatus, phase: &str) -> Vec<PodCondition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let containers = containers_ready(new, phase);
    let gates = facts.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let gates: Vec<&str> = gates.map(|gate| gate.condition_type.as_str()).collect();
    let ready = if containers.0 { pod_ready(&gates, &conditions) } else { containers.clone() };
    let has_network = matches!(facts.observed.sandbox, Sandbox::Ready { .. });
    let mut set = |type_: &str, (status, reason, message): Verdict| {
        let status = if status { "True" } else { "False" };
        let mut condition = PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: (!message.is_empty()).then_some(message),
            observed_generation: facts.pod.meta().generation,
            last_probe_time: None,
            last_transition_time: Some(Time(facts.now)),
        };
        match conditions.iter_mut().find(|known| known.type_ == type_) {
            Some(known) => {
                if known.status == condition.status {
                    condition.last_transition_time = known.last_transition_time.clone();
                }
                *known = condition;
            }
            None => conditions.push(condition),
        }
    };
    set("PodReadyToStartContainers", (has_network, "", String::new()));
    set("Initialized", initialized(facts, new, phase));
    set("Ready", ready);
    set("ContainersReady", containers);
    let scheduled = old.conditions.iter().flatten().any(|condition| condition.type_ == "PodScheduled");
    if !scheduled {
        set("PodScheduled", (true, "", String::new()));
    }
    conditions
}

/// Status, reason and message of a condition.
type Verdict = (bool, &'static str, String);

fn terminal(phase: &str) -> Option<&'static str> {
    match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    }
}

fn containers_ready(new: &PodStatus, phase: &str) -> Verdict {
    if let Some(reason) = terminal(phase) {
        return (false, reason, String::new());
    }
    let sidecars = new.init_container_statuses.iter().flatten().filter(|status| {
        // An init container that ended is ready for ever; one that runs and is started is a sidecar.
        !status.ready && (status.started == Some(true))
    });
    let main = new.container_statuses.iter().flatten().filter(|status| !status.ready);
    let unready: Vec<&str> = sidecars.chain(main).map(|status| status.name.as_str()).collect();
    match unready.as_slice() {
        [] => (true, "", String::new()),
        names => (false, "ContainersNotReady", format!("containers with unready status: [{}]", names.join(" "))),
    }
}

fn pod_ready(gates: &[&str], conditions: &[PodCondition]) -> Verdict {
    let mut messages = vec![];
    for gate in gates {
        match conditions.iter().find(|condition| condition.type_ == *gate) {
            None => messages.push(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
            Some(condition) if condition.status != "True" => messages
                .push(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", condition.status)),
            Some(_) => {}
        }
    }
    match messages.as_slice() {
        [] => (true, "", String::new()),
        messages => (false, "ReadinessGatesNotReady", messages.join(", ")),
    }
}

fn initialized(facts: &Facts, new: &PodStatus, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return (true, "PodCompleted", String::new());
    }
    let began = new.container_statuses.iter().flatten().any(|status| {
        status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    });
    let is_done = |wish: &Wish| {
        let status = new.init_container_statuses.iter().flatten().find(|status| status.name == wish.name);
        status.is_some_and(|status| match wish.role {
            Role::Sidecar => status.started == Some(true) || began,
            Role::Init | Role::Main | Role::Ephemeral => status.ready || began,
        })
    };
    let init = facts.desired.containers.iter().filter(|wish| matches!(wish.role, Role::Init | Role::Sidecar));
    let incomplete: Vec<&str> = init.filter(|wish| !is_done(wish)).map(|wish| wish.name.as_str()).collect();
    match incomplete.as_slice() {
        [] => (true, "", String::new()),
        names => {
            (false, "ContainersNotInitialized", format!("containers with incomplete status: [{}]", names.join(" ")))
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
