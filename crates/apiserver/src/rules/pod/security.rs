//! Security contexts of pods and containers.
//!
//! Source: `ValidateSecurityContext` in pkg/apis/core/validation/validation.go.

use std::collections::BTreeSet;

use api_types::{
    k8s::core::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext, Sysctl},
    names,
};

use super::volume::descending_path;
use crate::rules::path::{Errors, Path, items};

const SYSCTL_NAME_MAX: usize = 253;
const SYSCTL_REGEX: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const PROFILE_PATH_MAX: usize = 4095;
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// `path` is that of the spec.
pub fn pod(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(context) = &spec.security_context else { return };
    let path = path.field("securityContext");
    for (field, id) in
        [("fsGroup", context.fs_group), ("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)]
    {
        identity(id, &path.field(field), errors);
    }
    for (i, group) in items(&context.supplemental_groups).iter().enumerate() {
        identity(Some(*group), &path.field("supplementalGroups").index(i), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.field("shareProcessNamespace"), true, detail);
    }
    sysctls(items(&context.sysctls), spec, &path.field("sysctls"), errors);
    if let Some(policy) = &context.fs_group_change_policy {
        errors.one_of(&path.field("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), errors);
    if let Some(policy) = &context.supplemental_groups_policy {
        errors.one_of(&path.field("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(policy) = &context.se_linux_change_policy {
        errors.one_of(&path.field("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
    }
}

pub fn container(context: Option<&SecurityContext>, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(context) = context else { return };
    identity(context.run_as_user, &path.field("runAsUser"), errors);
    identity(context.run_as_group, &path.field("runAsGroup"), errors);
    if let Some(mount) = &context.proc_mount {
        errors.one_of(&path.field("procMount"), mount, &["Default", "Unmasked"]);
        if mount == "Unmasked" && spec.host_users != Some(false) {
            errors.invalid(&path.field("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context, detail);
        }
        let added = context.capabilities.as_ref().map(|all| items(&all.add)).unwrap_or_default();
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, detail);
        }
    }
    app_armor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), errors);
}

fn identity(id: Option<i64>, path: &Path, errors: &mut Errors) {
    if let Some(id) = id {
        errors.invalid_all(path, id, names::user_id(id));
    }
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => errors.required(&path.field("type"), "type is required when seccompProfile is set"),
        kind => errors.one_of(&path.field("type"), kind, &PROFILE_TYPES),
    }
    let file = path.field("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(&file, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(name)) => descending_path(name, &file, errors),
        (_, Some(_)) => errors.invalid(&file, profile, "can only be set when seccomp type is Localhost"),
        (_, None) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let file = path.field("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(&file, "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.invalid(&file, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&file, "must be set when AppArmor type is Localhost");
            }
            if name.len() > PROFILE_PATH_MAX {
                errors.too_long(&file, PROFILE_PATH_MAX);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid(&file, name, "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => errors.required(&path.field("type"), "type is required when appArmorProfile is set"),
        (kind, _) => errors.not_supported(&path.field("type"), kind, &PROFILE_TYPES),
    }
}

fn sysctls(sysctls: &[Sysctl], spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i);
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !is_sysctl(name) {
            let detail = format!("must have at most {SYSCTL_NAME_MAX} characters and match regex {SYSCTL_REGEX}");
            errors.invalid(&path.field("name"), name, detail);
        } else if !seen.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
        let dotted = name.replace('/', ".");
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            errors.invalid(&path.field("name"), name, "may not be specified when 'hostNetwork' is true");
        }
        let is_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
        if spec.host_ipc == Some(true) && (is_ipc || dotted == "kernel.sem") {
            errors.invalid(&path.field("name"), name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_segment = |segment: &str| {
        let bytes = segment.as_bytes();
        bytes.first().is_some_and(|byte| is_plain(*byte))
            && bytes.last().is_some_and(|byte| is_plain(*byte))
            && bytes.iter().all(|byte| is_plain(*byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= SYSCTL_NAME_MAX && name.split(['.', '/']).all(is_segment)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::texts;

    fn check(spec: Value, expected: &[&str]) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut errors = Errors::default();
        pod(&spec, &Path::root("spec"), &mut errors);
        assert_eq!(texts(errors.0), expected);
    }

    #[test]
    fn pods() {
        check(
            json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}, {"name": "kernel/shm_rmid_forced", "value": "0"}]}}),
            &[],
        );
        check(
            json!({"securityContext": {"runAsUser": -1}}),
            &["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        );
        check(
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            &[
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ],
        );
        check(
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}}),
            &[
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.tcp_syncookies\": may not be specified when 'hostNetwork' is true",
            ],
        );
    }
}
