//! Registry credentials out of Secrets of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`. Pure.

use std::collections::BTreeMap;

use api_types::k8s::core::Secret;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::runtime::Credentials;

/// What Docker calls its own registry.
const DOCKER_HUB: &str = "docker.io";

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
    auth: String,
}

/// The credentials of a Secret that are for the image's registry.
pub fn matching(secret: &Secret, image: &str) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let bytes = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let logins = match (bytes(".dockerconfigjson"), bytes(".dockercfg")) {
        // A malformed file is not quoted anywhere: it holds passwords.
        (Some(json), _) => serde_json::from_slice::<Config>(json).map(|config| config.auths).unwrap_or_default(),
        (None, Some(json)) => serde_json::from_slice(json).unwrap_or_default(),
        (None, None) => BTreeMap::new(),
    };
    let wanted = registry(image);
    let fitting = logins.into_iter().filter(|(server, _)| host(server) == wanted);
    fitting.filter_map(|(server, login)| credentials(server, login)).collect()
}

fn credentials(registry: String, login: Login) -> Option<Credentials> {
    if !login.username.is_empty() {
        return Some(Credentials { username: login.username, password: login.password, registry });
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(login.auth.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.to_owned(), registry })
}

/// The registry of an image.
fn registry(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first.to_owned(),
        Some(_) | None => DOCKER_HUB.to_owned(),
    }
}

/// The registry that a key of the file means; Docker's own has several names.
fn host(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    match bare.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => DOCKER_HUB.to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_images_registry_gets_a_password() {
        let json = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"username": "hub", "password": "p"}}, "r.example:5000": {{"auth": "{}"}}}}}}"#,
            BASE64_STANDARD.encode("me:a:b")
        );
        let secret: Secret =
            serde_json::from_value(serde_json::json!({"data": {".dockerconfigjson": BASE64_STANDARD.encode(json)}}))
                .unwrap();
        let check = |image: &str, expected: &[(&str, &str)]| {
            let found = matching(&secret, image);
            let found: Vec<(&str, &str)> =
                found.iter().map(|one| (one.username.as_str(), one.password.as_str())).collect();
            assert_eq!(found, expected, "{image}");
        };
        check("busybox", &[("hub", "p")]);
        check("library/busybox:1", &[("hub", "p")]);
        check("r.example:5000/x", &[("me", "a:b")]);
        check("other.example/x", &[]);
    }

    #[test]
    fn passwords_are_not_printed() {
        let one = Credentials { username: "u".to_owned(), password: "hunter2".to_owned(), registry: "r".to_owned() };
        assert_eq!(format!("{one:?}"), "u@r");
    }
}
