//! SPDY/3.1 frames: bytes to frames and back. Pure; nothing is read beyond a frame that
//! is too long.
//!
//! Source: the public draft, sections 2.2 and 2.6.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u16 = 3;
const HEADER_BYTES: usize = 8;
/// Flag of a last frame.
const FIN: u8 = 1;
/// Longer data frames are refused; clients send at most some tens of kilobytes.
const DATA_MAX_BYTES: usize = 1 << 20;
/// Longer control frames are refused: they carry a few headers.
const CONTROL_MAX_BYTES: usize = 64 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Header blocks are still compressed.
    SynStream {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    RstStream {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Headers {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// Settings, window updates and types that a later version may bring: not for us.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not a SPDY/3.1 frame")]
    Malformed,
    #[error("a frame or header block is too long")]
    TooLong,
    #[error("a header block cannot be read")]
    Headers,
}

/// Why a stream is reset.
pub const PROTOCOL_ERROR: u32 = 1;
pub const REFUSED_STREAM: u32 = 3;

impl Frame {
    /// Takes the first whole frame; `None` until there is one.
    pub fn take(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let (flags, length) = (header[4], u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize);
        let control = first & (1 << 31) != 0;
        if length > if control { CONTROL_MAX_BYTES } else { DATA_MAX_BYTES } {
            return Err(FrameError::TooLong);
        }
        if control && (first >> 16) as u16 & 0x7fff != VERSION {
            return Err(FrameError::Malformed);
        }
        if buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        buffer.advance(HEADER_BYTES);
        let body = buffer.split_to(length).freeze();
        let fin = flags & FIN != 0;
        if control {
            return read_control(first as u16, fin, body).ok_or(FrameError::Malformed).map(Some);
        }
        Ok(Some(Frame::Data { id: first, fin, data: body }))
    }

    pub fn put(&self, to: &mut BytesMut) {
        match self {
            Frame::SynStream { id, fin, block } => {
                control(to, SYN_STREAM, *fin, 10 + block.len());
                to.put_u32(*id);
                to.put_u32(0); // associated with no stream
                to.put_u16(0); // priority, slot
                to.put_slice(block);
            }
            Frame::SynReply { id, fin, block } => {
                control(to, SYN_REPLY, *fin, 4 + block.len());
                to.put_u32(*id);
                to.put_slice(block);
            }
            Frame::Headers { id, fin, block } => {
                control(to, HEADERS, *fin, 4 + block.len());
                to.put_u32(*id);
                to.put_slice(block);
            }
            Frame::RstStream { id, status } => {
                control(to, RST_STREAM, false, 8);
                to.put_u32(*id);
                to.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(to, PING, false, 4);
                to.put_u32(*id);
            }
            Frame::GoAway => {
                control(to, GOAWAY, false, 8);
                to.put_u64(0); // last stream, status
            }
            Frame::Data { id, fin, data } => {
                to.put_u32(*id & 0x7fff_ffff);
                to.put_u32(u32::from(u8::from(*fin)) << 24 | length_24(data.len()));
                to.put_slice(data);
            }
            Frame::Other => {}
        }
    }
}

/// `None` where the body is too short for its type.
fn read_control(kind: u16, fin: bool, mut body: Bytes) -> Option<Frame> {
    let id = |body: &mut Bytes| Some(body.try_get_u32().ok()? & 0x7fff_ffff);
    Some(match kind {
        SYN_STREAM => {
            let id = id(&mut body)?;
            if body.len() < 6 {
                return None;
            }
            body.advance(6);
            Frame::SynStream { id, fin, block: body }
        }
        SYN_REPLY => Frame::SynReply { id: id(&mut body)?, fin, block: body },
        HEADERS => Frame::Headers { id: id(&mut body)?, fin, block: body },
        RST_STREAM => Frame::RstStream { id: id(&mut body)?, status: body.try_get_u32().ok()? },
        PING => Frame::Ping { id: body.try_get_u32().ok()? },
        GOAWAY => Frame::GoAway,
        // Also SETTINGS and WINDOW_UPDATE: nobody who speaks to a kubelet uses flow control.
        SETTINGS | WINDOW_UPDATE => Frame::Other,
        _ => Frame::Other,
    })
}

fn control(to: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    to.put_u16(1 << 15 | VERSION);
    to.put_u16(kind);
    to.put_u32(u32::from(u8::from(fin)) << 24 | length_24(length));
}

fn length_24(length: usize) -> u32 {
    debug_assert!(length < 1 << 24, "writers send small frames");
    u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let block = Bytes::from_static(b"block");
        vec![
            Frame::SynStream { id: 1, fin: false, block: block.clone() },
            Frame::SynReply { id: 1, fin: true, block: block.clone() },
            Frame::Headers { id: 3, fin: false, block },
            Frame::RstStream { id: 5, status: PROTOCOL_ERROR },
            Frame::Ping { id: 7 },
            Frame::Data { id: 1, fin: true, data: Bytes::from_static(b"hello") },
            Frame::Data { id: 0x7fff_ffff, fin: false, data: Bytes::new() },
            Frame::GoAway,
        ]
    }

    fn wire() -> BytesMut {
        let mut wire = BytesMut::new();
        frames().iter().for_each(|frame| frame.put(&mut wire));
        wire
    }

    #[test]
    fn frames_are_read_as_they_were_written_in_any_pieces() {
        for size in [1, 3, 7, 1000] {
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in wire().chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames());
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_frame_on_the_wire() {
        let mut wire = BytesMut::new();
        Frame::Ping { id: 1 }.put(&mut wire);
        assert_eq!(&wire[..], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        let mut wire = BytesMut::new();
        Frame::Data { id: 5, fin: true, data: Bytes::from_static(b"x") }.put(&mut wire);
        assert_eq!(&wire[..], [0, 0, 0, 5, 1, 0, 0, 1, b'x']);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let check = |header: [u8; 8], expected: FrameError| {
            assert_eq!(Frame::take(&mut BytesMut::from(&header[..])), Err(expected), "{header:x?}");
        };
        check([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], FrameError::TooLong);
        check([0, 0, 0, 1, 0, 0xff, 0xff, 0xff], FrameError::TooLong);
        check([0x80, 2, 0, 6, 0, 0, 0, 4], FrameError::Malformed);
        check(*b"GET / HT", FrameError::TooLong);
    }

    /// Random bytes and damaged frames: errors or frames, never a panic, and nothing kept beyond the input.
    #[test]
    fn damaged_frames_do_no_harm() {
        let mut seed = 1_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        for _ in 0..20_000 {
            let mut buffer = wire();
            for _ in 0..=next() % 4 {
                let at = next() % buffer.len();
                buffer[at] = next() as u8;
            }
            buffer.truncate(next() % (buffer.len() + 1));
            let before = buffer.len();
            while let Ok(Some(_)) = Frame::take(&mut buffer) {}
            assert!(buffer.len() <= before);
        }
    }
}
