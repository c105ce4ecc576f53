//! Paths that are no resources: health, version, metrics, discovery and OpenAPI.

use std::sync::Arc;

use api_types::ApiError;
use http::{Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{
    authn::discovery as openid,
    bootstrap,
    codec::{
        accept::{self, Accepted, Formats, Shapes},
        body::{self, Body},
        reply,
    },
    discovery, health,
    kinds::Table,
    request::Request,
    server::Server,
    verbs::page_not_found,
};

/// The version of the API that is spoken.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
pub const GIT_VERSION: &str = "v1.36.2+coxswain";

/// Answers an authorised request for a path.
pub async fn answer(
    server: &Arc<Server>,
    request: &Request,
    http: &http::Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if let Some(response) = health::answer(server, &request.path, &request.query).await {
        return Ok(response);
    }
    if !matches!(request.verb, "get" | "head") {
        return Ok(page_not_found());
    }
    let negotiated = |formats| {
        accept::negotiate(http.headers(), &request.query, Shapes::ObjectOnly, formats).unwrap_or(Accepted::JSON)
    };
    let accepted = negotiated(Formats::Text);
    let verifier = server.authenticator.service_accounts();
    let keys = verifier.keys();
    let table = server.kinds.table();
    let response = match request.path.trim_end_matches('/') {
        "/version" => reply::value(StatusCode::OK, &accepted, &version()),
        "/metrics" => text(daemon::metrics::CONTENT_TYPE, server.metrics.text(server)),
        openid::KEYS_PATH => text(openid::KEYS_CONTENT_TYPE, openid::key_set(keys).to_string()),
        openid::CONFIGURATION_PATH => {
            let issuer = server.flags.tokens.service_account_issuer.first().map(String::as_str).unwrap_or_default();
            let own = || format!("https://{}{}", bootstrap::own_address(&server.flags), openid::KEYS_PATH);
            let keys_uri = server.flags.tokens.service_account_jwks_uri.clone().unwrap_or_else(own);
            text(accepted.format.media_type(), openid::configuration(issuer, &keys_uri, keys).to_string())
        }
        "" => reply::value(StatusCode::OK, &accepted, &json!({ "paths": root_paths(&table) })),
        path => {
            let document = discovery::answer(
                table.rows(),
                path,
                &request.query,
                http.headers(),
                &negotiated(Formats::All),
                GIT_VERSION,
            );
            document.unwrap_or_else(page_not_found)
        }
    };
    Ok(response)
}

fn root_paths(table: &Table) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for kind in table.rows() {
        let (group, version) = (&kind.resource.group, &kind.resource.version);
        if group.is_empty() {
            paths.extend(["/api".to_owned(), format!("/api/{version}")]);
        } else {
            paths.extend(["/apis".to_owned(), format!("/apis/{group}"), format!("/apis/{group}/{version}")]);
        }
    }
    let others =
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", openid::KEYS_PATH, "/readyz", "/version"];
    paths.extend(others.map(str::to_owned));
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn version() -> Value {
    json!({
        "major": MAJOR, "minor": MINOR, "emulationMajor": MAJOR, "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR, "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc",
        "platform": platform(),
    })
}

/// In Go's words: `linux/amd64`.
pub fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}

fn text(content_type: &str, text: String) -> Response<Body> {
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .body(body::full(text))
        .expect("fixed header names and values")
}
