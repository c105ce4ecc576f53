//! Under construction.

/// The watch cache.
pub struct Cache {}
