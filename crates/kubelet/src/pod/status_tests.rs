//! Statuses from facts. Each case gives the containers of one pod and checks phase, conditions and states as one line.

use super::*;
use crate::{
    pod::{desired, observed::Volumes, steps},
    runtime::{PodIdentity, Role as RuntimeRole},
};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1000 + s).unwrap()
}

fn container(name: &str, attempt: u32, state: State) -> Container {
    Container {
        id: format!("{name}{attempt}"),
        pod: PodIdentity::default(),
        role: RuntimeRole::App { name: name.to_owned(), sandbox_id: "sb".to_owned() },
        attempt,
        hash: String::new(),
        image: "img".to_owned(),
        image_id: "sha256:1".to_owned(),
        state,
        pid: 0,
        termination_file: None,
        labels: BTreeMap::new(),
    }
}

fn running() -> State {
    State::Running { started_at: at(-60) }
}
fn exited(code: i32) -> State {
    State::Exited(Exit {
        code,
        oom_killed: false,
        error: String::new(),
        started_at: Some(at(-60)),
        finished_at: at(-1),
    })
}

struct Case {
    pod: Pod,
    observed: Observed,
}

fn case(spec: serde_json::Value, containers: Vec<Container>) -> Case {
    let mut by_name: BTreeMap<String, Vec<Container>> = BTreeMap::new();
    for container in containers {
        by_name.entry(container.name().to_owned()).or_default().push(container);
    }
    let pod =
        serde_json::json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3}, "spec": spec});
    let ready = Sandbox::Ready { id: "sb".to_owned(), attempt: 0, ips: vec!["10.244.0.2".parse().unwrap()] };
    Case {
        pod: serde_json::from_value(pod).unwrap(),
        observed: Observed { sandbox: ready, volumes: Volumes::Ready, containers: by_name, ..Observed::default() },
    }
}

impl Case {
    fn status(&self) -> PodStatus {
        let mut desired = desired::desired(&self.pod, at(0));
        for wish in &mut desired.containers {
            wish.hash = String::new();
        }
        let plan = steps::steps(&desired, &self.observed, at(0));
        status(&Facts {
            pod: &self.pod,
            desired: &desired,
            observed: &self.observed,
            plan: &plan,
            node_ips: &["192.0.2.1".parse().unwrap()],
            messages: &BTreeMap::from([("a0".to_owned(), "bye".to_owned())]),
            now: at(0),
        })
    }
    fn line(&self) -> String {
        let status = self.status();
        let state = |status: &ContainerStatus| {
            let state = status.state.as_ref().unwrap();
            let text = match (&state.running, &state.terminated, &state.waiting) {
                (Some(_), _, _) => "run".to_owned(),
                (_, Some(end), _) => format!("{}:{}", end.reason.as_deref().unwrap(), end.exit_code),
                (_, _, Some(waiting)) => waiting.reason.clone().unwrap(),
                _ => "none".to_owned(),
            };
            let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let last = last.map(|end| format!("<{}", end.exit_code)).unwrap_or_default();
            let ready = if status.ready { "+" } else { "" };
            format!("{}={text}{last}#{}{ready}", status.name, status.restart_count)
        };
        let init = status.init_container_statuses.iter().flatten().map(state);
        let main = status.container_statuses.iter().flatten().map(state);
        let states: Vec<String> = init.chain(main).collect();
        let flag = |type_: &str| {
            let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap();
            if condition.status == "True" { "T" } else { "F" }
        };
        let flags = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"].map(flag).concat();
        format!("{} {flags} {}", status.phase.as_deref().unwrap(), states.join(" "))
    }
}

fn one(extra: serde_json::Value) -> serde_json::Value {
    let mut spec = serde_json::json!({"containers": [{"name": "a", "image": "img"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

#[test]
fn phases_conditions_and_states() {
    use serde_json::json;
    let check = |spec: &serde_json::Value, containers, expected: &str| {
        assert_eq!(case(spec.clone(), containers).line(), expected);
    };
    let always = one(json!({}));
    check(&always, vec![], "Pending TTFF a=ContainerCreating#0");
    check(&always, vec![container("a", 0, running())], "Running TTTT a=run#0+");
    check(&always, vec![container("a", 0, exited(1))], "Running TTFF a=Error:1#0");
    check(&always, vec![container("a", 1, running()), container("a", 0, exited(2))], "Running TTTT a=run<2#1+");
    let never = one(json!({"restartPolicy": "Never"}));
    check(&never, vec![container("a", 0, exited(0))], "Succeeded TTFF a=Completed:0#0");
    check(&never, vec![container("a", 0, exited(3))], "Failed TTFF a=Error:3#0");
    let on_failure = one(json!({"restartPolicy": "OnFailure"}));
    check(&on_failure, vec![container("a", 0, exited(3))], "Running TTFF a=Error:3#0");
    let init = one(json!({"initContainers": [{"name": "i"}]}));
    check(&init, vec![container("i", 0, running())], "Pending TFFF i=run#0 a=PodInitializing#0");
    check(&init, vec![container("i", 0, exited(0))], "Pending TTFF i=Completed:0#0+ a=ContainerCreating#0");
    let init_never = one(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}]}));
    check(&init_never, vec![container("i", 0, exited(1))], "Failed TFFF i=Error:1#0 a=ContainerCreating#0");
    let sidecar = one(json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
    check(&sidecar, vec![container("s", 0, running())], "Pending TTFF s=run#0+ a=ContainerCreating#0");
    check(
        &sidecar,
        vec![container("s", 0, running()), container("a", 0, exited(0))],
        "Running TTFF s=run#0+ a=Completed:0#0",
    );
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    let mut case = case(one(serde_json::json!({})), vec![container("a", 0, exited(7))]);
    let backoff = crate::pod::backoff::Backoff::next(None, at(-1), at(-1));
    case.observed.memory.entry("a".to_owned()).or_default().restarts = Some(backoff);
    assert_eq!(case.line(), "Running TTFF a=CrashLoopBackOff<7#0");
    let status = case.status();
    let last = status.container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(last.message.as_deref(), Some("bye"));
}

#[test]
fn a_restarted_kubelet_believes_the_api_until_its_probes_answer() {
    let spec = serde_json::json!({"containers": [{"name": "a", "readinessProbe": {"tcpSocket": {"port": 1}}}]});
    let mut case = case(spec, vec![container("a", 0, running())]);
    assert_eq!(case.line(), "Running TTFF a=run#0");
    let mut known = case.status();
    known.container_statuses.as_mut().unwrap()[0].ready = true;
    case.pod.status = Some(known);
    assert_eq!(case.line(), "Running TTTT a=run#0+");
    let memory = case.observed.memory.entry("a".to_owned()).or_default();
    memory.probes.container_id = "a0".to_owned();
    memory.probes.ready = Some(false);
    assert_eq!(case.line(), "Running TTFF a=run#0");
}

#[test]
fn a_container_that_somebody_removed_is_not_forgotten() {
    let mut case = case(one(serde_json::json!({})), vec![container("a", 4, running())]);
    case.pod.status = Some(case.status());
    case.observed.containers.clear();
    assert_eq!(case.line(), "Running TTFF a=ContainerCreating<137#4");
}

#[test]
fn the_end_of_a_deleted_pod_stays_when_its_containers_are_removed() {
    let mut case = case(one(serde_json::json!({})), vec![container("a", 0, exited(143))]);
    case.pod.metadata.deletion_timestamp = Some(Time(at(0)));
    assert_eq!(case.line(), "Failed TTFF a=Error:143#0");
    case.pod.status = Some(case.status());
    case.observed.containers.clear();
    case.observed.sandbox = Sandbox::Absent;
    let line = case.line();
    assert_eq!(line, "Failed FTFF a=Error:143#0");
    assert_eq!(case.status().pod_ip.as_deref(), Some("10.244.0.2"));
}

#[test]
fn times_change_only_with_the_condition_and_others_conditions_stay() {
    let mut case = case(
        one(serde_json::json!({"readinessGates": [{"conditionType": "x/y"}]})),
        vec![container("a", 0, running())],
    );
    assert_eq!(case.line(), "Running TTFT a=run#0+");
    let mut status = case.status();
    for condition in status.conditions.as_mut().unwrap() {
        condition.last_transition_time = Some(Time(at(-500)));
    }
    status.conditions.as_mut().unwrap().push(PodCondition {
        type_: "x/y".to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    });
    case.pod.status = Some(status);
    let conditions = case.status().conditions.unwrap();
    let of = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    assert_eq!((of("Ready").status.as_str(), of("Ready").last_transition_time.clone()), ("True", Some(Time(at(0)))));
    assert_eq!(of("ContainersReady").last_transition_time, Some(Time(at(-500))));
    assert_eq!(of("Ready").observed_generation, Some(3));
    assert_eq!(of("x/y").status, "True");
}
