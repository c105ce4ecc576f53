//! What becomes of one object, from its owners and dependents: pure.
//!
//! Source: `attemptToDeleteItem` in kubernetes/pkg/controller/garbagecollector/garbagecollector.go.

use api_types::k8s::meta::{DeleteOptions, OwnerReference, Preconditions};
use client::{PartialObject, Patch};
use serde_json::{Value, json};

use crate::{
    action::{Action, Write},
    everything::Known,
    plan::Plan,
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

pub struct View {
    pub known: Known,
    pub owners: Vec<(OwnerReference, OwnerState)>,
    pub dependents: Vec<Dependent>,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    Present,
    /// On its way out, after its dependents.
    Waiting,
    /// Gone, by a read past all caches.
    Absent,
    /// Its kind is not served, or the reference is one that cannot be: nothing is deleted for that.
    Unknown,
}

pub struct Dependent {
    pub known: Known,
    /// The owner may not go before it.
    pub blocks: bool,
}

impl Dependent {
    pub fn new(owner: &Known, known: Known) -> Self {
        let mut references = known.object.owners().iter().filter(|reference| reference.uid == owner.object.uid());
        let blocks = references.any(|reference| reference.block_owner_deletion == Some(true));
        Self { known, blocks }
    }
}

impl OwnerState {
    pub fn of(owner: &PartialObject) -> Self {
        if is_waiting(owner) { OwnerState::Waiting } else { OwnerState::Present }
    }
}

/// Goes when its dependents have gone.
pub fn is_waiting(object: &PartialObject) -> bool {
    object.is_terminating() && has_finalizer(object, FOREGROUND)
}

/// Goes when its dependents have been set free.
pub fn is_orphaning(object: &PartialObject) -> bool {
    object.is_terminating() && has_finalizer(object, ORPHAN)
}

fn has_finalizer(object: &PartialObject, name: &str) -> bool {
    object.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

pub fn plan(view: &View) -> Plan {
    let object = &*view.known.object;
    if is_orphaning(object) {
        return set_free(view);
    }
    if is_waiting(object) {
        return wait(view);
    }
    if object.is_terminating() || view.owners.is_empty() {
        return Plan::default();
    }
    by_owners(view)
}

fn set_free(view: &View) -> Plan {
    let uid = view.known.object.uid();
    let free = view.dependents.iter().map(|dependent| {
        let keep = |owner: &&OwnerReference| owner.uid != uid;
        let owners: Vec<&OwnerReference> = dependent.known.object.owners().iter().filter(keep).collect();
        patch(&dependent.known, json!({ "ownerReferences": owners }), "its owner leaves it behind")
    });
    let mut plan = Plan { actions: free.collect(), ..Plan::default() };
    plan.act(without_finalizer(&view.known, ORPHAN, "its dependents are set free"));
    plan
}

fn wait(view: &View) -> Plan {
    let blocking = view.dependents.iter().filter(|dependent| dependent.blocks).count();
    if blocking > 0 {
        return Plan::nothing("WaitingForDependents", format!("{blocking} dependents block its deletion"));
    }
    Plan { actions: vec![without_finalizer(&view.known, FOREGROUND, "its dependents have gone")], ..Plan::default() }
}

fn by_owners(view: &View) -> Plan {
    let object = &*view.known.object;
    let has = |state: OwnerState| view.owners.iter().any(|(_, it)| *it == state);
    if has(OwnerState::Unknown) {
        return Plan::nothing("UnknownOwner", "an owner is of a kind that cannot be looked up, so it may exist");
    }
    if has(OwnerState::Present) {
        if !has(OwnerState::Absent) && !has(OwnerState::Waiting) {
            return Plan::nothing("Owned", "its owners exist");
        }
        let present = view.owners.iter().filter(|(_, state)| *state == OwnerState::Present);
        let owners: Vec<&OwnerReference> = present.map(|(owner, _)| owner).collect();
        let action = patch(&view.known, json!({ "ownerReferences": owners }), "one of its owners has gone");
        return Plan { actions: vec![action], ..Plan::default() };
    }
    let mut plan = Plan::default();
    if has(OwnerState::Waiting) && !view.dependents.is_empty() {
        if view.dependents.iter().any(|dependent| is_waiting(&dependent.known.object)) {
            // It may own its owner: neither would ever go if it went on blocking.
            let free = |owner: &OwnerReference| OwnerReference { block_owner_deletion: Some(false), ..owner.clone() };
            let owners: Vec<OwnerReference> = object.owners().iter().map(free).collect();
            plan.act(patch(&view.known, json!({ "ownerReferences": owners }), "owners and dependents may be a circle"));
        }
        plan.act(delete(&view.known, "Foreground", "its owner waits for it, and it for its dependents"));
        return plan;
    }
    let policy = match () {
        () if has_finalizer(object, ORPHAN) => "Orphan",
        () if has_finalizer(object, FOREGROUND) => "Foreground",
        () => "Background",
    };
    plan.act(delete(&view.known, policy, "no owner is left"));
    plan
}

fn action(known: &Known, write: Write, why: &str) -> Action {
    Action {
        resource: (*known.resource).clone(),
        key: known.object.key(),
        write,
        why: why.to_owned(),
        events: Vec::new(),
        guard: None,
    }
}

/// Changes metadata, of the very version that was seen.
fn patch(known: &Known, mut metadata: Value, why: &str) -> Action {
    metadata["uid"] = known.object.uid().into();
    metadata["resourceVersion"] = known.object.metadata.resource_version.clone().into();
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    action(known, Write::Patch { patch, subresource: "" }, why)
}

fn without_finalizer(known: &Known, finalizer: &str, why: &str) -> Action {
    let all = known.object.metadata.finalizers.iter().flatten();
    let rest: Vec<&String> = all.filter(|it| *it != finalizer).collect();
    patch(known, json!({ "finalizers": rest }), why)
}

fn delete(known: &Known, policy: &str, why: &str) -> Action {
    let preconditions = Preconditions {
        uid: Some(known.object.uid().to_owned()),
        // An owner may have been added since.
        resource_version: known.object.metadata.resource_version.clone(),
    };
    let options = DeleteOptions {
        preconditions: Some(preconditions),
        propagation_policy: Some(policy.to_owned()),
        ..DeleteOptions::default()
    };
    action(known, Write::Delete(options), why)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api_types::{k8s::meta::ObjectMeta, resources};

    use super::*;
    use crate::pods::words::ago;

    /// `name` with `w` waiting, `o` orphaning, `t` terminating, `b` blocking; owners by uid behind `<`.
    fn known(word: &str) -> (Known, bool) {
        let (word, owners) = word.split_once('<').unwrap_or((word, ""));
        let (name, flags) = word.split_once(':').unwrap_or((word, ""));
        let flag = |flag: char| flags.contains(flag);
        let owners = owners.split(',').filter(|uid| !uid.is_empty());
        let reference = |uid: &str| OwnerReference {
            uid: uid.to_owned(),
            name: uid.to_owned(),
            block_owner_deletion: Some(flag('b')),
            ..OwnerReference::default()
        };
        let finalizers = [('w', FOREGROUND), ('o', ORPHAN)].into_iter().filter(|(letter, _)| flag(*letter));
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            resource_version: Some("7".to_owned()),
            owner_references: Some(owners.map(reference).collect()),
            finalizers: Some(finalizers.map(|(_, name)| name.to_owned()).collect()),
            deletion_timestamp: (flag('t') || flag('w') || flag('o')).then(|| ago(1)),
            ..ObjectMeta::default()
        };
        let object = Arc::new(PartialObject { metadata });
        (Known { resource: Arc::new(resources::POD), object }, flag('b'))
    }

    /// `owners`: a letter each: `p`resent, `w`aiting, `a`bsent, `u`nknown.
    /// Gives `-name:policy` for a deletion and `name{changed metadata}` for a patch.
    fn check(item: &str, owners: &str, dependents: &str, expected: &str) {
        let (item, _) = known(item);
        let state = |letter: char| match letter {
            'p' => OwnerState::Present,
            'w' => OwnerState::Waiting,
            'a' => OwnerState::Absent,
            _ => OwnerState::Unknown,
        };
        let owners = item.object.owners().iter().cloned().zip(owners.chars().map(state)).collect();
        let dependents = dependents.split_whitespace().map(|word| {
            let (known, blocks) = known(word);
            Dependent { known, blocks }
        });
        let plan = plan(&View { known: item, owners, dependents: dependents.collect() });
        let done = plan.actions.iter().map(|action| match &action.write {
            Write::Delete(options) => {
                format!("-{}:{}", action.key.name, options.propagation_policy.as_deref().unwrap())
            }
            Write::Patch { patch: Patch::Merge(patch), .. } => {
                let owners = patch["metadata"]["ownerReferences"].as_array();
                let finalizers = patch["metadata"]["finalizers"].as_array();
                let uids = owners.map(|all| all.iter().map(|it| it["uid"].as_str().unwrap()).collect::<Vec<_>>());
                match (uids, finalizers) {
                    (Some(uids), _) => format!("{}<{}", action.key.name, uids.join(",")),
                    (None, Some(finalizers)) => format!("{}!{}", action.key.name, finalizers.len()),
                    (None, None) => "nothing".to_owned(),
                }
            }
            Write::Create(_)
            | Write::Update { .. }
            | Write::Patch { .. }
            | Write::DeleteAll(_)
            | Write::Certify { .. } => {
                panic!("not what a collector does")
            }
        });
        assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn without_an_owner_left_it_goes() {
        check("a<x", "a", "", "-a:Background");
        check("a<x,y", "aa", "b<a", "-a:Background");
    }
    #[test]
    fn one_owner_is_enough_to_stay() {
        check("a<x", "p", "", "");
        check("a<x,y", "ap", "", "a<y");
        check("a<x,y", "wp", "", "a<y");
    }
    #[test]
    fn what_cannot_be_looked_up_may_exist() {
        check("a<x,y", "au", "", "");
    }
    #[test]
    fn foreground_deletion_goes_down_the_tree_first() {
        check("a<x", "w", "b<a", "-a:Foreground");
        check("a<x", "w", "", "-a:Background");
        check("a:w<x", "w", "b:b<a", "");
        check("a:w<x", "w", "b<a", "a!0");
        check("a:w", "", "", "a!0");
    }
    #[test]
    fn a_circle_is_opened() {
        check("a:b<x", "w", "x:w<a", "a<x -a:Foreground");
    }
    #[test]
    fn orphans_are_set_free_before_their_owner_goes() {
        check("a:o", "", "b<a,x c<a", "b<x c< a!0");
    }
    #[test]
    fn what_is_going_is_let_go() {
        check("a:t<x", "a", "", "");
    }
}
