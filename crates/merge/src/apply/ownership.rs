//! Who owns which field of an object: what a write makes of `managedFields`, and what a
//! server-side apply makes of the object.
//!
//! Source: merge/update.go in sigs.k8s.io/structured-merge-diff and
//! apimachinery/pkg/util/managedfields/internal.

use std::{collections::HashMap, sync::LazyLock};

use api_types::{ApiError, names};
use serde_json::Value;

use super::{
    owners::{Operation, Owner, Owners, pool_oldest},
    path_set::Set,
    typed::{self, Node},
};

/// Owns what was there before the first apply, where nobody had been recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const UNKNOWN: &str = "unknown";
/// The manager whose objects may come from client-side apply.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What nobody owns.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    Set::fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// What of an object can be owned by who writes through one endpoint.
pub enum Ownable {
    /// All but these fields, which the endpoint resets.
    Except(Set),
    /// Only what lies on or below these paths: names with dots between, `*` for any element.
    Only(&'static [&'static str]),
}

impl Ownable {
    fn limit(&self, set: &mut Set) {
        match self {
            Ownable::Except(fields) => set.subtract_trees(fields),
            Ownable::Only(patterns) => set.keep(patterns),
        }
    }
}

/// Shows an object in another version; `None`: there is no such version.
pub type Convert<'a> = &'a (dyn Fn(&Value, &str) -> Option<(Node<'a>, Value)> + Send + Sync);

/// The objects in question, without their `managedFields`.
pub struct Subject<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub root: Node<'a>,
    pub ownable: &'a Ownable,
    pub convert: Convert<'a>,
}

/// Who writes, through which endpoint, and when (RFC 3339 in whole seconds).
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub subresource: &'a str,
    pub now: &'a str,
}

impl Writer<'_> {
    fn owner(self, operation: Operation, api_version: &str, fields: Set) -> Owner {
        Owner {
            manager: if self.manager.is_empty() { UNKNOWN } else { self.manager }.to_owned(),
            operation,
            api_version: api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: String::new(),
            fields,
        }
    }
}

/// The owners from which a write starts. Those that were sent count, so that they can be edited and reset (`[]` or
/// `[{}]`), but not through a subresource; what cannot be read or was left out is as if the stored ones were sent.
pub fn known(stored: Value, sent: &Value, writer: Writer) -> Owners {
    if !writer.subresource.is_empty() || sent.is_null() || *sent == stored {
        return Owners::stored(stored);
    }
    let is_reset = match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    };
    if is_reset {
        return Owners::default();
    }
    match Owners::sent(sent) {
        Ok(owners) if !owners.is_empty() => owners,
        _ => Owners::stored(stored),
    }
}

/// Who owns what after a write that is no apply: the writer owns what it has changed.
pub fn update(subject: &Subject, writer: Writer, live: &Value, new: &Value, owners: Owners) -> Owners {
    let is_create = live["metadata"]["uid"].as_str().unwrap_or_default().is_empty();
    // Once the owners were reset, nobody is recorded until the next apply.
    if owners.is_empty() && !is_create { owners } else { track(subject, writer, live, new, owners) }
}

fn track(subject: &Subject, writer: Writer, live: &Value, new: &Value, mut owners: Owners) -> Owners {
    let mut changes = Changes::new(subject, live, new);
    changes.release(&mut owners, None);
    let mut written = changes.own.written;
    written.subtract(&UNOWNED);
    if !written.is_empty() {
        let mut owner = writer.owner(Operation::Update, subject.api_version, written);
        writer.now.clone_into(&mut owner.time);
        match owners.position(&owner) {
            Some(at) => {
                owner.fields.unite(std::mem::take(&mut owners.0[at].fields));
                owners.0[at] = owner;
            }
            None => owners.0.push(owner),
        }
    }
    pool_oldest(&mut owners);
    owners
}

/// What a write changes, as each owner's version shows it.
struct Changes<'c, 'a> {
    subject: &'c Subject<'a>,
    live: &'c Value,
    new: &'c Value,
    own: Change,
    /// By version; `None`: there is no such version.
    others: HashMap<String, Option<Change>>,
}

struct Change {
    written: Set,
    removed: Set,
}

impl Change {
    fn new(root: Node, ownable: &Ownable, live: &Value, new: &Value) -> Self {
        let mut comparison = typed::compare(root, live, new);
        comparison.each(|set| ownable.limit(set));
        let mut written = comparison.modified;
        written.unite(comparison.added);
        Self { written, removed: comparison.removed }
    }
}

impl<'c, 'a> Changes<'c, 'a> {
    fn new(subject: &'c Subject<'a>, live: &'c Value, new: &'c Value) -> Self {
        let own = Change::new(subject.root, subject.ownable, live, new);
        Self { subject, live, new, own, others: HashMap::new() }
    }

    fn of(&mut self, api_version: &str) -> Option<&Change> {
        if api_version == self.subject.api_version {
            return Some(&self.own);
        }
        if !self.others.contains_key(api_version) {
            let convert = |object| (self.subject.convert)(object, api_version);
            let change = convert(self.live)
                .zip(convert(self.new))
                .map(|((root, live), (_, new))| Change::new(root, self.subject.ownable, &live, &new));
            self.others.insert(api_version.to_owned(), change);
        }
        self.others[api_version].as_ref()
    }

    /// Takes from everybody but the owner at `but` what is written or removed. Owners in a version that is no more
    /// are forgotten.
    fn release(&mut self, owners: &mut Owners, but: Option<usize>) {
        let mut at = 0;
        owners.0.retain_mut(|owner| {
            at += 1;
            if Some(at - 1) == but {
                return true;
            }
            let Some(change) = self.of(&owner.api_version) else { return false };
            owner.fields.subtract(&change.written);
            owner.fields.subtract(&change.removed);
            !owner.fields.is_empty()
        });
    }
}

/// Fields that an apply would set to other values than their owners have.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// As messages name the owner.
    owner: String,
    fields: Set,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit its type.
    #[error("{0}")]
    Untyped(String),
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    let paths: Vec<Vec<String>> = conflicts.iter().map(|conflict| conflict.fields.paths()).collect();
    let count = paths.iter().flatten().count();
    if let ([conflict], 1) = (conflicts, count) {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", conflict.owner, paths[0][0]);
    }
    let mut lines = Vec::new();
    for (conflict, paths) in conflicts.iter().zip(&paths) {
        lines.push(format!("conflicts with {}:", conflict.owner));
        lines.extend(paths.iter().map(|path| format!("- {path}")));
    }
    format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::BadRequest(_) => ApiError::bad_request(message),
            ApplyError::Untyped(_) => ApiError::new(500, "", message),
            ApplyError::Conflicts(conflicts) => {
                let mut error = ApiError::new(409, "Conflict", message);
                for conflict in conflicts {
                    for path in conflict.fields.paths() {
                        let message = format!("conflict with {}", conflict.owner);
                        error = error.with_cause("FieldManagerConflict", message, &path);
                    }
                }
                error
            }
        }
    }
}

/// What an apply comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// `None`: the object is as it shall be.
    pub object: Option<Value>,
    pub owners: Owners,
}

/// Makes `live` what `config` says: its fields are set and owned, and what its manager applied before and does no
/// more is taken away unless others own it. `empty` is an object in which nothing is set. `force` takes fields over from owners that have them otherwise.
pub fn apply(
    subject: &Subject,
    writer: Writer,
    empty: &Value,
    live: &Value,
    config: &Value,
    owners: Owners,
    force: bool,
) -> Result<Applied, ApplyError> {
    check(subject, config)?;
    let owners = if owners.is_empty() {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..writer };
        track(subject, before, empty, live, owners)
    } else {
        owners
    };
    if writer.manager != KUBECTL {
        return apply_once(subject, writer, live, config, owners, force);
    }
    let mut applied = match apply_once(subject, writer, live, config, owners.clone(), force) {
        Err(ApplyError::Conflicts(mut conflicts)) => {
            if let Some(allowed) = last_applied(subject, live) {
                conflicts.iter_mut().for_each(|conflict| conflict.fields.subtract(&allowed));
                conflicts.retain(|conflict| !conflict.fields.is_empty());
            }
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
            apply_once(subject, writer, live, config, owners, true)?
        }
        outcome => outcome?,
    };
    remember(&mut applied, live, config);
    Ok(applied)
}

/// What can be said of a configuration without the object.
fn check(subject: &Subject, config: &Value) -> Result<(), ApplyError> {
    let text = |name: &str| config[name].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let shown = |api_version: &str, kind: &str| match api_version.contains('/') {
        true => format!("{api_version}, Kind={kind}"),
        false => format!("/{api_version}, Kind={kind}"),
    };
    if (api_version, kind) != (subject.api_version, subject.kind) {
        return Err(ApplyError::BadRequest(format!("invalid object type: {}", shown(api_version, kind))));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let problems = typed::problems(subject.root, config);
    let list = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let meta = |name: &str| config["metadata"][name].as_str().unwrap_or_default();
    let kind = shown(api_version, kind);
    let (namespace, name) = (meta("namespace"), meta("name"));
    Err(ApplyError::Untyped(format!("failed to create typed patch object ({namespace}/{name}; {kind}): {list}")))
}

fn apply_once(
    subject: &Subject,
    writer: Writer,
    live: &Value,
    config: &Value,
    mut owners: Owners,
    force: bool,
) -> Result<Applied, ApplyError> {
    for owner in owners.0.iter_mut().filter(|owner| owner.api_version == subject.api_version) {
        typed::reconcile(subject.root, &mut owner.fields);
    }
    let mut fields = typed::fields(subject.root, config);
    subject.ownable.limit(&mut fields);
    let own = writer.owner(Operation::Apply, subject.api_version, fields);
    let mut object = typed::merge(subject.root, live.clone(), config);
    let at = match owners.position(&own) {
        Some(at) => {
            let last = std::mem::replace(&mut owners.0[at], own);
            owners.0[at].time = last.time;
            if last.api_version == subject.api_version && !last.fields.is_empty() {
                prune(subject, &mut object, &owners, &last.fields);
            }
            at
        }
        None => {
            owners.0.push(own);
            owners.0.len() - 1
        }
    };
    let mut changes = Changes::new(subject, live, &object);
    if !force {
        let conflicts = conflicts(&mut changes, &owners, at);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    changes.release(&mut owners, Some(at));
    let is_changed = object != *live;
    let own = writer.owner(Operation::Apply, subject.api_version, Set::default());
    if let Some(at) = owners.position(&own) {
        owners.0[at].fields.subtract(&UNOWNED);
        if is_changed {
            writer.now.clone_into(&mut owners.0[at].time);
        }
    }
    owners.drop_empty();
    Ok(Applied { object: is_changed.then_some(object), owners })
}

fn conflicts(changes: &mut Changes, owners: &Owners, but: usize) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (_, owner) in owners.0.iter().enumerate().filter(|(at, _)| *at != but) {
        let Some(change) = changes.of(&owner.api_version) else { continue };
        let fields = owner.fields.intersection(&change.written);
        if !fields.is_empty() {
            conflicts.push(Conflict { owner: owner.shown(), fields });
        }
    }
    conflicts
}

/// Takes out what the manager applied `last` and does no more, but for what others own.
fn prune(subject: &Subject, merged: &mut Value, owners: &Owners, last: &Set) {
    let root = subject.root;
    let last = typed::with_named_fields(root, last);
    let fields_of = |value: &Value| typed::with_named_fields(root, &typed::fields(root, value));
    let all = fields_of(merged);
    let mut pruned = merged.clone();
    typed::remove(root, &mut pruned, &last);
    // Back comes what somebody owns, the manager included.
    let mut stays = fields_of(&pruned);
    for owner in owners.0.iter().filter(|owner| owner.api_version == subject.api_version) {
        stays.unite(typed::with_named_fields(root, &owner.fields));
    }
    let mut gone = all.clone();
    gone.subtract(&stays);
    let mut pruned = merged.clone();
    typed::remove(root, &mut pruned, &gone);
    // And what the manager never had.
    let mut gone = all;
    gone.subtract(&fields_of(&pruned));
    typed::remove(root, merged, &gone.intersection(&last));
}

/// What client-side apply has set and nobody has changed since: `kubectl` may take that over.
fn last_applied(subject: &Subject, live: &Value) -> Option<Set> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let config: Value = serde_json::from_str(text).ok()?;
    if config["apiVersion"] != subject.api_version || !typed::problems(subject.root, &config).is_empty() {
        return None;
    }
    let mut fields = typed::fields(subject.root, &config);
    typed::compare(subject.root, &config, live).each(|set| fields.subtract(set));
    Some(fields)
}

/// Keeps client-side apply's annotation true, if the object has one.
fn remember(applied: &mut Applied, live: &Value, config: &Value) {
    let has_one = |object: &Value| {
        object["metadata"]["annotations"][LAST_APPLIED].as_str().is_some_and(|annotation| !annotation.is_empty())
    };
    if !has_one(applied.object.as_ref().unwrap_or(live)) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let object = applied.object.get_or_insert_with(|| live.clone());
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    annotations.insert(LAST_APPLIED.to_owned(), format!("{config}\n").into());
    let size: usize = annotations.iter().map(|(name, text)| name.len() + text.as_str().map_or(0, str::len)).sum();
    if size > names::ANNOTATIONS_MAX_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}
