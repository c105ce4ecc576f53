//! What a decision wants done, as plain data: one write to the API, the reason for it, and
//! what people are told when it is done or refused.

use std::time::Duration;

use api_types::{
    Key, Object, Resource,
    k8s::{
        authorization::SubjectAccessReviewSpec, certificates::CertificateSigningRequest, core::ObjectReference,
        meta::DeleteOptions, meta::Preconditions,
    },
};
use client::{EventKind, Patch, events};
use serde_json::Value;

/// One write to one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub resource: Resource,
    /// The name is empty where the server makes it from `generateName`.
    pub key: Key,
    pub write: Write,
    pub why: String,
    pub events: Vec<Tell>,
    /// What must hold, by a read past all caches, for this to be done.
    pub guard: Option<Guard>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    Create(Value),
    /// Replaces the object, or a subresource (`status`, `finalize`); carries the resourceVersion that was read.
    Update {
        object: Value,
        subresource: &'static str,
    },
    /// Carries the uid that was seen.
    Patch {
        patch: Patch,
        subresource: &'static str,
    },
    Delete(DeleteOptions),
    /// Everything of the kind in the namespace.
    DeleteAll(DeleteOptions),
    /// Signs the request and writes the certificate into the status.
    Certify {
        request: Box<CertificateSigningRequest>,
        lifetime: Duration,
    },
}

/// What a cache may have missed, and would be wrong to miss.
#[derive(Clone, Debug, PartialEq)]
pub enum Guard {
    /// It is there, and not on its way out.
    Alive(Owner),
    /// It is at this version; `None`: it is not there.
    Unchanged { resource: &'static Resource, key: Key, version: Option<String> },
    /// The server allows somebody something.
    Permitted(Box<SubjectAccessReviewSpec>),
}

/// An object that is known by more than its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub resource: &'static Resource,
    pub key: Key,
    pub uid: String,
}

/// An event to record when the write is answered. In `message`, `{name}` stands for the name of
/// the object that was written and `{error}` for the refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Tell {
    pub on: Outcome,
    pub about: ObjectReference,
    pub kind: EventKind,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused,
}

impl Action {
    fn of<K: Object>(object: &K, write: Write, why: impl Into<String>) -> Self {
        Self {
            resource: K::RESOURCE.clone(),
            key: object.key(),
            write,
            why: why.into(),
            events: Vec::new(),
            guard: None,
        }
    }
    pub fn create<K: Object>(object: &K, why: impl Into<String>) -> Self {
        Self::of(object, Write::Create(json(object)), why)
    }
    pub fn update<K: Object>(object: &K, why: impl Into<String>) -> Self {
        Self::of(object, Write::Update { object: json(object), subresource: "" }, why)
    }
    pub fn update_status<K: Object>(object: &K, why: impl Into<String>) -> Self {
        Self::update_subresource(object, "status", why)
    }
    pub fn update_subresource<K: Object>(object: &K, subresource: &'static str, why: impl Into<String>) -> Self {
        Self::of(object, Write::Update { object: json(object), subresource }, why)
    }
    /// `patch` without its uid, which is added: a namesake that came later is left alone.
    pub fn patch<K: Object>(object: &K, patch: Value, why: impl Into<String>) -> Self {
        Self::of(object, Write::Patch { patch: Patch::Strategic(with_uid(patch, object.uid())), subresource: "" }, why)
    }
    pub fn patch_status<K: Object>(object: &K, patch: Value, why: impl Into<String>) -> Self {
        let patch = Patch::Strategic(with_uid(patch, object.uid()));
        Self::of(object, Write::Patch { patch, subresource: "status" }, why)
    }
    /// Changes the very version that was seen; for lists that must not be merged.
    pub fn merge<K: Object>(object: &K, mut patch: Value, why: impl Into<String>) -> Self {
        patch["metadata"]["resourceVersion"] = Value::from(object.resource_version());
        Self::of(object, Write::Patch { patch: Patch::Merge(with_uid(patch, object.uid())), subresource: "" }, why)
    }
    pub fn certify(request: &CertificateSigningRequest, lifetime: Duration, why: impl Into<String>) -> Self {
        Self::of(request, Write::Certify { request: Box::new(request.clone()), lifetime }, why)
    }
    pub fn delete<K: Object>(object: &K, why: impl Into<String>) -> Self {
        Self::of(object, Write::Delete(only_uid(object.uid())), why)
    }
    /// At once, without grace; for pods whose kubelet will not answer.
    pub fn delete_now<K: Object>(object: &K, why: impl Into<String>) -> Self {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..only_uid(object.uid()) };
        Self::of(object, Write::Delete(options), why)
    }
    pub fn with_propagation(mut self, policy: &str) -> Self {
        if let Write::Delete(options) = &mut self.write {
            options.propagation_policy = Some(policy.to_owned());
        }
        self
    }
    pub fn only_if(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }
    pub fn tell<K: Object>(
        mut self,
        on: Outcome,
        about: &K,
        kind: EventKind,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let about = events::reference(about);
        self.events.push(Tell { on, about, kind, reason, message: message.into() });
        self
    }
}

/// Options that spare a namesake that came later.
pub fn only_uid(uid: &str) -> DeleteOptions {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() }
}

fn with_uid(mut patch: Value, uid: &str) -> Value {
    patch["metadata"]["uid"] = Value::from(uid);
    patch
}

fn json<K: Object>(object: &K) -> Value {
    serde_json::to_value(object).expect("API types have string keys only, so they have a JSON form")
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{core::Pod, meta::ObjectMeta};
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_and_deletions_carry_the_uid() {
        let meta = ObjectMeta { name: Some("a".into()), uid: Some("u1".into()), ..ObjectMeta::default() };
        let pod = Pod { metadata: meta, ..Pod::default() };
        let patch = Action::patch(&pod, json!({"metadata": {"labels": {"a": "b"}}}), "test").write;
        let expected = json!({"metadata": {"labels": {"a": "b"}, "uid": "u1"}});
        assert_eq!(patch, Write::Patch { patch: Patch::Strategic(expected), subresource: "" });
        let Write::Delete(options) = Action::delete(&pod, "test").write else { panic!("not a deletion") };
        assert_eq!(options.preconditions.unwrap().uid.as_deref(), Some("u1"));
    }
}
