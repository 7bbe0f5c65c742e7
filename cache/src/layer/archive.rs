//! Reading tar archives that strangers made.
//!
//! The format is three formats on top of each other (ustar, GNU's, PAX), and readers that disagree
//! about which one wins can be made to see different files in the same bytes (CVE-2025-62518). So
//! everything that is malformed, or says one thing twice in different ways, is an error; nothing is
//! skipped that somebody else might read. `tar` gives the header's layout; sizes, extensions and
//! the framing of entries are read here, because its iterator neither bounds nor cross-checks them.

mod header;
mod number;
mod pax;
mod sparse;

use std::io::{self, Read};

use tar::Header;

use super::UnpackLimits;
use crate::error::LayerError;
use crate::tree::{Device, Metadata};
use header::{Extensions, until_nul};
use number::number;
use sparse::SparseMap;

/// Tar is made of these.
pub(crate) const BLOCK_BYTES: u64 = 512;

/// Extended headers and long names above this are nobody's: the kernel allows 64 KiB of attributes
/// per file and paths of 4 KiB.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Something whose bytes can be looked at before they are taken.
pub trait Source {
    /// At least one byte, unless the end is reached.
    fn fill(&mut self) -> io::Result<&[u8]>;
    /// Takes the first `amount` of them.
    fn consume(&mut self, amount: usize);
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file; the archive gives its content.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with this target, which may be anything.
    Symlink(Vec<u8>),
    /// Another name of this earlier entry, or of a file in a layer below.
    HardLink(Vec<u8>),
    /// A device node.
    Device(Device),
    /// A FIFO.
    Fifo,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name as it stands there: not checked, not confined.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Of a file: bytes of content, holes included.
    pub size: u64,
    /// Owner, mode, time and every extended attribute that stands there.
    pub metadata: Metadata,
}

/// Reads a tar archive entry by entry.
pub struct Archive<S> {
    source: S,
    limits: UnpackLimits,
    /// Bytes taken so far.
    offset: u64,
    entries: u64,
    /// Bytes of file content promised so far, holes included.
    content: u64,
    /// Bytes of the current entry's content, as stored, that were not taken yet.
    left: u64,
    /// And of its padding.
    padding: u64,
    sparse: Option<SparseMap>,
    is_finished: bool,
}

/// A reader with a buffer, as a [`Source`].
pub struct Buffered<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Buffered<R> {
    fn new(reader: R) -> Self {
        Buffered { reader, buffer: vec![0; 128 << 10], start: 0, end: 0 }
    }
}

impl<R: Read> Source for Buffered<R> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end {
            match self.reader.read(&mut self.buffer) {
                Ok(0) => return Ok(&[]),
                Ok(length) => (self.start, self.end) = (0, length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}

/// A piece of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// That many zeros, of a sparse file.
    Hole(u64),
}

impl<R: Read> Archive<Buffered<R>> {
    /// Starts reading an uncompressed archive.
    pub fn new(reader: R, limits: UnpackLimits) -> Self {
        Archive::from_source(Buffered::new(reader), limits)
    }
}

impl<S: Source> Archive<S> {
    pub(crate) fn from_source(source: S, limits: UnpackLimits) -> Self {
        Archive {
            source,
            limits,
            offset: 0,
            entries: 0,
            content: 0,
            left: 0,
            padding: 0,
            sparse: None,
            is_finished: false,
        }
    }

    /// What the archive was read from.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// Goes on to the next entry, past what was not read of the current one; `None` at the end of
    /// the archive. Global PAX headers are checked and otherwise ignored, as Go's reader (and so
    /// every container engine) does.
    ///
    /// # Errors
    /// [`LayerError::Malformed`], [`LayerError::TooBig`] and [`LayerError::Read`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding, self.sparse) = (0, 0, None);
        let mut extensions = Extensions::default();
        loop {
            let at = self.offset;
            let Some(block) = self.header_block()? else {
                if extensions.is_some() {
                    return Err(malformed(at, "the archive ends behind an extended header"));
                }
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(LayerError::TooBig { what: "entries", limit: self.limits.entries });
            }
            let header = Header::from_byte_slice(&block);
            let size = number(&header.as_old().size)
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| malformed(at, "its size is not a number"))?;
            match header.as_old().linkflag[0] {
                b'x' => {
                    let data = self.extension(at, size)?;
                    let records = pax::parse(&data).map_err(|reason| malformed(at, reason))?;
                    set_once(at, &mut extensions.pax, records)?;
                }
                b'g' => {
                    let data = self.extension(at, size)?;
                    pax::parse(&data).map_err(|reason| malformed(at, reason))?;
                }
                b'L' => {
                    let name = gnu_long(at, self.extension(at, size)?)?;
                    set_once(at, &mut extensions.long_name, name)?;
                }
                b'K' => {
                    let name = gnu_long(at, self.extension(at, size)?)?;
                    set_once(at, &mut extensions.long_link, name)?;
                }
                // The name of a GNU volume.
                b'V' => self.skip(padded(at, size)?)?,
                _ => return self.entry(at, header, size, extensions).map(Some),
            }
        }
    }

    /// Gives the content of the current entry to `sink`, piece by piece, in order.
    ///
    /// # Errors
    /// Also [`LayerError::Write`] with what `sink` said.
    pub fn content(
        &mut self,
        sink: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
    ) -> Result<(), LayerError> {
        let mut failed = None;
        while failed.is_none() {
            let more = self.piece(usize::MAX, |piece| failed = sink(piece).err())?;
            if !more {
                break;
            }
        }
        match failed {
            None => Ok(()),
            Some(source) => Err(LayerError::Write { source }),
        }
    }

    /// Reads what stands behind the last entry, to the end of the input.
    pub(crate) fn finish(&mut self) -> Result<u64, LayerError> {
        loop {
            let available = self.source.fill().map_err(|source| LayerError::Read { source })?;
            let length = available.len();
            if length == 0 {
                return Ok(self.offset);
            }
            self.take(length)?;
        }
    }

    /// Gives the next piece of content, of at most `limit` bytes, to `sink`; `false` at its end.
    fn piece(&mut self, limit: usize, sink: impl FnOnce(Piece<'_>)) -> Result<bool, LayerError> {
        let hole = self.sparse.as_ref().map_or(0, SparseMap::hole);
        if hole > 0 {
            let length = hole.min(limit as u64);
            self.advance(length);
            sink(Piece::Hole(length));
            return Ok(true);
        }
        let wanted = self.sparse.as_ref().map_or(self.left, |sparse| sparse.data().min(self.left));
        if wanted == 0 {
            return Ok(false);
        }
        let at = self.offset;
        let available = self.source.fill().map_err(|source| LayerError::Read { source })?;
        if available.is_empty() {
            return Err(malformed(at, "it ends in the middle of a file"));
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let length = available.len().min(wanted).min(limit);
        sink(Piece::Data(&available[..length]));
        self.left -= length as u64;
        self.advance(length as u64);
        self.take(length)?;
        Ok(true)
    }

    /// Makes an entry of its header and the ones before it, and takes up its content.
    fn entry(
        &mut self,
        at: u64,
        header: &Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, LayerError> {
        let is_sparse = header.as_old().linkflag[0] == b'S';
        let mut entry = header::interpret(at, header, size, extensions)?;
        if entry.kind == EntryKind::File {
            (self.left, self.padding) = (entry.size, padded(at, entry.size)? - entry.size);
            if is_sparse {
                let sparse = self.sparse_map(at, header, entry.size)?;
                entry.size = sparse.size();
                self.sparse = Some(sparse);
            }
            self.content = self.content.saturating_add(entry.size);
        }
        if self.content > self.limits.bytes {
            return Err(LayerError::TooBig { what: "bytes", limit: self.limits.bytes });
        }
        Ok(entry)
    }

    /// The map of an old GNU sparse file, which may go on in blocks behind the header.
    fn sparse_map(
        &mut self,
        at: u64,
        header: &Header,
        stored: u64,
    ) -> Result<SparseMap, LayerError> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| malformed(at, "it is sparse without being a GNU entry"))?;
        let mut map = sparse::Builder::new(&gnu.realsize);
        let mut more =
            map.add(&gnu.sparse).map_err(|reason| malformed(at, reason))? && gnu.isextended[0] != 0;
        while more {
            let mut extended = tar::GnuExtSparseHeader::new();
            self.read_exactly(extended.as_mut_bytes())?;
            more = map.add(&extended.sparse).map_err(|reason| malformed(at, reason))?
                && extended.isextended[0] != 0;
        }
        map.finish(stored).map_err(|reason| malformed(at, reason))
    }

    /// The next block that is a header, checked against its own checksum.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES as usize]>, LayerError> {
        if self.is_finished {
            return Ok(None);
        }
        let at = self.offset;
        let mut block = [0; BLOCK_BYTES as usize];
        if self.source.fill().map_err(|source| LayerError::Read { source })?.is_empty() {
            // Archives without an end mark exist, and Go's reader takes them.
            self.is_finished = true;
            return Ok(None);
        }
        self.read_exactly(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            self.is_finished = true;
            return Ok(None);
        }
        let checksum = Header::from_byte_slice(&block).as_old().cksum;
        let blanked = |index: usize, byte: u8| match index {
            148..156 => b' ',
            _ => byte,
        };
        let bytes = || block.iter().enumerate().map(|(index, byte)| blanked(index, *byte));
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Some old writers added the bytes up as signed ones.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        match number(&checksum) {
            Some(sum) if sum == unsigned || sum == signed => Ok(Some(block)),
            _ => Err(malformed(at, "its checksum is wrong")),
        }
    }

    /// The data of an extension header.
    fn extension(&mut self, at: u64, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(malformed(at, "its extended header is larger than a mebibyte"));
        }
        let mut data = vec![0; size as usize];
        self.read_exactly(&mut data)?;
        self.skip(padded(at, size)? - size)?;
        Ok(data)
    }

    fn read_exactly(&mut self, mut target: &mut [u8]) -> Result<(), LayerError> {
        while !target.is_empty() {
            let at = self.offset;
            let available = self.source.fill().map_err(|source| LayerError::Read { source })?;
            if available.is_empty() {
                return Err(malformed(at, "it ends in the middle of a header"));
            }
            let length = available.len().min(target.len());
            let (filled, rest) = target.split_at_mut(length);
            filled.copy_from_slice(&available[..length]);
            target = rest;
            self.take(length)?;
        }
        Ok(())
    }

    fn skip(&mut self, mut amount: u64) -> Result<(), LayerError> {
        while amount > 0 {
            let at = self.offset;
            let available = self.source.fill().map_err(|source| LayerError::Read { source })?;
            if available.is_empty() {
                return Err(malformed(at, "it ends in the middle of an entry"));
            }
            let length = available.len().min(usize::try_from(amount).unwrap_or(usize::MAX));
            amount -= length as u64;
            self.take(length)?;
        }
        Ok(())
    }

    /// Notes on the map of a sparse file how far its content was read.
    fn advance(&mut self, bytes: u64) {
        if let Some(sparse) = &mut self.sparse {
            sparse.advance(bytes);
        }
    }

    fn take(&mut self, length: usize) -> Result<(), LayerError> {
        self.source.consume(length);
        self.offset += length as u64;
        if self.offset > self.limits.bytes {
            return Err(LayerError::TooBig { what: "bytes", limit: self.limits.bytes });
        }
        Ok(())
    }
}

/// Reads the content of the current entry, holes as zeros.
impl<S: Source> Read for Archive<S> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        if target.is_empty() {
            return Ok(0);
        }
        self.piece(target.len(), |piece| match piece {
            Piece::Data(data) => {
                target[..data.len()].copy_from_slice(data);
                length = data.len();
            }
            Piece::Hole(hole) => {
                length = hole as usize;
                target[..length].fill(0);
            }
        })
        .map_err(io::Error::other)?;
        Ok(length)
    }
}

fn set_once<T>(at: u64, slot: &mut Option<T>, value: T) -> Result<(), LayerError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(at, "it has two extended headers of one kind")),
    }
}

fn gnu_long(at: u64, data: Vec<u8>) -> Result<Vec<u8>, LayerError> {
    let name = until_nul(&data);
    if name.is_empty() {
        return Err(malformed(at, "its long name is empty"));
    }
    if data[name.len()..].iter().any(|byte| *byte != 0) {
        return Err(malformed(at, "its long name contains a NUL byte"));
    }
    Ok(name.to_vec())
}

/// `size` rounded up to whole blocks.
fn padded(at: u64, size: u64) -> Result<u64, LayerError> {
    size.checked_next_multiple_of(BLOCK_BYTES)
        .ok_or_else(|| malformed(at, "its size is beyond all bounds"))
}

fn malformed(offset: u64, reason: impl Into<String>) -> LayerError {
    LayerError::Malformed { offset, reason: reason.into() }
}
