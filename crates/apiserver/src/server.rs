//! What every request and every background task of the apiserver shares.

use std::sync::Arc;

use crate::{kinds::Kinds, store::Store, watch_cache::Cache};

/// Tied together once in `main`, then shared.
pub struct Server {
    pub kinds: Arc<Kinds>,
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
}
