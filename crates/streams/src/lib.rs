//! Streams over an upgraded connection, as exec, attach and port-forward use them: SPDY/3.1,
//! both sides, and WebSocket channels. The kubelet serves them, the apiserver translates.

pub mod spdy;
pub mod websocket;

use http::HeaderMap;

/// Comma-separated names in all headers of a name.
pub fn names<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}
