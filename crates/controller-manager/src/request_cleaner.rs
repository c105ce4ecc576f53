//! csrcleaner: deletes CertificateSigningRequests that nobody looks at any more.
//!
//! Source: kubernetes/pkg/controller/certificates/cleaner.

use std::{sync::Arc, time::Duration};

use api_types::{jiff::Timestamp, k8s::certificates::CertificateSigningRequest};
use pki::{Facts, State};

use crate::{
    action::Action,
    plan::{Plan, Turn, World, since},
    reconcile::Controller,
    signing,
};

/// Issued, denied and failed ones are kept this long, those that nobody has decided longer.
const SETTLED_FOR: Duration = Duration::from_secs(60 * 60);
const PENDING_FOR: Duration = Duration::from_secs(24 * 60 * 60);

pub static CONTROLLER: Controller = Controller {
    name: "certificatesigningrequest-cleaner-controller",
    component: "csrcleaner",
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
    ..signing::SIGNING
};

struct View {
    csr: Arc<CertificateSigningRequest>,
    now: Timestamp,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> Option<View> {
    Some(View { csr: world.caches.signing_requests.get(turn.key)?, now: turn.now })
}

fn plan(view: &View) -> Plan {
    let csr = &*view.csr;
    let status = csr.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let certificate = status.and_then(|status| status.certificate.as_ref());
    let is_expired = certificate.is_some_and(|pem| {
        Facts::parse(&String::from_utf8_lossy(&pem.0))
            .is_ok_and(|facts| facts.state(view.now.as_second()) == State::Expired)
    });
    // Since when it is as it is, and how long it may be so.
    let (kept, begun) = match conditions.iter().find(|it| is_settled(&it.type_, certificate.is_some())) {
        Some(condition) => (SETTLED_FOR, condition.last_update_time.as_ref()),
        None if certificate.is_none() => (PENDING_FOR, csr.metadata.creation_timestamp.as_ref()),
        None => return Plan::default(),
    };
    let Some(begun) = begun else { return Plan::default() };
    match kept.checked_sub(since(begun, view.now)).filter(|left| !left.is_zero() && !is_expired) {
        Some(left) => {
            let mut plan = Plan::nothing("Kept", format!("is deleted in {} s", left.as_secs()));
            plan.look_again(left);
            plan
        }
        None => {
            let delete = Action::delete(csr, "the request is over".to_owned());
            Plan { actions: vec![delete], ..Plan::default() }
        }
    }
}

fn is_settled(condition: &str, is_issued: bool) -> bool {
    match condition {
        "Approved" => is_issued,
        "Denied" | "Failed" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        ByteString,
        certificates::{CertificateSigningRequestCondition, CertificateSigningRequestStatus},
        meta::ObjectMeta,
    };

    use super::*;
    use crate::pods::words::{ago, now};

    const HOUR_S: i64 = 60 * 60;

    /// Deleted now, or looked at again after so many seconds.
    fn check(condition: Option<&str>, is_issued: bool, age_s: i64, expected: (usize, Option<u64>)) {
        let condition = condition.map(|kind| CertificateSigningRequestCondition {
            type_: kind.to_owned(),
            last_update_time: Some(ago(age_s)),
            ..CertificateSigningRequestCondition::default()
        });
        let csr = CertificateSigningRequest {
            metadata: ObjectMeta { creation_timestamp: Some(ago(age_s)), ..ObjectMeta::default() },
            status: Some(CertificateSigningRequestStatus {
                conditions: condition.map(|it| vec![it]),
                certificate: is_issued.then(|| ByteString(b"pem".to_vec())),
            }),
            ..CertificateSigningRequest::default()
        };
        let plan = plan(&View { csr: Arc::new(csr), now: now() });
        let found = (plan.actions.len(), plan.look_again_after.map(|after| after.as_secs()));
        assert_eq!(found, expected, "{age_s}");
    }

    #[test]
    fn requests_go_when_they_are_over() {
        check(None, false, 2 * HOUR_S, (0, Some(22 * 3600)));
        check(None, false, 24 * HOUR_S, (1, None));
        check(Some("Approved"), false, 2 * HOUR_S, (0, Some(22 * 3600)));
        check(Some("Approved"), true, 600, (0, Some(3000)));
        check(Some("Approved"), true, HOUR_S, (1, None));
        check(Some("Denied"), false, HOUR_S, (1, None));
        check(Some("Failed"), false, 60, (0, Some(3540)));
    }
}
