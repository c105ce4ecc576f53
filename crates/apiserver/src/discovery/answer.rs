//! Requests for discovery and OpenAPI documents: which document a path names, in which form,
//! and whether the client has it already.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use api_types::options::Query;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use serde_json::Value;

use super::{AGGREGATED_MEDIA_TYPE, Root, aggregated, core_versions, etag, group, group_list, resource_list};
use crate::{
    codec::{accept::Accepted, body, body::Body, reply},
    kinds::Kind,
    openapi,
};

/// OpenAPI documents that are kept ready; beyond that, all are forgotten.
const OPENAPI_DOCUMENTS_MAX: usize = 128;
const JSON: &str = "application/json";
/// What is answered, and the older name by which clients ask for it, which is no legal media type.
const OPENAPI_V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];
/// A document under its hash never changes.
const FOREVER: &str = "public, immutable, max-age=31536000";

/// Answers a GET for a document, or `None` if the path names none. `server_version` is what the OpenAPI
/// documents say of themselves.
pub fn answer(
    rows: &[Arc<Kind>],
    path: &str,
    query: &Query,
    headers: &HeaderMap,
    accepted: &Accepted,
    server_version: &str,
) -> Option<Response<Body>> {
    let path = path.trim_matches('/');
    if let Some(path) = path.strip_prefix("openapi") {
        return openapi_document(rows, path, query, headers, server_version);
    }
    let segments: Vec<&str> = path.split('/').collect();
    let document = match segments[..] {
        ["api"] if wants_aggregated(headers) => return Some(aggregated_document(rows, Root::Core, headers)),
        ["apis"] if wants_aggregated(headers) => return Some(aggregated_document(rows, Root::Groups, headers)),
        ["api"] => core_versions(rows, host(headers)),
        ["apis"] => group_list(rows),
        ["api", version] => resource_list(rows, "", version)?,
        ["apis", name] => group(rows, name)?,
        ["apis", name, version] if !name.is_empty() => resource_list(rows, name, version)?,
        _ => return None,
    };
    Some(reply::value(StatusCode::OK, accepted, &document))
}

/// Where the client reached us.
fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

/// Whether the aggregated form is the client's first wish that we know.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    for wish in accept.split(',') {
        let mut parts = wish.split(';').map(str::trim);
        let is_json = parts.next() == Some("application/json");
        let parameters: Vec<&str> = parts.collect();
        let has = |parameter: &str| parameters.contains(&parameter);
        if is_json && has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList") && has("v=v2") {
            return true;
        }
        if is_json && !parameters.iter().any(|parameter| parameter.starts_with("as=")) {
            return false;
        }
    }
    false
}

fn aggregated_document(rows: &[Arc<Kind>], root: Root, headers: &HeaderMap) -> Response<Body> {
    let bytes = json(&aggregated(rows, root));
    let tag = etag(&bytes);
    let mut response = tagged(bytes, &tag, AGGREGATED_MEDIA_TYPE, headers);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// `path` is what follows `/openapi`.
fn openapi_document(
    rows: &[Arc<Kind>],
    path: &str,
    query: &Query,
    headers: &HeaderMap,
    server_version: &str,
) -> Option<Response<Body>> {
    let key = match path.trim_matches('/') {
        "v2" => return Some(v2(rows, headers, server_version)),
        "v3" => return Some(tagged_value(&openapi::index(rows, server_version), headers)),
        path => path.strip_prefix("v3/")?,
    };
    let hash = openapi::hash(rows, key, server_version)?;
    match query.get("hash") {
        // The client's index is old: it is told where the document is now.
        Some(asked) if !asked.is_empty() && asked != hash => {
            let location = format!("/openapi/v3/{key}?hash={hash}");
            let response = Response::builder().status(StatusCode::MOVED_PERMANENTLY).header(header::LOCATION, location);
            Some(response.body(body::empty()).expect("a path is a legal header value"))
        }
        asked => {
            let bytes = kept(&hash, || openapi::document(rows, key, server_version).map(|document| json(&document)))?;
            let mut response = tagged(bytes, &format!("\"{hash}\""), JSON, headers);
            if asked.is_some_and(|asked| !asked.is_empty()) {
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
            }
            Some(response)
        }
    }
}

/// The document of everything, in the first form that the client names and we have.
///
/// Source: kube-openapi's pkg/handler.
fn v2(rows: &[Arc<Kind>], headers: &HeaderMap, server_version: &str) -> Response<Body> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
    let media_types = accept.split(',').map(|wish| wish.split(';').next().unwrap_or_default().trim());
    let found = media_types.into_iter().find_map(|media_type| match media_type {
        "" | "*/*" | "application/*" | JSON => Some(JSON),
        media_type if OPENAPI_V2_PROTOBUF.contains(&media_type) => Some(OPENAPI_V2_PROTOBUF[0]),
        _ => None,
    });
    let Some(media_type) = found else {
        let response = Response::builder().status(StatusCode::NOT_ACCEPTABLE);
        return response.body(body::empty()).expect("a fixed status");
    };
    let hash = format!("v2 {media_type} {server_version} {}", rows.len());
    let bytes = kept(&hash, || match media_type {
        JSON => Some(json(&openapi::v2(rows, server_version))),
        _ => Some(openapi::v2_protobuf(rows, server_version).into()),
    });
    let bytes = bytes.expect("it can always be made");
    let tag = etag(&bytes);
    let mut response = tagged(bytes, &tag, media_type, headers);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// Keeps documents by the hash of what they are made from.
fn kept(hash: &str, make: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
    static DOCUMENTS: LazyLock<Mutex<HashMap<String, Bytes>>> = LazyLock::new(Mutex::default);
    if let Some(bytes) = DOCUMENTS.lock().get(hash) {
        return Some(bytes.clone());
    }
    let bytes = make()?;
    let mut documents = DOCUMENTS.lock();
    if documents.len() >= OPENAPI_DOCUMENTS_MAX {
        documents.clear();
    }
    documents.insert(hash.to_owned(), bytes.clone());
    Some(bytes)
}

fn json(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("JSON values always serialise into memory").into()
}

fn tagged_value(value: &Value, headers: &HeaderMap) -> Response<Body> {
    let bytes = json(value);
    let tag = etag(&bytes);
    tagged(bytes, &tag, "application/json", headers)
}

/// 304 if the client has what `tag` names.
fn tagged(bytes: Bytes, tag: &str, media_type: &str, headers: &HeaderMap) -> Response<Body> {
    let response = Response::builder().header(header::ETAG, tag);
    let has_it = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let response = if has_it {
        response.status(StatusCode::NOT_MODIFIED).body(body::empty())
    } else {
        response
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(body::full(bytes))
    };
    response.expect("tags and media types are legal header values")
}

#[cfg(test)]
mod tests {
    use api_types::resources::BUILT_IN;
    use http_body_util::BodyExt;

    use super::*;
    use crate::kinds::Table;

    /// What kubectl sends.
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
        application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

    fn get(path: &str, header: &[(header::HeaderName, &str)]) -> Option<Response<Body>> {
        let table = Table::new(BUILT_IN.iter().cloned());
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let headers = header.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        answer(table.rows(), path, &Query::parse(query), &headers, &Accepted::JSON, "v1.36.2")
    }

    async fn value(response: Response<Body>) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn every_path_has_its_document() {
        for (path, accept, kind) in [
            ("/api", "", "APIVersions"),
            ("/apis", "application/json", "APIGroupList"),
            ("/apis/", "*/*", "APIGroupList"),
            ("/api/v1", AGGREGATED, "APIResourceList"),
            ("/apis/apps", "", "APIGroup"),
            ("/apis/apps/v1", "", "APIResourceList"),
            ("/api", AGGREGATED, "APIGroupDiscoveryList"),
            ("/apis", AGGREGATED, "APIGroupDiscoveryList"),
            (
                "/apis",
                "application/json,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                "APIGroupList",
            ),
        ] {
            let response = get(path, &[(header::ACCEPT, accept)]).unwrap();
            assert_eq!(value(response).await["kind"], kind, "{path} {accept}");
        }
        for path in ["/apis/nope", "/api/v2", "/apis/apps/v9", "/openapi/v3/apis/nope", "/openapi", "/apis/apps/v1/x/y"]
        {
            assert!(get(path, &[]).is_none(), "{path}");
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        for path in ["/apis", "/openapi/v3", "/openapi/v3/api/v1"] {
            let first = get(path, &[(header::ACCEPT, AGGREGATED)]).unwrap();
            assert_eq!(first.status(), StatusCode::OK);
            let tag = first.headers()[header::ETAG].to_str().unwrap();
            let again = get(path, &[(header::ACCEPT, AGGREGATED), (header::IF_NONE_MATCH, tag)]).unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        }
    }

    #[tokio::test]
    async fn documents_are_found_by_the_index_and_kept_forever() {
        let index = value(get("/openapi/v3", &[]).unwrap()).await;
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        let response = get(url, &[]).unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], FOREVER);
        assert_eq!(value(response).await["openapi"], "3.0.0");
        let moved = get("/openapi/v3/apis/apps/v1?hash=OLD", &[]).unwrap();
        assert_eq!(moved.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(moved.headers()[header::LOCATION], *url);
        assert_eq!(value(get("/openapi/v2", &[]).unwrap()).await["swagger"], "2.0");
        for accept in OPENAPI_V2_PROTOBUF {
            let response = get("/openapi/v2", &[(header::ACCEPT, accept)]).unwrap();
            assert_eq!(response.headers()[header::CONTENT_TYPE], OPENAPI_V2_PROTOBUF[0]);
        }
        let nothing = get("/openapi/v2", &[(header::ACCEPT, "image/png")]).unwrap();
        assert_eq!(nothing.status(), StatusCode::NOT_ACCEPTABLE);
    }
}
