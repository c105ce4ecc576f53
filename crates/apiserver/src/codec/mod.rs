//! Bytes <-> objects: formats in and out, and which of them a client wants.

pub mod accept;
pub mod body;
pub mod decode;
pub mod encode;
pub mod protobuf;
pub mod reply;
