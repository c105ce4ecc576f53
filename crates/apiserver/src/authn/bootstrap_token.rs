//! Bootstrap tokens: Secrets of kube-system with which a machine introduces itself before it has a
//! certificate. A pure reading of the Secret that a token names.
//!
//! Source: kubernetes/plugin/pkg/auth/authenticator/token/bootstrap.

use api_types::{Key, jiff::Timestamp};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::User;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const USER_PREFIX: &str = "system:bootstrap:";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const GROUP_SUFFIX_LENGTH_MAX: usize = 256;

/// A token by its two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    id: &'a str,
    secret: &'a str,
}

/// `None` for what has not the shape of a bootstrap token.
pub fn parts(token: &str) -> Option<Parts<'_>> {
    let (id, secret) = token.split_once('.')?;
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let fits = id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH && is_plain(id) && is_plain(secret);
    fits.then_some(Parts { id, secret })
}

impl Parts<'_> {
    /// Where its Secret stands.
    pub fn key(&self) -> Key {
        Key::new(NAMESPACE, format!("bootstrap-token-{}", self.id))
    }

    /// Whose the token is, if `object` is its Secret and lets it authenticate at `now`.
    pub fn user(&self, object: &Value, now: Timestamp) -> Option<User> {
        let data = |field: &str| -> Option<String> {
            let bytes = STANDARD.decode(object["data"][field].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let is_live = object["metadata"]["deletionTimestamp"].is_null() && object["type"] == TYPE;
        // Digests are compared: the time it takes tells nothing about the secret.
        let is_secret = Sha256::digest(data("token-secret")?) == Sha256::digest(self.secret);
        let is_id = data("token-id")?.as_str() == self.id;
        let is_for_this = data("usage-bootstrap-authentication").as_deref() == Some("true");
        let is_in_time = match data("expiration").filter(|text| !text.is_empty()) {
            Some(text) => text.parse::<Timestamp>().is_ok_and(|at| now < at),
            None => true,
        };
        if !(is_live && is_secret && is_id && is_for_this && is_in_time) {
            return None;
        }
        let extra = data("auth-extra-groups").unwrap_or_default();
        let mut groups = vec![GROUP.to_owned()];
        for group in extra.split(',').filter(|group| !group.is_empty()) {
            groups.push(is_group(group).then(|| group.to_owned())?);
        }
        groups.sort();
        groups.dedup();
        Some(User { name: format!("{USER_PREFIX}{}", self.id), groups, ..User::default() })
    }
}

/// `system:bootstrappers:` and letters, digits, colons and dashes, not ending in one of the last two.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=GROUP_SUFFIX_LENGTH_MAX).contains(&rest.len())
        && rest.bytes().all(|byte| is_plain(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    #[test]
    fn shapes() {
        assert_eq!(parts(TOKEN), Some(Parts { id: "abcdef", secret: "0123456789abcdef" }));
        for other in [
            "abcdef",
            "abcde.0123456789abcdef",
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789abcde.",
            "../../.0123456789abcdef",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
        assert_eq!(parts(TOKEN).expect("a token").key(), Key::new("kube-system", "bootstrap-token-abcdef"));
    }

    /// `change` is merged over a good Secret's data; `null` takes a field away.
    fn user(change: &Value, kind: &str) -> Option<User> {
        let mut data = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "expiration": "2030-01-01T00:00:00Z",
        });
        for (field, value) in change.as_object().expect("an object") {
            data[field] = value.clone();
        }
        let encoded = |value: &Value| value.as_str().map(|text| STANDARD.encode(text));
        let data: Value = data
            .as_object()
            .expect("an object")
            .iter()
            .map(|(key, value)| (key.clone(), json!(encoded(value))))
            .collect();
        let object = json!({"metadata": {}, "type": kind, "data": data});
        parts(TOKEN).expect("a token").user(&object, "2026-01-01T00:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn the_secret_decides() {
        let bob =
            user(&json!({"auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token"}), TYPE).expect("good");
        assert_eq!(bob.name, "system:bootstrap:abcdef");
        assert_eq!(bob.groups, ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"]);
        assert!(user(&json!({"expiration": null}), TYPE).is_some(), "no end");
        for change in [
            json!({"token-secret": "0123456789abcdee"}),
            json!({"token-id": "abcdee"}),
            json!({"usage-bootstrap-authentication": "false"}),
            json!({"usage-bootstrap-authentication": null}),
            json!({"expiration": "2025-01-01T00:00:00Z"}),
            json!({"expiration": "soon"}),
            json!({"auth-extra-groups": "system:masters"}),
            json!({"auth-extra-groups": "system:bootstrappers:"}),
        ] {
            assert_eq!(user(&change, TYPE), None, "{change}");
        }
        assert_eq!(user(&json!({}), "Opaque"), None);
    }
}
