//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, for rollouts and rollbacks.
//!
//! Source: kubernetes/pkg/controller/history.

use std::{collections::HashSet, sync::Arc};

use api_types::{
    Object,
    k8s::{apps::ControllerRevision, core::PodTemplateSpec, meta::ObjectMeta},
};
use serde_json::json;

use crate::{action::Action, deployment::template_hash, owners::controller_reference};

/// How an owner keeps its revisions.
pub struct Keeping<'a> {
    pub template: &'a PodTemplateSpec,
    /// Bears the hash.
    pub hash_label: &'static str,
    pub collisions: Option<i32>,
    pub limit: usize,
}

pub struct History {
    /// Of the template as it is now; made by an action if it is new.
    pub current: ControllerRevision,
    /// All that are stored, oldest first.
    pub stored: Vec<Arc<ControllerRevision>>,
    pub actions: Vec<Action>,
}

/// What there is, and what has to be written. `in_use`: names or hashes that pods bear.
pub fn history<K: Object>(
    owner: &K,
    mut stored: Vec<Arc<ControllerRevision>>,
    keeping: &Keeping<'_>,
    in_use: &HashSet<String>,
) -> History {
    stored.sort_by(|a, b| (a.revision, a.name()).cmp(&(b.revision, b.name())));
    let newest = stored.last().map_or(0, |revision| revision.revision);
    let same = stored.iter().rev().find(|revision| template(revision).as_ref() == Some(keeping.template));
    let mut actions = Vec::new();
    let current = match same {
        Some(same) if same.revision == newest => (**same).clone(),
        Some(same) => {
            let again = ControllerRevision { revision: newest + 1, ..(**same).clone() };
            actions.push(Action::update(&again, "its template is the current one again"));
            again
        }
        None => {
            let new = new(owner, keeping, newest + 1);
            actions.push(Action::create(&new, "no revision has the current template"));
            new
        }
    };
    let is_unused = |revision: &&Arc<ControllerRevision>| {
        let hash = revision.label(keeping.hash_label).unwrap_or_default();
        revision.name() != current.name() && !in_use.contains(revision.name()) && !in_use.contains(hash)
    };
    let unused: Vec<&Arc<ControllerRevision>> = stored.iter().filter(is_unused).collect();
    let excess = unused.len().saturating_sub(keeping.limit);
    let why = format!("beyond the last {} revisions", keeping.limit);
    actions.extend(unused.into_iter().take(excess).map(|revision| Action::delete(&**revision, &why)));
    History { current, stored, actions }
}

/// The template that a revision holds.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0["spec"]["template"].clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn new<K: Object>(owner: &K, keeping: &Keeping<'_>, number: i64) -> ControllerRevision {
    let hash = template_hash(keeping.template, keeping.collisions);
    let mut template = json!(keeping.template);
    template["$patch"] = "replace".into();
    let labels = keeping.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let mut labels = labels.unwrap_or_default();
    labels.insert(keeping.hash_label.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name())),
            namespace: Some(owner.namespace().to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(serde_json::from_value(json!({ "spec": { "template": template } })).expect("any JSON will do")),
        revision: number,
    }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        apps::DaemonSet,
        core::{Container, PodSpec},
    };

    use super::*;
    use crate::action::Write;

    fn keeping(template: &PodTemplateSpec) -> Keeping<'_> {
        Keeping { template, hash_label: "hash", collisions: None, limit: 1 }
    }

    fn image(name: &str) -> PodTemplateSpec {
        let container = Container { name: "c".into(), image: Some(name.into()), ..Container::default() };
        PodTemplateSpec { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), metadata: None }
    }

    /// `images`: of the revisions stored, oldest first. Gives what is done: `+n`, `=n`, `-image`.
    fn check(images: &str, now: &str, in_use: &str, expected: &str) {
        let owner = DaemonSet::default();
        let stored = images.split_whitespace().zip(1..).map(|(name, number)| {
            let mut revision = new(&owner, &keeping(&image(name)), number);
            revision.metadata.name = Some(name.to_owned());
            Arc::new(revision)
        });
        let in_use = in_use.split_whitespace().map(str::to_owned).collect();
        let history = history(&owner, stored.collect(), &keeping(&image(now)), &in_use);
        let done = history.actions.iter().map(|action| match &action.write {
            Write::Create(object) => format!("+{}", object["revision"]),
            Write::Update { object, .. } => format!("={}", object["revision"]),
            Write::Delete(_) => format!("-{}", action.key.name),
            Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => "other".to_owned(),
        });
        assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn templates_are_kept_once_each() {
        check("", "a", "", "+1");
        check("a", "a", "", "");
        check("a", "b", "", "+2");
        check("a b", "a", "", "=3");
    }
    #[test]
    fn old_ones_go_unless_pods_have_them() {
        check("a b c", "c", "", "-a");
        check("a b c", "c", "a", "");
    }
}
