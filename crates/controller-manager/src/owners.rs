//! Who owns what: controller references, and how a controller claims what its selector matches.
//!
//! Source: kubernetes/pkg/controller/controller_ref_manager.go.

use std::sync::Arc;

use api_types::{
    Key, Object,
    k8s::meta::{ObjectMeta, OwnerReference},
    labels::Selector,
};
use serde_json::json;

use crate::action::{Action, Guard, Owner};

/// The one owner that controls an object, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The key of the controller of `child`, if that controller is of kind `K`.
pub fn controller_key<K: Object>(child: &ObjectMeta) -> Option<Key> {
    let owner = controller_of(child)?;
    // Group and kind say what it is; the version may be any that served it.
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    (owner.kind == K::RESOURCE.kind && group == K::RESOURCE.group)
        .then(|| Key::new(child.namespace.clone().unwrap_or_default(), &owner.name))
}

/// The reference that makes `owner` the controller.
pub fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::RESOURCE.api_version(),
        kind: K::RESOURCE.kind.to_string(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// What a controller has after claiming, and what has to be written for it.
pub struct Claim<C> {
    pub own: Vec<Arc<C>>,
    pub actions: Vec<Action>,
}

/// Keeps what `owner` controls and matches, adopts orphans that match, releases what matches no longer.
/// `candidates`: what `owner` controls, and the orphans of its namespace.
pub fn claim<K: Object, C: Object>(
    owner: &K,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<C>>,
) -> Claim<C> {
    let mut claim = Claim { own: Vec::new(), actions: Vec::new() };
    for child in candidates {
        let matches = selector.matches(&child.meta().labels);
        match controller_of(child.meta()) {
            Some(reference) if reference.uid != owner.uid() => {}
            Some(_) if matches => claim.own.push(child),
            Some(_) if owner.is_terminating() => {}
            Some(_) => claim.actions.push(release(owner, &*child)),
            None if owner.is_terminating() || child.is_terminating() || !matches => {}
            None => {
                claim.actions.push(adopt(owner, &*child));
                claim.own.push(child);
            }
        }
    }
    claim
}

fn adopt<K: Object, C: Object>(owner: &K, child: &C) -> Action {
    let patch = json!({ "metadata": { "ownerReferences": [controller_reference(owner)] } });
    // The cache may lag behind a deletion, and an owner that is gone must adopt nobody.
    let owner = Owner { resource: K::RESOURCE, key: owner.key(), uid: owner.uid().to_owned() };
    Action::patch(child, patch, "adopts what its selector matches").only_if(Guard::Alive(owner))
}

fn release<K: Object, C: Object>(owner: &K, child: &C) -> Action {
    let patch = json!({ "metadata": { "ownerReferences": [{ "$patch": "delete", "uid": owner.uid() }] } });
    Action::patch(child, patch, "releases what its selector matches no longer")
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{apps::ReplicaSet, core::Pod};

    use super::*;

    fn meta(name: &str, uid: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("ns".to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        }
    }

    /// `name:label:owner`; gives the claimed, then `~` those written to.
    fn check(pods: &str, expected: &str) {
        let set = ReplicaSet { metadata: meta("web", "rs"), ..ReplicaSet::default() };
        let pods = pods.split(' ').map(|word| {
            let [name, label, owner] = word.split(':').collect::<Vec<_>>()[..] else { panic!("{word}") };
            let mut metadata = meta(name, name);
            metadata.labels = Some([("app".to_owned(), label.to_owned())].into());
            if !owner.is_empty() {
                let reference = OwnerReference { uid: owner.to_owned(), ..controller_reference(&set) };
                metadata.owner_references = Some(vec![reference]);
            }
            Arc::new(Pod { metadata, ..Pod::default() })
        });
        let claim = claim(&set, &Selector::parse("app=web").unwrap(), pods);
        let own = claim.own.iter().map(|pod| pod.name().to_owned());
        let written = claim.actions.iter().map(|action| format!("~{}", action.key.name));
        assert_eq!(own.chain(written).collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn what_matches_is_kept_or_adopted() {
        check("a:web:rs b:web: c:other:", "a b ~b");
    }
    #[test]
    fn what_matches_no_longer_is_released() {
        check("a:other:rs b:web:rs", "b ~a");
    }
    #[test]
    fn what_others_control_is_left_alone() {
        check("a:web:other b:other:other", "");
    }

    #[test]
    fn controllers_are_found_by_group_and_kind() {
        let set = ReplicaSet { metadata: meta("web", "rs"), ..ReplicaSet::default() };
        let mut child = meta("a", "a");
        child.owner_references = Some(vec![controller_reference(&set)]);
        assert_eq!(controller_key::<ReplicaSet>(&child), Some(Key::new("ns", "web")));
        assert_eq!(controller_key::<Pod>(&child), None);
    }
}
