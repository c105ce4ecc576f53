//! Secrets at rest (issue 4, Secrecy): what lies on the disk, and how keys are rotated.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;
use tests::{Cluster, Component, control_plane, eventually};

const SECRET: &str = "/api/v1/namespaces/default/secrets/canary";

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Whether a text lies anywhere in the store's files.
fn is_on_disk(cluster: &Cluster, text: &str) -> bool {
    let folders = ["etcd", "store"].map(|name| cluster.dir().join(name));
    let stored = folders.iter().flat_map(|folder| files(folder));
    stored
        .map(|file| fs::read(file).unwrap_or_default())
        .any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn configure(cluster: &Cluster, providers: &str) {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
         resources: [{{resources: [secrets], providers: {providers}}}]\n"
    );
    fs::write(cluster.dir().join("pki/encryption.yaml"), text).expect("a file of the cluster");
}

#[test]
fn a_secret_is_not_readable_on_the_disk_and_its_key_can_be_rotated() {
    let cluster = control_plane!();
    // The value as it lies in the object: base64 of nothing in particular.
    let (hidden, open) = ("Y2FuYXJ5LWluLWEtc2VjcmV0", "canary-in-a-config-map");
    let secret = json!({"metadata": {"name": "canary"}, "data": {"a": hidden}});
    cluster.post("/api/v1/namespaces/default/secrets", &secret).expect(201);
    let map = json!({"metadata": {"name": "canary"}, "data": {"a": open}});
    cluster.post("/api/v1/namespaces/default/configmaps", &map).expect(201);
    assert!(is_on_disk(&cluster, open), "the test looks in the right place");
    assert!(!is_on_disk(&cluster, hidden));
    assert!(is_on_disk(&cluster, "k8s:enc:secretbox:v1:key1:"));

    // Rotation: a new key writes, the old one still reads; no restart.
    let old = fs::read_to_string(cluster.dir().join("pki/encryption.yaml")).expect("a configuration");
    let old_key = old.split("secretbox: ").nth(1).and_then(|rest| rest.lines().next()).expect("a provider");
    let new_key = "{keys: [{name: key2, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}";
    configure(&cluster, &format!("[{{aesgcm: {new_key}}}, {{secretbox: {old_key}}}]"));
    eventually("the new key writes", || {
        let object = cluster.get(SECRET).expect(200);
        cluster.put(SECRET, &object).expect(200);
        is_on_disk(&cluster, "k8s:enc:aesgcm:v1:key2:").then_some(())
    });
    // The old key is taken away; everything that was rewritten is read by the new one, after a restart too.
    configure(&cluster, &format!("[{{aesgcm: {new_key}}}]"));
    cluster.kill(Component::Apiserver);
    cluster.up();
    assert_eq!(cluster.get(SECRET).expect(200)["data"]["a"], hidden);
}

/// Reliability R25: what cannot be decrypted is an error that names the object, not a missing one.
#[test]
fn a_secret_under_a_lost_key_is_an_error_of_its_own() {
    let cluster = control_plane!();
    for name in ["canary", "other"] {
        let secret = json!({"metadata": {"name": name}, "data": {"a": "YQ=="}});
        cluster.post("/api/v1/namespaces/default/secrets", &secret).expect(201);
    }
    configure(
        &cluster,
        "[{secretbox: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}, {identity: {}}]",
    );
    cluster.kill(Component::Apiserver);
    cluster.up();
    let reply = cluster.get(SECRET);
    assert_eq!(reply.code, 500, "{}", reply.text());
    assert!(reply.text().contains("canary"), "{}", reply.text());
    cluster.get("/api/v1/namespaces/default/configmaps").expect(200);
}
