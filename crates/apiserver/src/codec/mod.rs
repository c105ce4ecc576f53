//! Bytes <-> objects: formats in and out, and which of them a client wants.

pub mod body;
