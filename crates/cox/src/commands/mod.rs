//! One file a command: what it asks the server, and what it prints.

pub mod apply;
pub mod auth;
pub mod certs;
pub mod create;
pub mod delete;
pub mod describe;
pub mod doctor;
pub mod exec;
pub mod get;
pub mod logs;
mod pods;
pub mod rollout;
pub mod scale;
pub mod wait;
pub mod why;
