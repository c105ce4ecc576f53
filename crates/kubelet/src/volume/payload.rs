//! What files a volume from the API holds: keys of ConfigMaps and Secrets, fields, tokens. Pure; the objects come in.

use std::collections::BTreeMap;

use api_types::k8s::core::{ConfigMap, KeyToPath, Secret};

use super::{
    VolumeError,
    atomic::{File, Payload},
};
use crate::pod::env::not_found;

pub const DEFAULT_MODE: i32 = 0o644;

pub type Data = BTreeMap<String, Vec<u8>>;

pub fn config_map_data(object: &ConfigMap) -> Data {
    let text = object.data.iter().flatten().map(|(key, value)| (key.clone(), value.as_bytes().to_vec()));
    let binary = object.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

pub fn secret_data(object: &Secret) -> Data {
    object.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

/// One object as a source of files.
pub struct Source<'a> {
    /// `configmap` or `secret`.
    pub kind: &'static str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// `None` if the object does not exist.
    pub data: Option<Data>,
    pub items: &'a [KeyToPath],
    pub optional: bool,
    pub default_mode: i32,
}

/// All keys, or those that `items` names.
pub fn files(source: Source) -> Result<Payload, VolumeError> {
    let Source { kind, namespace, name, data, items, optional, default_mode } = source;
    let Some(data) = data else {
        return if optional { Ok(Payload::new()) } else { Err(VolumeError::Unavailable(not_found(kind, name))) };
    };
    if items.is_empty() {
        return Ok(data.into_iter().map(|(key, data)| (key, file(data, default_mode))).collect());
    }
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                payload.insert(item.path.clone(), file(data.clone(), item.mode.unwrap_or(default_mode)));
            }
            None if optional => {}
            None => {
                return Err(VolumeError::Unavailable(format!(
                    "references non-existent {} key: {}",
                    match kind {
                        "secret" => "secret",
                        _ => "config",
                    },
                    item.key
                )));
            }
        }
    }
    tracing::trace!(namespace, name, files = payload.len(), "volume content");
    Ok(payload)
}

pub fn file(data: Vec<u8>, mode: i32) -> File {
    File { data, mode: u32::try_from(mode).unwrap_or(DEFAULT_MODE as u32), owner: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(data: Option<&[&str]>, items: &[(&str, &str, Option<i32>)], optional: bool, expected: &str) {
        let items: Vec<KeyToPath> = items
            .iter()
            .map(|(key, path, mode)| KeyToPath { key: (*key).to_owned(), path: (*path).to_owned(), mode: *mode })
            .collect();
        let source = Source {
            kind: "configmap",
            namespace: "ns",
            name: "x",
            data: data.map(|keys| keys.iter().map(|key| ((*key).to_owned(), vec![])).collect()),
            items: &items,
            optional,
            default_mode: 0o644,
        };
        let text = match files(source) {
            Ok(payload) => {
                payload.iter().map(|(path, file)| format!("{path}:{:o}", file.mode)).collect::<Vec<_>>().join(" ")
            }
            Err(error) => format!("! {error}"),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn keys_become_files() {
        check(Some(&["a", "b"]), &[], false, "a:644 b:644");
        check(Some(&["a", "b"]), &[("a", "d/x", Some(0o400))], false, "d/x:400");
        check(Some(&["a"]), &[("z", "z", None)], false, "! references non-existent config key: z");
        check(Some(&["a"]), &[("z", "z", None), ("a", "a", None)], true, "a:644");
        check(None, &[], false, "! configmap \"x\" not found");
        check(None, &[], true, "");
    }
}
