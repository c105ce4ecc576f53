//! What a failed pod means by the Job's podFailurePolicy: the first rule that matches decides.
//!
//! Source: kubernetes/pkg/controller/job/pod_failure_policy.go.

use api_types::{
    Object,
    k8s::{
        batch::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule},
        core::{ContainerStatus, Pod},
    },
};

use crate::pods;

#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// One failure more.
    Counts,
    /// None at all: it was not the pod's fault.
    Ignored,
    FailsIndex,
    /// With the message for the Job.
    FailsJob(String),
}

pub fn meaning(spec: &JobSpec, pod: &Pod) -> Meaning {
    let rules = spec.pod_failure_policy.as_ref().map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let Some(what) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "FailJob" => {
                let action = "FailJob";
                Meaning::FailsJob(format!("{what} matching {action} rule at index {number}"))
            }
            "Ignore" => Meaning::Ignored,
            "FailIndex" => Meaning::FailsIndex,
            _ => Meaning::Counts,
        };
    }
    Meaning::Counts
}

/// What of the pod the rule matches, in words.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        let failed = statuses(pod).find_map(|status| {
            let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
            (code != 0 && matches_code(codes, status, code)).then_some((&status.name, code))
        });
        return failed
            .map(|(name, code)| format!("Container {name} for pod {} failed with exit code {code}", pod.key()));
    }
    let wanted = rule.on_pod_conditions.iter().flatten();
    let mut met = wanted.filter(|wanted| {
        let status = wanted.status.as_deref().unwrap_or("True");
        pods::condition(pod, &wanted.type_).is_some_and(|condition| condition.status == status)
    });
    met.next().map(|met| format!("Pod {} has condition {}", pod.key(), met.type_))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    main.into_iter().chain(init).flatten()
}

fn matches_code(codes: &PodFailurePolicyOnExitCodesRequirement, status: &ContainerStatus, code: i32) -> bool {
    if codes.container_name.as_ref().is_some_and(|name| *name != status.name) {
        return false;
    }
    let listed = codes.values.contains(&code);
    if codes.operator == "NotIn" { !listed } else { listed }
}
