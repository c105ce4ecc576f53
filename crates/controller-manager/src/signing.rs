//! csrsigning and csrapproving: certificates for those whose requests were approved, and approval for
//! nodes that ask for their own.
//!
//! Source: kubernetes/pkg/controller/certificates/{signer,approver}.

use std::{sync::Arc, time::Duration};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        authorization::{ResourceAttributes, SubjectAccessReviewSpec},
        certificates::{CertificateSigningRequest, CertificateSigningRequestCondition},
    },
    resources,
};
use pki::Request;

use crate::{
    action::{Action, Guard},
    plan::{Plan, Turn, World, time},
    reconcile::Controller,
};

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
/// Would be more than any role.
const MASTERS: &str = "system:masters";

pub static SIGNING: Controller = Controller {
    name: "certificatesigningrequest-signing-controller",
    resource: &resources::CERTIFICATE_SIGNING_REQUEST,
    account: "certificate-controller",
    component: "csrsigning",
    workers: 2,
    watch: |to, queue| {
        let wake = queue.clone();
        to.signing_requests.push(Box::new(move |_, change| wake.add(change.object().key())));
    },
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| sign(&view)),
};

pub static APPROVING: Controller = Controller {
    name: "certificatesigningrequest-approving-controller",
    component: "csrapproving",
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| approve(&view)),
    ..SIGNING
};

struct View {
    csr: Arc<CertificateSigningRequest>,
    /// What it asks for; `Err`: it cannot be read.
    asked: Result<Asked, String>,
    longest: Duration,
    can_sign: bool,
    now: Timestamp,
}

/// The facts of a request that decisions are taken on.
#[derive(Clone, Debug, Default)]
struct Asked {
    common_name: String,
    organization: String,
    hosts: usize,
    alternative_names: usize,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> Option<View> {
    let csr = world.caches.signing_requests.get(turn.key)?;
    let asked = Request::parse(&String::from_utf8_lossy(&csr.spec.request.0)).map_err(|error| error.to_string());
    let asked = asked.map(|request| Asked {
        common_name: request.common_name(),
        organization: request.organization(),
        hosts: request.hosts(),
        alternative_names: request.alternative_names(),
    });
    let settings = world.settings;
    let can_sign = settings.signers.of(&csr.spec.signer_name).is_some();
    Some(View { csr, asked, longest: settings.signing_longest, can_sign, now: turn.now })
}

fn has(csr: &CertificateSigningRequest, condition: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|it| it.type_ == condition)
}

fn is_settled(csr: &CertificateSigningRequest) -> bool {
    let is_issued = csr.status.as_ref().is_some_and(|status| status.certificate.is_some());
    is_issued || has(csr, "Denied") || has(csr, "Failed")
}

fn sign(view: &View) -> Plan {
    let csr = &*view.csr;
    let signer = csr.spec.signer_name.as_str();
    if is_settled(csr) || ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&signer) {
        return Plan::default();
    }
    if !has(csr, "Approved") {
        return Plan::nothing("WaitingForApproval", "nobody has approved the request yet");
    }
    if !view.can_sign {
        return Plan::nothing("NoSigner", "--cluster-signing-cert-file and --cluster-signing-key-file are not given");
    }
    if let Err(why) = view.asked.as_ref().map_err(Clone::clone).and_then(|asked| check(csr, asked)) {
        let mut failed = csr.clone();
        let conditions = failed.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.push(condition("Failed", "SignerValidationFailure", why.clone(), view.now));
        let mut plan = Plan::nothing("SignerValidationFailure", why);
        plan.act(Action::update_status(&failed, "the signer does not sign such a request"));
        return plan;
    }
    let asked = csr.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lifetime = asked.map_or(view.longest, |seconds| Duration::from_secs(seconds).min(view.longest));
    Plan { actions: vec![Action::certify(csr, lifetime, "the request is approved")], ..Plan::default() }
}

/// Each signer signs one thing only.
fn check(csr: &CertificateSigningRequest, asked: &Asked) -> Result<(), String> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let only = |allowed: &[&str], needed: &str| {
        let fits = usages.iter().all(|usage| allowed.contains(&usage.as_str()));
        match fits && usages.iter().any(|usage| usage == needed) {
            true => Ok(()),
            false => Err(format!("usages {usages:?} are not those of the signer, which are {allowed:?}")),
        }
    };
    let of_node = || match (asked.organization.as_str(), asked.common_name.strip_prefix(NODE_PREFIX)) {
        (NODES, Some(name)) if !name.is_empty() => Ok(()),
        _ => Err(format!("subject must be O={NODES}, CN={NODE_PREFIX}<name>")),
    };
    const OF_CLIENT: [&str; 3] = ["client auth", "digital signature", "key encipherment"];
    const OF_SERVER: [&str; 3] = ["server auth", "digital signature", "key encipherment"];
    match csr.spec.signer_name.as_str() {
        CLIENT if asked.organization == MASTERS => Err(format!("O={MASTERS} is not given to anybody")),
        CLIENT => only(&OF_CLIENT, "client auth"),
        KUBELET_CLIENT if asked.alternative_names > 0 => {
            Err("a client certificate has no alternative names".to_owned())
        }
        KUBELET_CLIENT => of_node().and_then(|()| only(&OF_CLIENT, "client auth")),
        KUBELET_SERVING if asked.hosts == 0 || asked.hosts != asked.alternative_names => {
            Err("a serving certificate has DNS names and IP addresses only, at least one".to_owned())
        }
        KUBELET_SERVING => of_node().and_then(|()| only(&OF_SERVER, "server auth")),
        _ => Ok(()),
    }
}

/// Nodes get client certificates for themselves without anybody's help, if they may ask for them.
fn approve(view: &View) -> Plan {
    let csr = &*view.csr;
    if is_settled(csr) || has(csr, "Approved") || csr.spec.signer_name != KUBELET_CLIENT {
        return Plan::default();
    }
    let Ok(asked) = &view.asked else { return Plan::default() };
    if let Err(why) = check(csr, asked) {
        return Plan::nothing("NotRecognized", why);
    }
    let is_own = csr.spec.username.as_deref() == Some(asked.common_name.as_str());
    let (subresource, what) = if is_own { ("selfnodeclient", "self kubelet") } else { ("nodeclient", "kubelet") };
    let mut approved = csr.clone();
    let message = format!("Auto approving {what} client certificate after SubjectAccessReview.");
    let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(condition("Approved", "AutoApproved", message, view.now));
    let action = Action::update_subresource(&approved, "approval", format!("may create {subresource} requests"));
    let guard = Guard::Permitted(Box::new(review(csr, subresource)));
    Plan { actions: vec![action.only_if(guard)], ..Plan::default() }
}

/// May the one who asks ask for that?
fn review(csr: &CertificateSigningRequest, subresource: &str) -> SubjectAccessReviewSpec {
    SubjectAccessReviewSpec {
        user: csr.spec.username.clone(),
        uid: csr.spec.uid.clone(),
        groups: csr.spec.groups.clone(),
        extra: csr.spec.extra.clone(),
        resource_attributes: Some(ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some("create".to_owned()),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    }
}

fn condition(kind: &str, reason: &str, message: String, now: Timestamp) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::certificates::{CertificateSigningRequestSpec, CertificateSigningRequestStatus};

    use super::*;
    use crate::{action::Write, pods::words::now};

    fn view(signer: &str, subject: &str, usages: &str, hosts: usize, approved: bool) -> View {
        let (organization, common_name) = subject.split_once('/').unwrap();
        let asked = Asked {
            common_name: common_name.to_owned(),
            organization: organization.to_owned(),
            hosts,
            alternative_names: hosts,
        };
        let conditions = approved.then(|| vec![condition("Approved", "", String::new(), now())]);
        let csr = CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                signer_name: format!("kubernetes.io/{signer}"),
                usages: Some(usages.split(',').map(str::to_owned).collect()),
                username: Some("system:node:n1".into()),
                ..CertificateSigningRequestSpec::default()
            },
            status: Some(CertificateSigningRequestStatus { conditions, certificate: None }),
            ..CertificateSigningRequest::default()
        };
        View { csr: Arc::new(csr), asked: Ok(asked), longest: Duration::from_secs(3600), can_sign: true, now: now() }
    }

    fn check(signer: &str, subject: &str, usages: &str, hosts: usize, expected: &str) {
        let plan = sign(&view(signer, subject, usages, hosts, true));
        let done = plan.actions.first().map_or("nothing", |action| match action.write {
            Write::Certify { .. } => "certified",
            Write::Update { .. } => "failed",
            _ => "other",
        });
        assert_eq!(done, expected, "{signer} {subject} {usages}");
    }

    #[test]
    fn signers_sign_one_thing_each() {
        let node = "system:nodes/system:node:n1";
        check("kube-apiserver-client-kubelet", node, "digital signature,client auth", 0, "certified");
        check("kube-apiserver-client-kubelet", node, "digital signature,client auth", 1, "failed");
        check("kube-apiserver-client-kubelet", "system:masters/me", "client auth", 0, "failed");
        check("kubelet-serving", node, "digital signature,server auth", 2, "certified");
        check("kubelet-serving", node, "server auth", 0, "failed");
        check("kube-apiserver-client", "dev/jane", "client auth", 0, "certified");
        check("kube-apiserver-client", "dev/jane", "server auth", 0, "failed");
        check("kube-apiserver-client", "system:masters/jane", "client auth", 0, "failed");
        check("other", "dev/jane", "client auth", 0, "nothing");
    }

    #[test]
    fn nodes_are_approved_if_they_may_ask() {
        let plan =
            approve(&view("kube-apiserver-client-kubelet", "system:nodes/system:node:n1", "client auth", 0, false));
        let Some(Guard::Permitted(review)) = &plan.actions[0].guard else { panic!("no review") };
        let attributes = review.resource_attributes.as_ref().unwrap();
        assert_eq!(attributes.subresource.as_deref(), Some("selfnodeclient"));
        assert!(
            approve(&view("kubelet-serving", "system:nodes/system:node:n1", "server auth", 1, false))
                .actions
                .is_empty()
        );
    }
}
