//! The objects of a cache and their indexes: plain data, behind the cache's lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use api_types::Key;

use crate::cache::{Cached, Change};

pub(crate) struct Store<K> {
    objects: BTreeMap<Arc<Key>, Arc<K>>,
    indexes: Vec<Index<K>>,
    /// While a list runs: the keys that were on its pages.
    listed: Option<HashSet<Arc<Key>>>,
}

type Values<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    name: &'static str,
    values: Values<K>,
    keys: HashMap<String, BTreeSet<Arc<Key>>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), indexes: Vec::new(), listed: None }
    }
}

impl<K: Cached> Store<K> {
    pub(crate) fn add_index(&mut self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.indexes.push(Index { name, values: Box::new(values), keys: HashMap::new() });
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.get(key).cloned()
    }
    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }
    pub(crate) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let index = self.indexes.iter().find(|index| index.name == name);
        let index = index.unwrap_or_else(|| panic!("the cache has no index named {name:?}"));
        let keys = index.keys.get(value).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key).cloned()).collect()
    }

    /// From here to [`Store::end_list`] it is noted which objects are put.
    pub(crate) fn begin_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// Removes what was not put since [`Store::begin_list`].
    pub(crate) fn end_list(&mut self) -> Vec<Change<K>> {
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let gone: Vec<Arc<Key>> = self.objects.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().filter_map(|key| self.take(key)).map(Change::Deleted).collect()
    }

    /// `None` where the object is already here in this version.
    pub(crate) fn put(&mut self, mut object: K) -> Option<Change<K>> {
        // Large, and of use to nobody who reads caches.
        object.metadata_mut().managed_fields = None;
        let key = object.cache_key();
        let old = self.objects.get_key_value(&key).map(|(key, old)| (Arc::clone(key), Arc::clone(old)));
        let (key, old) = old.map_or_else(|| (Arc::new(key), None), |(key, old)| (key, Some(old)));
        if let Some(listed) = &mut self.listed {
            listed.insert(Arc::clone(&key));
        }
        let same = |old: &Arc<K>| old.version() == object.version() && !object.version().is_empty();
        if old.as_ref().is_some_and(same) {
            return None;
        }
        let new = Arc::new(object);
        for index in &mut self.indexes {
            index.replace(&key, old.as_deref(), Some(&new));
        }
        self.objects.insert(key, Arc::clone(&new));
        Some(match old {
            Some(old) => Change::Updated { old, new },
            None => Change::Added(new),
        })
    }

    /// The change holds `object`, the state at deletion. `None` if it was not here.
    pub(crate) fn remove(&mut self, mut object: K) -> Option<Change<K>> {
        object.metadata_mut().managed_fields = None;
        self.take(&object.cache_key())?;
        Some(Change::Deleted(Arc::new(object)))
    }

    fn take(&mut self, key: &Key) -> Option<Arc<K>> {
        let (key, old) = self.objects.remove_entry(key)?;
        for index in &mut self.indexes {
            index.replace(&key, Some(&old), None);
        }
        Some(old)
    }
}

impl<K> Index<K> {
    fn replace(&mut self, key: &Arc<Key>, old: Option<&K>, new: Option<&K>) {
        let old = old.map(&self.values).unwrap_or_default();
        let new = new.map(&self.values).unwrap_or_default();
        for value in old.iter().filter(|value| !new.contains(value)) {
            if let Some(keys) = self.keys.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(value);
                }
            }
        }
        for value in new {
            self.keys.entry(value).or_default().insert(Arc::clone(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::{
        Object,
        k8s::{
            core::{Pod, PodSpec},
            meta::ObjectMeta,
        },
    };

    use super::*;

    fn pod(name: &str, version: u32, node: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: Some(version.to_string()),
                managed_fields: Some(Vec::new()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: (!node.is_empty()).then(|| node.to_owned()), ..PodSpec::default() }),
            ..Pod::default()
        }
    }

    fn store() -> Store<Pod> {
        let mut store = Store::default();
        store.add_index("node", |pod: &Pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).into_iter().collect()
        });
        store
    }

    fn on(store: &Store<Pod>, node: &str) -> String {
        store.by_index("node", node).iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_index_follows_its_objects() {
        let mut store = store();
        for (name, version, node) in [("b", 1, "n1"), ("a", 2, "n1"), ("c", 3, ""), ("c", 4, "n2"), ("b", 5, "n2")] {
            store.put(pod(name, version, node));
        }
        assert_eq!((on(&store, "n1").as_str(), on(&store, "n2").as_str()), ("a", "b c"));
        store.remove(pod("c", 6, "n2"));
        assert_eq!(on(&store, "n2"), "b");
        store.begin_list();
        store.put(pod("a", 2, "n1"));
        store.end_list();
        assert_eq!((on(&store, "n1").as_str(), on(&store, "n2").as_str()), ("a", ""));
        assert_eq!(store.indexes[0].keys.len(), 1, "empty sets are dropped");
    }

    #[test]
    fn managed_fields_are_not_kept() {
        let mut store = store();
        store.put(pod("a", 1, ""));
        assert_eq!(store.list()[0].metadata.managed_fields, None);
    }

    #[test]
    fn the_same_version_is_no_change() {
        let mut store = store();
        assert!(store.put(pod("a", 1, "")).is_some());
        assert!(store.put(pod("a", 1, "")).is_none());
    }
}
