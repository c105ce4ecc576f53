//! A container's log as the body of an answer.

use std::time::Duration;

use api_types::jiff::{SignedDuration, Timestamp};
use bytes::Bytes;
use daemon::serve::{self, Body, boxed};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use http::{Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::route::{LogOptions, LogStream, Since};
use crate::runtime::{LogRequest, Output, Runtime, RuntimeError};

/// A follower of a silent log waits for ever; this bounds only the first answer of the runtime.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub async fn answer(runtime: &dyn Runtime, id: &str, options: &LogOptions) -> Response<Body> {
    let request = request(options, Timestamp::now());
    let opened = tokio::time::timeout(FIRST_ANSWER_TIMEOUT, runtime.logs(id, &request)).await;
    match opened.unwrap_or(Err(RuntimeError::Timeout(FIRST_ANSWER_TIMEOUT))) {
        Ok(lines) => body(lines, options.stream, options.limit_bytes),
        Err(error) => serve::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Pure: what the runtime is asked.
fn request(options: &LogOptions, now: Timestamp) -> LogRequest {
    let since = match options.since {
        Since::Beginning => None,
        Since::Time(time) => Some(time),
        Since::SecondsAgo(seconds) => Some(now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(now)),
    };
    LogRequest { follow: options.follow, tail_lines: options.tail_lines, since, timestamps: options.timestamps }
}

fn body(
    lines: BoxStream<'static, Result<Output, RuntimeError>>,
    wanted: LogStream,
    limit_bytes: Option<u64>,
) -> Response<Body> {
    let frames = limited(lines, wanted, limit_bytes).map(|piece| piece.map(Frame::data));
    let mut response = Response::new(boxed(StreamBody::new(frames)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

fn limited(
    lines: BoxStream<'static, Result<Output, RuntimeError>>,
    wanted: LogStream,
    limit_bytes: Option<u64>,
) -> impl Stream<Item = Result<Bytes, RuntimeError>> + Send {
    let left = limit_bytes.unwrap_or(u64::MAX);
    stream::unfold((lines, left), move |(mut lines, left)| async move {
        if left == 0 {
            return None;
        }
        loop {
            let mut bytes = match lines.next().await? {
                Ok(Output::Stdout(bytes)) if wanted != LogStream::Stderr => bytes,
                Ok(Output::Stderr(bytes)) if wanted != LogStream::Stdout => bytes,
                Ok(Output::Stdout(_) | Output::Stderr(_)) => continue,
                Err(error) => return Some((Err(error), (lines, 0))),
            };
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - bytes.len() as u64;
            return Some((Ok(bytes), (lines, left)));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(wanted: LogStream, limit: Option<u64>, expected: &str) {
        let lines = ["o1\n", "e1\n", "o2\n"].map(|line| {
            let bytes = Bytes::from(line);
            Ok(if line.starts_with('o') { Output::Stdout(bytes) } else { Output::Stderr(bytes) })
        });
        let pieces: Vec<_> = limited(stream::iter(lines).boxed(), wanted, limit).collect().await;
        let text: Vec<u8> = pieces.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[tokio::test]
    async fn limits_count_bytes_and_streams_can_be_chosen() {
        check(LogStream::All, None, "o1\ne1\no2\n").await;
        check(LogStream::All, Some(4), "o1\ne").await;
        check(LogStream::Stdout, Some(6), "o1\no2\n").await;
        check(LogStream::Stderr, None, "e1\n").await;
    }

    #[test]
    fn seconds_ago_are_counted_from_now() {
        let now = Timestamp::from_second(100).unwrap();
        let options = LogOptions { since: Since::SecondsAgo(40), ..LogOptions::default() };
        assert_eq!(request(&options, now).since.unwrap().as_second(), 60);
        let ever = LogOptions { since: Since::SecondsAgo(i64::MAX), ..LogOptions::default() };
        assert!(request(&ever, now).since.is_some());
    }
}
