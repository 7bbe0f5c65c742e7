//! Sparse files as GNU tar writes them with `--format=pax -S`: the map of what is stored stands in
//! the records (versions 0.0 and 0.1) or before the data (1.0). The tar crate reads the older format
//! alone, which has a type of entry of its own.
//!
//! <https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html>

use std::collections::VecDeque;
use std::io::{self, Read};

/// As for layers: a map of more pieces is an attack.
const MAX_PIECES: usize = 1 << 19;
const BLOCK: usize = 512;

/// What the records of an entry say of its holes.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    version: Option<String>,
    size: Option<u64>,
    /// The name of the file; the entry's own is made up.
    name: Option<Vec<u8>>,
    pieces: Vec<(u64, u64)>,
    /// The start of a piece whose length is still to come (0.0).
    start: Option<u64>,
    has_map: bool,
}

impl SparseRecords {
    /// Takes a record, if it is one of these.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let Some(key) = key.strip_prefix(b"GNU.sparse.") else { return Ok(()) };
        match key {
            b"major" => self.version = Some(String::from_utf8_lossy(value).into_owned()),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" => self.start = Some(number(value)?),
            b"numbytes" => {
                let start = self.start.take().ok_or_else(malformed)?;
                self.add(start, number(value)?)?;
            }
            b"map" => {
                let numbers: Vec<u64> =
                    value.split(|&b| b == b',').map(number).collect::<io::Result<_>>()?;
                for piece in numbers.chunks(2) {
                    let [start, length] = *piece else { return Err(malformed()) };
                    self.add(start, length)?;
                }
            }
            _ => {}
        }
        self.has_map |= matches!(key, b"map" | b"numbytes" | b"numblocks");
        Ok(())
    }

    fn add(&mut self, start: u64, length: u64) -> io::Result<()> {
        if self.pieces.len() >= MAX_PIECES {
            return Err(malformed());
        }
        self.pieces.push((start, length));
        Ok(())
    }

    /// The real name, where the records have one.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.name.as_deref().filter(|_| self.is_sparse())
    }

    /// Bytes of the whole file; `None` if it is not sparse.
    pub(super) fn size(&self) -> Option<u64> {
        self.size.filter(|_| self.is_sparse())
    }

    fn is_sparse(&self) -> bool {
        self.version.as_deref() == Some("1") || self.has_map
    }

    /// The file with its holes, of the stored bytes; just those if it is not sparse.
    pub(super) fn expand<'r>(
        mut self,
        mut stored: impl Read + 'r,
    ) -> io::Result<Box<dyn Read + 'r>> {
        if !self.is_sparse() {
            return Ok(Box::new(stored));
        }
        let size = self.size.ok_or_else(malformed)?;
        if self.version.as_deref() == Some("1") {
            self.pieces = leading_map(&mut stored)?;
        }
        let mut end = 0;
        for (start, length) in &self.pieces {
            if *start < end {
                return Err(malformed());
            }
            end = start.checked_add(*length).filter(|end| *end <= size).ok_or_else(malformed)?;
        }
        Ok(Box::new(Expanded { stored, size, position: 0, pieces: self.pieces.into() }))
    }
}

/// Decimal numbers, a line each, padded to whole blocks: how many pieces, then start and length of
/// each.
fn leading_map(stored: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
    let mut block = [0u8; BLOCK];
    let mut at = BLOCK;
    let mut next = || -> io::Result<u64> {
        let mut digits = Vec::new();
        loop {
            if at == BLOCK {
                stored.read_exact(&mut block)?;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return number(&digits),
                byte if digits.len() < 20 => digits.push(byte),
                _ => return Err(malformed()),
            }
        }
    };
    let count = usize::try_from(next()?).ok().filter(|count| *count <= MAX_PIECES);
    (0..count.ok_or_else(malformed)?).map(|_| Ok((next()?, next()?))).collect()
}

/// Reads stored bytes where the map has them and zeros elsewhere.
struct Expanded<R> {
    stored: R,
    size: u64,
    position: u64,
    pieces: VecDeque<(u64, u64)>,
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pieces.front().is_some_and(|(start, length)| start + length <= self.position) {
            self.pieces.pop_front();
        }
        let (until, is_stored) = match self.pieces.front() {
            Some((start, length)) if *start <= self.position => (start + length, true),
            Some((start, _)) => (*start, false),
            None => (self.size, false),
        };
        let left = usize::try_from(until.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let count = if is_stored && wanted > 0 {
            match self.stored.read(&mut buffer[..wanted])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => count,
            }
        } else {
            buffer[..wanted].fill(0);
            wanted
        };
        self.position += count as u64;
        Ok(count)
    }
}

fn number(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    text.parse().map_err(|_| malformed())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a malformed map of a sparse file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(records: &[(&str, &str)]) -> io::Result<SparseRecords> {
        let mut sparse = SparseRecords::default();
        for (key, value) in records {
            sparse.take(key.as_bytes(), value.as_bytes())?;
        }
        Ok(sparse)
    }

    fn expanded(sparse: SparseRecords, stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        sparse.expand(stored)?.read_to_end(&mut whole)?;
        Ok(whole)
    }

    #[test]
    fn every_version_gives_the_same_file() {
        let mut leading = b"2\n1\n2\n5\n1\n".to_vec();
        leading.resize(BLOCK, 0);
        leading.extend(b"abc");
        for (given, stored) in [
            (
                vec![
                    ("GNU.sparse.size", "7"),
                    ("GNU.sparse.numblocks", "2"),
                    ("GNU.sparse.offset", "1"),
                    ("GNU.sparse.numbytes", "2"),
                    ("GNU.sparse.offset", "5"),
                    ("GNU.sparse.numbytes", "1"),
                ],
                &b"abc"[..],
            ),
            (vec![("GNU.sparse.size", "7"), ("GNU.sparse.map", "1,2,5,1")], b"abc"),
            (vec![("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "7")], &leading),
        ] {
            let sparse = records(&given).unwrap();
            assert_eq!(sparse.size(), Some(7), "{given:?}");
            assert_eq!(expanded(sparse, stored).unwrap(), b"\0ab\0\0c\0", "{given:?}");
        }
        assert_eq!(expanded(SparseRecords::default(), b"plain").unwrap(), b"plain");
    }

    #[test]
    fn a_map_that_lies_is_refused() {
        for map in ["5,1,1,2", "1,9", "1", "x,1", "18446744073709551615,2"] {
            let sparse = records(&[("GNU.sparse.size", "7"), ("GNU.sparse.map", map)]);
            assert!(sparse.and_then(|sparse| expanded(sparse, b"abc")).is_err(), "{map}");
        }
        let short = records(&[("GNU.sparse.size", "7"), ("GNU.sparse.map", "0,7")]).unwrap();
        assert!(expanded(short, b"abc").is_err());
        let endless = records(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "1")]).unwrap();
        assert!(expanded(endless, &[b'9'; 1024]).is_err());
    }
}
