//! What every request and every background task of the apiserver shares.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    authn::{Authenticator, token::Issuer},
    authz::Authorizer,
    flags::Flags,
    health::Health,
    kinds::Kinds,
    metrics::Metrics,
    store::Store,
    watch_cache::Cache,
};

/// Tied together once in `build`, then shared.
pub struct Server {
    pub flags: Flags,
    pub kinds: Arc<Kinds>,
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
    /// Signs ServiceAccount tokens; `None` without a signing key.
    pub issuer: Option<Issuer>,
    pub health: Health,
    pub metrics: Metrics,
    /// Cancelled when the server begins to drain.
    pub shutdown: CancellationToken,
}
