//! The old way to roll back: an annotation that names the revision. `kubectl rollout undo` of today
//! patches the template itself.
//!
//! Source: kubernetes/pkg/controller/deployment/rollback.go.

use api_types::{
    Object,
    k8s::apps::{Deployment, ReplicaSet},
};
use client::EventKind;

use super::{fleet::Fleet, revision, spec};
use crate::action::{Action, Outcome};

pub fn is_asked_for(deployment: &Deployment) -> bool {
    deployment.annotation(revision::ROLLBACK_TO).is_some_and(|text| text.parse::<i64>().is_ok())
}

/// Takes the template of the revision asked for (0: the last one), and the annotation away.
pub fn plan(fleet: &Fleet) -> Option<Action> {
    let deployment = &fleet.before;
    let asked: i64 = deployment.annotation(revision::ROLLBACK_TO)?.parse().ok()?;
    let wanted = if asked == 0 { last(fleet) } else { Some(asked) };
    let mut next = deployment.clone();
    next.metadata.annotations.get_or_insert_default().remove(revision::ROLLBACK_TO);
    let target = wanted.and_then(|wanted| fleet.all().find(|set| revision::revision(set) == wanted));
    let tell = |next: &Deployment, kind, reason, message: String| {
        Some(Action::update(next, "a rollback was asked for").tell(Outcome::Done, deployment, kind, reason, message))
    };
    let Some(target) = target else {
        let why = match wanted {
            None => "Unable to find last revision.".to_owned(),
            Some(_) => "Unable to find the revision to rollback to.".to_owned(),
        };
        return tell(&next, EventKind::Warning, "RollbackRevisionNotFound", why);
    };
    let template = target.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    if revision::same_template(&template, &spec(deployment).template) {
        let why =
            format!("The rollback revision contains the same template as current deployment \"{}\"", deployment.name());
        return tell(&next, EventKind::Warning, "RollbackTemplateUnchanged", why);
    }
    restore(&mut next, target);
    let done = format!("Rolled back deployment \"{}\" to revision {}", deployment.name(), revision::revision(target));
    tell(&next, EventKind::Normal, "DeploymentRollback", done)
}

/// The second highest revision.
fn last(fleet: &Fleet) -> Option<i64> {
    let mut revisions: Vec<i64> = fleet.all().map(revision::revision).collect();
    revisions.sort_unstable();
    revisions.into_iter().rev().nth(1).filter(|revision| *revision > 0)
}

fn restore(deployment: &mut Deployment, set: &ReplicaSet) {
    let mut template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove("pod-template-hash");
    }
    deployment.spec.get_or_insert_default().template = template;
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| revision::OWN.contains(&key.as_str()));
    let of_set = set.metadata.annotations.iter().flatten();
    let restored = of_set.filter(|(key, _)| !revision::OWN.contains(&key.as_str()));
    annotations.extend(restored.map(|(key, value)| (key.clone(), value.clone())));
}
