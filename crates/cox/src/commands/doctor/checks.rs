//! The items of the CIS Kubernetes Benchmark 1.12 that a machine can look at, as data: what each asks of a
//! daemon's flags and files, or why it holds, or has no object, here.

use super::judge::{Check, Component, Rule};

use Component::{Apiserver, ControllerManager, Etcd, Kubelet, Proxy, Scheduler};
use Rule::{AtLeast, ByDesign, Equals, Folder, Has, Lacks, Mode, NotApplicable, Owner, Set, Unset};

const NO_POD_FILES: &str = "the daemons are no static pods, so there is no pod specification";
const NO_PROFILING: &str = "there are no profiling endpoints";
const IN_PROCESS: &str = "the plugin is on unless --disable-admission-plugins names it";
const PORTS_ASK: &str =
    "the port serves TLS and asks for a client certificate and permission; cox why reaches it there";

const fn check(id: &'static str, component: Component, what: &'static str, rule: Rule) -> Check {
    Check { id, component, what, rule, excuse: None }
}

/// One whose failure has a reason in some installs.
const fn excused(
    id: &'static str,
    component: Component,
    what: &'static str,
    rule: Rule,
    excuse: &'static str,
) -> Check {
    Check { id, component, what, rule, excuse: Some(excuse) }
}

#[rustfmt::skip]
pub const CHECKS: &[Check] = &[
    check("1.1.1-8", Apiserver, "pod specification files", NotApplicable(NO_POD_FILES)),
    check("1.1.9", Kubelet, "CNI configuration is at most 0600", Folder("cni-conf-dir", "", 0o600)),
    check("1.1.10", Kubelet, "CNI configuration belongs to the kubelet's user", Owner("cni-conf-dir")),
    check("1.1.11", Etcd, "the data folder is at most 0700", Mode("data-dir", 0o700)),
    check("1.1.12", Etcd, "the data folder belongs to etcd's user", Owner("data-dir")),
    check("1.1.13", Apiserver, "the administrator's kubeconfig is at most 0600", NotApplicable("cox certs and cargo xtask up write kubeconfigs 0600; this tool is not told where yours is")),
    check("1.1.15", Scheduler, "its kubeconfig is at most 0600", Mode("kubeconfig", 0o600)),
    check("1.1.16", Scheduler, "its kubeconfig belongs to its user", Owner("kubeconfig")),
    check("1.1.17", ControllerManager, "its kubeconfig is at most 0600", Mode("kubeconfig", 0o600)),
    check("1.1.18", ControllerManager, "its kubeconfig belongs to its user", Owner("kubeconfig")),
    check("1.1.19", Apiserver, "keys belong to the apiserver's user", Owner("tls-private-key-file")),
    check("1.1.20", Apiserver, "certificates are at most 0644", Folder("client-ca-file", "crt", 0o644)),
    check("1.1.21", Apiserver, "keys are at most 0600", Folder("client-ca-file", "key", 0o600)),
    check("1.2.1", Apiserver, "no anonymous requests", ByDesign("without credentials only /healthz, /livez, /readyz and their parts are answered")),
    check("1.2.2", Apiserver, "no static tokens", Unset("token-auth-file")),
    check("1.2.3", Apiserver, "Services get no external IPs from users", Has("enable-admission-plugins", "DenyServiceExternalIPs")),
    check("1.2.4", Apiserver, "kubelets are shown a client certificate", Set(&["kubelet-client-certificate", "kubelet-client-key"])),
    check("1.2.5", Apiserver, "kubelets' certificates are verified", Set(&["kubelet-certificate-authority"])),
    check("1.2.6", Apiserver, "not everything is allowed", Lacks("authorization-mode", "AlwaysAllow")),
    check("1.2.7", Apiserver, "the Node authoriser is on", Has("authorization-mode", "Node")),
    check("1.2.8", Apiserver, "RBAC is on", Has("authorization-mode", "RBAC")),
    excused("1.2.9", Apiserver, "events are rate limited", Has("enable-admission-plugins", "EventRateLimit"), "events have a flow schema and a bounded share of the server by priority and fairness"),
    check("1.2.10", Apiserver, "AlwaysAdmit is off", Lacks("enable-admission-plugins", "AlwaysAdmit")),
    excused("1.2.11", Apiserver, "images are always pulled", Has("enable-admission-plugins", "AlwaysPullImages"), "for clusters whose tenants share nodes; images that exist on the machine only could not start"),
    check("1.2.12", Apiserver, "ServiceAccount is on", Lacks("disable-admission-plugins", "ServiceAccount")),
    check("1.2.13", Apiserver, "NamespaceLifecycle is on", Lacks("disable-admission-plugins", "NamespaceLifecycle")),
    check("1.2.14", Apiserver, IN_PROCESS, Lacks("disable-admission-plugins", "NodeRestriction")),
    check("1.2.15", Apiserver, "no profiling", ByDesign(NO_PROFILING)),
    check("1.2.16", Apiserver, "there is an audit log", Set(&["audit-log-path"])),
    check("1.2.17", Apiserver, "audit logs are kept 30 days", AtLeast("audit-log-maxage", 30)),
    check("1.2.18", Apiserver, "10 old audit logs are kept", AtLeast("audit-log-maxbackup", 10)),
    check("1.2.19", Apiserver, "audit logs rotate at 100 MB", AtLeast("audit-log-maxsize", 100)),
    check("1.2.20", Apiserver, "requests time out", ByDesign("--request-timeout is a minute by default")),
    check("1.2.21", Apiserver, "ServiceAccounts of tokens are looked up", ByDesign("every token's account, pod and node are looked up at each request")),
    check("1.2.22", Apiserver, "ServiceAccount tokens have keys of their own", Set(&["service-account-key-file"])),
    excused("1.2.23", Apiserver, "a client certificate for etcd", Set(&["etcd-certfile", "etcd-keyfile"]), "with --storage=embedded there is no etcd"),
    check("1.2.24", Apiserver, "TLS certificate and key", Set(&["tls-cert-file", "tls-private-key-file"])),
    check("1.2.25", Apiserver, "an authority for clients", Set(&["client-ca-file"])),
    excused("1.2.26", Apiserver, "etcd's certificate is verified", Set(&["etcd-cafile"]), "with --storage=embedded there is no etcd"),
    check("1.2.27-28", Apiserver, "Secrets are encrypted at rest", Set(&["encryption-provider-config"])),
    check("1.2.29", Apiserver, "strong ciphers only", ByDesign("TLS 1.3, and 1.2 with ECDHE and AEAD ciphers; others do not exist in the library")),
    check("1.2.30", Apiserver, "tokens live no longer than they say", Equals("service-account-extend-token-expiration", "false")),
    check("1.3.1", ControllerManager, "pods that have ended are collected", ByDesign("--terminated-pod-gc-threshold is 12,500 by default")),
    check("1.3.2", ControllerManager, "no profiling", ByDesign(NO_PROFILING)),
    check("1.3.3", ControllerManager, "each controller has an identity of its own", Lacks("use-service-account-credentials", "false")),
    check("1.3.4", ControllerManager, "a key for ServiceAccount tokens", Set(&["service-account-private-key-file"])),
    check("1.3.5", ControllerManager, "the root authority is published", Set(&["root-ca-file"])),
    check("1.3.6", ControllerManager, "kubelets' serving certificates can be renewed", Lacks("feature-gates", "RotateKubeletServerCertificate=false")),
    excused("1.3.7", ControllerManager, "it listens on 127.0.0.1", Equals("bind-address", "127.0.0.1"), PORTS_ASK),
    check("1.4.1", Scheduler, "no profiling", ByDesign(NO_PROFILING)),
    excused("1.4.2", Scheduler, "it listens on 127.0.0.1", Equals("bind-address", "127.0.0.1"), PORTS_ASK),
    check("2.1", Etcd, "a certificate for clients", Set(&["cert-file", "key-file"])),
    check("2.2", Etcd, "clients show certificates", Equals("client-cert-auth", "true")),
    check("2.3", Etcd, "no certificates of its own making", Lacks("auto-tls", "true")),
    check("2.4", Etcd, "a certificate for peers", Set(&["peer-cert-file", "peer-key-file"])),
    check("2.5", Etcd, "peers show certificates", Equals("peer-client-cert-auth", "true")),
    check("2.6", Etcd, "no certificates of its own making for peers", Lacks("peer-auto-tls", "true")),
    check("2.7", Etcd, "an authority of its own", Set(&["trusted-ca-file"])),
    check("3.2.1", Apiserver, "there is an audit policy", Set(&["audit-policy-file"])),
    check("4.1.1-2", Kubelet, "service file", NotApplicable("unit files of deploy/systemd hold no secret: flags come from /etc/coxswain")),
    check("4.1.3", Proxy, "its kubeconfig is at most 0600", Mode("kubeconfig", 0o600)),
    check("4.1.4", Proxy, "its kubeconfig belongs to its user", Owner("kubeconfig")),
    check("4.1.5", Kubelet, "its kubeconfig is at most 0600", Mode("kubeconfig", 0o600)),
    check("4.1.6", Kubelet, "its kubeconfig belongs to its user", Owner("kubeconfig")),
    check("4.1.7", Kubelet, "the clients' authority is at most 0644", Mode("client-ca-file", 0o644)),
    check("4.1.8", Kubelet, "the clients' authority belongs to the kubelet's user", Owner("client-ca-file")),
    check("4.1.9", Kubelet, "its configuration file is at most 0600", Mode("config", 0o600)),
    check("4.1.10", Kubelet, "its configuration file belongs to its user", Owner("config")),
    check("4.2.1", Kubelet, "no anonymous requests", ByDesign("every path but /healthz asks who it is, and whether they may")),
    check("4.2.2", Kubelet, "not everything is allowed", ByDesign("the apiserver is asked (SubjectAccessReview) about every request")),
    check("4.2.3", Kubelet, "an authority for clients", Set(&["client-ca-file"])),
    check("4.2.4", Kubelet, "no read-only port", ByDesign("there is none")),
    check("4.2.5", Kubelet, "idle streams end", ByDesign("exec, attach and port-forward end with their connections, whose peers are pinged")),
    check("4.2.6", Kubelet, "iptables chains", NotApplicable("kube-proxy and the kubelet's network use nftables tables of their own")),
    excused("4.2.7", Kubelet, "the node is called as the machine is", Unset("hostname-override"), "several nodes of one machine need names of their own; the certificate names the node"),
    check("4.2.8", Kubelet, "events are recorded", ByDesign("events are aggregated, not dropped")),
    excused("4.2.9", Kubelet, "a serving certificate", Set(&["tls-cert-file", "tls-private-key-file"]), "with --rotate-server-certificates the kubelet asks for one"),
    check("4.2.10", Kubelet, "client certificates are renewed", Lacks("rotate-certificates", "false")),
    excused("4.2.11", Kubelet, "serving certificates are renewed", Equals("rotate-server-certificates", "true"), "the given one is renewed by cox certs renew"),
    check("4.2.12", Kubelet, "strong ciphers only", ByDesign("TLS 1.3, and 1.2 with ECDHE and AEAD ciphers")),
    check("4.3.1", Proxy, "metrics on 127.0.0.1 only", Has("metrics-bind-address", "127.0.0.1")),
];
