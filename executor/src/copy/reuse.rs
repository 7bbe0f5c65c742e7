//! Files of an earlier result of the same step, taken instead of copied.
//!
//! When one file of a context changes, the COPY of all of it is done again, and every other file
//! would be written once more. Instead it becomes a hard link to the file that the last run of the
//! step made: snapshots never change, so they may share files among each other (never with the
//! user's).
//!
//! That needs to know what the earlier files were made from without reading anything. Each run
//! notes it:
//!
//! ```text
//! snapshots-v1/<id>/copied
//!     magic · records (inode of the copy, what it is a copy of) · blake3
//! ```
//!
//! What a file is a copy of is the state of the source (device, inode, size, both times: see
//! [`crate::stat_cache`]) with the owner and the mode that it was given. A source whose times prove
//! nothing yet, or that changed while it was read, is not noted. Files with several names are always
//! copied: which of them are one file is part of a layer.
//!
//! Where a link cannot be made (too many of them: 65,000 on ext4), the file is copied.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use cache::hash::Fingerprint;
use cache::snapshot::Snapshot;
use rustix::fs::AtFlags;

use super::file::Place;
use super::target::Attributes;
use crate::merged::{Kind, Meta};
use crate::stat_cache::{Stamp, is_settled};

const MAGIC: &[u8; 8] = b"STRKCPY1";
const RECORD: usize = 8 + 32;
/// More files than this are copied each time; the note of so many has 40 MB.
const LIMIT: usize = 1_000_000;

/// What an earlier run made, and what this one makes.
#[derive(Debug)]
pub(super) struct Reuse {
    /// By the inode of the copy.
    earlier: HashMap<u64, Fingerprint>,
    made: Mutex<Vec<(u64, Fingerprint)>>,
    /// A file that was made may be gone again, and its inode another file's.
    is_doubtful: AtomicBool,
}

/// What tells the copy of `meta` with these attributes from every other; `None` if that cannot be
/// told.
pub(super) fn identity(meta: &Meta, attributes: &Attributes<'_>) -> Option<Fingerprint> {
    if meta.links > 1 || !is_settled(meta, SystemTime::now()) {
        return None;
    }
    let mut bytes = [0; 60];
    let mut rest = &mut bytes[..];
    let mut put = |value: &[u8]| {
        let (start, end) = std::mem::take(&mut rest).split_at_mut(value.len());
        start.copy_from_slice(value);
        rest = end;
    };
    for number in [meta.device, meta.inode, meta.size] {
        put(&number.to_le_bytes());
    }
    for (seconds, nanoseconds) in [meta.mtime, meta.ctime] {
        put(&seconds.to_le_bytes());
        put(&nanoseconds.to_le_bytes());
    }
    for number in [attributes.uid, attributes.gid, attributes.mode] {
        put(&number.to_le_bytes());
    }
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
    pub(super) fn link(&self, identity: Fingerprint, meta: &Meta, place: &Place<'_>) -> bool {
        let Some(earlier) = place.dir.earlier() else { return false };
        let Ok(stat) = rustix::fs::statat(earlier, place.name, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        let old = Meta::of_stat(&stat);
        let is_same = old.kind == Kind::File
            && (old.size, old.mtime) == (meta.size, meta.mtime)
            && self.earlier.get(&old.inode) == Some(&identity);
        // Something is in the way only where the step itself has put it: that is then copied over.
        let link = || -> io::Result<()> {
            let upper = place.dir.upper()?;
            Ok(rustix::fs::linkat(earlier, place.name, upper, place.name, AtFlags::empty())?)
        };
        let linked = is_same && link().is_ok();
        if linked {
            self.note(old.inode, identity);
        }
        linked
    }

    /// Notes that `target` is a copy of `source`, which was `meta` before it was read.
    pub(super) fn copied(
        &self,
        identity: Fingerprint,
        meta: &Meta,
        source: &OwnedFd,
        target: &OwnedFd,
    ) -> io::Result<()> {
        let read = Meta::of_stat(&rustix::fs::fstat(source)?);
        let is_same = (read.device, read.inode) == (meta.device, meta.inode)
            && Stamp::of(&read) == Stamp::of(meta);
        if is_same {
            self.note(Meta::of_stat(&rustix::fs::fstat(target)?).inode, identity);
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

    fn note(&self, inode: u64, identity: Fingerprint) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push((inode, identity));
    }
}

fn encode(made: &[(u64, Fingerprint)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + made.len() * RECORD + 32);
    bytes.extend(MAGIC);
    for (inode, identity) in made {
        bytes.extend(inode.to_le_bytes());
        bytes.extend(identity.as_bytes());
    }
    let sum = Fingerprint::of(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<u64, Fingerprint>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let (records, rest) = body.strip_prefix(MAGIC)?.as_chunks::<RECORD>();
    if Fingerprint::of(body).as_bytes() != sum || !rest.is_empty() {
        return None;
    }
    let record = |record: &[u8; RECORD]| {
        let (inode, identity) = record.split_first_chunk::<8>()?;
        let identity = Fingerprint::from_bytes(*identity.first_chunk()?);
        Some((u64::from_le_bytes(*inode), identity))
    };
    records.iter().map(record).collect()
}
