//! The ReplicaSets of a Deployment while a turn works on them: all changes are collected, so that
//! each set is written once.

use std::{cmp::Reverse, sync::Arc};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::apps::{Deployment, ReplicaSet},
};
use client::EventKind;

use super::{
    numbers::{size, slack, spread},
    replicas, revision, spec, status,
};
use crate::{
    action::{Action, Outcome},
    plan::Plan,
};

/// A revision history without a limit.
const UNLIMITED: i32 = i32::MAX;

/// Working copies.
pub struct Fleet {
    /// Gets the revision annotation and conditions; written with the status.
    pub deployment: Deployment,
    /// As the caches show it.
    pub before: Deployment,
    sets: Vec<Member>,
    /// Index of the set with the current template.
    new: Option<usize>,
    created: bool,
    pub now: Timestamp,
    deletions: Vec<Action>,
}

struct Member {
    set: ReplicaSet,
    before: ReplicaSet,
}

impl Fleet {
    pub fn new(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>, now: Timestamp) -> Self {
        let sets: Vec<ReplicaSet> = sets.iter().map(|set| (**set).clone()).collect();
        let new = revision::find_new(deployment, &sets);
        let member = |set: ReplicaSet| Member { before: set.clone(), set };
        Self {
            deployment: deployment.clone(),
            before: deployment.clone(),
            sets: sets.into_iter().map(member).collect(),
            new,
            created: false,
            now,
            deletions: Vec::new(),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.sets.iter().map(|member| &member.set)
    }
    pub fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|index| &self.sets[index].set)
    }
    pub fn old(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old_indexes().map(|index| &self.sets[index].set)
    }
    fn old_indexes(&self) -> impl Iterator<Item = usize> {
        (0..self.sets.len()).filter(|index| Some(*index) != self.new)
    }
    /// Old sets that have a size, oldest first.
    pub fn active_old(&self) -> Vec<usize> {
        let mut active: Vec<usize> = self.old_indexes().filter(|index| self.size(*index) > 0).collect();
        active.sort_by_key(|index| self.age_key(*index));
        active
    }
    fn age_key(&self, index: usize) -> (Option<Timestamp>, String) {
        let meta = &self.sets[index].set.metadata;
        (meta.creation_timestamp.as_ref().map(|time| time.0), meta.name.clone().unwrap_or_default())
    }
    pub fn size(&self, index: usize) -> i32 {
        size(&self.sets[index].set)
    }
    pub fn available(&self, index: usize) -> i32 {
        available(&self.sets[index].set)
    }
    /// The set of the current template is yet to be made.
    pub fn is_creating(&self) -> bool {
        self.created
    }
    pub fn new_index(&self) -> Option<usize> {
        self.new
    }

    /// Was the deployment given another size since its sets were last scaled?
    pub fn is_scaled(&self) -> bool {
        let wanted = replicas(&self.deployment);
        let desired = |set: &ReplicaSet| revision::number(set, revision::DESIRED_REPLICAS);
        self.all().filter(|set| size(set) > 0).any(|set| desired(set).is_some_and(|desired| desired != wanted))
    }

    /// Brings the annotations of the new set, if there is one, and of the deployment up to date.
    pub fn sync_revision(&mut self) {
        let revision = revision::highest(self.old()) + 1;
        let Some(index) = self.new else { return };
        let set = &mut self.sets[index].set;
        revision::annotate_new(set, &self.before, revision);
        set.spec.get_or_insert_default().min_ready_seconds = spec(&self.before).min_ready_seconds;
        let found = format!("Found new replica set \"{}\"", set.name());
        let revision = set.annotation(revision::REVISION).unwrap_or_default().to_owned();
        self.show_revision(revision);
        status::found_new(self, found);
    }

    /// Adds the set for the current template, of `size`.
    pub fn create(&mut self, size: impl Fn(&Self) -> i32) {
        let revision = revision::highest(self.all()) + 1;
        let set = revision::new_set(&self.before, revision);
        let created = format!("Created new replica set \"{}\"", set.name());
        self.new = Some(self.sets.len());
        self.sets.push(Member { before: set.clone(), set });
        self.created = true;
        let size = size(self);
        let index = self.sets.len() - 1;
        self.sets[index].set.spec.get_or_insert_default().replicas = Some(size);
        self.show_revision(revision.to_string());
        status::created_new(self, created);
    }

    fn show_revision(&mut self, revision: String) {
        self.deployment.metadata.annotations.get_or_insert_default().insert(revision::REVISION.to_owned(), revision);
    }

    /// Gives the set another size; tells whether it had one.
    pub fn scale(&mut self, index: usize, size: i32) -> bool {
        if self.size(index) == size {
            return false;
        }
        self.resize(index, size);
        true
    }

    fn resize(&mut self, index: usize, size: i32) {
        let set = &mut self.sets[index].set;
        set.spec.get_or_insert_default().replicas = Some(size);
        revision::annotate_sizes(set, &self.before);
    }

    /// Follows a change of `spec.replicas`, or scales a paused deployment: sets keep their proportions.
    ///
    /// Source: `scale` in kubernetes/pkg/controller/deployment/sync.go.
    pub fn scale_proportionally(&mut self) {
        let wanted = replicas(&self.before);
        let active: Vec<usize> = (0..self.sets.len()).filter(|index| self.size(*index) > 0).collect();
        let latest = match active[..] {
            [] => self.new.or_else(|| self.old_indexes().max_by_key(|index| self.age_key(*index))),
            [only] => Some(only),
            _ => None,
        };
        if let Some(index) = latest {
            self.scale(index, wanted);
        } else if self.is_saturated() {
            self.active_old().into_iter().for_each(|index| self.resize(index, 0));
        } else if super::is_rolling(&self.before) && !active.is_empty() {
            self.spread_over(active, wanted);
        }
    }

    fn spread_over(&mut self, mut active: Vec<usize>, wanted: i32) {
        let allowed = if wanted > 0 { wanted + slack(&self.before).surge } else { 0 };
        let to_add = allowed - active.iter().map(|index| self.size(*index)).sum::<i32>();
        // The largest first; of equals the newer one grows and the older one shrinks.
        active.sort_by_key(|index| (Reverse(self.size(*index)), self.age_key(*index)));
        if to_add > 0 {
            active.sort_by_key(|index| (Reverse(self.size(*index)), Reverse(self.age_key(*index))));
        }
        let sets: Vec<&ReplicaSet> = active.iter().map(|index| &self.sets[*index].set).collect();
        let sizes = spread(&self.before, &sets, to_add);
        active.into_iter().zip(sizes).for_each(|(index, size)| self.resize(index, size));
    }

    /// The new set has everything that is wanted, so the others are not needed.
    fn is_saturated(&self) -> bool {
        let wanted = replicas(&self.before);
        self.new_set().is_some_and(|set| {
            let desired = revision::number(set, revision::DESIRED_REPLICAS);
            size(set) == wanted && desired == Some(wanted) && available(set) == wanted
        })
    }

    /// Deletes the oldest empty sets beyond the history limit.
    pub fn clean_up(&mut self) {
        let limit = spec(&self.before).revision_history_limit.unwrap_or(UNLIMITED);
        let Ok(limit) = usize::try_from(limit) else { return };
        let mut old: Vec<&ReplicaSet> = self.old().filter(|set| !set.is_terminating()).collect();
        old.sort_by_key(|set| revision::revision(set));
        let excess = old.len().saturating_sub(limit);
        let deletions = old.into_iter().take(excess).filter(|set| is_at_rest(set));
        let why = format!("beyond the last {limit} revisions");
        let deletions: Vec<Action> = deletions.map(|set| Action::delete(set, &why)).collect();
        self.deletions.extend(deletions);
    }

    /// Writes what has changed.
    pub fn finish(&mut self, plan: &mut Plan) {
        let mut members: Vec<(usize, &Member)> = self.sets.iter().enumerate().collect();
        // Nothing is taken away before what replaces it could be made.
        members.sort_by_key(|(index, member)| {
            !(self.created && Some(*index) == self.new) && size(&member.set) <= size(&member.before)
        });
        for (index, member) in members {
            let created = self.created && Some(index) == self.new;
            let (from, to) = (if created { 0 } else { size(&member.before) }, size(&member.set));
            let action = if created {
                Action::create(&member.set, "no ReplicaSet has the current template")
            } else if member.set != member.before {
                Action::update(&member.set, format!("from {from} to {to} replicas, or new annotations"))
            } else {
                continue;
            };
            plan.act(if from == to { action } else { tell_scaled(action, &self.before, member.set.name(), from, to) });
        }
        plan.actions.append(&mut self.deletions);
    }
}

fn tell_scaled(action: Action, deployment: &Deployment, set: &str, from: i32, to: i32) -> Action {
    let direction = if from < to { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
    action.tell(Outcome::Done, deployment, EventKind::Normal, "ScalingReplicaSet", message)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

fn is_at_rest(set: &ReplicaSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    size(set) == 0 && status.replicas == 0 && status.observed_generation >= set.metadata.generation
}
