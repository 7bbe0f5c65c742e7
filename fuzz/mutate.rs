//! A small fuzzer that any toolchain can run: the kept corpus, changed at random, within a bound.
//!
//! It knows nothing of coverage, which is what `cargo fuzz` is for; it repeats exactly, so that what
//! it finds is found again. The changes are those that find most: bits, bytes of meaning, pieces
//! doubled, dropped and moved, two inputs crossed, words of the format thrown in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longer inputs say nothing new and cost time.
const MAX_INPUT: usize = 16 * 1024;

/// Runs `property` on changed inputs: `rounds` of them, or fewer where `time` is over before. Gives
/// how many it were.
///
/// # Panics
///
/// With the input, if the property does not hold for it.
pub(crate) fn search(
    corpus: &[Vec<u8>],
    words: &[&str],
    rounds: u32,
    time: Duration,
    property: impl Fn(&[u8]),
) -> u32 {
    let started = Instant::now();
    let mut random = Random(0x5EED);
    for round in 0..rounds {
        if started.elapsed() > time {
            return round;
        }
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(6) {
            change(&mut input, corpus, words, &mut random);
        }
        input.truncate(MAX_INPUT);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(&input))) {
            eprintln!("round {round}, for the corpus: {}", input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
    rounds
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let to = (at + random.below(40)).min(input.len());
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => {
            const TELLING: [u8; 16] = *b"\0\xff\x80\n\r\t \\\"'$#{}<-";
            input[at] = TELLING[random.below(TELLING.len())];
        }
        2 => drop(input.drain(at..to)),
        3 => {
            let piece = input[at..to].to_vec();
            input.splice(at..at, piece);
        }
        4 => {
            let piece: Vec<u8> = input.drain(at..to).collect();
            let place = random.below(input.len() + 1);
            input.splice(place..place, piece);
        }
        5 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let until = (from + random.below(200)).min(other.len());
            input.splice(at..to, other[from..until].iter().copied());
        }
        6 if !words.is_empty() => {
            let word = words[random.below(words.len())];
            input.splice(at..at, word.bytes());
        }
        _ => input.truncate(at),
    }
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>, in the public domain.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    /// A number below `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}
