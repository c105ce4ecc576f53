//! Probes and lifecycle hooks.
//!
//! Source: pkg/apis/core/validation/validation.go.

use api_types::{
    k8s::core::{
        Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
    },
    names,
};

use crate::rules::{
    address,
    path::{Errors, Path, items, text},
};

/// `grace_s` is the pod's; `None` where that is wrong already.
pub fn all(container: &Container, grace_s: Option<i64>, path: &Path, errors: &mut Errors) {
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.field("lifecycle");
        for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(hook) = hook {
                handler(&Handler::from(hook), grace_s, &path.field(field), errors);
            }
        }
    }
    if let Some(probe) = &container.liveness_probe {
        validate(probe, grace_s, &path.field("livenessProbe"), errors);
        succeeds_at_once(probe, &path.field("livenessProbe"), errors);
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.field("readinessProbe");
        validate(probe, grace_s, &path, errors);
        if let Some(grace_s) = probe.termination_grace_period_seconds {
            let detail = "must not be set for readinessProbes";
            errors.invalid(&path.field("terminationGracePeriodSeconds"), grace_s, detail);
        }
    }
    if let Some(probe) = &container.startup_probe {
        validate(probe, grace_s, &path.field("startupProbe"), errors);
        succeeds_at_once(probe, &path.field("startupProbe"), errors);
    }
}

fn succeeds_at_once(probe: &Probe, path: &Path, errors: &mut Errors) {
    let threshold = probe.success_threshold.unwrap_or(0);
    if threshold != 1 {
        errors.invalid(&path.field("successThreshold"), threshold, "must be 1");
    }
}

fn validate(probe: &Probe, grace_s: Option<i64>, path: &Path, errors: &mut Errors) {
    handler(&Handler::from(probe), grace_s, path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        errors.non_negative(&path.field(field), value.unwrap_or(0));
    }
    if let Some(own_s) = probe.termination_grace_period_seconds.filter(|own_s| *own_s <= 0) {
        errors.invalid(&path.field("terminationGracePeriodSeconds"), own_s, "must be greater than 0");
    }
}

/// What probes and hooks can do.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> From<&'a Probe> for Handler<'a> {
    fn from(probe: &'a Probe) -> Self {
        Self {
            exec: probe.exec.as_ref(),
            http: probe.http_get.as_ref(),
            tcp: probe.tcp_socket.as_ref(),
            grpc: probe.grpc.as_ref(),
            sleep: None,
        }
    }
}

impl<'a> From<&'a LifecycleHandler> for Handler<'a> {
    fn from(hook: &'a LifecycleHandler) -> Self {
        Self {
            exec: hook.exec.as_ref(),
            http: hook.http_get.as_ref(),
            tcp: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        }
    }
}

fn handler(handler: &Handler, grace_s: Option<i64>, path: &Path, errors: &mut Errors) {
    let given = [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http.is_some()),
        ("tcpSocket", handler.tcp.is_some()),
        ("grpc", handler.grpc.is_some()),
        ("sleep", handler.sleep.is_some()),
    ];
    let mut fields = given.into_iter().filter(|(_, is_given)| *is_given).map(|(field, _)| field);
    let Some(first) = fields.next() else {
        return errors.required(path, "must specify a handler type");
    };
    let first_path = path.field(first);
    match first {
        "exec" if handler.exec.is_some_and(|exec| items(&exec.command).is_empty()) => {
            errors.required(&first_path.field("command"), "");
        }
        "httpGet" => handler.http.into_iter().for_each(|http| http_get(http, &first_path, errors)),
        "tcpSocket" => {
            if let Some(tcp) = handler.tcp {
                address::port_number_or_name(&tcp.port, &first_path.field("port"), errors);
            }
        }
        "grpc" => {
            handler.grpc.into_iter().for_each(|grpc| address::port_number(grpc.port, &first_path.field("port"), errors))
        }
        "sleep" => {
            let longest_s = grace_s.unwrap_or(i64::MAX);
            if let Some(sleep) = handler.sleep.filter(|sleep| !(0..=longest_s).contains(&sleep.seconds)) {
                let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({longest_s})");
                errors.invalid(&first_path, sleep.seconds, detail);
            }
        }
        _ => {}
    }
    for field in fields {
        errors.forbidden(&path.field(field), "may not specify more than 1 handler type");
    }
}

fn http_get(http: &HTTPGetAction, path: &Path, errors: &mut Errors) {
    if text(&http.path).is_empty() {
        errors.required(&path.field("path"), "");
    }
    address::port_number_or_name(&http.port, &path.field("port"), errors);
    errors.one_of(&path.field("scheme"), text(&http.scheme), &["HTTP", "HTTPS"]);
    for header in items(&http.http_headers) {
        let messages = names::http_header_name(&header.name);
        errors.invalid_all(&path.field("httpHeaders"), header.name.as_str(), messages);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::texts;

    fn check(container: Value, expected: &[&str]) {
        let container: Container = serde_json::from_value(container).unwrap();
        let mut errors = Errors::default();
        all(&container, Some(30), &Path::root("c"), &mut errors);
        assert_eq!(texts(errors.0), expected);
    }

    #[test]
    fn probes() {
        check(
            json!({"livenessProbe": {"successThreshold": 2}}),
            &[
                "c.livenessProbe: Required value: must specify a handler type",
                "c.livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        );
        check(
            json!({"readinessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 0}, "periodSeconds": -1}}),
            &[
                "c.readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "c.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
        check(
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
            &[
                "c.lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ],
        );
    }
}
