//! Sparse files in GNU's old format (`tar -S`): a list of where the stored bytes belong.

use tar::GnuSparseHeader;

use super::number;

/// A map of more pieces than this is an attack: it would be 16 MiB of header.
const MAX_PIECES: usize = 1 << 19;

/// Which part of a file is stored and which is a hole, read from the start.
#[derive(Debug)]
pub(super) struct SparseMap {
    size: u64,
    position: u64,
    /// (start, end) of stored pieces, last one first.
    pieces: Vec<(u64, u64)>,
}

impl SparseMap {
    /// The length of the file with its holes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of hole at the position.
    pub(super) fn hole(&self) -> u64 {
        let next = self.pieces.last().map_or(self.size, |(start, _)| *start);
        next.saturating_sub(self.position)
    }

    /// Bytes stored at the position.
    pub(super) fn data(&self) -> u64 {
        match self.pieces.last() {
            Some((start, end)) if *start <= self.position => end - self.position,
            _ => 0,
        }
    }

    /// Goes on by some bytes of the hole or of the data.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.position += bytes;
        while self.pieces.last().is_some_and(|(_, end)| *end <= self.position) {
            self.pieces.pop();
        }
    }
}

/// Collects the list.
pub(super) struct Builder {
    size: Option<u64>,
    pieces: Vec<(u64, u64)>,
}

impl Builder {
    pub(super) fn new(size: &[u8]) -> Builder {
        let size = number(size).and_then(|size| u64::try_from(size).ok());
        Builder { size, pieces: Vec::new() }
    }

    /// Adds the pieces of one header; `false` if the list ended in it.
    pub(super) fn add(&mut self, headers: &[GnuSparseHeader]) -> Result<bool, String> {
        for header in headers {
            if header.is_empty() {
                return Ok(false);
            }
            let part = |bytes: &[u8]| number(bytes).and_then(|part| u64::try_from(part).ok());
            let (Some(start), Some(length)) = (part(&header.offset), part(&header.numbytes)) else {
                return Err("its sparse map is not made of numbers".to_owned());
            };
            let end = start.checked_add(length).ok_or("its sparse map is beyond all bounds")?;
            let previous = self.pieces.last().map_or(0, |(_, end)| *end);
            if start < previous || self.pieces.len() >= MAX_PIECES {
                return Err("its sparse map is out of order or too long".to_owned());
            }
            self.pieces.push((start, end));
        }
        Ok(true)
    }

    /// The map, if it accounts for exactly the `stored` bytes.
    pub(super) fn finish(mut self, stored: u64) -> Result<SparseMap, String> {
        let size = self.size.ok_or("its real size is not a number")?;
        let mapped: u64 = self.pieces.iter().map(|(start, end)| end - start).sum();
        if mapped != stored || self.pieces.last().is_some_and(|(_, end)| *end > size) {
            return Err("its sparse map does not fit its size".to_owned());
        }
        self.pieces.retain(|(start, end)| start < end);
        self.pieces.reverse();
        Ok(SparseMap { size, position: 0, pieces: self.pieces })
    }
}
