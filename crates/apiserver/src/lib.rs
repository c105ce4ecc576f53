//! kube-apiserver: the only daemon that talks to etcd, and the one place where every
//! other one reads and writes. A kind is a row; all kinds take one path through `verbs`.

pub mod admission;
pub mod allocate;
pub mod assemble;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod codec;
pub mod columns;
pub mod connections;
pub mod discovery;
pub mod encryption;
pub mod fairness;
pub mod flags;
pub mod fuzz;
pub mod health;
pub mod kinds;
pub mod metrics;
pub mod openapi;
pub mod outbound;
pub mod paths;
pub mod reader;
pub mod request;
pub mod rules;
pub mod serve;
pub mod server;
pub mod store;
pub mod subresource;
pub mod tasks;
pub mod verbs;
pub mod watch_cache;
