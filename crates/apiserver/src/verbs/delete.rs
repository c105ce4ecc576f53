//! Delete and deletecollection: grace, finalizers and propagation decide whether an object
//! goes at once or lingers. The decision is pure; the loop around it does.

use std::sync::Arc;

use api_types::{
    ApiError, Resource,
    jiff::{SignedDuration, Timestamp},
    k8s::meta::DeleteOptions,
    options::{check_delete, delete_options},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Ask, admit::Operation, meta, read::store_refusal};
use crate::{
    audit,
    codec::{
        accept::Shapes,
        body::Body,
        decode, protobuf,
        reply::{self, Listing},
    },
    rules::{Propagation, Rules},
    store::StoreError,
    watch_cache::Item,
};

/// Objects of a collection that are deleted at the same time.
const COLLECTION_CONCURRENCY: usize = 16;

/// What a deletion comes to.
#[derive(Debug, PartialEq)]
enum Fate {
    /// Removed from the store; the object as a reply shows it.
    Gone(Value),
    /// Stays, marked; the object as it is to be written.
    Lingers(Value),
    /// Being deleted already, and this request changes nothing.
    Unchanged,
}

/// What became of an object.
#[derive(Debug)]
pub enum Deleted {
    Gone(Arc<Item>),
    Lingers(Arc<Item>),
}

/// Decides what a deletion does to `object`.
///
/// Source: `BeforeDelete` in apiserver/pkg/registry/rest/delete.go and
/// `updateForGracefulDeletionAndFinalizers` in apiserver/pkg/registry/generic/registry/store.go.
fn fate(object: &Value, options: &DeleteOptions, rules: &Rules, now: Timestamp) -> Fate {
    let mut object = object.clone();
    let requested = options.grace_period_seconds.map(|grace_s| if grace_s < 0 { 1 } else { grace_s });
    let old_finalizers: Vec<String> = meta::finalizers(&object).into_iter().map(str::to_owned).collect();
    let finalizers = finalizers_for(&old_finalizers, options, rules.default_propagation);
    let is_changed = finalizers != old_finalizers;
    let has_finalizers = !finalizers.is_empty() || (rules.is_held)(&object);
    if is_changed {
        meta::set_finalizers(&mut object, finalizers);
    }
    match grace(&object, requested, rules) {
        Grace::Pending if is_changed => Fate::Lingers(object),
        Grace::Pending => Fate::Unchanged,
        Grace::None if !has_finalizers => Fate::Gone(object),
        Grace::None => {
            // Only the finalizers keep it: there is no grace to wait for.
            let was_marked =
                meta::is_terminating(&object) && meta::number(&object, "deletionGracePeriodSeconds").unwrap_or(0) == 0;
            if was_marked && !is_changed {
                return Fate::Unchanged;
            }
            let at = match meta::text(&object, "deletionTimestamp") {
                "" => time(now),
                at => at.to_owned(),
            };
            meta::deleted(&mut object, &at, 0);
            (rules.mark_deleted)(&mut object);
            Fate::Lingers(object)
        }
        Grace::Seconds(grace_s) => {
            let begun = match meta::text(&object, "deletionTimestamp").parse::<Timestamp>() {
                Ok(end) => {
                    end - SignedDuration::from_secs(meta::number(&object, "deletionGracePeriodSeconds").unwrap_or(0))
                }
                Err(_) => now,
            };
            meta::deleted(&mut object, &time(begun + SignedDuration::from_secs(grace_s)), grace_s);
            if grace_s == 0 && !has_finalizers { Fate::Gone(object) } else { Fate::Lingers(object) }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Grace {
    /// The kind or the object knows none, or it has run out.
    None,
    Seconds(i64),
    /// It has begun, and the request does not shorten it.
    Pending,
}

/// A second delete may only shorten what the first one granted.
fn grace(object: &Value, requested: Option<i64>, rules: &Rules) -> Grace {
    let granted = (rules.graceful)(object, requested);
    if !meta::is_terminating(object) {
        return granted.map_or(Grace::None, Grace::Seconds);
    }
    match (meta::number(object, "deletionGracePeriodSeconds"), requested) {
        _ if granted.is_none() => Grace::None,
        (None | Some(0), _) => Grace::None,
        (Some(current), Some(requested)) if requested < current => Grace::Seconds(requested),
        (Some(_), _) => Grace::Pending,
    }
}

/// The finalizers that tell the garbage collector what to do with dependents.
fn finalizers_for(existing: &[String], options: &DeleteOptions, default: Propagation) -> Vec<String> {
    let has = |name: &str| existing.iter().any(|finalizer| finalizer == name);
    let (orphans, waits) = match (options.orphan_dependents, options.propagation_policy.as_deref()) {
        (Some(orphans), _) => (orphans, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) if has(meta::ORPHAN) => (true, false),
        (None, None) if has(meta::FOREGROUND) => (false, true),
        (None, None) => (default == Propagation::Orphan, false),
    };
    let is_other = |name: &&String| *name != meta::ORPHAN && *name != meta::FOREGROUND;
    let mut finalizers: Vec<String> = existing.iter().filter(is_other).cloned().collect();
    if orphans {
        finalizers.push(meta::ORPHAN.to_owned());
    }
    if waits {
        finalizers.push(meta::FOREGROUND.to_owned());
    }
    let is_same = finalizers.len() == existing.len() && finalizers.iter().all(|name| existing.contains(name));
    if is_same { existing.to_vec() } else { finalizers }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Ask {
    pub(super) async fn delete(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::ObjectOnly)?;
        let options = self.delete_options(&body)?;
        let resource = &self.kind.resource;
        let deleted = self.delete_object(&options).await?;
        match deleted {
            Deleted::Lingers(item) => {
                let status = match options.orphan_dependents {
                    Some(false) => StatusCode::ACCEPTED,
                    Some(true) | None => StatusCode::OK,
                };
                reply::item(status, view, &item)
            }
            Deleted::Gone(item) if self.rules.returns_deleted => reply::item(StatusCode::OK, view, &item),
            Deleted::Gone(item) => {
                let mut details = json!({ "name": self.key.name, "kind": resource.plural });
                if !resource.group.is_empty() {
                    details["group"] = resource.group.as_ref().into();
                }
                details["uid"] = item.value()["metadata"]["uid"].clone();
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    "details": details });
                Ok(reply::value(StatusCode::OK, &view.accepted, &status))
            }
        }
    }

    /// From the body, or from the query where there is none.
    fn delete_options(&self, body: &[u8]) -> Result<DeleteOptions, ApiError> {
        let options = if body.is_empty() {
            delete_options(&self.query)?
        } else {
            let refuse =
                |why: &dyn std::fmt::Display| ApiError::bad_request(format!("DeleteOptions cannot be read: {why}"));
            let value: Value = match decode::format(&self.headers)? {
                decode::BodyFormat::Json => serde_json::from_slice(body).map_err(|error| refuse(&error))?,
                decode::BodyFormat::Yaml => decode::yaml(body).map_err(|error| refuse(&error))?,
                decode::BodyFormat::Protobuf => {
                    protobuf::decode(body, ("", "v1", "DeleteOptions")).map_err(|error| refuse(&error))?
                }
            };
            audit::note(|notes| notes.sent(&value));
            serde_json::from_value(value).map_err(|error| refuse(&error))?
        };
        check_delete(&options)?;
        Ok(options)
    }

    pub async fn delete_object(&self, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let dry_run = options.dry_run.as_ref().is_some_and(|values| !values.is_empty());
        let mut is_fresh = false;
        loop {
            let existing = match self.cached() {
                Some(item) => item,
                None if is_fresh => return Err(self.not_found()),
                None => {
                    self.catch_up().await?;
                    is_fresh = true;
                    continue;
                }
            };
            match self.try_delete(&existing, options, dry_run).await {
                Ok(Some(deleted)) => return Ok(deleted),
                Ok(None) => {}
                Err(error) if is_fresh => return Err(error),
                Err(_) => {}
            }
            self.catch_up().await?;
            is_fresh = true;
        }
    }

    /// `Ok(None)`: somebody else wrote in between.
    async fn try_delete(
        &self,
        existing: &Arc<Item>,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Option<Deleted>, ApiError> {
        let mut object = existing.decode();
        if let Some(view) = self.kind.view {
            (view.from_stored)(&mut object);
        }
        self.check_delete_preconditions(&object, options)?;
        self.validate(Operation::Delete, &self.key, None, Some(&object), dry_run).await?;
        let stored_key = self.stored_key(&self.key);
        let bytes = match fate(&object, options, &self.rules, Timestamp::now()) {
            Fate::Unchanged => return Ok(Some(Deleted::Lingers(existing.clone()))),
            Fate::Gone(object) => {
                let shown = self.item(&self.key, existing.revision, self.encode(object));
                if dry_run {
                    return Ok(Some(Deleted::Gone(shown)));
                }
                return match self.server.store.delete(&stored_key, existing.revision).await {
                    Ok(revision) => {
                        self.seen(revision).await;
                        Ok(Some(Deleted::Gone(shown)))
                    }
                    Err(StoreError::Conflict { .. }) => Ok(None),
                    Err(error) => Err(store_refusal(&error)),
                };
            }
            Fate::Lingers(object) => {
                let bytes = self.encode(object);
                if dry_run {
                    return Ok(Some(Deleted::Lingers(self.item(&self.key, existing.revision, bytes))));
                }
                bytes
            }
        };
        let ttl_s = self.kind.storage.ttl_s;
        match self.server.store.put(&stored_key, bytes.clone(), existing.revision, ttl_s).await {
            Ok(revision) => {
                self.seen(revision).await;
                Ok(Some(Deleted::Lingers(self.item(&self.key, revision, bytes))))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_refusal(&error)),
        }
    }

    fn check_delete_preconditions(&self, object: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
        let Some(preconditions) = &options.preconditions else { return Ok(()) };
        for (wanted, field, word, happened) in [
            (&preconditions.uid, "uid", "UID", "deleted and then recreated"),
            (&preconditions.resource_version, "resourceVersion", "ResourceVersion", "modified"),
        ] {
            let found = meta::text(object, field);
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let why = format!(
                    "the {word} in the precondition ({wanted}) does not match the {word} in record ({found}). The \
                     object might have been {happened}"
                );
                // Upstream names the kind here, not the resource.
                let Resource { group, kind, .. } = &self.kind.resource;
                let dot = if group.is_empty() { "" } else { "." };
                let message =
                    format!("Operation cannot be fulfilled on {kind}{dot}{group} \"{}\": {why}", self.key.name);
                return Err(ApiError::new(409, "Conflict", message).with_object(group, kind, &self.key.name));
            }
        }
        Ok(())
    }

    pub(super) async fn delete_collection(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::ObjectOnly)?;
        let options = self.delete_options(&body)?;
        let Listing { items, revision, .. } = self.page(&self.list_options()?).await?;
        let deleted: Vec<Option<Arc<Item>>> = stream::iter(items)
            .map(|item| {
                let ask = self.of(&item);
                let options = &options;
                async move {
                    match ask.delete_object(options).await {
                        Ok(Deleted::Gone(item) | Deleted::Lingers(item)) => Ok(Some(item)),
                        Err(error) if error.is_not_found() => Ok(None),
                        Err(error) => Err(error),
                    }
                }
            })
            .buffered(COLLECTION_CONCURRENCY)
            .try_collect()
            .await?;
        let items = deleted.into_iter().flatten().collect();
        reply::list(view, Listing { items, revision, continue_token: None, remaining: None })
    }

    /// The same request for one object of the collection.
    fn of(&self, item: &Item) -> Ask {
        Ask {
            server: self.server.clone(),
            kind: self.kind.clone(),
            rules: self.rules,
            user: self.user.clone(),
            key: item.key.clone(),
            subresource: String::new(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            manager: self.manager.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::PLAIN;

    const GRACEFUL: Rules = Rules { graceful: |_, requested| Some(requested.unwrap_or(30)), ..PLAIN };

    fn check(rules: &Rules, metadata: Value, options: Value, expected: Option<Value>) {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let options: DeleteOptions = serde_json::from_value(options).unwrap();
        let object = json!({ "metadata": metadata });
        let got = match fate(&object, &options, rules, now) {
            Fate::Gone(_) => None,
            Fate::Unchanged => Some(json!("unchanged")),
            Fate::Lingers(object) => Some(object["metadata"].clone()),
        };
        assert_eq!(got, expected, "{object} {options:?}");
    }

    #[test]
    fn plain_objects_go_at_once_unless_finalizers_hold_them() {
        check(&PLAIN, json!({}), json!({}), None);
        check(&PLAIN, json!({}), json!({"gracePeriodSeconds": 30}), None);
        check(
            &PLAIN,
            json!({"finalizers": ["a/b"]}),
            json!({}),
            Some(
                json!({"finalizers": ["a/b"], "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}),
            ),
        );
        let marked = json!({"finalizers": ["a/b"], "deletionTimestamp": "2025-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        check(&PLAIN, marked, json!({}), Some(json!("unchanged")));
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let marked = |finalizer: &str| {
            Some(
                json!({"finalizers": [finalizer], "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}),
            )
        };
        check(&PLAIN, json!({}), json!({"propagationPolicy": "Foreground"}), marked("foregroundDeletion"));
        check(&PLAIN, json!({}), json!({"propagationPolicy": "Orphan"}), marked("orphan"));
        check(&PLAIN, json!({}), json!({"orphanDependents": true}), marked("orphan"));
        check(&PLAIN, json!({"finalizers": ["orphan"]}), json!({"propagationPolicy": "Background"}), None);
        let orphans = Rules { default_propagation: Propagation::Orphan, ..PLAIN };
        check(&orphans, json!({}), json!({}), marked("orphan"));
        check(&orphans, json!({}), json!({"propagationPolicy": "Background"}), None);
    }

    #[test]
    fn grace_begins_once_and_may_only_shrink() {
        let granted =
            json!({"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30, "generation": 2});
        check(&GRACEFUL, json!({"generation": 1}), json!({}), Some(granted.clone()));
        check(&GRACEFUL, json!({}), json!({"gracePeriodSeconds": 0}), None);
        check(&GRACEFUL, granted.clone(), json!({}), Some(json!("unchanged")));
        check(&GRACEFUL, granted.clone(), json!({"gracePeriodSeconds": 60}), Some(json!("unchanged")));
        check(
            &GRACEFUL,
            granted.clone(),
            json!({"gracePeriodSeconds": 5}),
            Some(
                json!({"deletionTimestamp": "2026-01-01T00:00:05Z", "deletionGracePeriodSeconds": 5, "generation": 2}),
            ),
        );
        check(&GRACEFUL, granted, json!({"gracePeriodSeconds": 0}), None);
    }
}
