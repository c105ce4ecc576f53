//! The controllers of a cluster. A decision is a function: `view` borrows from the caches, `plan` says
//! what is to be done and why nothing more is; `execute` alone does it.

mod action;
mod caches;
pub mod controllers;
mod cron_job;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod everything;
mod execute;
pub mod flags;
mod garbage;
mod heard;
mod identity;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod owners;
mod plan;
mod pod_gc;
mod pods;
mod reconcile;
mod replica_set;
mod replication_controller;
mod revisions;
mod role_aggregation;
mod root_ca;
mod service_account;
mod service_pods;
pub mod settings;
mod stateful_set;
mod taint_eviction;
mod ttl_after_finished;
