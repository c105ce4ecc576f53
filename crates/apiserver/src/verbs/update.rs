//! Update: a compare-and-swap loop around a pure change of the stored object. PUT, PATCH,
//! the status and scale subresources and hooks are the same loop with another change.

use std::sync::Arc;

use api_types::{ApiError, FieldError, options::WriteOptions};
use bytes::Bytes;
use http::Response;
use merge::apply::Owners;
use serde_json::Value;

use super::{
    Ask,
    admit::{COUNTS_MAX, Operation, outrun},
    create::Written,
    hook::{Hook, UpdateRules},
    meta,
    owners::differ_in_times_only,
    read::store_refusal,
};
use crate::{
    authz,
    codec::{accept::Shapes, body::Body, decode::Decoded},
    store::StoreError,
    subresource,
    watch_cache::Item,
};

/// Upstream's number of tries for a patch that loses against other writers.
const TRIES: u32 = 5;

/// What a change of the stored object comes to.
pub struct Changed {
    pub object: Value,
    pub warnings: Vec<String>,
    /// Who owns what, if the change has found that out; else the writer owns what it changes.
    pub owners: Option<Owners>,
}

impl Changed {
    pub fn new(object: Value) -> Self {
        Self { object, warnings: Vec::new(), owners: None }
    }
}

/// Makes the new object from the old one, in the version of the row. Called again after each lost race.
pub type Change<'a> = &'a (dyn Fn(&Value) -> Result<Changed, ApiError> + Send + Sync);

impl Ask {
    pub(super) async fn put(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::ObjectOnly)?;
        let options = WriteOptions::for_update(&self.query)?;
        let Decoded { mut object, warnings } = self.decode(&body, options.field_validation)?;
        meta::place(&mut object, &self.kind.resource, &self.key)?;
        meta::name(&mut object, &self.key)?;
        let change = |_: &Value| Ok(Changed::new(object.clone()));
        let mut written = match self.update(&change, &options).await {
            Err(error) if error.is_not_found() && self.rules.create_on_update && self.subresource.is_empty() => {
                self.may_create().await?;
                self.create_object(object.clone(), &options).await?
            }
            result => result?,
        };
        written.warnings.splice(..0, warnings);
        self.written(view, &written)
    }

    /// What stands in place of the kind's rules for this subresource.
    fn update_rules(&self) -> UpdateRules {
        match subresource::hook(&self.kind.resource, &self.subresource) {
            Some(Hook::Update(rules)) => rules,
            _ if self.subresource == "status" => {
                UpdateRules { prepare: self.rules.prepare_status_update, validate: self.rules.validate_status_update }
            }
            _ => UpdateRules { prepare: self.rules.prepare_update, validate: self.rules.validate_update },
        }
    }

    /// Writes what `change` makes of the object, in a loop until nobody was in between.
    pub async fn update(&self, change: Change<'_>, options: &WriteOptions) -> Result<Written, ApiError> {
        let mut is_fresh = false;
        let (mut tries, mut counts) = (TRIES, 0);
        loop {
            // The cache's object is nearly always the latest, so it is tried first; what is refused on its
            // account is refused only after a look at the latest.
            let existing = match self.cached() {
                Some(item) => item,
                None if is_fresh => return Err(self.not_found()),
                None => {
                    self.catch_up().await?;
                    is_fresh = true;
                    continue;
                }
            };
            match self.attempt(&existing, change, options).await {
                Ok(Attempt::Written(written)) => return Ok(written),
                Ok(Attempt::Lost) if tries > 1 => {
                    tries -= 1;
                    self.catch_up().await?;
                    is_fresh = true;
                }
                Ok(Attempt::Outrun) if counts < COUNTS_MAX => counts += 1,
                Ok(Attempt::Outrun) => return Err(outrun(&self.key)),
                Ok(Attempt::Lost) => return Err(ApiError::modified(&self.kind.resource, &self.key.name)),
                Err(_) if !is_fresh => {
                    self.catch_up().await?;
                    is_fresh = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        existing: &Arc<Item>,
        change: Change<'_>,
        options: &WriteOptions,
    ) -> Result<Attempt, ApiError> {
        if let Some(why) = &existing.corrupt {
            return Err(ApiError::internal(format!("the stored object cannot be read: {why}")));
        }
        let resource = &self.kind.resource;
        let mut old = existing.decode();
        if let Some(view) = self.kind.view {
            (view.from_stored)(&mut old);
        }
        (self.rules.default)(&mut old);
        let Changed { object: mut new, mut warnings, owners } = change(&old)?;
        let (stored, sent) = (meta::take_managed_fields(&mut old), meta::take_managed_fields(&mut new));
        self.check_preconditions(&mut new, &old)?;
        (self.rules.default)(&mut new);
        let is_apply = owners.is_some();
        let owners = owners.unwrap_or_else(|| self.owners_after(&old, &new, stored, &sent));
        let managed_fields = owners.into_managed_fields();
        meta::updated(&mut new, &old);
        warnings.extend(self.mutate(Operation::Update, &self.key, &mut new, Some(&old), options.dry_run).await?);
        meta::updated(&mut new, &old);
        (self.update_rules().prepare)(&mut new, &old);
        self.check_change(&new, &old, &managed_fields).await?;
        warnings.extend((self.rules.warnings)(&new, Some(&old)));
        let turn = self.quota_turn(Operation::Update, &self.key).await?;
        warnings.extend(self.validate(Operation::Update, &self.key, Some(&new), Some(&old), options.dry_run).await?);
        let is_last = meta::is_terminating(&old)
            && meta::finalizers(&new).is_empty()
            && !(self.rules.is_held)(&new)
            && meta::number(&old, "deletionGracePeriodSeconds").unwrap_or(0) == 0;
        let claim = self.server.allocator.claim(resource, &mut new, Some(&old), options.dry_run, &self.server).await?;
        self.own(&mut new, managed_fields, &old, existing);
        let bytes = self.encode(new);
        if options.dry_run {
            let item = self.item(&self.key, existing.revision, bytes);
            return Ok(Attempt::Written(Written { item, is_created: false, warnings }));
        }
        let stored_key = self.stored_key(&self.key);
        let (stored, bytes) = if is_last {
            (self.server.store.delete(&stored_key, existing.revision).await, bytes)
        } else if bytes == existing.stored() && !self.server.store.is_stale(&stored_key) {
            let item = existing.clone();
            return Ok(Attempt::Written(Written { item, is_created: false, warnings }));
        } else {
            self.put_bytes(&self.key, bytes, existing.revision, is_apply, turn.as_ref()).await
        };
        match stored {
            Ok(revision) => {
                self.seen(revision).await;
                let item = self.item(&self.key, revision, bytes);
                Ok(Attempt::Written(Written { item, is_created: false, warnings }))
            }
            Err(error) => {
                claim.refused(&self.server, &error).await;
                match error {
                    StoreError::Conflict { .. } => Ok(Attempt::Lost),
                    StoreError::Outrun { .. } => Ok(Attempt::Outrun),
                    error => Err(store_refusal(&error)),
                }
            }
        }
    }

    /// Whether the writer may make of `old` what `new` is, and whether that is legal.
    async fn check_change(&self, new: &Value, old: &Value, managed_fields: &Value) -> Result<(), ApiError> {
        let resource = &self.kind.resource;
        authz::check_write(&self.server.authorizer, &self.user, resource, &self.subresource, Some(old), new).await?;
        let mut errors = crate::rules::meta::validate_update(new, old);
        errors.extend(crate::rules::meta::validate_managed_fields(managed_fields));
        errors.extend((self.update_rules().validate)(new, old));
        match errors.as_slice() {
            [] => Ok(()),
            errors => Err(ApiError::invalid(&resource.group, &resource.kind, &self.key.name, errors)),
        }
    }

    /// Puts the owners into the object that is to be stored. If nothing else has changed, they keep their times:
    /// a time alone is no reason to write.
    fn own(&self, new: &mut Value, managed_fields: Value, old: &Value, existing: &Item) {
        if new == old {
            let stored = meta::take_managed_fields(&mut existing.decode());
            if differ_in_times_only(&managed_fields, &stored) {
                return meta::set_managed_fields(new, stored);
            }
        }
        meta::set_managed_fields(new, managed_fields);
    }

    /// The uid and the resource version that the writer believes the object to have.
    fn check_preconditions(&self, new: &mut Value, old: &Value) -> Result<(), ApiError> {
        let resource = &self.kind.resource;
        let (uid, old_uid) = (meta::text(new, "uid"), meta::text(old, "uid"));
        if !uid.is_empty() && uid != old_uid {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}");
            return Err(ApiError::conflict(resource, &self.key.name, why));
        }
        let (version, old_version) = (meta::text(new, "resourceVersion"), meta::text(old, "resourceVersion"));
        if version.is_empty() || version == "0" {
            if !self.rules.unconditional_update {
                let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
                return Err(ApiError::invalid(&resource.group, &resource.plural, &self.key.name, &[error]));
            }
            let version = Value::from(old_version);
            meta::metadata(new).insert("resourceVersion".to_owned(), version);
            return Ok(());
        }
        if version.parse::<u64>().is_err() {
            let error = FieldError::invalid("metadata.resourceVersion", version, "must be a number");
            return Err(ApiError::invalid(&resource.group, &resource.kind, &self.key.name, &[error]));
        }
        if version != old_version {
            return Err(ApiError::modified(resource, &self.key.name));
        }
        Ok(())
    }
}

enum Attempt {
    Written(Written),
    /// Somebody else wrote since the object was read.
    Lost,
    /// Another apiserver's write was counted against the quotas first.
    Outrun,
}
