//! Create: decode, defaults, mutating admission, prepare, validate, validating admission,
//! and one write that succeeds only if the key does not exist.

use std::sync::Arc;

use api_types::{
    ApiError, Key, names,
    options::{FieldValidation, WriteOptions},
};
use bytes::Bytes;
use http::{Response, StatusCode};
use merge::apply::Owners;
use serde_json::Value;

use super::{
    Ask,
    admit::{COUNTS_MAX, Operation, Turn, outrun},
    meta,
    read::store_refusal,
};
use crate::{
    audit, authz,
    codec::{
        accept::Shapes,
        body::Body,
        decode::{self, Decoded},
        encode, reply,
    },
    store::StoreError,
    watch_cache::Item,
};

/// Upstream's number of tries for a name made from `generateName`.
const GENERATED_NAME_TRIES: u32 = 8;

/// Whose the fields of a new object are.
pub(super) enum Owned {
    /// The writer's, besides the managedFields that were sent.
    Sent(Value),
    /// An apply has found out.
    Known(Owners),
}

/// A stored (or, in a dry run, not stored) object, and what the client is to be warned of.
#[derive(Debug)]
pub struct Written {
    pub item: Arc<Item>,
    pub is_created: bool,
    pub warnings: Vec<String>,
}

impl Ask {
    pub(super) async fn create(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::ObjectOnly)?;
        let options = WriteOptions::for_create(&self.query)?;
        let Decoded { object, warnings } = self.decode(&body, options.field_validation)?;
        let mut written = self.create_object(object, &options).await?;
        written.warnings.splice(..0, warnings);
        self.written(view, &written)
    }

    pub(super) fn decode(&self, body: &[u8], validation: FieldValidation) -> Result<Decoded, ApiError> {
        let decoded = decode::object(body, decode::format(&self.headers)?, &self.kind, validation)?;
        self.audit_sent(&decoded.object);
        Ok(decoded)
    }

    /// Upstream's events show an object as it was sent, with its defaults.
    fn audit_sent(&self, object: &Value) {
        audit::note(|notes| {
            let mut object = object.clone();
            (self.rules.default)(&mut object);
            notes.sent(&object);
        });
    }

    pub(super) fn written(&self, view: reply::View<'_>, written: &Written) -> Result<Response<Body>, ApiError> {
        let status = if written.is_created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = reply::item(status, view, &written.item)?;
        reply::warn(&mut response, &written.warnings);
        Ok(response)
    }

    /// Creates a decoded object, with a made-up name if it asks for one.
    pub async fn create_object(&self, mut object: Value, options: &WriteOptions) -> Result<Written, ApiError> {
        let sent = meta::take_managed_fields(&mut object);
        self.create_owned(object, Owned::Sent(sent), options).await
    }

    /// As [`Ask::create_object`], for an object whose managedFields have been taken out.
    pub(super) async fn create_owned(
        &self,
        object: Value,
        owned: Owned,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        if !meta::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let prefix = match meta::text(&object, "name") {
            "" => meta::text(&object, "generateName").to_owned(),
            _ => String::new(),
        };
        let tries = if prefix.is_empty() { 1 } else { GENERATED_NAME_TRIES };
        for attempt in 1.. {
            let mut object = object.clone();
            meta::place(&mut object, &self.kind.resource, &self.key)?;
            if !prefix.is_empty() {
                let name = names::generated(&prefix, rand::random());
                meta::metadata(&mut object).insert("name".to_owned(), name.into());
            }
            match self.create_named(object, &owned, options).await {
                Err(error) if error.is_already_exists() && attempt < tries => {}
                result => return result,
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn create_named(
        &self,
        mut object: Value,
        owned: &Owned,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let key = Key::new(self.key.namespace.clone(), meta::text(&object, "name"));
        (self.rules.default)(&mut object);
        let owners = match owned {
            Owned::Sent(sent) => self.owners_of_new(&object, sent),
            Owned::Known(owners) => owners.clone(),
        };
        let managed_fields = owners.into_managed_fields();
        meta::created(&mut object, &uuid::Uuid::new_v4().to_string(), &now());
        let mut warnings = self.mutate(Operation::Create, &key, &mut object, None, options.dry_run).await?;
        (self.rules.prepare_create)(&mut object);
        authz::signers::fill_requester(&self.kind.resource, &self.user, &mut object);
        let (authorizer, resource) = (&self.server.authorizer, &self.kind.resource);
        authz::check_write(authorizer, &self.user, resource, &self.subresource, None, &object).await?;
        let mut errors = crate::rules::meta::validate_create(&self.kind.resource, &object, self.rules.name);
        errors.extend(crate::rules::meta::validate_managed_fields(&managed_fields));
        errors.extend((self.rules.validate)(&object));
        if !errors.is_empty() {
            let resource = &self.kind.resource;
            return Err(ApiError::invalid(&resource.group, &resource.kind, &key.name, &errors));
        }
        warnings.extend((self.rules.warnings)(&object, None));
        let (mut managed_fields, is_apply) = (managed_fields, matches!(owned, Owned::Known(_)));
        for _ in 0..COUNTS_MAX {
            let turn = self.quota_turn(Operation::Create, &key).await?;
            // They are needed again only if another apiserver's write is counted first.
            let (object, fields) = match turn.is_some() {
                true => (object.clone(), managed_fields.clone()),
                false => (object.take(), managed_fields.take()),
            };
            if let Some(mut written) = self.store_new(&key, object, fields, is_apply, turn.as_ref(), options).await? {
                written.warnings.splice(..0, warnings);
                return Ok(written);
            }
        }
        Err(outrun(&key))
    }

    /// Validating admission, and the write. `None`: another apiserver's write was counted against the quotas first.
    async fn store_new(
        &self,
        key: &Key,
        mut object: Value,
        managed_fields: Value,
        is_apply: bool,
        turn: Option<&Turn>,
        options: &WriteOptions,
    ) -> Result<Option<Written>, ApiError> {
        let warnings = self.validate(Operation::Create, key, Some(&object), None, options.dry_run).await?;
        let claim =
            self.server.allocator.claim(&self.kind.resource, &mut object, None, options.dry_run, &self.server).await?;
        meta::set_managed_fields(&mut object, managed_fields);
        let bytes = self.encode(object);
        if options.dry_run {
            if self.server.cache.shelf(&self.kind.storage).snapshot().get(key).is_some() {
                return Err(ApiError::already_exists(&self.kind.resource, &key.name));
            }
            return Ok(Some(Written { item: self.item(key, 0, bytes), is_created: true, warnings }));
        }
        let (stored, bytes) = self.put_bytes(key, bytes, 0, is_apply, turn).await;
        match stored {
            Ok(revision) => {
                self.seen(revision).await;
                Ok(Some(Written { item: self.item(key, revision, bytes), is_created: true, warnings }))
            }
            Err(error) => {
                claim.refused(&self.server, &error).await;
                match error {
                    StoreError::Outrun { .. } => Ok(None),
                    StoreError::Conflict { .. } => Err(ApiError::already_exists(&self.kind.resource, &key.name)),
                    error => Err(store_refusal(&error)),
                }
            }
        }
    }

    /// Stores an object. One that is too large is tried again without its owners, which may be large; not after an
    /// apply, which is all about them.
    pub(super) async fn put_bytes(
        &self,
        key: &Key,
        bytes: Bytes,
        expected: u64,
        is_apply: bool,
        turn: Option<&Turn>,
    ) -> (Result<u64, StoreError>, Bytes) {
        let stored_key = self.stored_key(key);
        let stored = self.store(&stored_key, bytes.clone(), expected, turn).await;
        if is_apply || !matches!(stored, Err(StoreError::TooLarge(_))) {
            return (stored, bytes);
        }
        let Ok(mut object) = serde_json::from_slice::<Value>(&bytes) else { return (stored, bytes) };
        if meta::take_managed_fields(&mut object).is_null() {
            return (stored, bytes);
        }
        let bytes = encode::stored(&object).0;
        (self.store(&stored_key, bytes.clone(), expected, turn).await, bytes)
    }

    pub(super) fn stored_key(&self, key: &Key) -> String {
        format!("{}/{key}", self.kind.storage.prefix)
    }

    /// An object as it is stored.
    pub(super) fn encode(&self, mut object: Value) -> Bytes {
        if let Some(view) = self.kind.view {
            (view.to_stored)(&mut object);
        }
        encode::stored(&object).0
    }

    /// An object as it was written. The cache has usually read it by now.
    pub(super) fn item(&self, key: &Key, revision: u64, bytes: Bytes) -> Arc<Item> {
        let shelf = self.server.cache.shelf(&self.kind.storage);
        match shelf.snapshot().get(key) {
            Some(item) if item.revision == revision && *item.stored() == bytes => item.clone(),
            _ => Arc::new(shelf.item(&key.to_string(), revision, bytes)),
        }
    }

    /// Waits until this server's own readers see a write, so that who was answered finds it. The write stands in
    /// any case, so running out of patience is no error.
    pub(super) async fn seen(&self, revision: u64) {
        if let Err(error) = self.server.cache.wait_for(revision).await {
            tracing::warn!(%error, "the watch cache is slow");
        }
    }
}

/// RFC 3339 in whole seconds, as metav1.Time is written.
pub fn now() -> String {
    api_types::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
