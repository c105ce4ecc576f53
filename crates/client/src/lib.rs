//! Everyone's way to the apiserver: configuration, one HTTP/2 connection, typed verbs,
//! caches fed by list-watch, the work queue and THE reconcile loop, leader election and
//! events.

pub mod api;
pub mod cache;
pub mod config;
pub mod controller;
mod correlate;
pub mod error;
pub mod events;
mod feed;
mod http;
pub mod lease;
pub mod metrics;
pub mod queue;
mod store;
pub mod watch;

pub use api::{ListParams, Page, Patch};
pub use cache::{Cache, Change, PartialObject};
pub use config::{Config, ConfigError, LiveToken};
pub use error::Error;
pub use events::{EventKind, Recorder};
pub use http::Client;
pub use lease::LeaseConfig;
pub use queue::Queue;
