//! What can come of asking the apiserver.

use std::time::Duration;

use api_types::{ApiError, k8s::meta::Status};
use http::StatusCode;

use crate::config::ConfigError;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused; holds its Status.
    #[error(transparent)]
    Api(ApiError),
    /// No answer came; whether the request was carried out is not known.
    #[error("{what}")]
    Transport {
        what: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// An answer came that is not what was asked for.
    #[error("the answer to {what} cannot be read: {why}")]
    Decode { what: String, why: String },
    /// Certificate or token files have gone bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Error {
    pub(crate) fn transport(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error::Transport { what: what.into(), source: Some(source.into()) }
    }
    pub(crate) fn timed_out(what: &str, after: Duration) -> Self {
        Error::Transport { what: format!("{what}: no answer within {} s", after.as_secs()), source: None }
    }

    /// The server's refusal, if it was one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Error::Api(refusal) => Some(refusal),
            Error::Transport { .. } | Error::Decode { .. } | Error::Config(_) => None,
        }
    }
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(ApiError::is_not_found)
    }
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(ApiError::is_already_exists)
    }
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(ApiError::is_conflict)
    }
    /// The revision asked for is no longer kept: list again.
    pub fn is_expired(&self) -> bool {
        self.api().is_some_and(ApiError::is_expired)
    }
    pub fn is_forbidden(&self) -> bool {
        self.api().is_some_and(|refusal| refusal.code() == 403)
    }
    /// The object itself is wrong; the same request will never succeed.
    pub fn is_invalid(&self) -> bool {
        self.api().is_some_and(|refusal| matches!(refusal.code(), 400 | 422))
    }
    pub fn is_too_many_requests(&self) -> bool {
        self.api().is_some_and(|refusal| refusal.code() == 429)
    }
    /// The namespace is being deleted, so nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self.api().and_then(|refusal| refusal.0.details.as_ref()?.causes.as_ref());
        causes.is_some_and(|all| all.iter().any(|one| one.reason.as_deref() == Some("NamespaceTerminating")))
    }
}

/// Reads a refusal. A body that is no Status (a proxy's page) becomes its message.
pub(crate) fn refusal(code: StatusCode, body: &[u8]) -> ApiError {
    match serde_json::from_slice::<Status>(body) {
        Ok(mut status) if status.status.as_deref() == Some("Failure") => {
            status.code.get_or_insert(i32::from(code.as_u16()));
            ApiError(Box::new(status))
        }
        _ => {
            const MESSAGE_MAX_CHARS: usize = 512;
            let text: String = String::from_utf8_lossy(body).trim().chars().take(MESSAGE_MAX_CHARS).collect();
            let text = if text.is_empty() { code.to_string() } else { text };
            ApiError::new(code.as_u16(), reason(code), text)
        }
    }
}

fn reason(code: StatusCode) -> &'static str {
    match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_kept_whole() {
        let body = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","code":404}"#;
        let refusal = refusal(StatusCode::NOT_FOUND, body);
        assert!(refusal.is_not_found());
        assert_eq!(refusal.message(), "pods \"x\" not found");
    }

    #[test]
    fn other_bodies_become_the_message() {
        let refusal = refusal(StatusCode::SERVICE_UNAVAILABLE, b"upstream is down\n");
        assert_eq!(
            (refusal.code(), refusal.reason(), refusal.message()),
            (503, "ServiceUnavailable", "upstream is down")
        );
    }
}
