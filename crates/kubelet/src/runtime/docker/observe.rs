//! Docker's answers as the kubelet's own facts.

use std::{collections::HashMap, path::PathBuf};

use api_types::jiff::Timestamp;
use bollard::{
    Docker,
    models::{ContainerInspectResponse, ContainerState},
    query_parameters::EventsOptionsBuilder,
};
use futures::{StreamExt, stream::BoxStream};

use crate::runtime::{Change, Container, Exit, PodIdentity, Role, State, labels, labels::Owner};

/// `None` for a container that lacks the kubelet's labels.
pub(super) fn container(details: ContainerInspectResponse) -> Option<Container> {
    let config = details.config?;
    let labels: std::collections::BTreeMap<String, String> = config.labels?.into_iter().collect();
    let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let pod = PodIdentity {
        uid: labels.get(labels::POD_UID)?.clone(),
        namespace: text(labels::POD_NAMESPACE),
        name: text(labels::POD_NAME),
    };
    let role = match labels.get(labels::CONTAINER_TYPE)?.as_str() {
        labels::TYPE_SANDBOX => Role::Sandbox,
        _ => Role::App { name: text(labels::CONTAINER_NAME), sandbox_id: text(labels::SANDBOX_ID) },
    };
    let runtime_state = details.state.unwrap_or_default();
    Some(Container {
        id: details.id?,
        pod,
        role,
        attempt: text(labels::ATTEMPT).parse().unwrap_or_default(),
        hash: text(labels::HASH),
        image: config.image.unwrap_or_default(),
        image_id: details.image.unwrap_or_default(),
        pid: runtime_state.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        state: state(&runtime_state, details.created.as_deref()),
        termination_file: labels.get(labels::TERMINATION_FILE).map(PathBuf::from),
        labels,
    })
}

fn state(state: &ContainerState, created: Option<&str>) -> State {
    let started_at = state.started_at.as_deref().and_then(time);
    let finished_at = state.finished_at.as_deref().and_then(time);
    let ended = |finished_at: Timestamp| {
        State::Exited(Exit {
            code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default(),
            oom_killed: state.oom_killed.unwrap_or_default(),
            error: state.error.clone().unwrap_or_default(),
            started_at,
            finished_at,
        })
    };
    let failed = state.error.as_deref().is_some_and(|error| !error.is_empty());
    match (state.running.unwrap_or_default(), started_at, finished_at) {
        (true, started_at, _) => State::Running { started_at: started_at.unwrap_or_default() },
        (false, _, Some(finished_at)) => ended(finished_at),
        // Docker gives no end to a container that it could not start.
        (false, None, None) if failed => ended(created.and_then(time).unwrap_or_default()),
        (false, _, None) => State::Created,
    }
}

/// Docker writes the year 1 for "never".
fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|time: &Timestamp| *time > Timestamp::UNIX_EPOCH)
}

/// The pods whose containers changed, as the engine tells it.
pub(super) fn changes(docker: &Docker, owner: &Owner) -> BoxStream<'static, Change> {
    let mut filters: HashMap<String, Vec<String>> = owner.filter(None);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), ["create", "start", "die", "oom", "destroy"].map(str::to_owned).into());
    // The engine is asked only when somebody reads; what happens until then is told afterwards.
    let since = Timestamp::now().as_second().to_string();
    let options = EventsOptionsBuilder::default().filters(&filters).since(&since).build();
    let docker = docker.clone();
    docker
        .events(Some(options))
        .take_while(|event| {
            let alive = event.is_ok();
            async move { alive }
        })
        .filter_map(|event| async move {
            let mut attributes = event.ok()?.actor?.attributes?;
            Some(Change { pod_uid: attributes.remove(labels::POD_UID)? })
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: serde_json::Value, expected: State) {
        let state: ContainerState = serde_json::from_value(json).unwrap();
        assert_eq!(super::state(&state, Some("2026-01-01T00:00:00Z")), expected);
    }

    #[test]
    fn states() {
        let never = "0001-01-01T00:00:00Z";
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        check(
            serde_json::json!({"Running": false, "StartedAt": never, "FinishedAt": never, "Error": ""}),
            State::Created,
        );
        check(
            serde_json::json!({"Running": true, "StartedAt": "2026-01-02T00:00:00.5Z", "FinishedAt": never}),
            State::Running { started_at: at("2026-01-02T00:00:00.5Z") },
        );
        check(
            serde_json::json!({"Running": false, "ExitCode": 3, "StartedAt": "2026-01-02T00:00:00Z", "FinishedAt": "2026-01-02T00:00:09Z"}),
            State::Exited(Exit {
                code: 3,
                oom_killed: false,
                error: String::new(),
                started_at: Some(at("2026-01-02T00:00:00Z")),
                finished_at: at("2026-01-02T00:00:09Z"),
            }),
        );
        check(
            serde_json::json!({"Running": false, "ExitCode": 127, "Error": "no such file", "StartedAt": never, "FinishedAt": never}),
            State::Exited(Exit {
                code: 127,
                oom_killed: false,
                error: "no such file".to_owned(),
                started_at: None,
                finished_at: at("2026-01-01T00:00:00Z"),
            }),
        );
    }
}
