//! What every object of the API has: a kind with a row in the table, and metadata.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{k8s::meta::ObjectMeta, resources::Resource};

/// A typed object of a built-in kind. Implemented by the table in [`crate::resources`].
pub trait Object:
    k8s_openapi::Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static
{
    /// The kind's row in the table.
    const RESOURCE: &'static Resource;

    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
    /// The name, or `""` before the server has made one from `generateName`.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    /// The namespace, or `""` for a cluster-scoped object.
    fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
    fn resource_version(&self) -> &str {
        self.meta().resource_version.as_deref().unwrap_or_default()
    }
    fn key(&self) -> Key {
        Key::new(self.namespace(), self.name())
    }
    /// Deletion was asked for; the object lingers for grace or finalizers.
    fn is_terminating(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
    fn label(&self, key: &str) -> Option<&str> {
        self.meta().labels.as_ref()?.get(key).map(String::as_str)
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.meta().annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// Names an object within its resource. `namespace` is empty for cluster-scoped objects.
/// Prints as `namespace/name`, or `name` alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}
