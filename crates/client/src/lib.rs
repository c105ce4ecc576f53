//! Everyone's way to the apiserver: configuration, one HTTP/2 connection, typed verbs,
//! caches fed by list-watch, the work queue and THE reconcile loop, leader election and
//! events.

pub mod api;
pub mod config;
pub mod error;
mod http;
pub mod metrics;

pub use api::{ListParams, Page, Patch};
pub use config::{Config, ConfigError};
pub use error::Error;
pub use http::Client;
