//! The gRPC contract `coxswain.diagnosis.v1`, generated from `proto/`: why a daemon
//! did or did not act on an object (`Explain`), and what it saw of it (`Journey`).
#![allow(clippy::all)] // generated code

tonic::include_proto!("coxswain.diagnosis.v1");

/// Annotation of a daemon's leader Lease: where it answers, as `host:port`.
pub const ADDRESS_ANNOTATION: &str = "coxswain.io/diagnosis-address";
