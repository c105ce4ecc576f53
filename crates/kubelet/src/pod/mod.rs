//! One pod's life on this node: what is wanted, what is there, which steps lead from one to the other, and what the API
//! is told. All of it but the worker is pure.

pub mod act;
pub mod backoff;
pub mod container;
pub mod desired;
pub mod env;
pub mod files;
pub mod hook;
pub mod look;
pub mod observed;
pub mod report;
pub mod resources;
pub mod security;
pub mod status;
pub mod steps;
pub mod worker;
