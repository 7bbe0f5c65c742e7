//! Files of an earlier result of the same step, taken instead of copied.
//!
//! When one file of a context changes, the COPY of all of it is done again, and every other file
//! would be written once more. Instead it is taken from what the last run of the step made:
//! snapshots never change, so they may share files among each other (never with the user's).
//! [`super::earlier`] has the two ways.
//!
//! That needs to know what the earlier files were made from without looking at them. Each run notes
//! it:
//!
//! ```text
//! snapshots-v1/<id>/copied
//!     magic · bytes of the files · bytes with what they hide · identities · blake3
//! ```
//!
//! The identity of a copy is its path, the owner and the mode that it was given, and the state of
//! the source (device, inode, size, both times: see [`crate::stat_cache`]). A source whose times
//! prove nothing yet, or that changed while it was read, is not noted. Files with several names are
//! always copied: which of them are one file is part of a layer.
//!
//! Where a link cannot be made (too many of them: 65,000 on ext4), the file is copied.
//!
//! A tree that lies over the last one keeps all of that on the disk, what it hides too. So only a
//! large tree does ([`AMENDED_FROM`]), at most [`MAX_AMENDMENTS`] of them lie over each other, and
//! none over one that hides half as much as it shows.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::file::Place;
use super::target::Attributes;
use crate::merged::Meta;
use crate::stat_cache::{Stamp, is_settled};
use cache::hash::Fingerprint;
use cache::snapshot::Snapshot;

const MAGIC: &[u8; 8] = b"STRKCPY3";
const RECORD: usize = 32;
/// More files than this are copied each time; the note of so many has 32 MB.
const LIMIT: usize = 1_000_000;

/// Links to fewer files are made in the time that one more directory of a stack costs its readers.
const AMENDED_FROM: usize = 512;
const MAX_AMENDMENTS: usize = 8;
/// The kernel stacks 500 directories: a tree that is as high as this leaves the rest to later steps.
const MAX_STACK: usize = 250;

/// What an earlier run made, and what this one makes.
#[derive(Debug)]
pub(crate) struct Reuse {
    earlier: Note<HashSet<Fingerprint>>,
    made: Mutex<Note<Vec<Fingerprint>>>,
    /// A file that was made may have been replaced.
    is_doubtful: AtomicBool,
}

/// What is noted of a tree.
#[derive(Debug, Default)]
struct Note<T> {
    /// Of the files that are noted.
    bytes: u64,
    /// The same with those that lie below, hidden.
    bytes_on_disk: u64,
    identities: T,
}

/// What tells the copy of `meta` to `place` with these attributes from every other; `None` if that
/// cannot be told.
pub(super) fn identity(
    meta: &Meta,
    attributes: &Attributes<'_>,
    place: &Place<'_>,
) -> Option<Fingerprint> {
    if meta.links > 1 || !is_settled(meta, SystemTime::now()) {
        return None;
    }
    let mut bytes = Vec::with_capacity(256);
    for number in [meta.device, meta.inode, meta.size] {
        bytes.extend(number.to_le_bytes());
    }
    for (seconds, nanoseconds) in [meta.mtime, meta.ctime] {
        bytes.extend(seconds.to_le_bytes());
        bytes.extend(nanoseconds.to_le_bytes());
    }
    for number in [attributes.uid, attributes.gid, attributes.mode] {
        bytes.extend(number.to_le_bytes());
    }
    // Of a fixed length until here.
    place.dir.write_path(&mut bytes);
    bytes.push(b'/');
    bytes.extend(place.name.as_bytes());
    Some(Fingerprint::of(&bytes))
}

impl Reuse {
    /// What `earlier` noted; nothing if it is unreadable.
    pub(crate) fn of(earlier: Option<&Snapshot>) -> Self {
        let earlier = earlier.and_then(|snapshot| fs_err::read(snapshot.copied_note()).ok());
        Self {
            earlier: earlier.and_then(|bytes| decode(&bytes)).unwrap_or_default(),
            made: Mutex::default(),
            is_doubtful: AtomicBool::new(false),
        }
    }

    /// Whether there is anything to take.
    pub(super) fn knows_any(&self) -> bool {
        !self.earlier.identities.is_empty()
    }

    /// Whether the new tree should lie over `earlier`, whose note this is.
    pub(crate) fn may_amend(&self, earlier: &Snapshot) -> bool {
        let Note { bytes, bytes_on_disk, identities } = &self.earlier;
        identities.len() >= AMENDED_FROM
            && bytes_on_disk - bytes <= bytes / 2
            && earlier.own_layers().count() <= MAX_AMENDMENTS
            && earlier.layers().count() < MAX_STACK
    }

    /// Takes the file for `place` from the last result, if that is a copy of the same.
    pub(super) fn take(&self, identity: Fingerprint, meta: &Meta, place: &Place<'_>) -> bool {
        // Something is in the way only where the step itself has put it: that is then copied over.
        let taken = self.earlier.identities.contains(&identity)
            && place.dir.take_earlier(place.name).is_ok_and(|taken| taken);
        if taken {
            self.note(identity, meta, 0);
        }
        taken
    }

    /// Notes that `source`, which was `meta` before it was read, was copied.
    pub(super) fn copied(
        &self,
        identity: Fingerprint,
        meta: &Meta,
        source: &OwnedFd,
    ) -> io::Result<()> {
        let read = Meta::of_stat(&rustix::fs::fstat(source)?);
        let is_same = (read.device, read.inode) == (meta.device, meta.inode)
            && Stamp::of(&read) == Stamp::of(meta);
        if is_same {
            self.note(identity, meta, meta.size);
        }
        Ok(())
    }

    /// Files that were made are replaced: nothing of this run is noted.
    pub(super) fn distrust(&self) {
        self.is_doubtful.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful.load(Ordering::Relaxed)
    }

    /// Writes down what was made; `over_earlier`: in a tree that lies over the last one.
    pub(super) fn write(self, over_earlier: bool, path: &Path) -> io::Result<()> {
        let is_doubtful = self.is_doubtful();
        let mut made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        if made.identities.is_empty() || made.identities.len() > LIMIT || is_doubtful {
            return Ok(());
        }
        made.bytes_on_disk = match over_earlier {
            true => self.earlier.bytes_on_disk.saturating_add(made.bytes_on_disk),
            false => made.bytes,
        };
        fs_err::write(path, encode(&made))
    }

    /// `written`: the bytes that the file adds to a tree over the last one.
    fn note(&self, identity: Fingerprint, meta: &Meta, written: u64) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.identities.push(identity);
        made.bytes = made.bytes.saturating_add(meta.size);
        made.bytes_on_disk = made.bytes_on_disk.saturating_add(written);
    }
}

fn encode(note: &Note<Vec<Fingerprint>>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + 16 + note.identities.len() * RECORD + 32);
    bytes.extend(MAGIC);
    bytes.extend(note.bytes.to_le_bytes());
    bytes.extend(note.bytes_on_disk.to_le_bytes());
    for identity in &note.identities {
        bytes.extend(identity.as_bytes());
    }
    let sum = Fingerprint::of(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Note<HashSet<Fingerprint>>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let (bytes, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let (bytes_on_disk, rest) = rest.split_first_chunk::<8>()?;
    let (records, rest) = rest.as_chunks::<RECORD>();
    if Fingerprint::of(body).as_bytes() != sum || !rest.is_empty() {
        return None;
    }
    let bytes = u64::from_le_bytes(*bytes);
    let bytes_on_disk = u64::from_le_bytes(*bytes_on_disk).max(bytes);
    let identities = records.iter().map(|record| Fingerprint::from_bytes(*record)).collect();
    Some(Note { bytes, bytes_on_disk, identities })
}
