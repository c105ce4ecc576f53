//! The fuzz targets for a bounded time: the corpus and mutations of it, the same ones in every run.
//! `COXSWAIN_FUZZ_RUNS` makes it longer; `docs/fuzzing.md` says how to run for hours.

use std::{fs, panic, path::Path};

/// Mutations of each target's corpus.
const RUNS: u32 = 3_000;
/// Inputs grow to this by mutation.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// What the process may have needed at its highest, as the kernel counts it.
const RESIDENT_KIB_MAX: u64 = 1 << 20;
/// What parsers stumble over.
const TOKENS: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"-0",
    b"1e400",
    b"9223372036854775808",
    b"%2f",
    b"%",
    b"..",
    b"//",
    b",,",
    b"$patch",
    b"&a [*a]",
    b"!!binary ",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"1Ki1e9999999",
];

/// Numbers that look random, and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n.max(1) as u64).expect("less than a usize")
    }

    /// One to four changes of one of `corpus`.
    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let end = at + self.below(input.len() - at + 1);
            match self.below(7) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 => drop(input.drain(at..end)),
                2 => drop(input.splice(at..at, TOKENS[self.below(TOKENS.len())].iter().copied())),
                3 => drop(input.splice(at..end, TOKENS[self.below(TOKENS.len())].iter().copied())),
                4 => {
                    let piece = input[at..end].repeat(1 + self.below(64));
                    drop(input.splice(at..at, piece));
                }
                5 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len() + 1);
                    drop(input.splice(at.., other[from..].iter().copied()));
                }
                _ => input.truncate(at),
            }
            input.truncate(INPUT_BYTES_MAX);
        }
        input
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a seed")).collect()
}

/// Issue 3, "Shown by": no panic, no unbounded memory, always a Status.
#[test]
fn no_bytes_do_harm() {
    let runs = std::env::var("COXSWAIN_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let mut harmed = Vec::new();
    for (target, feed) in apiserver::fuzz::TARGETS {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{target} has no corpus");
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mutations = (0..runs).map(|_| dice.mutate(&corpus));
        for input in corpus.iter().cloned().chain(mutations) {
            if panic::catch_unwind(|| feed(&input)).is_err() {
                harmed.push(format!("{target} panics at {:?}", String::from_utf8_lossy(&input)));
                break;
            }
        }
    }
    assert!(harmed.is_empty(), "{}", harmed.join("\n"));
    let status = fs::read_to_string("/proc/self/status").expect("this process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak_kib < RESIDENT_KIB_MAX, "{peak_kib} KiB were resident");
}
