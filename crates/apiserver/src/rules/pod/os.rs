//! What a pod says of its operating system, and what it must then not say.
//!
//! Source: `validateLinux`, `validateWindows` and their kin in pkg/apis/core/validation/validation.go.

use api_types::{k8s::core::PodSpec, names};
use serde_json::Value;

use crate::rules::{
    edit::{list, text},
    facts::{Fact, Must, hold},
    path::{Errors, Path},
};

const CREDENTIAL_SPEC_MAX: usize = 64 * 1024;
const NOT_LINUX: Must = Must::NotExist("windows options cannot be set for a linux pod");
const NOT_WINDOWS: Must = Must::NotExist("cannot be set for a windows pod");
const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];

const LINUX: &[Fact] = &[
    Fact("securityContext.windowsOptions", NOT_LINUX),
    Fact("containers[].securityContext.windowsOptions", NOT_LINUX),
    Fact("initContainers[].securityContext.windowsOptions", NOT_LINUX),
    Fact("ephemeralContainers[].securityContext.windowsOptions", NOT_LINUX),
];
const WINDOWS: &[Fact] = &[
    Fact("hostPID", Must::Pass(off)),
    Fact("hostIPC", Must::Pass(off)),
    Fact("hostUsers", NOT_WINDOWS),
    Fact("resources", NOT_WINDOWS),
    Fact("shareProcessNamespace", NOT_WINDOWS),
    Fact("securityContext.appArmorProfile", NOT_WINDOWS),
    Fact("securityContext.seLinuxOptions", NOT_WINDOWS),
    Fact("securityContext.seccompProfile", NOT_WINDOWS),
    Fact("securityContext.fsGroup", NOT_WINDOWS),
    Fact("securityContext.fsGroupChangePolicy", NOT_WINDOWS),
    Fact("securityContext.sysctls", NOT_WINDOWS),
    Fact("securityContext.runAsUser", NOT_WINDOWS),
    Fact("securityContext.runAsGroup", NOT_WINDOWS),
    Fact("securityContext.supplementalGroups", NOT_WINDOWS),
    Fact("securityContext.supplementalGroupsPolicy", NOT_WINDOWS),
    Fact("containers[].securityContext", Must::Hold(WINDOWS_CONTAINER)),
    Fact("initContainers[].securityContext", Must::Hold(WINDOWS_CONTAINER)),
    Fact("ephemeralContainers[].securityContext", Must::Hold(WINDOWS_CONTAINER)),
];
const WINDOWS_CONTAINER: &[Fact] = &[
    Fact("appArmorProfile", NOT_WINDOWS),
    Fact("seLinuxOptions", NOT_WINDOWS),
    Fact("seccompProfile", NOT_WINDOWS),
    Fact("capabilities", NOT_WINDOWS),
    Fact("readOnlyRootFilesystem", NOT_WINDOWS),
    Fact("privileged", NOT_WINDOWS),
    Fact("allowPrivilegeEscalation", NOT_WINDOWS),
    Fact("procMount", NOT_WINDOWS),
    Fact("runAsUser", NOT_WINDOWS),
    Fact("runAsGroup", NOT_WINDOWS),
];
const OPTIONS: &[Fact] = &[
    Fact("gmsaCredentialSpecName", Must::BeNamed(names::dns1123_subdomain)),
    Fact("gmsaCredentialSpec", Must::BeShorterThan(CREDENTIAL_SPEC_MAX)),
    Fact("gmsaCredentialSpecName", Must::Pass(not_empty)),
    Fact("gmsaCredentialSpec", Must::Pass(not_empty)),
    Fact("runAsUserName", Must::Pass(not_empty)),
];

fn off(flag: &Value, path: &Path, errors: &mut Errors) {
    if flag == &Value::Bool(true) {
        errors.forbidden(path, "cannot be set for a windows pod");
    }
}

fn not_empty(value: &Value, path: &Path, errors: &mut Errors) {
    if value == "" {
        errors.invalid(path, "", "cannot be an empty string");
    }
}

/// `path` is that of the spec. A pod that speaks neither of a system nor in Windows' words costs nothing here.
pub fn validate(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let os = spec.os.as_ref().map(|os| os.name.as_str()).unwrap_or_default();
    if os.is_empty() && !speaks_of_a_system(spec) {
        return;
    }
    let fields = serde_json::to_value(spec).unwrap_or_default();
    match os {
        "linux" => hold(&fields, Some(path), LINUX, errors),
        "windows" => hold(&fields, Some(path), WINDOWS, errors),
        _ => {}
    }
    stop_signals(&fields, os, path, errors);
    windows_options(&fields, path, errors);
}

fn speaks_of_a_system(spec: &PodSpec) -> bool {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let contexts = containers()
        .filter_map(|container| container.security_context.as_ref())
        .chain(spec.ephemeral_containers.iter().flatten().filter_map(|container| container.security_context.as_ref()));
    spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some())
        || contexts.into_iter().any(|context| context.windows_options.is_some())
        || containers().any(|c| c.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.stop_signal.is_some()))
}

fn stop_signals(spec: &Value, os: &str, path: &Path, errors: &mut Errors) {
    for name in LISTS {
        for (i, container) in list(spec, name).iter().enumerate() {
            let signal = container.get("lifecycle").map(|lifecycle| text(lifecycle, "stopSignal")).unwrap_or_default();
            let path = path.field(name);
            let path = path.index(i);
            let path = path.field("lifecycle.stopSignal");
            match os {
                _ if signal.is_empty() => {}
                "" => errors.forbidden(&path, "may not be set for containers with empty `spec.os.name`"),
                "windows" => errors.one_of(&path, signal, &WINDOWS_SIGNALS),
                _ if !signal.starts_with("SIG") => errors.invalid(&path, signal, "must be a signal such as SIGTERM"),
                _ => {}
            }
        }
    }
}

/// Either all containers are processes of the host or none, and then they are in its network.
fn windows_options(spec: &Value, path: &Path, errors: &mut Errors) {
    let context_path = path.field("securityContext");
    let context = &spec["securityContext"];
    hold(context, Some(&context_path), &[Fact("windowsOptions", Must::Hold(OPTIONS))], errors);
    let host_process = |context: &Value| context["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = host_process(context);
    let (mut some, mut all) = (false, true);
    for name in LISTS {
        for (i, container) in list(spec, name).iter().enumerate() {
            let path = path.field(name);
            let path = path.index(i);
            let own = host_process(&container["securityContext"]);
            hold(container, Some(&path), &[Fact("securityContext.windowsOptions", Must::Hold(OPTIONS))], errors);
            if let (Some(own), Some(of_pod)) = (own, of_pod)
                && own != of_pod
            {
                let detail = format!("pod hostProcess value must be identical if both are specified, was {of_pod}");
                errors.invalid(&path.field("securityContext.windowsOptions.hostProcess"), own, detail);
            }
            let is_host_process = own.or(of_pod).unwrap_or(false);
            some |= is_host_process;
            all &= is_host_process;
        }
    }
    if some && !all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", detail);
    }
    if some && spec.get("hostNetwork") != Some(&Value::Bool(true)) {
        errors.invalid(
            &path.field("hostNetwork"),
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn check(spec: Value, expected: &[&str]) {
        let mut errors = Errors::default();
        validate(&serde_json::from_value(spec).unwrap(), &Path::root("s"), &mut errors);
        assert_eq!(texts(errors.0), expected);
    }

    #[test]
    fn each_system_has_its_words() {
        check(
            json!({"os": {"name": "linux"}, "containers": [{"name": "c", "securityContext": {"privileged": true}}]}),
            &[],
        );
        check(
            json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"runAsUser": 1},
                "containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGHUP"}}],
                "initContainers": [{"name": "i", "securityContext": {"privileged": false}}]}),
            &[
                "s.hostPID: Forbidden: cannot be set for a windows pod",
                "s.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                "s.initContainers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
                "s.containers[0].lifecycle.stopSignal: Unsupported value: \"SIGHUP\": supported values: \"SIGKILL\", \"SIGTERM\"",
            ],
        );
        check(
            json!({"containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGHUP"}}]}),
            &[
                "s.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
            ],
        );
    }

    #[test]
    fn host_processes_are_all_or_none() {
        check(
            json!({"containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": true}}}, {"name": "b"}]}),
            &[
                "s: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess containers",
                "s.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
            ],
        );
    }
}
