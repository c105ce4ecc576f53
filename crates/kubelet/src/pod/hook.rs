//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use api_types::k8s::core::{Container, LifecycleHandler};

use super::act::Scene;
use crate::{
    probe::{
        Answer,
        ask::{self, Target},
    },
    runtime,
};

/// A hook may last as long as the grace that its caller gives; this only bounds a lost connection.
const HOOK_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Runs a hook to its end; the error is what events say.
pub async fn run(scene: &Scene, container: &Container, id: &str, handler: &LifecycleHandler) -> Result<(), String> {
    let runtime = scene.host.runtime.as_ref();
    let ip = scene.ips.first().map(ToString::to_string).unwrap_or_default();
    let target = Target { runtime, container, container_id: id, ip: &ip };
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        return match runtime::run(runtime, id, &command, HOOK_TIMEOUT_MAX).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => Err(format!("command '{}' exited with {code}: {output}", command.join(" "))),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(action) = &handler.http_get {
        return match ask::http_get(&target, action).await? {
            Answer::Good | Answer::Warning(_) => Ok(()),
            Answer::Bad(message) => Err(message),
        };
    }
    if let Some(action) = &handler.tcp_socket {
        return ask::tcp(&target, action).await;
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or_default())).await;
    }
    Ok(())
}
