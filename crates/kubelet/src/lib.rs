//! The kubelet: runs the pods that are bound to its node, and tells the API how they and the node are.
//! `pod::steps` decides, `pod::worker` does; everything that is remembered of containers is in their labels.

pub mod certificate;
pub mod flags;
pub mod host;
pub mod image;
pub mod network;
pub mod node;
pub mod objects;
pub mod pod;
pub mod pods;
pub mod probe;
pub mod run;
pub mod runtime;
pub mod server;
pub mod static_pods;
pub mod volume;
