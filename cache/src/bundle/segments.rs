//! A tar cut into pieces, so that a change in it changes few of them.
//!
//! Where a piece ends depends on what stands there and not on how much came before: after an entry
//! whose name says so, the likelier the larger the entry is. So a file that changes, comes or goes
//! changes the piece that it is in, and the next one perhaps. Large files have pieces of their own.
//! All pieces one after the other are the tar, whatever it is: nothing here must understand it to be
//! right, only to be good at it.

use std::io::{self, Read};

/// A tar is made of blocks.
const BLOCK: usize = 512;
/// Bytes of a piece on average: the price of a change, against the number of blobs.
const AVERAGE: u64 = 2 << 20;
/// Pieces until they become twice as large: a manifest that names ten thousands is taken nowhere.
const DOUBLES_AFTER: usize = 1024;
/// The largest average.
const LARGEST_AVERAGE: u64 = 16 << 20;
/// Bytes of a piece at the most; it is in memory.
const LARGEST: usize = 16 << 20;

/// Cuts what it reads.
pub(super) struct Segments<R> {
    input: R,
    /// A header that the next piece begins with.
    pending: Option<[u8; BLOCK]>,
    /// Bytes of the entry that is being read, padding included.
    left: u64,
    /// The piece ends with this entry.
    ends_after: bool,
    /// What was read last belongs to the entry after it.
    is_prefix: bool,
    /// Pieces until now.
    count: usize,
}

impl<R: Read> Segments<R> {
    pub(super) fn new(input: R) -> Segments<R> {
        let (left, ends_after, is_prefix) = (0, false, false);
        Segments { input, pending: None, left, ends_after, is_prefix, count: 0 }
    }

    /// Puts the next piece into `segment`; `false` after the last one.
    pub(super) fn next(&mut self, segment: &mut Vec<u8>) -> io::Result<bool> {
        segment.clear();
        while self.step(segment)? {}
        self.count += 1;
        Ok(!segment.is_empty())
    }

    /// Reads a little more; `false` where the piece ends.
    fn step(&mut self, segment: &mut Vec<u8>) -> io::Result<bool> {
        if self.left > 0 {
            let wanted = self.left.min((LARGEST - segment.len()) as u64);
            if wanted == 0 {
                return Ok(false);
            }
            let read = self.input.by_ref().take(wanted).read_to_end(segment)? as u64;
            self.left -= read;
            if read < wanted {
                self.left = 0;
                return Ok(false);
            }
            return Ok(self.left > 0 || !std::mem::take(&mut self.ends_after));
        }
        let header = match self.pending.take() {
            Some(header) => header,
            None => match self.header(segment)? {
                Some(header) => header,
                None => return Ok(false),
            },
        };
        let average = average(self.count);
        let content = size(&header).next_multiple_of(BLOCK as u64);
        let begins = !std::mem::replace(&mut self.is_prefix, matches!(header[156], b'x' | b'g'));
        let is_large = content >= average && begins;
        if !segment.is_empty() && (is_large || segment.len() + BLOCK > LARGEST) {
            self.pending = Some(header);
            self.is_prefix = !begins;
            return Ok(false);
        }
        segment.extend_from_slice(&header);
        self.left = content;
        let ends = !self.is_prefix && is_end(&header, content, average);
        self.ends_after = ends && content > 0;
        Ok(!ends || content > 0)
    }

    /// The next block; what is left at the end is no whole one, and goes into the piece as it is.
    fn header(&mut self, segment: &mut Vec<u8>) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = Vec::with_capacity(BLOCK);
        self.input.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        match <[u8; BLOCK]>::try_from(block) {
            Ok(header) => Ok(Some(header)),
            Err(rest) => {
                segment.extend_from_slice(&rest);
                Ok(None)
            }
        }
    }
}

fn average(count: usize) -> u64 {
    let doubled = u32::try_from(count / DOUBLES_AFTER).unwrap_or(u32::MAX).min(8);
    (AVERAGE << doubled).min(LARGEST_AVERAGE)
}

/// Whether a piece ends after an entry: one of `content` bytes is the last of every
/// `average`-th part that has its size.
fn is_end(header: &[u8; BLOCK], content: u64, average: u64) -> bool {
    if header[0] == 0 {
        return false;
    }
    let mut name = blake3::Hasher::new();
    name.update(&header[..100]).update(&header[345..500]);
    let hash = name.finalize();
    let hash = hash.as_bytes()[..8].iter().fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    hash % average < content + BLOCK as u64
}

/// What the header says about the size; 0 if that is no number.
fn size(header: &[u8; BLOCK]) -> u64 {
    let digits = header[124..136].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |size, digit| (size << 3).saturating_add(u64::from(digit & 7)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A tar of files of these names and sizes; their content is made of both.
    fn archive(files: &[(String, usize)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, size) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(*size as u64);
            header.set_mode(0o644);
            let byte = (name.len() + size) as u8;
            tar.append_data(&mut header, name, vec![byte; *size].as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut segments = Segments::new(bytes);
        let mut all = Vec::new();
        let mut segment = Vec::new();
        while segments.next(&mut segment).unwrap() {
            assert!(segment.len() <= LARGEST);
            all.push(segment.clone());
        }
        assert!(all.concat() == bytes, "the pieces are not the whole");
        all
    }

    /// Pieces of the second that the first does not have.
    fn changed(first: &[(String, usize)], second: &[(String, usize)]) -> (usize, usize) {
        let first: HashSet<Vec<u8>> = cut(&archive(first)).into_iter().collect();
        let second = cut(&archive(second));
        (second.iter().filter(|piece| !first.contains(*piece)).count(), second.len())
    }

    #[test]
    fn a_changed_file_changes_one_piece_or_two() {
        let files: Vec<_> = (0..20_000).map(|n| (format!("dir/file-{n}"), 700 + n % 900)).collect();
        let (_, count) = changed(&[], &files);
        assert!((7..40).contains(&count), "{count} pieces");
        for place in [0, 7_000, 19_999] {
            let mut other = files.clone();
            other[place].1 += 3_000;
            assert!((1..=2).contains(&changed(&files, &other).0), "a file changes");
            other.remove(place);
            assert!((0..=2).contains(&changed(&files, &other).0), "a file goes");
            other.insert(place, ("dir/another".to_owned(), 5));
            assert!((1..=2).contains(&changed(&files, &other).0), "another comes");
        }
    }

    #[test]
    fn large_files_have_pieces_of_their_own() {
        let small = |n: usize| (format!("small-{n}"), 10);
        let large = ("large".to_owned(), 40 << 20);
        let first = vec![small(0), small(1), large.clone(), small(2)];
        let pieces = cut(&archive(&first));
        assert_eq!(pieces.len(), 5, "before, three for the large one, after");
        let second = vec![small(0), small(3), small(4), large, small(2)];
        assert_eq!(changed(&first, &second).0, 1);
    }

    #[test]
    fn whatever_is_no_tar_is_whole_again() {
        for bytes in [&b""[..], b"x", &[7; 513], &[b'7'; 1024], &[0; 4096]] {
            cut(bytes);
        }
    }
}
