//! Who owns the fields of what is written: the bridge between a request and `merge::apply`.

use api_types::{
    ApiError, Resource,
    schema::{self, decode},
};
use http::{HeaderMap, header};
use merge::apply::{self, Applied, Node, Ownable, Owners, Set, Subject, Writer};
use serde_json::{Value, json};

use super::{Ask, create::now, hook::Call, meta, scale};
use crate::{kinds::Kind, rules::ownable::ownable};

/// Upstream's bound on a field manager's name, in bytes.
const MANAGER_MAX_BYTES: usize = 128;

/// The manager that a request names, or the program that sent it: the user agent up to its version.
///
/// Source: `managerOrUserAgent` in apiserver/pkg/endpoints/handlers/create.go.
pub(super) fn manager(named: &str, headers: &HeaderMap) -> String {
    if !named.is_empty() {
        return named.to_owned();
    }
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let program = agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control());
    let mut manager = String::new();
    for c in program {
        if manager.len() + c.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        manager.push(c);
    }
    manager
}

/// The type of a kind's objects, as far as there is one.
fn root(resource: &Resource) -> Node<'static> {
    Node::root(schema::of_resource(resource))
}

/// An object of a kind in which nothing is set.
pub(super) fn empty(resource: &Resource) -> Value {
    let fields = schema::of_resource(resource);
    fields.and_then(|fields| decode::decode(fields, json!({})).ok()).map_or_else(|| json!({}), |empty| empty.value)
}

impl Ask {
    /// Who owns what in a new object; `sent` are the owners that came with it.
    pub(super) fn owners_of_new(&self, object: &Value, sent: &Value) -> Owners {
        let live = empty(&self.kind.resource);
        self.owners_after(&live, object, Value::Null, sent)
    }

    /// Who owns what after a write that is no apply. The objects come without their managedFields.
    pub(super) fn owners_after(&self, live: &Value, new: &Value, stored: Value, sent: &Value) -> Owners {
        let Some(manager) = &self.manager else { return Owners::stored(stored) };
        let now = now();
        let writer = Writer { manager, subresource: &self.subresource, now: &now };
        self.with_subject(|subject| apply::update(subject, writer, live, new, apply::known(stored, sent, writer)))
    }

    /// What an apply makes of an object; its `metadata.managedFields` are taken out.
    pub(super) fn applied(&self, mut live: Value, config: &Value, force: bool) -> Result<(Value, Owners), ApiError> {
        let owners = Owners::stored(meta::take_managed_fields(&mut live));
        let now = now();
        let manager = self.manager.as_deref().unwrap_or_default();
        let writer = Writer { manager, subresource: &self.subresource, now: &now };
        let empty = empty(&self.kind.resource);
        let Applied { object, owners } =
            self.with_subject(|subject| apply::apply(subject, writer, &empty, &live, config, owners, force))?;
        Ok((object.unwrap_or(live), owners))
    }

    /// Who owns what of an object after a write of its scale: replicas are all that a scale shares with it.
    pub(super) fn owners_of_scale(&self, old: &Value, scale: &Value, new_scale: &Value) -> Owners {
        let stored = Owners::stored(old["metadata"]["managedFields"].clone());
        let Some(manager) = &self.manager else { return stored };
        let now = now();
        let writer = Writer { manager, subresource: &self.subresource, now: &now };
        let of_scale = stored.of_field(&replicas(), SCALE_VERSION);
        let of_scale = with_scale(|subject| apply::update(subject, writer, scale, new_scale, of_scale));
        stored.with_field(&replicas(), of_scale, &self.kind.resource.api_version())
    }

    /// What an apply makes of an object's scale, and of the object's owners.
    pub(super) fn applied_scale(
        &self,
        old: &Value,
        scale: Value,
        config: &Value,
        force: bool,
    ) -> Result<(Value, Owners), ApiError> {
        let stored = Owners::stored(old["metadata"]["managedFields"].clone());
        let now = now();
        let manager = self.manager.as_deref().unwrap_or_default();
        let writer = Writer { manager, subresource: &self.subresource, now: &now };
        let of_scale = stored.of_field(&replicas(), SCALE_VERSION);
        let Applied { object, owners } =
            with_scale(|subject| apply::apply(subject, writer, &json!({}), &scale, config, of_scale, force))?;
        let owners = stored.with_field(&replicas(), owners, &self.kind.resource.api_version());
        Ok((object.unwrap_or(scale), owners))
    }

    fn with_subject<R>(&self, ask: impl FnOnce(&Subject) -> R) -> R {
        let resource = &self.kind.resource;
        let api_version = resource.api_version();
        let ownable = ownable(resource, &self.subresource);
        ask(&Subject {
            api_version: &api_version,
            kind: &resource.kind,
            root: root(resource),
            ownable: &ownable,
            convert: &|object, version| self.converted(object, version),
        })
    }

    /// An object of this kind as another row of the same storage shows it.
    fn converted(&self, object: &Value, api_version: &str) -> Option<(Node<'static>, Value)> {
        let table = self.server.kinds.table();
        let is_wanted =
            |row: &&std::sync::Arc<Kind>| row.storage == self.kind.storage && row.resource.api_version() == api_version;
        let row = table.rows().iter().find(is_wanted)?;
        let mut object = object.clone();
        if let Some(view) = self.kind.view {
            (view.to_stored)(&mut object);
        }
        if let Some(view) = row.view {
            (view.from_stored)(&mut object);
        }
        Some((root(&row.resource), object))
    }
}

/// Records who has sent an object that is answered and not stored.
pub(super) fn own_transient(call: &Call, headers: &HeaderMap, object: &mut Value) {
    let resource = &call.kind.resource;
    let api_version = resource.api_version();
    let sent = meta::take_managed_fields(object);
    let (manager, now) = (manager(call.request.query.text("fieldManager"), headers), now());
    let writer = Writer { manager: &manager, subresource: "", now: &now };
    let ownable = ownable(resource, "");
    let subject = Subject {
        api_version: &api_version,
        kind: &resource.kind,
        root: root(resource),
        ownable: &ownable,
        convert: &|_, _| None,
    };
    let owners = apply::known(Value::Null, &sent, writer);
    let owners = apply::update(&subject, writer, &empty(resource), object, owners);
    meta::set_managed_fields(object, owners.into_managed_fields());
}

const SCALE_VERSION: &str = "autoscaling/v1";

/// Where the replicas stand, in a scale and in what is scaled.
fn replicas() -> Set {
    Set::fields(&["spec.replicas"])
}

fn with_scale<R>(ask: impl FnOnce(&Subject) -> R) -> R {
    let (group, version, kind) = scale::KIND;
    ask(&Subject {
        api_version: SCALE_VERSION,
        kind,
        root: Node::root(schema::of(group, version, kind)),
        ownable: &Ownable::Except(Set::default()),
        convert: &|_, _| None,
    })
}

/// Whether two managedFields differ in nothing but times.
pub(super) fn differ_in_times_only(a: &Value, b: &Value) -> bool {
    let [a, b] = [a, b].map(|entries| entries.as_array().map(Vec::as_slice).unwrap_or_default());
    let is_same = |(a, b): (&Value, &Value)| {
        let fields = ["manager", "operation", "apiVersion", "subresource", "fieldsV1"];
        fields.into_iter().all(|field| a[field] == b[field])
    };
    a.len() == b.len() && a.iter().zip(b).all(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Semantics line 47.
    #[test]
    fn a_writer_without_a_name_goes_by_its_program() {
        let long = "x".repeat(200);
        for (named, agent, expected) in [
            ("me", "kubectl/v1", "me"),
            ("", "kubectl/v1.36.0 (linux/amd64) kubernetes/abc", "kubectl"),
            ("", "Mozilla 5", "Mozilla 5"),
            ("", "", ""),
            ("", long.as_str(), &long[..MANAGER_MAX_BYTES]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().unwrap());
            assert_eq!(manager(named, &headers), expected);
        }
    }

    #[test]
    fn times_alone_are_no_difference() {
        let entry = |manager: &str, time: &str| json!([{"manager": manager, "time": time, "fieldsV1": {"f:a": {}}}]);
        assert!(differ_in_times_only(&entry("a", "1"), &entry("a", "2")));
        assert!(!differ_in_times_only(&entry("a", "1"), &entry("b", "1")));
        assert!(!differ_in_times_only(&entry("a", "1"), &Value::Null));
    }
}
