//! The decision about a pod: from what is desired and what is observed to the steps that may be taken now, and to the
//! reasons for all that is not. Pure and total, so that a restarted kubelet just asks again.

use std::collections::BTreeMap;

use api_types::jiff::{SignedDuration, Timestamp};

use super::{
    backoff::Backoff,
    desired::{Desired, Lifecycle, Role, Wish},
    observed::{Doing, Failure, Observed, Sandbox, Volumes, Work},
};
use crate::runtime::{Container, State};

/// Dead containers kept per name beside the newest one, for `logs --previous`.
const DEAD_KEPT_MAX: usize = 1;
/// How long a failed pull shows its own error before it shows that pulling backs off.
const PULL_ERROR_SHOWN_FOR: SignedDuration = SignedDuration::from_secs(2);
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    /// Its network, then the sandbox itself.
    RemoveSandbox {
        id: String,
    },
    /// Pull, create, start, postStart hook.
    Start {
        name: String,
        attempt: u32,
    },
    /// preStop hook, stop signal, kill. Replaces a kill with more grace that is under way.
    Kill {
        name: String,
        id: String,
        grace_s: i64,
        message: String,
    },
    /// Gives up a start that is under way.
    CancelStart {
        name: String,
    },
    /// A container that does not run.
    Remove {
        id: String,
    },
    /// Nothing of the pod is left here: its files, and if the API waits for that, its object.
    Forget,
}

/// What is to be done, and why nothing else is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Why containers do not run, by name; becomes their `state.waiting`.
    pub waiting: BTreeMap<String, Waiting>,
    /// The pod fails as a whole.
    pub failure: Option<Waiting>,
    /// When to decide again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

impl Waiting {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

impl Plan {
    fn wait(&mut self, name: &str, reason: &str, message: impl Into<String>) {
        self.waiting.insert(name.to_owned(), Waiting::new(reason, message));
    }
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }
}

/// Decides. Steps in one answer do not depend on each other; those under way are in `observed.doing`.
pub fn steps(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    match desired.lifecycle {
        Lifecycle::Run => match desired.deadline {
            Some(deadline) if deadline <= now => {
                let message = "Pod was active on the node longer than the specified deadline";
                plan.failure = Some(Waiting::new("DeadlineExceeded", message));
                wind_down(&mut plan, desired, observed, now);
            }
            Some(deadline) => {
                plan.wake(deadline);
                run(&mut plan, desired, observed, now);
            }
            None => run(&mut plan, desired, observed, now),
        },
        Lifecycle::Finished => {
            wind_down(&mut plan, desired, observed, now);
        }
        Lifecycle::Terminate => {
            if wind_down(&mut plan, desired, observed, now) == Down::Yes && observed.reported {
                clear(&mut plan, observed);
            }
        }
        Lifecycle::Gone => {
            if wind_down(&mut plan, desired, observed, now) == Down::Yes {
                clear(&mut plan, observed);
            }
        }
    }
    collect_dead(&mut plan, observed);
    plan
}

/// Whether a container ended for good.
fn is_done(wish: &Wish, observed: &Observed) -> bool {
    observed.exit(&wish.name).is_some_and(|exit| !wish.restarts_after(exit.code))
}

/// All main containers ended for good, or an init container failed for good.
pub fn is_complete(desired: &Desired, observed: &Observed) -> bool {
    let mut main = desired.containers.iter().filter(|wish| wish.role == Role::Main).peekable();
    let init_failed = desired
        .containers
        .iter()
        .filter(|wish| wish.role == Role::Init)
        .any(|wish| is_done(wish, observed) && observed.exit(&wish.name).is_some_and(|exit| exit.code != 0));
    init_failed || (main.peek().is_some() && main.all(|wish| is_done(wish, observed)))
}

fn run(plan: &mut Plan, desired: &Desired, observed: &Observed, now: Timestamp) {
    if is_complete(desired, observed) {
        wind_down(plan, desired, observed, now);
        return;
    }
    for wish in &desired.containers {
        if !observed.is_running(&wish.name) && observed.exit(&wish.name).is_none() {
            plan.wait(&wish.name, "ContainerCreating", "");
        }
    }
    prepare_volumes(plan, observed, now);
    match &observed.sandbox {
        Sandbox::Ready { .. } => containers(plan, desired, observed, now),
        Sandbox::Broken { id, .. } => {
            let running = kill_running(plan, desired, observed);
            if running == Down::Yes && !observed.is_doing(&Work::Sandbox) && !sandbox_rests(plan, observed, now) {
                plan.steps.push(Step::RemoveSandbox { id: id.clone() });
            }
        }
        Sandbox::Absent => create_sandbox(plan, desired, observed, now),
    }
}

fn prepare_volumes(plan: &mut Plan, observed: &Observed, now: Timestamp) {
    let due = match &observed.volumes {
        Volumes::Unprepared | Volumes::Stale => true,
        Volumes::Ready => false,
        Volumes::Failed(failure) => {
            if failure.retry_at > now {
                plan.wake(failure.retry_at);
                for waiting in plan.waiting.values_mut() {
                    waiting.message.clone_from(&failure.message);
                }
            }
            failure.retry_at <= now
        }
    };
    if due && !observed.is_doing(&Work::Volumes) {
        plan.steps.push(Step::PrepareVolumes);
    }
}

fn volumes_are_ready(observed: &Observed) -> bool {
    match observed.volumes {
        Volumes::Ready | Volumes::Stale => true,
        Volumes::Unprepared | Volumes::Failed(_) => false,
    }
}

fn create_sandbox(plan: &mut Plan, desired: &Desired, observed: &Observed, now: Timestamp) {
    if !volumes_are_ready(observed) || observed.is_doing(&Work::Sandbox) {
        return;
    }
    if sandbox_rests(plan, observed, now) {
        return;
    }
    if kill_running(plan, desired, observed) == Down::Yes {
        // Containers of a lost sandbox tell how many there have been.
        let attempt = observed.containers.values().flatten().map(|container| container.attempt + 1).max();
        plan.steps.push(Step::CreateSandbox { attempt: attempt.unwrap_or_default() });
    }
}

/// The last try with the sandbox failed, and the next one has to wait.
fn sandbox_rests(plan: &mut Plan, observed: &Observed, now: Timestamp) -> bool {
    let Some(failure) = observed.sandbox_failure.as_ref().filter(|failure| failure.retry_at > now) else {
        return false;
    };
    plan.wake(failure.retry_at);
    for waiting in plan.waiting.values_mut() {
        waiting.message.clone_from(&failure.message);
    }
    true
}

/// Whether the next init container may start.
#[derive(PartialEq)]
enum Next {
    Go,
    Stop,
}

fn containers(plan: &mut Plan, desired: &Desired, observed: &Observed, now: Timestamp) {
    let main_began =
        desired.containers.iter().any(|wish| wish.role == Role::Main && observed.current(&wish.name).is_some());
    let mut blocked = false;
    for wish in &desired.containers {
        match wish.role {
            Role::Init if main_began => {}
            Role::Init => {
                if blocked {
                    plan.wait(&wish.name, "PodInitializing", "");
                } else {
                    blocked = init(plan, desired, wish, observed, now) == Next::Stop;
                }
            }
            Role::Sidecar => {
                if blocked {
                    plan.wait(&wish.name, "PodInitializing", "");
                } else {
                    let next = keep_running(plan, desired, wish, observed, now);
                    blocked = next == Next::Stop && !main_began;
                }
            }
            Role::Main => {
                if blocked {
                    plan.wait(&wish.name, "PodInitializing", "");
                } else {
                    keep_running(plan, desired, wish, observed, now);
                }
            }
            Role::Ephemeral => {
                if observed.newest(&wish.name).is_none() {
                    start(plan, desired, wish, observed, now);
                }
            }
        }
    }
}

fn init(plan: &mut Plan, desired: &Desired, wish: &Wish, observed: &Observed, now: Timestamp) -> Next {
    let Some(container) = observed.current(&wish.name) else {
        start(plan, desired, wish, observed, now);
        return Next::Stop;
    };
    match &container.state {
        State::Created => restart_created(plan, wish, container, observed),
        State::Running { .. } => {}
        State::Exited(exit) if exit.code == 0 => return Next::Go,
        State::Exited(exit) if wish.restarts_after(exit.code) => start(plan, desired, wish, observed, now),
        State::Exited(_) => {}
    }
    Next::Stop
}

/// For sidecars and main containers. `Go` when the container counts as started.
fn keep_running(plan: &mut Plan, desired: &Desired, wish: &Wish, observed: &Observed, now: Timestamp) -> Next {
    let Some(container) = observed.current(&wish.name) else {
        if !is_done(wish, observed) {
            start(plan, desired, wish, observed, now);
        }
        return Next::Stop;
    };
    match &container.state {
        State::Created => restart_created(plan, wish, container, observed),
        State::Exited(exit) if wish.restarts_after(exit.code) => start(plan, desired, wish, observed, now),
        State::Exited(_) => {}
        State::Running { .. } => {
            let probes = observed.probes(&wish.name, &container.id);
            if container.hash != wish.hash {
                let message = format!("Container {} definition changed, will be restarted", wish.name);
                kill(plan, container, observed, grace_of(desired, container), message);
            } else if let Some(kind) = probes.condemned_by {
                let message = format!("Container {} failed {kind} probe, will be restarted", wish.name);
                kill(
                    plan,
                    container,
                    observed,
                    probes.grace_s.unwrap_or_else(|| grace_of(desired, container)),
                    message,
                );
            } else if observed.is_started(&wish.name, wish.startup_probe) {
                return Next::Go;
            }
        }
    }
    Next::Stop
}

/// The kubelet died between create and start: what was created may be stale, so it is made anew.
fn restart_created(plan: &mut Plan, wish: &Wish, container: &Container, observed: &Observed) {
    let working = observed.is_doing(&Work::Container(wish.name.clone()));
    if !working && !observed.is_doing(&Work::Removal(container.id.clone())) {
        plan.steps.push(Step::Remove { id: container.id.clone() });
    }
}

fn start(plan: &mut Plan, desired: &Desired, wish: &Wish, observed: &Observed, now: Timestamp) {
    let empty = Default::default();
    let memory = observed.memory.get(&wish.name).unwrap_or(&empty);
    if let Some(failure) = &memory.failure {
        show_failure(plan, wish, failure, now);
        if failure.retry_at > now {
            plan.wake(failure.retry_at);
            return;
        }
    }
    if observed.is_doing(&Work::Container(wish.name.clone())) {
        return;
    }
    if let Some(exit) = observed.exit(&wish.name)
        && let Some(until) = Backoff::blocked_until(memory.restarts.as_ref(), exit.finished_at, now)
    {
        plan.wake(until);
        let delay = go_duration(memory.restarts.map(|entry| entry.delay).unwrap_or_default());
        let message = format!("back-off {delay} restarting failed container={} pod={}", wish.name, desired.label);
        plan.wait(&wish.name, "CrashLoopBackOff", message);
        return;
    }
    if volumes_are_ready(observed) {
        plan.steps.push(Step::Start { name: wish.name.clone(), attempt: observed.next_attempt(&wish.name) });
    }
}

fn show_failure(plan: &mut Plan, wish: &Wish, failure: &Failure, now: Timestamp) {
    let shown_until = failure.at.saturating_add(PULL_ERROR_SHOWN_FOR).unwrap_or(Timestamp::MAX);
    if failure.reason != ERR_IMAGE_PULL || now < shown_until {
        if failure.reason == ERR_IMAGE_PULL {
            plan.wake(shown_until);
        }
        plan.wait(&wish.name, &failure.reason, failure.message.clone());
    } else {
        let message = format!("Back-off pulling image \"{}\": {ERR_IMAGE_PULL}: {}", wish.image, failure.message);
        plan.wait(&wish.name, "ImagePullBackOff", message);
    }
}

/// As Go prints it: `10s`, `2m40s`, `5m0s`.
fn go_duration(delay: SignedDuration) -> String {
    match (delay.as_secs() / 60, delay.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn grace_of(desired: &Desired, container: &Container) -> i64 {
    desired.grace_s.unwrap_or_else(|| container.grace_s())
}

fn kill(plan: &mut Plan, container: &Container, observed: &Observed, grace_s: i64, message: String) {
    let name = container.name().to_owned();
    let hasten = match observed.doing.get(&Work::Container(name.clone())) {
        None => true,
        Some(Doing::Kill { grace_s: under_way }) => grace_s < *under_way,
        Some(Doing::Start) => {
            plan.steps.push(Step::CancelStart { name });
            return;
        }
        Some(Doing::Other) => false,
    };
    if hasten {
        plan.steps.push(Step::Kill { name, id: container.id.clone(), grace_s, message });
    }
}

/// Whether nothing runs and nothing is about to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Down {
    Yes,
    NotYet,
}

/// Stops what runs: first all but the sidecars, then those, the last one first.
fn kill_running(plan: &mut Plan, desired: &Desired, observed: &Observed) -> Down {
    let mut down = Down::Yes;
    for (work, doing) in &observed.doing {
        if let (Work::Container(name), Doing::Start) = (work, doing) {
            plan.steps.push(Step::CancelStart { name: name.clone() });
            down = Down::NotYet;
        }
    }
    let order = |name: &str| {
        let position = desired.containers.iter().position(|wish| wish.name == name);
        position.filter(|position| desired.containers[*position].role == Role::Sidecar)
    };
    let running: Vec<&Container> =
        observed.containers.values().flatten().filter(|container| container.is_running()).collect();
    let mut victims: Vec<&Container> =
        running.iter().copied().filter(|container| order(container.name()).is_none()).collect();
    if victims.is_empty() {
        victims.extend(running.iter().copied().max_by_key(|container| order(container.name())));
    }
    for container in victims {
        down = Down::NotYet;
        let cancelled = observed.doing.get(&Work::Container(container.name().to_owned())) == Some(&Doing::Start);
        if !cancelled {
            let message = format!("Stopping container {}", container.name());
            kill(plan, container, observed, grace_of(desired, container), message);
        }
    }
    down
}

/// Stops everything and takes the sandbox away; dead containers stay for their logs.
fn wind_down(plan: &mut Plan, desired: &Desired, observed: &Observed, now: Timestamp) -> Down {
    if kill_running(plan, desired, observed) == Down::NotYet || observed.is_doing(&Work::Sandbox) {
        return Down::NotYet;
    }
    match &observed.sandbox {
        Sandbox::Absent => Down::Yes,
        Sandbox::Ready { id, .. } | Sandbox::Broken { id, .. } => {
            if !sandbox_rests(plan, observed, now) {
                plan.steps.push(Step::RemoveSandbox { id: id.clone() });
            }
            Down::NotYet
        }
    }
}

/// Removes the dead, and in the end the pod itself.
fn clear(plan: &mut Plan, observed: &Observed) {
    let mut containers = observed.containers.values().flatten().peekable();
    if containers.peek().is_none() {
        if observed.doing.is_empty() {
            plan.steps.push(Step::Forget);
        }
        return;
    }
    for container in containers {
        if !observed.is_doing(&Work::Removal(container.id.clone())) {
            plan.steps.push(Step::Remove { id: container.id.clone() });
        }
    }
}

/// Removes dead containers that neither `logs` nor `logs --previous` can show any more.
fn collect_dead(plan: &mut Plan, observed: &Observed) {
    let old = observed.containers.values().flat_map(|attempts| attempts.iter().skip(1 + DEAD_KEPT_MAX));
    for container in old.filter(|container| !container.is_running()) {
        let step = Step::Remove { id: container.id.clone() };
        if !observed.is_doing(&Work::Removal(container.id.clone())) && !plan.steps.contains(&step) {
            plan.steps.push(step);
        }
    }
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
