//! Files of an earlier result of the same step, taken instead of copied.
//!
//! When one file of a context changes, the COPY of all of it is done again, and every other file
//! would be written once more. Instead it becomes a hard link to the file that the last run of the
//! step made: snapshots never change, so they may share files among each other (never with the
//! user's).
//!
//! That needs to know what the earlier files were made from without looking at them. Each run notes
//! it:
//!
//! ```text
//! snapshots-v1/<id>/copied
//!     magic · identities · blake3
//! ```
//!
//! The identity of a copy is its path, the owner and the mode that it was given, and the state of
//! the source (device, inode, size, both times: see [`crate::stat_cache`]). A source whose times
//! prove nothing yet, or that changed while it was read, is not noted. Files with several names are
//! always copied: which of them are one file is part of a layer.
//!
//! Where a link cannot be made (too many of them: 65,000 on ext4), the file is copied.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use cache::hash::Fingerprint;
use cache::snapshot::Snapshot;
use rustix::fs::AtFlags;

use super::file::Place;
use super::target::Attributes;
use crate::merged::Meta;
use crate::stat_cache::{Stamp, is_settled};

const MAGIC: &[u8; 8] = b"STRKCPY2";
const RECORD: usize = 32;
/// More files than this are copied each time; the note of so many has 32 MB.
const LIMIT: usize = 1_000_000;

/// What an earlier run made, and what this one makes.
#[derive(Debug)]
pub(super) struct Reuse {
    earlier: HashSet<Fingerprint>,
    made: Mutex<Vec<Fingerprint>>,
    /// A file that was made may have been replaced.
    is_doubtful: AtomicBool,
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
    pub(super) fn of(earlier: Option<&Snapshot>) -> Self {
        let earlier = earlier.and_then(|snapshot| fs_err::read(snapshot.copied_note()).ok());
        Self {
            earlier: earlier.and_then(|bytes| decode(&bytes)).unwrap_or_default(),
            made: Mutex::default(),
            is_doubtful: AtomicBool::new(false),
        }
    }

    /// Whether there is anything to take.
    pub(super) fn knows_any(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Makes `place` a link to the file that is there in the earlier result, if that is a copy of
    /// the same.
    pub(super) fn link(&self, identity: Fingerprint, place: &Place<'_>) -> bool {
        let Some(earlier) = place.dir.earlier() else { return false };
        // Something is in the way only where the step itself has put it: that is then copied over.
        let link = || -> io::Result<()> {
            let upper = place.dir.upper()?;
            Ok(rustix::fs::linkat(earlier, place.name, upper, place.name, AtFlags::empty())?)
        };
        let linked = self.earlier.contains(&identity) && link().is_ok();
        if linked {
            self.note(identity);
        }
        linked
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
            self.note(identity);
        }
        Ok(())
    }

    /// Files that were made are replaced: nothing of this run is noted.
    pub(super) fn distrust(&self) {
        self.is_doubtful.store(true, Ordering::Relaxed);
    }

    /// Writes down what was made.
    pub(super) fn write(self, note: &Path) -> io::Result<()> {
        let made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        if made.is_empty() || made.len() > LIMIT || self.is_doubtful.into_inner() {
            return Ok(());
        }
        fs_err::write(note, encode(&made))
    }

    fn note(&self, identity: Fingerprint) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(identity);
    }
}

fn encode(made: &[Fingerprint]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + made.len() * RECORD + 32);
    bytes.extend(MAGIC);
    for identity in made {
        bytes.extend(identity.as_bytes());
    }
    let sum = Fingerprint::of(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashSet<Fingerprint>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let (records, rest) = body.strip_prefix(MAGIC)?.as_chunks::<RECORD>();
    if Fingerprint::of(body).as_bytes() != sum || !rest.is_empty() {
        return None;
    }
    Some(records.iter().map(|record| Fingerprint::from_bytes(*record)).collect())
}
