//! The node's own object: what the machine can give, how it is, and that it lives.

pub mod lease;
pub mod machine;
pub mod register;
pub mod status;
