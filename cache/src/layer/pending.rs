//! Entries of a layer that the walk has found and that are not written yet.
//!
//! The walk runs ahead of the archive by some hundred entries, so that files are read by other
//! threads ([`super::reading`]) while it goes on.

use std::collections::VecDeque;
use std::io::Write;

use super::checkpoint::{Checkpoint, Mark};
use super::digesting::{Digesting, Entry};
use super::header::Kind;
use super::reading::{Opened, ReadAhead, SMALL, ToRead, read};
use super::{PackedLayer, tree_error};
use crate::error::LayerError;
use crate::tree::Metadata;

/// How far the walk may be ahead; each file keeps its directory open.
const AHEAD: usize = 256;
const AHEAD_BYTES: u64 = 8 << 20;

pub(super) struct Pending<'a> {
    out: Digesting<'a>,
    items: VecDeque<Item>,
    /// Of the files that are being read.
    bytes: u64,
    reader: ReadAhead,
}

enum Item {
    /// All is known of it.
    Entry(Entry),
    /// A regular file.
    File(PendingFile),
    /// An entry that is no directory ends.
    End(Option<Mark>),
}

/// A regular file of the layer, or a device that one stands for.
pub(super) struct PendingFile {
    pub(super) path: Vec<u8>,
    pub(super) size: u64,
    /// The file of which this is a further name.
    pub(super) first: Option<Vec<u8>>,
    pub(super) source: Source,
}

pub(super) enum Source {
    /// To be read; `None` if the reader has it.
    Unread(Option<ToRead>),
    /// The walk had to look at it.
    Read(Opened),
}

impl<'a> Pending<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        let (items, reader) = (VecDeque::new(), ReadAhead::default());
        Pending { out: Digesting::new(out), items, bytes: 0, reader }
    }

    /// See [`Digesting::resume`].
    pub(super) fn resume(&mut self, checkpoints: &[Checkpoint]) {
        self.out.resume(checkpoints);
    }

    /// Takes an entry that has no content.
    pub(super) fn entry(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        metadata: &Metadata,
    ) -> Result<(), LayerError> {
        let entry = Entry::new(path, kind, metadata);
        if self.items.is_empty() {
            return self.out.entry(&entry);
        }
        self.items.push_back(Item::Entry(entry));
        self.write_some()
    }

    /// Takes a file.
    pub(super) fn file(&mut self, mut file: PendingFile) -> Result<(), LayerError> {
        if let Source::Unread(to_read) = &mut file.source
            && file.size <= SMALL
            && let Some(to_read) = to_read.take()
        {
            self.bytes += file.size;
            self.reader.push(to_read);
        }
        self.items.push_back(Item::File(file));
        self.write_some()
    }

    /// Behind every entry that is no directory, with where the walk stands if it may be gone on
    /// from there.
    pub(super) fn end_entry(&mut self, mark: Option<Mark>) -> Result<(), LayerError> {
        if self.items.is_empty() {
            return self.out.end_entry(mark);
        }
        self.items.push_back(Item::End(mark));
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(PackedLayer, Vec<Checkpoint>), LayerError> {
        while let Some(item) = self.items.pop_front() {
            self.write(item)?;
        }
        self.out.finish()
    }

    /// Writes the oldest items if there are too many.
    fn write_some(&mut self) -> Result<(), LayerError> {
        while self.items.len() > AHEAD || self.bytes > AHEAD_BYTES {
            let Some(item) = self.items.pop_front() else { break };
            self.write(item)?;
        }
        Ok(())
    }

    fn write(&mut self, item: Item) -> Result<(), LayerError> {
        let PendingFile { path, size, first, source } = match item {
            Item::Entry(entry) => return self.out.entry(&entry),
            Item::End(mark) => return self.out.end_entry(mark),
            Item::File(file) => file,
        };
        let opened = match source {
            Source::Read(opened) => Ok(opened),
            Source::Unread(Some(large)) => read(&large, Vec::new()),
            Source::Unread(None) => {
                self.bytes -= size;
                self.reader.pop()
            }
        };
        let Opened { metadata, device, content } =
            opened.map_err(|errno| tree_error("read", &path, errno))?;
        let kind = match (&first, device) {
            (Some(target), _) => Kind::HardLink { target },
            (None, Some(device)) => Kind::Device(device),
            (None, None) => Kind::File { size },
        };
        self.out.entry(&Entry::new(&path, kind, &metadata))?;
        if matches!(kind, Kind::File { .. }) {
            self.out.content(&content, size, &path)?;
        }
        self.reader.give_back(content);
        Ok(())
    }
}
