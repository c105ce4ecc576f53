//! `Impersonate-*` headers: one user acts as another, if every part of the other identity is
//! one that they may impersonate.
//!
//! Source: apiserver/pkg/endpoints/filters/impersonation.

use std::collections::BTreeMap;

use api_types::ApiError;
use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User, constrained, token};
use crate::authz::{self, Attributes, Authorizer, Decision};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user that the request, which asks for `asked`, acts as; `None` if it does not ask for another.
pub async fn impersonate(
    headers: &HeaderMap,
    user: &User,
    authorizer: &Authorizer,
    asked: &Attributes<'_>,
) -> Result<Option<User>, ApiError> {
    let Some(requested) = requested(headers)? else { return Ok(None) };
    let Err(refusal) = may_all(user, authorizer, &parts(&requested)).await else {
        return Ok(Some(completed(requested)));
    };
    for mode in constrained::MODES {
        if mode.fits(&requested, user) && mode.may(&requested, user, authorizer, asked).await {
            return Ok(Some(completed(constrained::with_groups(requested))));
        }
    }
    Err(refusal)
}

async fn may_all(user: &User, authorizer: &Authorizer, parts: &[Attributes<'_>]) -> Result<(), ApiError> {
    for attributes in parts {
        match authorizer.authorize(user, attributes).await {
            Decision::Allow { .. } => {}
            Decision::Deny { reason } | Decision::NoOpinion { reason } => {
                return Err(authz::forbidden(user, attributes, &reason));
            }
        }
    }
    Ok(())
}

/// The identity in the headers, as it stands there.
fn requested(headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let mut user = User { name: first(USER), uid: first(UID), groups: texts(GROUP), extra: BTreeMap::new() };
    for (name, value) in headers {
        let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) else { continue };
        user.extra.entry(unescaped(key)).or_default().push(value.to_owned());
    }
    if user == User::default() {
        return Ok(None);
    }
    if user.name.is_empty() {
        let mut asked = Vec::new();
        if !user.groups.is_empty() {
            asked.push(format!("groups {:?}", user.groups));
        }
        if !user.uid.is_empty() {
            asked.push(format!("uid {:?}", user.uid));
        }
        if !user.extra.is_empty() {
            asked.push(format!("extra {:?}", user.extra));
        }
        let message = format!("requested {} without impersonating a user name", asked.join(", "));
        return Err(ApiError::bad_request(message));
    }
    Ok(Some(user))
}

/// What the requester must be allowed to `impersonate`.
fn parts(requested: &User) -> Vec<Attributes<'_>> {
    let impersonate =
        Attributes { verb: "impersonate", version: "v1", resource_request: true, ..Attributes::default() };
    let mut parts = vec![match token::split_service_account(&requested.name) {
        Some((namespace, name)) => Attributes { resource: "serviceaccounts", namespace, name, ..impersonate },
        None => Attributes { resource: "users", name: &requested.name, ..impersonate },
    }];
    for group in &requested.groups {
        parts.push(Attributes { resource: "groups", name: group, ..impersonate });
    }
    for (key, values) in &requested.extra {
        for value in values {
            parts.push(Attributes {
                group: AUTHENTICATION,
                resource: "userextras",
                subresource: key,
                name: value,
                ..impersonate
            });
        }
    }
    if !requested.uid.is_empty() {
        parts.push(Attributes { group: AUTHENTICATION, resource: "uids", name: &requested.uid, ..impersonate });
    }
    parts
}

/// Adds the groups that follow from the name.
fn completed(mut user: User) -> User {
    if user.groups.is_empty()
        && let Some((namespace, _)) = token::split_service_account(&user.name)
    {
        user.groups = token::service_account_groups(namespace);
    }
    let implied = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(implied.to_owned());
    }
    user
}

/// Header names cannot hold every character of a key, so clients percent-encode it.
pub fn unescaped(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| key.get(at + 1..at + 3)).flatten();
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().expect("a header name");
            map.append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        map
    }

    #[test]
    fn each_part_is_asked_for() {
        let requested = requested(&headers(&[
            ("Impersonate-User", "system:serviceaccount:ns:sa"),
            ("Impersonate-Group", "a"),
            ("Impersonate-Group", "b"),
            ("Impersonate-Uid", "u1"),
            ("Impersonate-Extra-acme.com%2Fproject", "x"),
        ]))
        .expect("well formed")
        .expect("someone");
        let asked: Vec<String> = parts(&requested)
            .iter()
            .map(|part| [part.group, part.resource, part.subresource, part.namespace, part.name].join("|"))
            .collect();
        assert_eq!(
            asked,
            [
                "|serviceaccounts||ns|sa",
                "|groups|||a",
                "|groups|||b",
                "authentication.k8s.io|userextras|acme.com/project||x",
                "authentication.k8s.io|uids|||u1",
            ]
        );
    }

    #[test]
    fn a_part_without_a_user_is_refused() {
        for header in ["Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-a"] {
            let refusal = requested(&headers(&[(header, "x")])).expect_err(header);
            assert_eq!(refusal.code(), 400);
            assert!(refusal.message().contains("without impersonating a user"), "{}", refusal.message());
        }
        assert_eq!(requested(&headers(&[("accept", "x")])).expect("well formed"), None);
    }

    #[test]
    fn implied_groups() {
        for (name, groups, expected) in [
            ("bob", vec![], vec!["system:authenticated"]),
            ("bob", vec!["g"], vec!["g", "system:authenticated"]),
            ("system:anonymous", vec![], vec!["system:unauthenticated"]),
            (
                "system:serviceaccount:ns:sa",
                vec![],
                vec!["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
            ),
        ] {
            assert_eq!(completed(User::new(name, &groups)).groups, expected, "{name}");
        }
    }
}
