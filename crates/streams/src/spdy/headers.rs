//! SPDY/3.1 header blocks: names and values with lengths, compressed by one zlib stream
//! per connection and direction that starts from a fixed dictionary.
//!
//! Source: the public draft, sections 2.6.10 and 2.6.10.1.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::FrameError;

/// A block may not grow larger than this when it is decompressed.
const BLOCK_MAX_BYTES: usize = 64 * 1024;
const PAIRS_MAX: usize = 256;
const CHUNK_BYTES: usize = 4096;

/// Pairs in the order in which they were sent; names are lower case.
pub type Headers = Vec<(String, String)>;

/// The words of the dictionary that stand with their length before them.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// And those that stand without.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        put_text(&mut bytes, &word);
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

/// Reads blocks, in the order in which they arrive: each depends on those before.
pub struct Reader {
    zlib: Decompress,
}

impl Default for Reader {
    fn default() -> Self {
        Self { zlib: Decompress::new(true) }
    }
}

impl Reader {
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let (consumed, produced) = (self.zlib.total_in(), self.zlib.total_out());
            let outcome = self.zlib.decompress(block, &mut chunk, FlushDecompress::Sync);
            let advanced = (self.zlib.total_in() - consumed) as usize;
            block = block.get(advanced..).unwrap_or_default();
            let written = (self.zlib.total_out() - produced) as usize;
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Headers)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Headers),
                Ok(Status::Ok | Status::BufError | Status::StreamEnd) => {}
            }
            if plain.len() + written > BLOCK_MAX_BYTES {
                return Err(FrameError::TooLong);
            }
            plain.extend_from_slice(&chunk[..written]);
            // A full chunk may hide more output behind it.
            if written < CHUNK_BYTES && (block.is_empty() || advanced == 0) {
                return Ok(plain);
            }
        }
    }
}

/// Writes blocks, in the order in which they are sent.
pub struct Writer {
    zlib: Compress,
    fresh: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self { zlib: Compress::new(Compression::fast(), true), fresh: true }
    }
}

impl Writer {
    pub fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        if std::mem::take(&mut self.fresh) {
            self.zlib.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Headers)?;
        }
        let mut plain = Vec::new();
        put_length(&mut plain, headers.len());
        for (name, value) in headers {
            put_text(&mut plain, name);
            put_text(&mut plain, value);
        }
        let (mut block, mut done) = (Vec::new(), 0);
        loop {
            block.reserve(CHUNK_BYTES);
            let consumed = self.zlib.total_in();
            self.zlib.compress_vec(&plain[done..], &mut block, FlushCompress::Sync).map_err(|_| FrameError::Headers)?;
            done += (self.zlib.total_in() - consumed) as usize;
            // Room left over means that all is flushed.
            if done == plain.len() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

/// The value of a header.
pub fn find<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    put_length(to, text.len());
    to.extend_from_slice(text.as_bytes());
}

fn put_length(to: &mut Vec<u8>, length: usize) {
    to.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

fn parse(mut plain: &[u8]) -> Result<Headers, FrameError> {
    let count = take_length(&mut plain)?;
    if count > PAIRS_MAX {
        return Err(FrameError::TooLong);
    }
    let pair = |plain: &mut &[u8]| Ok((take_text(plain)?.to_ascii_lowercase(), take_text(plain)?));
    (0..count).map(|_| pair(&mut plain)).collect()
}

fn take_text(plain: &mut &[u8]) -> Result<String, FrameError> {
    let length = take_length(plain)?;
    let (text, rest) = plain.split_at_checked(length).ok_or(FrameError::Headers)?;
    *plain = rest;
    String::from_utf8(text.to_vec()).map_err(|_| FrameError::Headers)
}

fn take_length(plain: &mut &[u8]) -> Result<usize, FrameError> {
    let (length, rest) = plain.split_first_chunk::<4>().ok_or(FrameError::Headers)?;
    *plain = rest;
    Ok(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The length that the draft gives, and the identifier that every SPDY/3 stream begins with.
    #[test]
    fn the_dictionary_is_the_drafts() {
        assert_eq!(DICTIONARY.len(), 1423);
        let block = Writer::default().write(&Headers::new()).unwrap();
        assert_eq!(block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        let long = "x".repeat(20_000);
        for pairs in [
            headers(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]),
            headers(&[]),
            headers(&[("streamtype", "data"), ("port", "8080"), ("requestid", &long)]),
        ] {
            let block = writer.write(&pairs).unwrap();
            assert_eq!(reader.read(&block).unwrap(), pairs);
        }
    }

    #[test]
    fn names_are_compared_in_lower_case() {
        let block = Writer::default().write(&headers(&[("StreamType", "Error")])).unwrap();
        assert_eq!(find(&Reader::default().read(&block).unwrap(), "streamtype"), Some("Error"));
    }

    #[test]
    fn a_small_block_cannot_become_large() {
        let bomb = headers(&[("a", &"x".repeat(BLOCK_MAX_BYTES))]);
        let block = Writer::default().write(&bomb).unwrap();
        assert!(block.len() < 1000);
        assert!(matches!(Reader::default().read(&block), Err(FrameError::TooLong)));
    }

    /// Every truncation and many corruptions of a block: an error or headers, never a panic.
    #[test]
    fn damaged_blocks_do_no_harm() {
        let block = Writer::default().write(&headers(&[("streamtype", "error"), ("port", "8080")])).unwrap();
        for end in 0..block.len() {
            let _ = Reader::default().read(&block[..end]);
        }
        for at in 0..block.len() {
            for bit in 0..8 {
                let mut damaged = block.clone();
                damaged[at] ^= 1 << bit;
                let _ = Reader::default().read(&damaged);
            }
        }
        assert!(parse(&[0xff; 64]).is_err());
    }
}
