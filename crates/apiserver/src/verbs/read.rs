//! Get and list: from the watch cache at its own or a fresher revision; from the store
//! only at one that the cache no longer has.

use std::{cell::Cell, sync::Arc};

use api_types::{
    ApiError, Key, fields, labels,
    options::{GetOptions, ListOptions, ResourceVersionMatch},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::Ask;
use crate::{
    codec::reply::Listing,
    store::{Range, StoreError},
    watch_cache::{CacheError, Item, Mark, Snapshot, label_mark},
};

/// Records read from the store at once for a list at an old revision.
const STORE_PAGE: u64 = 1_000;

/// A place in a list that was cut, as clients carry it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    v: String,
    /// -1: at whatever revision is the latest.
    rv: i64,
    /// A key relative to the list's own prefix.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list result. \
    You can start a new list without the continue parameter, or use the continue token in this response to retrieve \
    the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that \
    were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
const EXPIRED_LIST: &str = "The resourceVersion for the provided list is too old.";

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token serialises"))
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let refuse = |why: &dyn std::fmt::Display| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| refuse(&error))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| refuse(&error))?;
        match () {
            () if token.v != TOKEN_VERSION => Err(refuse(&"server does not recognize this encoded version")),
            () if token.start.is_empty() => Err(refuse(&"encoded start key empty")),
            () if token.rv == 0 => Err(refuse(&"incorrect encoded start resourceVersion")),
            () if token.start.split('/').any(|part| part == "..") => Err(refuse(&"invalid start key")),
            () => Ok(token),
        }
    }
}

/// A client's token, and the whole key from which the list of `key`'s namespace goes on.
fn continued(text: &str, key: &Key) -> Result<(Token, String), ApiError> {
    let token = Token::decode(text)?;
    let start = match key.namespace.as_str() {
        "" => token.start.clone(),
        namespace => format!("{namespace}/{}", token.start),
    };
    Ok((token, start))
}

/// The key from which a client's token lets a list go on.
pub fn continues(text: &str, key: &Key) -> Result<String, ApiError> {
    continued(text, key).map(|(_, start)| start)
}

/// Which state a list is to show.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Latest,
    Any,
    NotOlderThan(u64),
    Exact(u64),
}

/// Source: the tables in "Resource versions" of the API concepts, and storage.ListOptions.
fn state(options: &ListOptions) -> Result<State, ApiError> {
    let revision = revision(&options.resource_version)?;
    Ok(match (revision, options.resource_version_match) {
        (None, _) => State::Latest,
        (Some(0), _) => State::Any,
        (Some(revision), Some(ResourceVersionMatch::Exact)) => State::Exact(revision),
        (Some(revision), Some(ResourceVersionMatch::NotOlderThan)) => State::NotOlderThan(revision),
        (Some(revision), None) if options.limit > 0 => State::Exact(revision),
        (Some(revision), None) => State::NotOlderThan(revision),
    })
}

/// `None`: not given.
pub fn revision(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("invalid resource version {text:?}: not a number")))
}

pub fn cache_refusal(error: CacheError) -> ApiError {
    match error {
        CacheError::Behind { wanted, current } => {
            let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
            ApiError::timeout(message, 1).with_cause("ResourceVersionTooLarge", "Too large resource version", "")
        }
        CacheError::Store(error) => store_refusal(&error),
    }
}

/// For failures that no verb explains better.
pub fn store_refusal(error: &StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => ApiError::gone(EXPIRED_LIST),
        StoreError::TooLarge(why) => ApiError::new(500, "", why.clone()),
        StoreError::Unavailable(_) => {
            tracing::warn!(%error, "the store is unavailable");
            ApiError::unavailable(error.to_string()).with_retry_after(1)
        }
        StoreError::Conflict { .. }
        | StoreError::Outrun { .. }
        | StoreError::FutureRevision
        | StoreError::Failed(_) => {
            tracing::warn!(%error, "the store refused");
            ApiError::internal(error)
        }
    }
}

impl Ask {
    /// The object, as fresh as asked for.
    pub async fn read(&self, options: &GetOptions) -> Result<Arc<Item>, ApiError> {
        match revision(&options.resource_version)? {
            None => self.catch_up().await?,
            Some(revision) => self.server.cache.wait_for(revision).await.map_err(cache_refusal)?,
        }
        self.cached().ok_or_else(|| self.not_found())
    }

    pub async fn catch_up(&self) -> Result<(), ApiError> {
        self.server.cache.catch_up().await.map_err(cache_refusal)
    }

    /// The object as the cache has it now.
    pub(super) fn cached(&self) -> Option<Arc<Item>> {
        self.server.cache.shelf(&self.kind.storage).snapshot().get(&self.key).cloned()
    }

    pub(super) fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.kind.resource, &self.key.name)
    }

    /// Refuses selectors by fields that the kind does not offer.
    pub(super) fn check_fields(&self, options: &ListOptions) -> Result<(), ApiError> {
        for term in options.field_selector.terms() {
            let is_known = match term.field.as_str() {
                "metadata.name" => true,
                "metadata.namespace" => self.kind.resource.is_namespaced(),
                field => self.selectable_names().contains(&self.stored_field(field).as_str()),
            };
            if !is_known {
                return Err(ApiError::bad_request(format!("field label not supported: {}", term.field)));
            }
        }
        Ok(())
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        crate::rules::rules(&self.kind.storage.resource).selectable_names
    }

    /// The name under which the stored version knows a selectable field.
    pub(super) fn stored_field(&self, field: &str) -> String {
        self.kind.view.map_or_else(|| field.to_owned(), |view| (view.stored_field)(field))
    }

    pub(super) fn selects(&self, options: &ListOptions, item: &Item) -> bool {
        options.label_selector.matches(&item.labels)
            && options.field_selector.terms().iter().all(|term| {
                let value = item.field(&self.stored_field(&term.field));
                (value == term.value) == (term.operator == fields::Operator::Equals)
            })
    }

    /// What every object that is selected must have, as far as there is an index of it.
    pub(super) fn marks(&self, options: &ListOptions) -> Vec<Mark> {
        let shelf = self.server.cache.shelf(&self.kind.storage);
        let labels = options.label_selector.requirements().iter().filter_map(|requirement| {
            match (requirement.operator, requirement.values.as_slice()) {
                (labels::Operator::Equals | labels::Operator::In, [value]) => Some(label_mark(&requirement.key, value)),
                _ => None,
            }
        });
        let terms = options.field_selector.terms().iter().filter(|term| term.operator == fields::Operator::Equals);
        let fields = terms.filter_map(|term| shelf.field_mark(&self.stored_field(&term.field), &term.value));
        fields.chain(labels).collect()
    }

    /// One page of a list.
    pub(super) async fn page(&self, options: &ListOptions) -> Result<Listing, ApiError> {
        if options.continue_token.is_empty() {
            let state = state(options)?;
            return match state {
                State::Exact(revision) => self.page_at(options, revision, "").await,
                state => {
                    let (snapshot, revision) = self.snapshot(&state).await?;
                    Ok(self.cut(options, &snapshot, revision, ""))
                }
            };
        }
        if !matches!(options.resource_version.as_str(), "" | "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (token, start) = continued(&options.continue_token, &self.key)?;
        match u64::try_from(token.rv) {
            Ok(revision) => self.page_at(options, revision, &start).await.map_err(|error| expired(error, &token)),
            Err(_) => {
                let (snapshot, revision) = self.snapshot(&State::Latest).await?;
                Ok(self.cut(options, &snapshot, revision, &start))
            }
        }
    }

    async fn snapshot(&self, state: &State) -> Result<(Arc<Snapshot>, u64), ApiError> {
        match state {
            State::Any if self.server.cache.is_loaded() => {}
            State::Latest | State::Any => self.catch_up().await?,
            State::NotOlderThan(revision) | State::Exact(revision) => {
                self.server.cache.wait_for(*revision).await.map_err(cache_refusal)?;
            }
        }
        Ok(self.server.cache.snapshot(&self.kind.storage))
    }

    /// The state at exactly `revision`: the cache's, if nothing has changed since; else the store's.
    async fn page_at(&self, options: &ListOptions, revision: u64, start: &str) -> Result<Listing, ApiError> {
        let (snapshot, _) = self.snapshot(&State::Exact(revision)).await?;
        if snapshot.revision <= revision {
            return Ok(self.cut(options, &snapshot, revision, start));
        }
        if let Some(snapshot) = self.server.cache.shelf(&self.kind.storage).past(revision) {
            return Ok(self.cut(options, &snapshot, revision, start));
        }
        let snapshot = self.stored(revision).await.map_err(|error| store_refusal(&error))?;
        Ok(self.cut(options, &Arc::new(snapshot), revision, start))
    }

    /// Reads the resource as it was at `revision` out of the store.
    async fn stored(&self, revision: u64) -> Result<Snapshot, StoreError> {
        let shelf = self.server.cache.shelf(&self.kind.storage);
        let prefix = format!("{}/", self.kind.storage.prefix);
        let (mut start, mut items) = (String::new(), Vec::new());
        loop {
            let range = Range { prefix: &prefix, start: &start, limit: STORE_PAGE, revision };
            let page = self.server.store.range(range).await?;
            for record in &page.records {
                let rest = record.key.strip_prefix(&prefix).unwrap_or(&record.key);
                items.push(Arc::new(shelf.item(rest, record.revision, record.value.clone())));
            }
            match page.records.last() {
                Some(last) if page.remaining > 0 => start = format!("{}\0", last.key),
                _ => return Ok(shelf.snapshot_of(revision, items)),
            }
        }
    }

    /// Cuts a page out of a snapshot, from `start` (a whole key) on.
    fn cut(&self, options: &ListOptions, snapshot: &Arc<Snapshot>, revision: u64, start: &str) -> Listing {
        let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
        let limit = if limit == 0 { usize::MAX } else { limit };
        if let Some(name) = options.field_selector.exact("metadata.name")
            && (!self.key.namespace.is_empty() || !self.kind.resource.is_namespaced())
        {
            let item = snapshot.get(&Key::new(self.key.namespace.clone(), name));
            let items: Vec<_> = item.filter(|item| self.selects(options, item)).cloned().into_iter().collect();
            self.server.metrics.listed(&self.kind, 1, items.len());
            return Listing { items, revision, continue_token: None, remaining: None };
        }
        let is_everything = options.label_selector.is_empty() && options.field_selector.is_empty();
        let fetched = Cell::new(0);
        let mut range = snapshot
            .range(&self.key.namespace, start, &self.marks(options))
            .inspect(|_| fetched.set(fetched.get() + 1))
            .filter(|item| is_everything || self.selects(options, item));
        let items: Vec<Arc<Item>> = range.by_ref().take(limit).cloned().collect();
        self.server.metrics.listed(&self.kind, fetched.get(), items.len());
        let Some(last) = range.next().and_then(|_| items.last()) else {
            return Listing { items, revision, continue_token: None, remaining: None };
        };
        let last = match self.key.namespace.as_str() {
            "" => last.key.to_string(),
            _ => last.key.name.clone(),
        };
        let token = Token {
            v: TOKEN_VERSION.to_owned(),
            rv: i64::try_from(revision).unwrap_or(i64::MAX),
            start: format!("{last}\0"),
        };
        self.server.cache.shelf(&self.kind.storage).keep(revision, snapshot);
        let remaining = is_everything.then(|| range.count() as u64 + 1);
        Listing { items, revision, continue_token: Some(token.encode()), remaining }
    }
}

/// An expired token comes with one that goes on at the latest revision.
fn expired(error: ApiError, token: &Token) -> ApiError {
    if !error.is_expired() {
        return error;
    }
    let mut error = ApiError::gone(EXPIRED_CONTINUE);
    let token = Token { v: TOKEN_VERSION.to_owned(), rv: -1, start: token.start.clone() };
    error.0.metadata.continue_ = Some(token.encode());
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_the_state_that_is_asked_for() {
        use ResourceVersionMatch::{Exact, NotOlderThan};
        for (version, match_, limit, expected) in [
            ("", None, 0, State::Latest),
            ("", None, 5, State::Latest),
            ("0", None, 5, State::Any),
            ("7", None, 0, State::NotOlderThan(7)),
            ("7", None, 5, State::Exact(7)),
            ("7", Some(Exact), 0, State::Exact(7)),
            ("7", Some(NotOlderThan), 5, State::NotOlderThan(7)),
        ] {
            let options = ListOptions {
                resource_version: version.to_owned(),
                resource_version_match: match_,
                limit,
                ..ListOptions::default()
            };
            assert_eq!(state(&options).unwrap(), expected);
        }
        assert_eq!(revision("x").unwrap_err().code(), 400);
    }

    #[test]
    fn tokens_are_upstreams() {
        let token = Token { v: TOKEN_VERSION.to_owned(), rv: 5, start: "a/b\0".to_owned() };
        let json = URL_SAFE_NO_PAD.decode(token.encode()).unwrap();
        assert_eq!(json, br#"{"v":"meta.k8s.io/v1","rv":5,"start":"a/b\u0000"}"#);
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        for bad in ["x", "!", "e30"] {
            assert_eq!(Token::decode(bad).unwrap_err().code(), 400);
        }
    }
}
