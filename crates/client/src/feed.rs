//! Asks the server what a list-watch wants to know next: pages by calls, changes from
//! one open answer, split into lines.

use api_types::{Resource, k8s::meta::ObjectMeta};
use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{RawList, query},
    cache::{Cached, watch_seconds},
    error::{Error, refusal},
    http::{Call, Client},
    watch::{Outcome, PAGE_OBJECTS, PageAt, State},
};

/// A watch line longer than this breaks the watch: no object is that large.
const LINE_MAX_BYTES: usize = 64 << 20;

/// Which objects, in which form.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub resource: Resource,
    pub namespace: String,
    pub fields: String,
    pub labels: String,
    pub accept: &'static str,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            resource: api_types::resources::POD,
            namespace: String::new(),
            fields: String::new(),
            labels: String::new(),
            accept: crate::http::JSON,
        }
    }
}

pub(crate) struct Feed {
    client: Client,
    question: Question,
    open: Option<Lines>,
}

impl Feed {
    pub(crate) fn new(client: Client, question: Question) -> Self {
        Self { client, question, open: None }
    }

    pub(crate) fn resource(&self) -> String {
        self.question.resource.group_resource()
    }

    /// Asks for what `state` wants to know.
    pub(crate) async fn ask<K: Cached>(&mut self, state: &State) -> Result<Outcome<K>, Error> {
        match state {
            State::List { page, .. } => {
                self.open = None;
                self.page(page).await
            }
            State::Watch { resource_version, .. } => {
                let next = self.line(resource_version).await;
                if !matches!(next, Ok(Some(_))) {
                    self.open = None;
                }
                match next? {
                    Some(line) => read_line(&line),
                    None => Ok(Outcome::Ended),
                }
            }
        }
    }

    async fn page<K: Cached>(&self, page: &PageAt) -> Result<Outcome<K>, Error> {
        let limit = PAGE_OBJECTS.to_string();
        let (limit, token) = match page {
            PageAt::Start => (limit.as_str(), ""),
            PageAt::After(token) => (limit.as_str(), token.as_str()),
            PageAt::Whole => ("", ""),
        };
        let path = self.path(&[("limit", limit), ("continue", token)]);
        let call = Call {
            method: Method::GET,
            path: &path,
            content_type: crate::http::JSON,
            accept: self.question.accept,
            body: Bytes::new(),
        };
        let body = self.client.call(call).await?;
        let list = RawList::read(&body, &path)?;
        Ok(Outcome::Page {
            items: list.items().iter().filter_map(|item| decode(item)).collect(),
            resource_version: list.metadata.resource_version.unwrap_or_default(),
            continue_token: list.metadata.continue_.unwrap_or_default(),
        })
    }

    /// The next line of the watch; opens one first where there is none.
    async fn line(&mut self, resource_version: &str) -> Result<Option<Bytes>, Error> {
        if self.open.is_none() {
            let seconds = watch_seconds(rand::random()).to_string();
            let path = self.path(&[
                ("watch", "true"),
                ("allowWatchBookmarks", "true"),
                ("timeoutSeconds", &seconds),
                ("resourceVersion", resource_version),
            ]);
            self.open = Some(Lines::new(self.client.stream(&path, self.question.accept).await?));
        }
        let lines = self.open.as_mut().expect("opened above");
        lines.next().await
    }

    fn path(&self, more: &[(&str, &str)]) -> String {
        let question = &self.question;
        let mut pairs = vec![("fieldSelector", question.fields.as_str()), ("labelSelector", question.labels.as_str())];
        pairs.extend_from_slice(more);
        format!("{}{}", question.resource.path(&question.namespace), query(&pairs))
    }
}

/// An object that cannot be read is skipped, so that it does not hide all others.
fn decode<K: Cached>(raw: &RawValue) -> Option<K> {
    match serde_json::from_str(raw.get()) {
        Ok(object) => Some(object),
        Err(error) => {
            let meta = serde_json::from_str::<Named>(raw.get()).unwrap_or_default().metadata;
            tracing::warn!(namespace = meta.namespace, name = meta.name, %error, "skipped an object that cannot be read");
            None
        }
    }
}

#[derive(Deserialize, Default)]
struct Named {
    #[serde(default)]
    metadata: ObjectMeta,
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn read_line<K: Cached>(line: &[u8]) -> Result<Outcome<K>, Error> {
    let bad = |error: serde_json::Error| Error::Decode { what: "a watch".to_owned(), why: error.to_string() };
    let Line { r#type, object: raw } = serde_json::from_slice(line).map_err(bad)?;
    match r#type {
        "ADDED" | "MODIFIED" | "DELETED" => {
            let Some(object) = decode::<K>(raw) else {
                let named: Named = serde_json::from_str(raw.get()).map_err(bad)?;
                return Ok(Outcome::Bookmark { resource_version: named.metadata.resource_version.unwrap_or_default() });
            };
            let resource_version = object.version().to_owned();
            Ok(match r#type {
                "DELETED" => Outcome::Removed { object, resource_version },
                _ => Outcome::Changed { object, resource_version },
            })
        }
        "BOOKMARK" => {
            let named: Named = serde_json::from_str(raw.get()).map_err(bad)?;
            Ok(Outcome::Bookmark { resource_version: named.metadata.resource_version.unwrap_or_default() })
        }
        "ERROR" => Err(Error::Api(refusal(http::StatusCode::INTERNAL_SERVER_ERROR, raw.get().as_bytes()))),
        other => Err(Error::Decode { what: "a watch".to_owned(), why: format!("unknown event type {other:?}") }),
    }
}

/// An answer's body, line by line.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Bytes at the start of the buffer that hold no line end.
    searched: usize,
}

impl Lines {
    fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// `None` when the answer ended. An unfinished last line is dropped: its event comes again.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(line) = split_line(&mut self.buffer, &mut self.searched) {
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(Error::Decode { what: "a watch".to_owned(), why: "a line is too long".to_owned() });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(Error::transport("a watch broke", error)),
                None => return Ok(None),
            }
        }
    }
}

/// Takes the first whole line, without its end.
fn split_line(buffer: &mut BytesMut, searched: &mut usize) -> Option<Bytes> {
    match buffer[*searched..].iter().position(|byte| *byte == b'\n') {
        Some(at) => {
            let line = buffer.split_to(*searched + at).freeze();
            buffer.advance(1);
            *searched = 0;
            Some(line)
        }
        None => {
            *searched = buffer.len();
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::{Object, k8s::core::ConfigMap};

    use super::*;

    fn check(line: &str, expected: &str) {
        let shown = match read_line::<ConfigMap>(line.as_bytes()) {
            Ok(Outcome::Changed { object, resource_version }) => format!("+{} {resource_version}", object.name()),
            Ok(Outcome::Removed { object, resource_version }) => format!("-{} {resource_version}", object.name()),
            Ok(Outcome::Bookmark { resource_version }) => format!("at {resource_version}"),
            Ok(other) => panic!("{other:?}"),
            Err(error) => format!("{} {error}", error.is_expired()),
        };
        assert_eq!(shown, expected, "{line}");
    }

    #[test]
    fn lines() {
        check(r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"3"}}}"#, "+a 3");
        check(r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"4"}}}"#, "+a 4");
        check(r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"5"}}}"#, "-a 5");
        check(r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","metadata":{"resourceVersion":"9"}}}"#, "at 9");
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old"}}"#;
        check(gone, "true too old");
    }

    #[test]
    fn an_object_that_cannot_be_read_still_moves_the_revision() {
        check(r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"3"},"data":7}}"#, "at 3");
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let (mut buffer, mut searched) = (BytesMut::from("ab"), 0);
        assert_eq!(split_line(&mut buffer, &mut searched), None);
        buffer.extend_from_slice(b"c\n\nd");
        assert_eq!(split_line(&mut buffer, &mut searched).unwrap(), "abc");
        assert_eq!(split_line(&mut buffer, &mut searched).unwrap(), "");
        assert_eq!(split_line(&mut buffer, &mut searched), None);
        assert_eq!(&buffer[..], b"d");
    }
}
