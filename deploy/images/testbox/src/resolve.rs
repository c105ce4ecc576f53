//! A DNS lookup of IPv4 addresses by /etc/resolv.conf: a static binary has no libc resolver.

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(2);
const TYPE_A: u16 = 1;

/// Addresses of `name`, tried with each search suffix as `ndots` asks for.
pub fn lookup(name: &str) -> io::Result<Vec<Ipv4Addr>> {
    let config = fs::read_to_string("/etc/resolv.conf")?;
    let server = words(&config, "nameserver").into_iter().next().ok_or_else(|| io::Error::other("no nameserver"))?;
    let mut last = io::Error::other("no answer");
    for candidate in candidates(name, &words(&config, "search"), ndots(&config)) {
        match query(server, &candidate) {
            Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
            Ok(_) => last = io::Error::other("no such name"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn words<'a>(config: &'a str, key: &str) -> Vec<&'a str> {
    let line = config.lines().find(|line| line.split_whitespace().next() == Some(key));
    line.map(|line| line.split_whitespace().skip(1).collect()).unwrap_or_default()
}

fn ndots(config: &str) -> usize {
    let options = words(config, "options");
    options.iter().find_map(|option| option.strip_prefix("ndots:")?.parse().ok()).unwrap_or(1)
}

fn candidates(name: &str, search: &[&str], ndots: usize) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let mut names: Vec<String> = search.iter().map(|suffix| format!("{name}.{suffix}")).collect();
    let as_is = if name.matches('.').count() >= ndots { 0 } else { names.len() };
    names.insert(as_is, name.to_owned());
    names
}

fn query(server: &str, name: &str) -> io::Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut packet = vec![0x4c, 0x58, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).map_err(io::Error::other)?);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    socket.send_to(&packet, (server, 53))?;
    let mut reply = [0_u8; 1500];
    let length = socket.recv(&mut reply)?;
    addresses(&reply[..length]).ok_or_else(|| io::Error::other("malformed answer"))
}

/// The A records of an answer; empty for NXDOMAIN.
fn addresses(reply: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let word = |at: usize| Some(u16::from_be_bytes([*reply.get(at)?, *reply.get(at + 1)?]));
    let answers = word(6)?;
    let mut at = skip_name(reply, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..answers {
        at = skip_name(reply, at)?;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = reply.get(at + 10..at + 10 + length)?;
        if kind == TYPE_A {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(reply: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *reply.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_comes_first_below_ndots() {
        assert_eq!(candidates("a.b", &["s"], 5), ["a.b.s", "a.b"]);
        assert_eq!(candidates("a.b", &["s"], 1), ["a.b", "a.b.s"]);
        assert_eq!(candidates("a.", &["s"], 5), ["a"]);
    }

    #[test]
    fn a_malformed_answer_is_no_panic() {
        for length in 0..40 {
            let _ = addresses(&vec![0xff; length]);
        }
    }
}
