//! JSON, YAML, protobuf, tables: who asks for what, and what goes over the wire.

use std::process::Command;

use serde_json::{Value, json};
use tests::{Cluster, Component, Reply, control_plane, eventually};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn get(cluster: &Cluster, path: &str, accept: &str) -> Reply {
    cluster.http("admin", "GET", path, &[&format!("Accept: {accept}")], b"")
}

fn config_map(cluster: &Cluster, name: &str, value: &str) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}});
    cluster.post(CONFIG_MAPS, &object).expect(201)
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"b": "2", "a": "1"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}},
            "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": "http", "path": "/x"}, "initialDelaySeconds": 0}}]}})
}

/// The parts of a length-delimited field with a one-byte tag.
fn field(message: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = message.strip_prefix(&[tag])?;
    let mut length = 0usize;
    for (at, byte) in rest.iter().enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Some(rest[at + 1..].split_at(length));
        }
    }
    None
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Semantics line 55: the envelope, and what is in it is the object: sent back as it came it changes nothing.
#[test]
fn protobuf_goes_out_and_comes_back_the_same() {
    let cluster = control_plane!();
    cluster.post(PODS, &pod("p")).expect(201);
    let path = format!("{PODS}/p");
    let shown = cluster.get(&path).expect(200);
    let reply = get(&cluster, &path, PROTOBUF);
    assert_eq!((reply.code, reply.header("content-type")), (200, Some(PROTOBUF)));
    let unknown = reply.body.strip_prefix(b"k8s\0").expect("the magic number");
    let (type_meta, rest) = field(unknown, 0x0a).expect("a type");
    assert_eq!(type_meta, b"\x0a\x02v1\x12\x03Pod");
    let (raw, rest) = field(rest, 0x12).expect("an object");
    assert_eq!(rest, b"\x1a\0\x22\0", "no encoding and no content type, as upstream writes them");
    assert!(field(raw, 0x0a).is_some_and(|(metadata, _)| metadata.starts_with(b"\x0a\x01p\x12\0")));
    let headers = [format!("Content-Type: {PROTOBUF}"), format!("Accept: {PROTOBUF},application/json")];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let put = cluster.http("admin", "PUT", &path, &headers, &reply.body);
    assert_eq!(put.code, 200, "{}", put.text());
    assert_eq!(put.body, reply.body, "and it is the same again");
    assert_eq!(cluster.get(&path).expect(200), shown);
}

/// Semantics line 55, for every kind that can be listed, item by item and as a list.
#[test]
fn every_kind_has_a_protobuf_form() {
    let cluster = control_plane!();
    config_map(&cluster, "a", "v");
    cluster.post(PODS, &pod("p")).expect(201);
    let discovery = get(&cluster, "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let core = get(&cluster, "/api", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let mut listed = 0;
    for group in
        [core.json(), discovery.json()].iter().flat_map(|it| it["items"].as_array().cloned().unwrap_or_default())
    {
        for version in group["versions"].as_array().into_iter().flatten() {
            let root = match group["metadata"]["name"].as_str() {
                None => "/api/v1".to_owned(),
                Some(name) => format!("/apis/{name}/{}", version["version"].as_str().unwrap_or_default()),
            };
            for resource in version["resources"].as_array().into_iter().flatten() {
                if !resource["verbs"].as_array().is_some_and(|verbs| verbs.contains(&json!("list"))) {
                    continue;
                }
                let path = format!("{root}/{}", resource["resource"].as_str().unwrap_or_default());
                let reply = get(&cluster, &path, PROTOBUF);
                assert_eq!(reply.code, 200, "{path}: {}", reply.text());
                assert!(reply.body.starts_with(b"k8s\0"), "{path}");
                let announced: usize =
                    reply.header("content-length").map_or(reply.body.len(), |it| it.parse().expect("a number"));
                assert_eq!(announced, reply.body.len(), "{path}");
                let unknown = field(&reply.body[4..], 0x0a).expect("a type").1;
                assert_eq!(field(unknown, 0x12).expect("a list").1, b"\x1a\0\x22\0", "{path}: its length is right");
                listed += 1;
            }
        }
    }
    assert!(listed >= 58, "{listed}");
}

/// Semantics line 10: frames with a length of four bytes, each a WatchEvent around an enveloped object.
#[test]
fn a_watch_in_protobuf_is_framed_by_length() {
    let cluster = control_plane!();
    config_map(&cluster, "a", "v");
    let path =
        format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true&fieldSelector=metadata.name%3Da");
    let reply = get(&cluster, &path, &format!("{PROTOBUF};stream=watch,{PROTOBUF}"));
    let content_type = reply.header("content-type").map(str::to_owned);
    assert_eq!((reply.code, content_type.as_deref()), (200, Some("application/vnd.kubernetes.protobuf;stream=watch")));
    let (length, event) = reply.body.split_at(4);
    let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    assert!(length <= event.len());
    let (word, rest) = field(&event[..length], 0x0a).expect("a type");
    assert_eq!(word, b"ADDED");
    let (extension, rest) = field(rest, 0x12).expect("an object");
    assert!(rest.is_empty());
    let (object, _) = field(extension, 0x0a).expect("raw bytes");
    let alone = get(&cluster, &format!("{CONFIG_MAPS}/a"), PROTOBUF);
    assert_eq!(object, alone.body, "the same bytes as a GET gives");
    let yaml = get(&cluster, &path, "application/yaml");
    assert_eq!(yaml.code, 406, "YAML has no stream");
}

/// Semantics line 52.
#[test]
fn the_best_wish_that_can_be_met_is_met() {
    let cluster = control_plane!();
    config_map(&cluster, "a", "v");
    let path = format!("{CONFIG_MAPS}/a");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (accept, code, content_type) in [
        ("application/vnd.kubernetes.protobuf,application/json", 200, PROTOBUF),
        ("application/vnd.kubernetes.protobuf, */*", 200, PROTOBUF),
        ("*/*", 200, "application/json"),
        ("*/*, application/yaml", 200, "application/yaml"),
        ("application/json;q=0.2, application/vnd.kubernetes.protobuf;q=0.9", 200, PROTOBUF),
        ("image/png, application/yaml", 200, "application/yaml"),
        ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", 406, "application/json"),
        ("image/png", 406, "application/json"),
    ] {
        let reply = get(&cluster, &path, accept);
        assert_eq!((reply.code, reply.header("content-type")), (code, Some(content_type)), "{accept}");
    }
    let fallback = get(&cluster, &path, &format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{table}"));
    assert_eq!(fallback.expect(200)["kind"], "Table", "tables have no protobuf form");
    let body = json!({"metadata": {"name": "b"}}).to_string();
    let unknown = cluster.http("admin", "POST", CONFIG_MAPS, &["Content-Type: image/png"], body.as_bytes());
    assert_eq!(unknown.refusal().0, 415);
}

/// Semantics lines 52 and 55: refusals and partial objects are of the client's format, too.
#[test]
fn refusals_and_partial_objects_speak_protobuf() {
    let cluster = control_plane!();
    config_map(&cluster, "a", "v");
    let missing = get(&cluster, &format!("{CONFIG_MAPS}/none"), PROTOBUF);
    assert_eq!((missing.code, missing.header("content-type")), (404, Some(PROTOBUF)));
    assert!(missing.body.starts_with(b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Status"), "{}", missing.text());
    assert!(contains(&missing.body, b"configmaps \"none\" not found"));
    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
    let partial = get(&cluster, CONFIG_MAPS, &partial);
    assert_eq!(partial.header("content-type"), Some(PROTOBUF));
    assert!(contains(&partial.body, b"meta.k8s.io/v1\x12\x19PartialObjectMetadataList"));
    assert!(!contains(&partial.body, b"\x0a\x01k\x12\x01v"), "no data");
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    let headers = ["Content-Type: application/json", &format!("Accept: {PROTOBUF}")];
    let path = format!("{CONFIG_MAPS}/a");
    let deleted = cluster.http("admin", "DELETE", &path, &headers, options.to_string().as_bytes());
    assert_eq!(deleted.code, 200);
    assert!(contains(&deleted.body, b"Success"));
}

/// Semantics line 30 and features: YAML goes in and comes out.
#[test]
fn yaml_goes_both_ways() {
    let cluster = control_plane!();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: written\ndata:\n  octal: \"0644\"\n  lines: |\n    a\n    b\n";
    let headers = ["Content-Type: application/yaml", "Accept: application/yaml"];
    let created = cluster.http("admin", "POST", CONFIG_MAPS, &headers, yaml.as_bytes());
    assert_eq!((created.code, created.header("content-type")), (201, Some("application/yaml")), "{}", created.text());
    let shown = cluster.get(&format!("{CONFIG_MAPS}/written")).expect(200);
    assert_eq!(shown["data"], json!({"octal": "0644", "lines": "a\nb\n"}));
    let again = get(&cluster, &format!("{CONFIG_MAPS}/written"), "application/yaml");
    assert_eq!(again.text(), created.text());
    let put = cluster.http("admin", "PUT", &format!("{CONFIG_MAPS}/written"), &headers, &again.body);
    assert_eq!(put.code, 200, "{}", put.text());
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/written")).expect(200), shown, "what came out goes in");
}

/// Semantics line 57.
#[test]
fn people_get_indented_json_and_large_replies_are_compressed() {
    let cluster = control_plane!();
    config_map(&cluster, "small", "v");
    config_map(&cluster, "large", &"abcdefgh".repeat(30_000));
    let path = format!("{CONFIG_MAPS}/small");
    assert_eq!(cluster.get(&path).text().lines().count(), 1);
    assert!(cluster.get(&format!("{path}?pretty=true")).text().starts_with("{\n  \"apiVersion\""));
    for agent in ["curl/8.5.0", "Wget/1.21", "Mozilla/5.0 (X11)"] {
        let reply = cluster.http("admin", "GET", &path, &[&format!("User-Agent: {agent}")], b"");
        assert!(reply.text().starts_with("{\n"), "{agent}");
    }
    let zipped = |path: &str, accept: &str| {
        let headers = ["Accept-Encoding: gzip", &format!("Accept: {accept}")];
        let reply = cluster.http("admin", "GET", path, &headers, b"");
        assert_eq!(reply.code, 200);
        (reply.header("content-encoding").map(str::to_owned), reply.body)
    };
    assert_eq!(zipped(&path, "application/json").0, None, "small ones are not");
    for accept in ["application/json", PROTOBUF] {
        for path in [format!("{CONFIG_MAPS}/large"), CONFIG_MAPS.to_owned()] {
            let (encoding, body) = zipped(&path, accept);
            assert_eq!(encoding.as_deref(), Some("gzip"), "{path} {accept}");
            assert!(body.starts_with(&[0x1f, 0x8b]) && body.len() < 100_000, "{path} {accept}: {}", body.len());
        }
    }
}

/// Semantics line 53.
#[test]
fn tables_carry_what_is_asked_of_each_object() {
    let cluster = control_plane!();
    config_map(&cluster, "a", "v");
    let table = |query: &str, version: &str| {
        let accept = format!("application/json;as=Table;v={version};g=meta.k8s.io");
        get(&cluster, &format!("{CONFIG_MAPS}/a?{query}"), &accept)
    };
    let row = |query: &str, version: &str| table(query, version).expect(200)["rows"][0].clone();
    assert_eq!(row("", "v1")["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row("includeObject=Metadata", "v1")["object"]["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(row("includeObject=None", "v1")["object"], Value::Null);
    assert_eq!(row("includeObject=Object", "v1")["object"]["data"]["k"], "v");
    assert_eq!(table("", "v1").expect(200)["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(table("", "v1beta1").expect(200)["apiVersion"], "meta.k8s.io/v1beta1");
    let (code, _, message) = table("includeObject=Some", "v1").refusal();
    assert_eq!(code, 400);
    assert!(message.contains("must be 'Metadata', 'Object', 'None', or empty"), "{message}");
    let partial = "application/json;as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io";
    assert_eq!(get(&cluster, &format!("{CONFIG_MAPS}/a"), partial).expect(200)["apiVersion"], "meta.k8s.io/v1beta1");
    let columns = cluster.kubectl(&["get", "configmap", "a", "--no-headers"]);
    assert_eq!(columns.split_whitespace().take(2).collect::<Vec<_>>(), ["a", "1"]);
}

/// Semantics line 75 and reliability R25: a stock cluster's values are read; what cannot be read says so, alone.
#[test]
fn values_of_a_stock_cluster_are_read_and_broken_ones_are_named() {
    let cluster = control_plane!("--storage=etcd");
    config_map(&cluster, "model", "v");
    // Its name inside differs from its key, which nobody minds as it is read only.
    let model = get(&cluster, &format!("{CONFIG_MAPS}/model"), PROTOBUF);
    etcd_put(&cluster, "/registry/configmaps/default/stock", &model.body);
    etcd_put(&cluster, "/registry/configmaps/default/broken", b"k8s\0\x0a\xff");
    let path = |name: &str| format!("{CONFIG_MAPS}/{name}");
    eventually("the values arrive", || {
        let codes = (cluster.get(&path("stock")).code, cluster.get(&path("broken")).code);
        (codes == (200, 500)).then_some(())
    });
    let stock = cluster.get(&path("stock")).expect(200);
    assert_eq!(stock["data"], json!({"k": "v"}));
    let (code, reason, message) = cluster.get(&path("broken")).refusal();
    assert_eq!((code, reason.as_str()), (500, "InternalError"));
    assert!(message.contains("default/broken"), "{message}");
    assert_eq!(cluster.get(&path("model")).code, 200, "others go on");
    assert_eq!(cluster.get(CONFIG_MAPS).code, 500, "a list hides nothing");
    let watch = cluster.get(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1"));
    let frames: Vec<Value> = watch.text().lines().map(|line| serde_json::from_str(line).expect("a frame")).collect();
    assert!(frames.iter().any(|frame| frame["type"] == "ERROR" && frame["object"]["code"] == 500), "{frames:?}");
    assert!(frames.iter().any(|frame| frame["object"]["metadata"]["name"] == "model"), "the watch goes on");
}

/// Writes into the cluster's etcd by its JSON gateway, as a stock apiserver would.
fn etcd_put(cluster: &Cluster, key: &str, value: &[u8]) {
    let pki = cluster.dir().join("pki");
    let body = json!({"key": base64(key.as_bytes()), "value": base64(value)}).to_string();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--cacert"])
        .arg(pki.join("etcd-ca.crt"))
        .arg("--cert")
        .arg(pki.join("apiserver-etcd-client.crt"))
        .arg("--key")
        .arg(pki.join("apiserver-etcd-client.key"))
        .args(["--data", &body, &format!("{}/v3/kv/put", etcd(cluster))])
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Where etcd listens, as the apiserver was told.
fn etcd(cluster: &Cluster) -> String {
    let pid = cluster.pid(Component::Apiserver).expect("the apiserver runs");
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("its command line");
    let server = command.split('\0').find_map(|argument| argument.strip_prefix("--etcd-servers="));
    server.expect("the flag").to_owned()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = move |at: usize| DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char;
        (0..4).map(move |at| if at <= chunk.len() { digit(at) } else { '=' })
    });
    digits.collect()
}
