//! The owners of an object's fields: the entries of `managedFields`.
//!
//! Source: managedfields.go and capmanagers.go in apimachinery/pkg/util/managedfields/internal.

use serde_json::{Map, Value};

use super::path_set::Set;

/// Update entries that an object may have; the oldest are pooled.
pub const UPDATERS_MAX: usize = 10;
const POOL: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    /// RFC 3339 in whole seconds; empty if it is not known.
    pub time: String,
    pub fields: Set,
}

impl Owner {
    /// Whether both are the same entry: an applier's version may change.
    fn is_same(&self, other: &Self) -> bool {
        (self.operation, &self.manager, &self.subresource) == (other.operation, &other.manager, &other.subresource)
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As messages name it.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Why `managedFields` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {0} of managedFields cannot be read")]
pub struct OwnersError(usize);

/// The owners of an object's fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owners(pub(super) Vec<Owner>);

impl Owners {
    /// Reads the `managedFields` of a stored object; what cannot be read owns nothing.
    pub fn stored(managed_fields: Value) -> Self {
        let Value::Array(entries) = managed_fields else { return Self::default() };
        let read = |entry| owner(entry, |fields| Some(Set::stored(fields)));
        Self(entries.into_iter().map(read).collect::<Option<_>>().unwrap_or_default())
    }

    /// Reads `managedFields` that a client has sent.
    pub fn sent(managed_fields: &Value) -> Result<Self, OwnersError> {
        let entries = managed_fields.as_array().map(Vec::as_slice).unwrap_or_default();
        let read = |(at, entry): (usize, &Value)| {
            owner(entry.clone(), |fields| Set::parse(&fields).ok()).ok_or(OwnersError(at))
        };
        entries.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order in which upstream writes entries; null if there is none.
    pub fn into_managed_fields(mut self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        self.0.sort_by(|a, b| order(a).cmp(&order(b)));
        self.0.into_iter().map(entry).collect()
    }

    /// The owners of `field`, as if it were all there is, in a kind of `api_version` that has a field of that name.
    pub fn of_field(&self, field: &Set, api_version: &str) -> Self {
        let owners = self.0.iter().filter(|owner| !owner.fields.intersection(field).is_empty());
        let alone =
            |owner: &Owner| Owner { api_version: api_version.to_owned(), fields: field.clone(), ..owner.clone() };
        Self(owners.map(alone).collect())
    }

    /// The way back from [`Owners::of_field`], after a write of the other kind.
    ///
    /// Source: `ToParent` in apimachinery/pkg/util/managedfields/scalehandler.go.
    pub fn with_field(mut self, field: &Set, of_field: Self, api_version: &str) -> Self {
        let is_same = |a: &Owner, b: &Owner| {
            (a.operation, &a.manager, &a.subresource) == (b.operation, &b.manager, &b.subresource)
        };
        for owner in &mut self.0 {
            if !of_field.0.iter().any(|other| is_same(owner, other)) {
                owner.fields.subtract(field);
            }
        }
        self.drop_empty();
        for other in of_field.0 {
            if !other.fields.intersection(field).is_empty() && !self.0.iter().any(|owner| is_same(owner, &other)) {
                // Upstream forgets the time on this way.
                let (api_version, time) = (api_version.to_owned(), String::new());
                self.0.push(Owner { api_version, time, fields: field.clone(), ..other });
            }
        }
        self
    }

    pub(super) fn position(&self, wanted: &Owner) -> Option<usize> {
        self.0.iter().position(|owner| owner.is_same(wanted))
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|owner| !owner.fields.is_empty());
    }
}

fn order(owner: &Owner) -> (Operation, &str, &str, &str, &str) {
    (owner.operation, &owner.time, &owner.manager, &owner.api_version, &owner.subresource)
}

fn owner(entry: Value, read: impl FnOnce(Value) -> Option<Set>) -> Option<Owner> {
    let Value::Object(mut entry) = entry else { return None };
    let mut text = |name: &str| match entry.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let operation = match text("operation").as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    if text("fieldsType") != "FieldsV1" {
        return None;
    }
    let (manager, api_version) = (text("manager"), text("apiVersion"));
    let (subresource, time) = (text("subresource"), text("time"));
    if api_version.is_empty() {
        return None;
    }
    let fields = read(entry.remove("fieldsV1").unwrap_or_default())?;
    Some(Owner { manager, operation, api_version, subresource, time, fields })
}

fn entry(owner: Owner) -> Value {
    let operation = match owner.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut entry = Map::new();
    let texts = [
        ("manager", owner.manager),
        ("operation", operation.to_owned()),
        ("apiVersion", owner.api_version),
        ("time", owner.time),
        ("fieldsType", "FieldsV1".to_owned()),
        ("subresource", owner.subresource),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        entry.insert(name.to_owned(), text.into());
    }
    entry.insert("fieldsV1".to_owned(), owner.fields.into_fields());
    Value::Object(entry)
}

/// Merges the oldest update entries of a version into one until few enough are left.
pub(super) fn pool_oldest(owners: &mut Owners) {
    let is_update = |owner: &Owner| owner.operation == Operation::Update;
    let mut count = owners.0.iter().filter(|owner| is_update(owner)).count();
    if count <= UPDATERS_MAX {
        return;
    }
    owners.0.sort_by(|a, b| order(a).cmp(&order(b)));
    let start = owners.0.iter().position(is_update).expect("there are more than a few");
    let mut at = start;
    while at < owners.0.len() && count > UPDATERS_MAX {
        let is_pooled_with = |owner: &Owner| is_update(owner) && owner.api_version == owners.0[at].api_version;
        let first = owners.0[start..at].iter().position(is_pooled_with).map(|first| first + start);
        let pool = owners.0.iter().position(|owner| is_pooled_with(owner) && owner.manager == POOL);
        match (first, pool.or(first)) {
            (Some(_), Some(pool)) if pool != at => {
                let Owner { fields, time, .. } = owners.0.remove(at);
                let pool = &mut owners.0[if pool > at { pool - 1 } else { pool }];
                pool.fields.unite(fields);
                pool.time = time;
                POOL.clone_into(&mut pool.manager);
                pool.subresource.clear();
                count -= 1;
            }
            _ => at += 1,
        }
    }
}
