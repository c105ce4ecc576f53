//! Which container a request means. Pure, over what the runtime shows and the pod says.

use api_types::{
    Object,
    k8s::core::{ContainerStatus, Pod},
};

use crate::runtime::{Container, Role};

/// The container in which something can run now.
pub fn running<'a>(containers: &'a [Container], name: &str) -> Result<&'a Container, String> {
    let found = attempts(containers, name).into_iter().find(|container| container.is_running());
    found.ok_or_else(|| format!("container not found ({name:?})"))
}

/// The pod's sandbox, whose network its containers share.
pub fn sandbox(containers: &[Container]) -> Option<&Container> {
    containers.iter().find(|container| matches!(container.role, Role::Sandbox) && container.is_running())
}

/// The container whose log is wanted: the newest, or the one before it.
///
/// Source for the words: `validateContainerLogStatus` in pkg/kubelet/kubelet_pods.go.
pub fn logged<'a>(containers: &'a [Container], pod: &Pod, name: &str, previous: bool) -> Result<&'a Container, String> {
    let pod_name = pod.name();
    if !has_container(pod, name) {
        return Err(format!("container {name:?} in pod {pod_name:?} is not available"));
    }
    let attempts = attempts(containers, name);
    if previous {
        let missing = || format!("previous terminated container {name:?} in pod {pod_name:?} not found");
        return attempts.get(1).copied().ok_or_else(missing);
    }
    if let Some(newest) = attempts.first() {
        return Ok(newest);
    }
    let waiting = status(pod, name).and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    let why = match waiting {
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
        None => return Err(format!("container {name:?} in pod {pod_name:?} is waiting to start - no logs yet")),
    };
    Err(format!("container {name:?} in pod {pod_name:?} is waiting to start: {why}"))
}

/// The containers of that name, newest first.
fn attempts<'a>(containers: &'a [Container], name: &str) -> Vec<&'a Container> {
    let is_it = |container: &&Container| matches!(&container.role, Role::App { name: this, .. } if this == name);
    let mut found: Vec<&Container> = containers.iter().filter(is_it).collect();
    found.sort_by_key(|container| std::cmp::Reverse(container.attempt));
    found
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
    let ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    ordinary.map(|container| &container.name).chain(ephemeral).any(|this| this == name)
}

fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == name)
}

#[cfg(test)]
mod tests {
    use api_types::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::runtime::{Exit, PodIdentity, State};

    fn container(name: &str, attempt: u32, running: bool) -> Container {
        let at = Timestamp::from_second(1).unwrap();
        let exit = Exit { code: 0, oom_killed: false, error: String::new(), started_at: None, finished_at: at };
        Container {
            id: format!("{name}{attempt}"),
            pod: PodIdentity::default(),
            role: match name {
                "" => Role::Sandbox,
                name => Role::App { name: name.to_owned(), sandbox_id: "s".to_owned() },
            },
            attempt,
            hash: String::new(),
            image: String::new(),
            image_id: String::new(),
            state: if running { State::Running { started_at: at } } else { State::Exited(exit) },
            pid: 0,
            termination_file: None,
            labels: Default::default(),
        }
    }

    fn pod(reason: Option<&str>) -> Pod {
        let status = reason.map(|reason| json!([{"name": "c", "state": {"waiting": {"reason": reason}}}]));
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c"}, {"name": "d"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": status},
        }))
        .unwrap()
    }

    #[test]
    fn the_newest_attempt_counts() {
        let all = [container("c", 0, false), container("c", 2, true), container("c", 1, false), container("", 0, true)];
        assert_eq!(running(&all, "c").unwrap().id, "c2");
        assert_eq!(running(&all[..1], "c").unwrap_err(), "container not found (\"c\")");
        assert_eq!(logged(&all, &pod(None), "c", false).unwrap().id, "c2");
        assert_eq!(logged(&all, &pod(None), "c", true).unwrap().id, "c1");
        assert_eq!(sandbox(&all).unwrap().id, "0");
    }

    #[test]
    fn a_log_that_is_not_there_is_said_why() {
        let check = |reason: Option<&str>, name: &str, previous: bool, expected: &str| {
            let error = logged(&[], &pod(reason), name, previous).unwrap_err();
            assert_eq!(error, expected);
        };
        check(None, "x", false, r#"container "x" in pod "p" is not available"#);
        check(None, "c", true, r#"previous terminated container "c" in pod "p" not found"#);
        check(None, "i", false, r#"container "i" in pod "p" is waiting to start - no logs yet"#);
        let waiting = |why: &str| format!(r#"container "c" in pod "p" is waiting to start: {why}"#);
        check(Some("ContainerCreating"), "c", false, &waiting("ContainerCreating"));
        check(Some("ErrImagePull"), "c", false, &waiting("image can't be pulled"));
        check(Some("ImagePullBackOff"), "c", false, &waiting("trying and failing to pull image"));
    }
}
