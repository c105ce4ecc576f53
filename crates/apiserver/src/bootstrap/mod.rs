//! The objects that stand in every cluster: upstream's roles and bindings, flow control,
//! priority classes, namespaces and the `kubernetes` Service. Made and mended at start.

pub mod objects;
pub mod reconcile;
