//! What to delete next, what to report, and whether the end is reached: pure.

use std::{collections::BTreeMap, sync::Arc};

use api_types::{
    Key, Object, Resource,
    jiff::Timestamp,
    k8s::{
        core::{Namespace, NamespaceCondition, NamespaceStatus},
        meta::DeleteOptions,
    },
};

use crate::{
    action::{Action, Write},
    everything::Known,
    plan::{Plan, time},
};

const FINALIZER: &str = "kubernetes";

pub struct View {
    pub namespace: Arc<Namespace>,
    pub contents: Contents,
    /// Kinds whose objects are deleted without being looked at.
    pub unlisted: Vec<Arc<Resource>>,
    pub now: Timestamp,
}

/// What is left, by kind.
#[derive(Default)]
pub struct Contents {
    kinds: BTreeMap<String, Left>,
    /// How many objects a finalizer holds.
    finalizers: BTreeMap<String, usize>,
}

struct Left {
    resource: Arc<Resource>,
    all: usize,
    /// Not told to go yet.
    untouched: usize,
}

impl Contents {
    pub fn of(found: &[Known]) -> Self {
        let mut contents = Self::default();
        for Known { resource, object } in found {
            let new = || Left { resource: Arc::clone(resource), all: 0, untouched: 0 };
            let left = contents.kinds.entry(format!("{}.{}", resource.plural, resource.group)).or_insert_with(new);
            left.all += 1;
            left.untouched += usize::from(!object.is_terminating());
            for finalizer in object.metadata.finalizers.iter().flatten() {
                *contents.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
        contents
    }

    fn pods(&self) -> Option<&Left> {
        self.kinds.values().find(|left| left.resource.group.is_empty() && left.resource.plural == "pods")
    }
}

pub fn plan(view: &View) -> Plan {
    let namespace = &*view.namespace;
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Plan::nothing("Finalized", "its contents have gone; others hold it");
    }
    let mut plan = Plan::default();
    let left: usize = view.contents.kinds.values().map(|left| left.all).sum();
    if left > 0 {
        plan.because("NamespaceContentRemaining", remaining(&view.contents));
        plan.actions.extend(deletions(view));
        plan.actions.extend(report(view).map(|namespace| Action::update_status(&namespace, "less is left")));
        return plan;
    }
    let all = |resource: &Arc<Resource>| delete_all(resource, namespace.name(), "last of all");
    plan.actions.extend(view.unlisted.iter().map(all));
    let mut next = namespace.clone();
    let rest = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
    next.spec.get_or_insert_default().finalizers = Some(rest);
    plan.act(Action::update_subresource(&next, "finalize", "nothing is left in it"));
    plan
}

/// Pods first: they may need what else is there, such as Secrets and network policies, until they end.
fn deletions(view: &View) -> Vec<Action> {
    let name = view.namespace.name();
    if let Some(pods) = view.contents.pods() {
        let touch = (pods.untouched > 0).then(|| delete_all(&pods.resource, name, "pods go first"));
        return touch.into_iter().collect();
    }
    let kinds = view.contents.kinds.values().filter(|left| left.untouched > 0);
    kinds.map(|left| delete_all(&left.resource, name, "its namespace is going")).collect()
}

fn delete_all(resource: &Resource, namespace: &str, why: &str) -> Action {
    Action {
        resource: resource.clone(),
        key: Key::new(namespace, ""),
        write: Write::DeleteAll(DeleteOptions {
            propagation_policy: Some("Background".to_owned()),
            ..DeleteOptions::default()
        }),
        why: why.to_owned(),
        events: Vec::new(),
        guard: None,
    }
}

fn remaining(contents: &Contents) -> String {
    let kinds = contents.kinds.iter().map(|(name, left)| format!("{name} has {} resource instances", left.all));
    format!("Some resources are remaining: {}", kinds.collect::<Vec<_>>().join(", "))
}

/// The namespace with new conditions, if they differ from the old.
fn report(view: &View) -> Option<Namespace> {
    let contents = &view.contents;
    let mut conditions = vec![
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        ("NamespaceContentRemaining", "True", "SomeResourcesRemain", remaining(contents)),
    ];
    conditions.push(if contents.finalizers.is_empty() {
        let done = "All content-preserving finalizers finished".to_owned();
        ("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", done)
    } else {
        let held = contents.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances"));
        let held = held.collect::<Vec<_>>().join(", ");
        let message = format!("Some content in the namespace has finalizers remaining: {held}");
        ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
    });
    let old = view.namespace.status.clone().unwrap_or_default();
    let mut all = old.conditions.clone().unwrap_or_default();
    for (kind, status, reason, message) in conditions {
        set(&mut all, kind, status, reason, message, view.now);
    }
    (old.conditions.as_ref() != Some(&all)).then(|| Namespace {
        status: Some(NamespaceStatus { conditions: Some(all), ..old }),
        ..(*view.namespace).clone()
    })
}

fn set(all: &mut Vec<NamespaceCondition>, kind: &str, status: &str, reason: &str, message: String, now: Timestamp) {
    let mut new = NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(time(now)),
    };
    match all.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => all.push(new),
    }
}

#[cfg(test)]
mod tests {
    use api_types::{
        k8s::{core::NamespaceSpec, meta::ObjectMeta},
        resources,
    };
    use client::PartialObject;

    use super::*;
    use crate::pods::words::{ago, now};

    /// Words: `pod`, `secret`, `set`; `t` terminating, `f` held by a finalizer. Gives `-kind`, `status`, `finalize`.
    fn check(words: &str, expected: &str) {
        let found: Vec<Known> = words
            .split_whitespace()
            .map(|word| {
                let (kind, flags) = word.split_once(':').unwrap_or((word, ""));
                let resource = match kind {
                    "pod" => resources::POD,
                    "secret" => resources::SECRET,
                    _ => resources::REPLICA_SET,
                };
                let metadata = ObjectMeta {
                    deletion_timestamp: flags.contains('t').then(|| ago(1)),
                    finalizers: flags.contains('f').then(|| vec!["example.com/hold".to_owned()]),
                    ..ObjectMeta::default()
                };
                Known { resource: Arc::new(resource), object: Arc::new(PartialObject { metadata }) }
            })
            .collect();
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some("ns".into()), deletion_timestamp: Some(ago(1)), ..ObjectMeta::default() },
            spec: Some(NamespaceSpec { finalizers: Some(vec![FINALIZER.to_owned()]) }),
            status: None,
        };
        let view = View {
            namespace: Arc::new(namespace),
            contents: Contents::of(&found),
            unlisted: vec![Arc::new(resources::EVENT)],
            now: now(),
        };
        let done = plan(&view).actions.into_iter().map(|action| match action.write {
            Write::DeleteAll(_) => format!("-{}", action.resource.plural),
            Write::Update { subresource, .. } => subresource.to_owned(),
            other => panic!("{other:?}"),
        });
        assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn pods_go_first() {
        check("pod secret set", "-pods status");
        check("pod:t secret set", "status");
        check("secret set", "-replicasets -secrets status");
    }
    #[test]
    fn what_is_held_is_waited_for() {
        check("secret:tf", "status");
    }
    #[test]
    fn an_empty_namespace_ends() {
        check("", "-events finalize");
    }

    #[test]
    fn what_remains_is_told_in_upstreams_words() {
        let pods = [Known { resource: Arc::new(resources::POD), object: Arc::default() }];
        assert_eq!(remaining(&Contents::of(&pods)), "Some resources are remaining: pods. has 1 resource instances");
    }
}
