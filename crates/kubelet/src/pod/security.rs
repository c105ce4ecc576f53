//! A container's effective security settings from the pod's, its own and the image's. Pure.

use api_types::k8s::core::{PodSecurityContext, SeccompProfile, SecurityContext};

use crate::runtime::{Seccomp, Security};

/// Where the kubelet looks for Localhost seccomp profiles, below its root directory.
pub const SECCOMP_DIR: &str = "seccomp";

/// Which seccomp profile is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeccompChoice {
    Unconfined,
    RuntimeDefault,
    /// A file below [`SECCOMP_DIR`].
    Localhost(String),
}

/// The container's own profile, or the pod's, or none.
pub fn seccomp(pod: Option<&PodSecurityContext>, own: Option<&SecurityContext>) -> Result<SeccompChoice, String> {
    if own.is_some_and(|own| own.privileged.unwrap_or_default()) {
        return Ok(SeccompChoice::Unconfined);
    }
    let profile: Option<&SeccompProfile> =
        own.and_then(|own| own.seccomp_profile.as_ref()).or_else(|| pod.and_then(|pod| pod.seccomp_profile.as_ref()));
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => Ok(SeccompChoice::RuntimeDefault),
        // An empty path would mean "unconfined" to a runtime.
        Some(("Localhost", None | Some(""))) => {
            Err("localhostProfile must be set if seccompProfile type is Localhost.".to_owned())
        }
        Some(("Localhost", Some(path))) => Ok(SeccompChoice::Localhost(path.to_owned())),
        Some(_) | None => Ok(SeccompChoice::Unconfined),
    }
}

/// `image_user` is the image's USER; `seccomp` the profile that was chosen and read.
/// The error is the message of the container's `CreateContainerConfigError`.
pub fn security(
    pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    image_user: &str,
    container: &str,
    seccomp: Seccomp,
) -> Result<Security, String> {
    let either = |own: Option<i64>, pod: Option<i64>| own.or(pod);
    let uid = either(own.and_then(|own| own.run_as_user), pod.and_then(|pod| pod.run_as_user));
    let gid = either(own.and_then(|own| own.run_as_group), pod.and_then(|pod| pod.run_as_group));
    let non_root = own.and_then(|own| own.run_as_non_root).or_else(|| pod.and_then(|pod| pod.run_as_non_root));
    if non_root == Some(true) {
        check_non_root(uid, image_user, container)?;
    }
    let user = match (uid, gid) {
        (Some(uid), Some(gid)) => Some(format!("{uid}:{gid}")),
        (Some(uid), None) => Some(uid.to_string()),
        (None, Some(gid)) => {
            let user = image_user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            Some(format!("{user}:{gid}"))
        }
        (None, None) => None,
    };
    let groups = pod.into_iter().flat_map(|pod| pod.supplemental_groups.iter().flatten().chain(pod.fs_group.as_ref()));
    let capabilities = own.and_then(|own| own.capabilities.as_ref());
    Ok(Security {
        user,
        groups: groups.map(i64::to_string).collect(),
        capabilities_add: capabilities.and_then(|caps| caps.add.clone()).unwrap_or_default(),
        capabilities_drop: capabilities.and_then(|caps| caps.drop.clone()).unwrap_or_default(),
        privileged: own.and_then(|own| own.privileged).unwrap_or_default(),
        read_only_root: own.and_then(|own| own.read_only_root_filesystem).unwrap_or_default(),
        no_new_privileges: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        seccomp,
    })
}

/// Source: `verifyRunAsNonRoot` in pkg/kubelet/kuberuntime.
fn check_non_root(uid: Option<i64>, image_user: &str, container: &str) -> Result<(), String> {
    let image_uid = image_user.split(':').next().unwrap_or_default();
    match (uid, image_uid, image_uid.parse::<i64>()) {
        (Some(0), _, _) => Err(format!("container's runAsUser breaks non-root policy (container: \"{container}\")")),
        (Some(_), _, _) => Ok(()),
        (None, "" | "0", _) => {
            Err(format!("container has runAsNonRoot and image will run as root (container: \"{container}\")"))
        }
        (None, _, Ok(_)) => Ok(()),
        (None, name, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root (container: \"{container}\")"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod: serde_json::Value, own: serde_json::Value, image_user: &str, expected: Result<Option<&str>, &str>) {
        let pod: PodSecurityContext = serde_json::from_value(pod).unwrap();
        let own: SecurityContext = serde_json::from_value(own).unwrap();
        let got = security(Some(&pod), Some(&own), image_user, "c", Seccomp::Unconfined);
        match (got, expected) {
            (Ok(security), Ok(user)) => assert_eq!(security.user.as_deref(), user),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (got, expected) => panic!("{got:?} {expected:?}"),
        }
    }

    #[test]
    fn users() {
        use serde_json::json;
        check(json!({}), json!({}), "", Ok(None));
        check(json!({"runAsUser": 5}), json!({}), "", Ok(Some("5")));
        check(json!({"runAsUser": 5, "runAsGroup": 6}), json!({"runAsUser": 7}), "", Ok(Some("7:6")));
        check(json!({"runAsGroup": 6}), json!({}), "app", Ok(Some("app:6")));
        check(json!({"runAsNonRoot": true}), json!({}), "", Err("image will run as root"));
        check(json!({"runAsNonRoot": true}), json!({}), "app", Err("non-numeric user (app)"));
        check(json!({"runAsNonRoot": true}), json!({}), "1000:1000", Ok(None));
        check(json!({"runAsNonRoot": true}), json!({"runAsUser": 0}), "", Err("breaks non-root policy"));
        check(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "", Ok(None));
    }

    #[test]
    fn an_empty_local_profile_is_an_error() {
        let own = |json: serde_json::Value| -> SecurityContext { serde_json::from_value(json).unwrap() };
        let localhost = own(serde_json::json!({"seccompProfile": {"type": "Localhost"}}));
        assert!(seccomp(None, Some(&localhost)).is_err());
        let privileged = own(serde_json::json!({"privileged": true, "seccompProfile": {"type": "RuntimeDefault"}}));
        assert_eq!(seccomp(None, Some(&privileged)), Ok(SeccompChoice::Unconfined));
    }
}
