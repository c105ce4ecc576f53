//! The decision, one line of data per case.
//!
//! Wanted: `i:` init, `s:` sidecar, `m:` main, `e:` ephemeral, with `+` for a startup probe and `!` for restart policy
//! Never, `?` for OnFailure. Observed: `a=run`, `a=made`, `a=exit:1`; `a#2=…` gives the attempt; `a@old=…` a container of
//! an earlier sandbox; `a~start`/`a~kill:30` work under way; `a^live` condemned; `a^started`; `a-back:10@-5` backoff.

use super::*;
use crate::{
    pod::{
        desired::Restart,
        observed::{Memory, Probes},
    },
    runtime::{Exit, PodIdentity, Role as RuntimeRole},
};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1000 + s).unwrap()
}

fn wish(text: &str) -> Wish {
    let (role, name) = text.split_once(':').unwrap();
    let bare = name.trim_end_matches(['+', '!', '?']);
    let role = match role {
        "i" => Role::Init,
        "s" => Role::Sidecar,
        "m" => Role::Main,
        "e" => Role::Ephemeral,
        other => panic!("{other}"),
    };
    let restart = match (role, name) {
        (Role::Ephemeral, _) => Restart::Never,
        (_, name) if name.contains('!') => Restart::Never,
        (_, name) if name.contains('?') => Restart::OnFailure,
        (Role::Init, _) => Restart::OnFailure,
        _ => Restart::Always,
    };
    let startup_probe = name.contains('+');
    Wish {
        restart_rules: vec![],
        name: bare.to_owned(),
        role,
        restart,
        hash: "h".to_owned(),
        image: "img".to_owned(),
        startup_probe,
    }
}

fn observe(observed: &mut Observed, word: &str) {
    if let Some((name, doing)) = word.split_once('~') {
        let doing = match doing.split_once(':') {
            Some(("kill", grace)) => Doing::Kill { grace_s: grace.parse().unwrap() },
            _ => Doing::Start,
        };
        observed.doing.insert(Work::Container(name.to_owned()), doing);
    } else if let Some((name, result)) = word.split_once('^') {
        let memory: &mut Memory = observed.memory.entry(name.to_owned()).or_default();
        memory.probes = Probes { container_id: format!("{name}0"), ..Probes::default() };
        match result {
            "live" => memory.probes.condemned_by = Some("liveness"),
            "started" => memory.probes.started = Some(true),
            other => panic!("{other}"),
        }
    } else if let Some((name, backoff)) = word.split_once("-back:") {
        let delay = SignedDuration::from_secs(backoff.parse().unwrap());
        observed.memory.entry(name.to_owned()).or_default().restarts = Some(Backoff { delay, updated_at: at(-1) });
    } else if let Some((name, state)) = word.split_once('=') {
        let (name, old) = match name.split_once('@') {
            Some((name, _)) => (name, true),
            None => (name, false),
        };
        let (name, attempt) = name.split_once('#').map_or((name, 0), |(name, n)| (name, n.parse().unwrap()));
        let state = match state.split_once(':') {
            None if state == "run" => State::Running { started_at: at(-60) },
            None if state == "made" => State::Created,
            Some(("exit", code)) => State::Exited(Exit {
                code: code.parse().unwrap(),
                oom_killed: false,
                error: String::new(),
                started_at: Some(at(-60)),
                finished_at: at(-1),
            }),
            other => panic!("{other:?}"),
        };
        let sandbox_id = if old { "old" } else { "sb" };
        observed.containers.entry(name.to_owned()).or_default().push(Container {
            id: format!("{name}{attempt}"),
            pod: PodIdentity::default(),
            role: RuntimeRole::App { name: name.to_owned(), sandbox_id: sandbox_id.to_owned() },
            attempt,
            hash: "h".to_owned(),
            image: String::new(),
            image_id: String::new(),
            state,
            pid: 0,
            termination_file: None,
            labels: BTreeMap::new(),
        });
    } else {
        observed.sandbox = match word {
            "-" => Sandbox::Absent,
            "broken" => Sandbox::Broken { id: "sb".to_owned(), attempt: 0 },
            other => panic!("{other}"),
        };
    }
}

fn view(lifecycle: Lifecycle, wanted: &str, observed: &str) -> (Desired, Observed) {
    let desired = Desired {
        lifecycle,
        grace_s: (lifecycle != Lifecycle::Run).then_some(5),
        deadline: None,
        label: "p_ns(u)".to_owned(),
        containers: wanted.split_whitespace().map(wish).collect(),
    };
    let ready = Sandbox::Ready { id: "sb".to_owned(), attempt: 0, ips: vec![] };
    let mut view = Observed { sandbox: ready, volumes: Volumes::Ready, reported: true, ..Observed::default() };
    observed.split_whitespace().for_each(|word| observe(&mut view, word));
    (desired, view)
}

/// `+a0` start, `-a:30` kill with grace, `xa` cancel a start, `rm:id`, `sb+`, `sb-`, `vol`, `forget`; then waiting as `a:Reason`.
fn print(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|step| match step {
        Step::PrepareVolumes => "vol".to_owned(),
        Step::CreateSandbox { attempt } => format!("sb+{attempt}"),
        Step::RemoveSandbox { .. } => "sb-".to_owned(),
        Step::Start { name, attempt } => format!("+{name}{attempt}"),
        Step::Kill { name, grace_s, .. } => format!("-{name}:{grace_s}"),
        Step::CancelStart { name } => format!("x{name}"),
        Step::Remove { id } => format!("rm:{id}"),
        Step::Forget => "forget".to_owned(),
    });
    let waiting = plan.waiting.iter().map(|(name, waiting)| format!("{name}:{}", waiting.reason));
    steps.chain(waiting.filter(|text| !text.ends_with(":ContainerCreating"))).collect::<Vec<_>>().join(" ")
}

fn check(lifecycle: Lifecycle, wanted: &str, observed: &str, expected: &str) {
    let (desired, view) = view(lifecycle, wanted, observed);
    assert_eq!(print(&steps(&desired, &view, at(0))), expected, "{wanted} | {observed}");
}
fn run(wanted: &str, observed: &str, expected: &str) {
    check(Lifecycle::Run, wanted, observed, expected);
}

#[test]
fn first_the_sandbox_then_all_main_containers() {
    run("m:a m:b", "-", "sb+0");
    run("m:a m:b", "", "+a0 +b0");
    run("m:a m:b", "a~start b=run", "");
    run("m:a m:b", "a=run b=run", "");
}

#[test]
fn init_containers_run_one_after_another() {
    run("i:x i:y m:a", "", "+x0 a:PodInitializing y:PodInitializing");
    run("i:x i:y m:a", "x=run", "a:PodInitializing y:PodInitializing");
    run("i:x i:y m:a", "x=exit:0", "+y0 a:PodInitializing");
    run("i:x i:y m:a", "x=exit:0 y=exit:0", "+a0");
    run("i:x m:a", "x=exit:1", "+x1 a:PodInitializing");
    run("i:x m:a", "x=exit:1 x-back:10", "a:PodInitializing x:CrashLoopBackOff");
    // Nothing to be initialised once a main container has begun.
    run("i:x m:a", "a=run", "");
}

#[test]
fn an_init_container_that_fails_for_good_ends_the_pod() {
    run("i:x! m:a!", "x=exit:1", "sb-");
    run("i:x! m:a!", "x=exit:1 -", "");
}

#[test]
fn sidecars_start_before_and_die_after_the_others() {
    run("s:s+ m:a", "s=run", "a:PodInitializing");
    run("s:s+ m:a", "s=run s^started", "+a0");
    run("s:s m:a", "s=run", "+a0");
    run("s:s m:a!", "s=exit:0 a=run", "+s1");
    run("s:s s:t m:a!", "s=run t=run a=exit:0", "-t:30");
    run("s:s s:t m:a!", "s=run t=exit:143 a=exit:0", "-s:30");
    run("s:s s:t m:a!", "s=exit:0 t=exit:143 a=exit:0", "sb-");
}

#[test]
fn the_restart_policy_decides_about_the_ended() {
    run("m:a", "a=exit:0", "+a1");
    run("m:a? m:b", "a=exit:0 b=run", "");
    run("m:a? m:b", "a=exit:2 b=run", "+a1");
    run("m:a! m:b!", "a=exit:2 b=run", "");
    run("m:a! m:b!", "a=exit:2 b=exit:0", "sb-");
}

#[test]
fn rules_go_before_the_policy() {
    use crate::pod::desired::RestartRule;
    let check = |rule: RestartRule, code: i32, expected: bool| {
        let wish = Wish { restart_rules: vec![rule], ..wish("m:a!") };
        assert_eq!(wish.restarts_after(code), expected);
    };
    check(RestartRule::In(vec![42]), 42, true);
    check(RestartRule::In(vec![42]), 1, false);
    check(RestartRule::NotIn(vec![42]), 42, false);
    check(RestartRule::NotIn(vec![42]), 0, true);
}

#[test]
fn a_crash_loop_backs_off() {
    run("m:a", "a#1=exit:1 a-back:10", "a:CrashLoopBackOff");
    let (desired, view) = view(Lifecycle::Run, "m:a", "a#1=exit:1 a-back:160");
    let plan = steps(&desired, &view, at(0));
    assert_eq!(plan.waiting["a"].message, "back-off 2m40s restarting failed container=a pod=p_ns(u)");
    assert_eq!(plan.wake_at, Some(at(159)));
}

#[test]
fn a_failed_probe_kills_and_then_restarts() {
    run("m:a", "a=run a^live", "-a:30");
    run("m:a", "a=run a^live a~kill:30", "");
    run("m:a", "a=exit:137 a^live", "+a1");
}

#[test]
fn what_a_dead_kubelet_left_half_made_is_made_anew() {
    run("m:a", "a=made", "rm:a0");
    run("m:a", "a=made a~start", "");
}

#[test]
fn a_lost_sandbox_is_replaced_and_everything_in_it() {
    run("m:a", "broken a=run", "-a:30");
    run("m:a", "broken a=exit:137", "sb-");
    run("m:a", "- a@old=exit:137", "sb+1");
    run("i:x m:a", "x@old=exit:0 a@old=exit:137", "+x1 a:PodInitializing");
}

#[test]
fn a_deleted_pod_is_stopped_then_cleared_then_forgotten() {
    let delete = |observed, expected| check(Lifecycle::Terminate, "s:s m:a", observed, expected);
    delete("a=run s=run", "-a:5");
    delete("a=run s=run a~kill:5", "");
    delete("a=run s=run a~kill:30", "-a:5");
    delete("a~start", "xa");
    delete("a=exit:0 s=run", "-s:5");
    delete("a=exit:0 s=exit:0", "sb-");
    delete("- a=exit:0 s=exit:0", "rm:a0 rm:s0");
    delete("-", "forget");
}

#[test]
fn nothing_is_cleared_before_the_api_knows_the_end() {
    let (desired, mut view) = view(Lifecycle::Terminate, "m:a", "- a=exit:0");
    view.reported = false;
    assert_eq!(print(&steps(&desired, &view, at(0))), "");
}

#[test]
fn a_finished_pod_keeps_its_dead() {
    check(Lifecycle::Finished, "m:a!", "- a=exit:0", "");
    check(Lifecycle::Finished, "m:a! m:b!", "a=exit:0 b=run", "-b:5");
}

#[test]
fn a_pod_that_the_api_lost_goes_without_a_report() {
    let (desired, mut view) = view(Lifecycle::Gone, "", "- a=exit:0");
    view.reported = false;
    assert_eq!(print(&steps(&desired, &view, at(0))), "rm:a0");
}

#[test]
fn one_dead_container_is_kept_for_its_log() {
    run("m:a", "a#3=run a#2=exit:1 a#1=exit:1 a#0=exit:1", "rm:a1 rm:a0");
}

#[test]
fn the_deadline_fails_the_pod() {
    let (mut desired, view) = view(Lifecycle::Run, "m:a", "a=run");
    desired.deadline = Some(at(0));
    let plan = steps(&desired, &view, at(0));
    assert_eq!((print(&plan), plan.failure.unwrap().reason.as_str()), ("-a:30".to_owned(), "DeadlineExceeded"));
    desired.deadline = Some(at(7));
    let plan = steps(&desired, &view, at(0));
    assert_eq!((print(&plan), plan.wake_at), (String::new(), Some(at(7))));
}

#[test]
fn a_sandbox_that_cannot_be_removed_is_not_tried_without_pause() {
    let (desired, mut view) = view(Lifecycle::Terminate, "m:a", "a=exit:0");
    view.sandbox_failure =
        Some(Failure { reason: "FailedKillPod".to_owned(), message: "no".to_owned(), at: at(-1), retry_at: at(4) });
    let plan = steps(&desired, &view, at(0));
    assert_eq!((print(&plan), plan.wake_at), (String::new(), Some(at(4))));
    assert_eq!(print(&steps(&desired, &view, at(4))), "sb-");
}

#[test]
fn failed_volumes_are_waited_for() {
    let (desired, mut view) = view(Lifecycle::Run, "m:a", "-");
    view.volumes = Volumes::Failed(Failure {
        reason: "FailedMount".to_owned(),
        message: "configmap \"x\" not found".to_owned(),
        at: at(-1),
        retry_at: at(1),
    });
    let plan = steps(&desired, &view, at(0));
    assert_eq!((print(&plan), plan.wake_at), (String::new(), Some(at(1))));
    assert_eq!(plan.waiting["a"].message, "configmap \"x\" not found");
    assert_eq!(print(&steps(&desired, &view, at(1))), "vol");
}

#[test]
fn a_failed_pull_shows_its_error_and_then_that_it_backs_off() {
    let (desired, mut view) = view(Lifecycle::Run, "m:a", "");
    view.memory.entry("a".to_owned()).or_default().failure = Some(Failure {
        reason: ERR_IMAGE_PULL.to_owned(),
        message: "no such image".to_owned(),
        at: at(0),
        retry_at: at(10),
    });
    assert_eq!(print(&steps(&desired, &view, at(1))), "a:ErrImagePull");
    let plan = steps(&desired, &view, at(3));
    assert_eq!(plan.waiting["a"].message, "Back-off pulling image \"img\": ErrImagePull: no such image");
    assert_eq!(print(&steps(&desired, &view, at(10))), "+a0 a:ImagePullBackOff");
}

/// Takes a step in an imaginary machine where everything succeeds at once.
fn apply(desired: &Desired, view: &mut Observed, step: Step, now: Timestamp) {
    let exit = |code: i32| {
        State::Exited(Exit { code, oom_killed: false, error: String::new(), started_at: Some(now), finished_at: now })
    };
    match step {
        Step::PrepareVolumes => view.volumes = Volumes::Ready,
        Step::CreateSandbox { attempt } => {
            assert_eq!(view.sandbox, Sandbox::Absent, "two sandboxes");
            view.sandbox = Sandbox::Ready { id: format!("new{attempt}"), attempt, ips: vec![] };
        }
        Step::RemoveSandbox { .. } => view.sandbox = Sandbox::Absent,
        Step::Start { name, attempt } => {
            let Sandbox::Ready { id, .. } = &view.sandbox else { panic!("{name} starts without a sandbox") };
            let wish = desired.containers.iter().find(|wish| wish.name == name).unwrap();
            let attempts = view.containers.entry(name.clone()).or_default();
            assert!(attempts.iter().all(|other| other.attempt < attempt && !other.is_running()), "{name}{attempt}");
            let state = if wish.role == Role::Init { exit(0) } else { State::Running { started_at: now } };
            attempts.insert(
                0,
                Container {
                    id: format!("{name}{attempt}"),
                    pod: PodIdentity::default(),
                    role: RuntimeRole::App { name: name.clone(), sandbox_id: id.clone() },
                    attempt,
                    hash: "h".to_owned(),
                    image: String::new(),
                    image_id: String::new(),
                    state,
                    pid: 0,
                    termination_file: None,
                    labels: BTreeMap::new(),
                },
            );
        }
        Step::Kill { name, id, .. } => {
            let attempts = view.containers.get_mut(&name).unwrap();
            attempts.iter_mut().find(|container| container.id == id).unwrap().state = exit(137);
        }
        Step::CancelStart { name } => {
            view.doing.remove(&Work::Container(name));
        }
        Step::Remove { id } => {
            for attempts in view.containers.values_mut() {
                attempts.retain(|container| container.id != id);
            }
            view.containers.retain(|_, attempts| !attempts.is_empty());
        }
        Step::Forget => {}
    }
}

/// Wherever a kubelet died, its successor gets the pod to where it belongs, and then rests.
#[test]
fn every_state_leads_to_the_goal() {
    for lifecycle in [Lifecycle::Run, Lifecycle::Finished, Lifecycle::Terminate, Lifecycle::Gone] {
        for case in 0..3 * 5_usize.pow(3) {
            reaches_the_goal(lifecycle, case);
        }
    }
}

/// `case` counts through all states of the sandbox, an init container, a sidecar and a main container.
fn reaches_the_goal(lifecycle: Lifecycle, case: usize) {
    let sandbox = ["", "- ", "broken "][case % 3];
    let state = |name: &str, digit: u32| match (case / 3 / 5_usize.pow(digit)) % 5 {
        0 => String::new(),
        1 => format!("{name}=made "),
        // One that runs ends by itself some time.
        2 if name == "x" => format!("{name}=exit:0 "),
        2 => format!("{name}=run "),
        3 => format!("{name}=exit:0 "),
        _ => format!("{name}=exit:1 "),
    };
    let text = format!("{sandbox}{}{}{}", state("x", 0), state("s", 1), state("a", 2));
    let (desired, mut view) = view(lifecycle, "i:x s:s m:a", &text);
    let mut forgotten = false;
    let rests = (0..30).any(|turn| {
        let now = at(turn * 1000);
        let plan = steps(&desired, &view, now);
        forgotten = plan.steps.contains(&Step::Forget);
        let done = plan.steps.is_empty() || forgotten;
        plan.steps.into_iter().for_each(|step| apply(&desired, &mut view, step, now));
        done
    });
    assert!(rests, "{lifecycle:?} {text}");
    let running = ["s", "a"].map(|name| view.is_running(name));
    match lifecycle {
        Lifecycle::Run => assert_eq!(running, [true, true], "{text}"),
        Lifecycle::Finished => assert_eq!((running, &view.sandbox), ([false; 2], &Sandbox::Absent), "{text}"),
        Lifecycle::Terminate | Lifecycle::Gone => assert!(forgotten, "{lifecycle:?} {text}"),
    }
}
