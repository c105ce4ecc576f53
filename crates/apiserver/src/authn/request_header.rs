//! Identities that a trusted proxy has established and hands on in headers. The proxy shows a
//! certificate of its own authority; from anybody else these headers mean nothing.
//!
//! Source: apiserver/pkg/authentication/request/headerrequest.

use http::{HeaderMap, HeaderName};

use super::{User, impersonation::unescaped};

/// Which headers say what, and who may send them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The first that is there counts.
    pub users: Vec<HeaderName>,
    pub uids: Vec<HeaderName>,
    pub groups: Vec<HeaderName>,
    /// What follows the prefix is the key.
    pub extra_prefixes: Vec<String>,
    /// Common names of proxies; empty: every certificate of the authority.
    pub allowed: Vec<String>,
}

impl Names {
    pub fn admits(&self, proxy: &str) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|name| name == proxy)
    }

    /// The user in the headers; `None` if no name stands there.
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let texts = |names: &[HeaderName]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name));
            values.filter_map(|value| value.to_str().ok()).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        };
        let first = |names: &[HeaderName]| texts(names).into_iter().next();
        let mut user = User {
            name: first(&self.users)?,
            uid: first(&self.uids).unwrap_or_default(),
            groups: texts(&self.groups),
            ..User::default()
        };
        for prefix in &self.extra_prefixes {
            for (name, value) in headers {
                let (Some(key), Ok(value)) = (name.as_str().strip_prefix(prefix.as_str()), value.to_str()) else {
                    continue;
                };
                user.extra.entry(unescaped(key)).or_default().push(value.to_owned());
            }
        }
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            users: vec![HeaderName::from_static("x-remote-user"), HeaderName::from_static("x-other-user")],
            uids: vec![HeaderName::from_static("x-remote-uid")],
            groups: vec![HeaderName::from_static("x-remote-group")],
            extra_prefixes: vec!["x-remote-extra-".to_owned()],
            allowed: Vec::new(),
        }
    }

    fn user(lines: &[(&'static str, &'static str)]) -> Option<User> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        names().user(&headers)
    }

    #[test]
    fn every_part_is_read() {
        let found = user(&[
            ("x-remote-user", ""),
            ("x-other-user", "bob"),
            ("x-remote-uid", "u"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.com%2fproject", "x"),
        ])
        .expect("a user");
        assert_eq!((found.name.as_str(), found.uid.as_str()), ("bob", "u"));
        assert_eq!(found.groups, ["a", "b"]);
        assert_eq!(found.extra["acme.com/project"], ["x"]);
        assert_eq!(user(&[("x-remote-group", "system:masters")]), None, "a group alone is nobody");
    }

    #[test]
    fn proxies_are_known_by_name() {
        let some = Names { allowed: vec!["front".to_owned()], ..names() };
        assert!(names().admits("anybody") && some.admits("front") && !some.admits("back"));
    }
}
