//! The two documents by which others verify our ServiceAccount tokens:
//! `/.well-known/openid-configuration` and `/openid/v1/jwks`.
//!
//! Source: kubernetes/pkg/serviceaccount/openidmetadata.go.

use serde_json::{Value, json};

use super::keys::PublicKey;

pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
pub const KEYS_PATH: &str = "/openid/v1/jwks";
pub const KEYS_CONTENT_TYPE: &str = "application/jwk-set+json";

/// The first issuer is the one in new tokens. `keys_uri` is where [`KEYS_PATH`] is reached from outside.
pub fn configuration(issuer: &str, keys_uri: &str, keys: &[PublicKey]) -> Value {
    let mut algorithms: Vec<String> = keys.iter().map(|key| format!("{:?}", key.algorithm)).collect();
    algorithms.sort();
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": keys_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

pub fn key_set(keys: &[PublicKey]) -> Value {
    json!({"keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
}
