//! What was read before: the fingerprints of files that have not changed since.
//!
//! A file with the same device, inode, size, modification and change time holds the same bytes, so
//! an unchanged context costs one `lstat` per file. A time that is too young proves nothing: the
//! file may change once more within the same tick of the clock. Such files are not remembered and
//! are read again next time (git calls them racily clean).
//!
//! ```text
//! context-v1/<fingerprint of the root's path>
//!     magic · records (device inode size mtime ctime content attributes, little endian) · blake3
//! ```

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cache::hash::Fingerprint;

use crate::merged::{Entry, Meta};

const MAGIC: &[u8; 8] = b"STRKCTX1";
const RECORD: usize = 24 + 2 * 12 + 64;

/// Kernels stamp files with a clock that ticks every 1 to 10 ms.
const TICK: Duration = Duration::from_millis(30);
/// Some file systems keep whole seconds (ext3), some even ones (FAT).
const COARSE_TICK: Duration = Duration::from_secs(3);
/// A listing that is older says nothing: what changes in it meanwhile is copied as it is then.
const LISTING_AGE: Duration = Duration::from_secs(2);
/// Names in all listings, a hundred-odd bytes each.
const LISTED_NAMES: usize = 100_000;
/// Above this many files the oldest knowledge is dropped; 128 MB of records.
const LIMIT: usize = 1_000_000;

/// What tells one state of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

/// What was read of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// Of its bytes, or of where it points.
    pub content: Fingerprint,
    /// Of its extended attributes.
    pub xattrs: Fingerprint,
}

/// The memory of one context.
#[derive(Debug)]
pub(crate) struct StatCache {
    file: PathBuf,
    old: HashMap<(u64, u64), (Stamp, Known)>,
    new: Mutex<HashMap<(u64, u64), (Stamp, Known)>>,
    listings: Mutex<Listings>,
}

/// Directories as a walk has just found them, by device and inode: the copy that follows the walk
/// for its key need not ask for each name again.
#[derive(Debug, Default)]
struct Listings {
    of: HashMap<(u64, u64), (Instant, Listing)>,
    names: usize,
}

/// The names of a directory, in the order of their bytes, and what they are.
pub(crate) type Listing = Vec<(OsString, Entry)>;

impl StatCache {
    /// Reads what `dir` remembers of the context at `root`; nothing if that is unreadable.
    pub(crate) fn open(dir: &Path, root: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let file = dir.join(Fingerprint::of(root.as_os_str().as_bytes()).to_string());
        let old = fs_err::read(&file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { file, old, new: Mutex::default(), listings: Mutex::default() }
    }

    pub(crate) fn get(&self, meta: &Meta) -> Option<Known> {
        let key = (meta.device, meta.inode);
        let fits = |entry: &(Stamp, Known)| (entry.0 == Stamp::of(meta)).then_some(entry.1);
        self.old.get(&key).and_then(fits).or_else(|| {
            let new = lock(&self.new);
            new.get(&key).and_then(fits)
        })
    }

    /// Remembers what was read of a file whose `meta` was taken at `now`, before reading it.
    pub(crate) fn insert(&self, meta: &Meta, known: Known, now: SystemTime) {
        if is_settled(meta, now) {
            let mut new = lock(&self.new);
            new.insert((meta.device, meta.inode), (Stamp::of(meta), known));
        }
    }

    /// Keeps what a walk has just found in a directory, for [`StatCache::take_listing`].
    pub(crate) fn keep_listing(&self, directory: &Meta, listing: Listing) {
        let mut listings = lock(&self.listings);
        if listings.names + listing.len() <= LISTED_NAMES {
            listings.names += listing.len();
            let key = (directory.device, directory.inode);
            if let Some((_, old)) = listings.of.insert(key, (Instant::now(), listing)) {
                listings.names -= old.len();
            }
        }
    }

    /// What was found in a directory a moment ago; once.
    pub(crate) fn take_listing(&self, directory: &Meta) -> Option<Listing> {
        let mut listings = lock(&self.listings);
        let (taken, listing) = listings.of.remove(&(directory.device, directory.inode))?;
        listings.names -= listing.len();
        (taken.elapsed() < LISTING_AGE).then_some(listing)
    }

    /// Writes what is new, if anything is.
    pub(crate) fn save(&self) -> std::io::Result<()> {
        let new = lock(&self.new);
        if new.is_empty() {
            return Ok(());
        }
        let mut all = new.clone();
        drop(new);
        if self.old.len() + all.len() <= LIMIT {
            for (key, entry) in &self.old {
                all.entry(*key).or_insert(*entry);
            }
        }
        let dir = self.file.parent().unwrap_or(Path::new("/"));
        fs_err::create_dir_all(dir)?;
        let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
        std::io::Write::write_all(&mut temporary, &encode(&all))?;
        temporary.persist(&self.file).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Stamp {
    pub(crate) fn of(meta: &Meta) -> Self {
        Self { size: meta.size, mtime: meta.mtime, ctime: meta.ctime }
    }
}

/// Whether a later change of the file is sure to change its times.
pub(crate) fn is_settled(meta: &Meta, now: SystemTime) -> bool {
    let coarse = meta.mtime.1 == 0 && meta.ctime.1 == 0;
    let tick = if coarse { COARSE_TICK } else { TICK };
    let Ok(seconds) = u64::try_from(meta.ctime.0) else { return true };
    let changed = UNIX_EPOCH + Duration::new(seconds, meta.ctime.1);
    now.duration_since(changed).is_ok_and(|age| age > tick)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode(entries: &HashMap<(u64, u64), (Stamp, Known)>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + entries.len() * RECORD + 32);
    bytes.extend(MAGIC);
    for (&(device, inode), (stamp, known)) in entries {
        for number in [device, inode, stamp.size] {
            bytes.extend(number.to_le_bytes());
        }
        for (seconds, nanos) in [stamp.mtime, stamp.ctime] {
            bytes.extend(seconds.to_le_bytes());
            bytes.extend(nanos.to_le_bytes());
        }
        bytes.extend(known.content.as_bytes());
        bytes.extend(known.xattrs.as_bytes());
    }
    let sum = Fingerprint::of(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<(u64, u64), (Stamp, Known)>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let records = body.strip_prefix(MAGIC)?;
    if Fingerprint::of(body).as_bytes() != sum || records.len() % RECORD != 0 {
        return None;
    }
    let mut entries = HashMap::with_capacity(records.len() / RECORD);
    for record in records.chunks_exact(RECORD) {
        let u64_at = |at: usize| Some(u64::from_le_bytes(*record.get(at..)?.first_chunk()?));
        let time_at = |at: usize| {
            let seconds = i64::from_le_bytes(*record.get(at..)?.first_chunk()?);
            Some((seconds, u32::from_le_bytes(*record.get(at + 8..)?.first_chunk()?)))
        };
        let hash_at = |at: usize| Some(Fingerprint::from_bytes(*record.get(at..)?.first_chunk()?));
        let stamp = Stamp { size: u64_at(16)?, mtime: time_at(24)?, ctime: time_at(36)? };
        let known = Known { content: hash_at(48)?, xattrs: hash_at(80)? };
        entries.insert((u64_at(0)?, u64_at(8)?), (stamp, known));
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merged::Kind;

    fn meta(ctime: (i64, u32)) -> Meta {
        Meta {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 7,
            rdev: 0,
            links: 1,
            device: 1,
            inode: 2,
            mtime: (100, 5),
            ctime,
        }
    }

    fn known() -> Known {
        Known { content: Fingerprint::of(b"a"), xattrs: Fingerprint::of(b"b") }
    }

    fn at(seconds: u64, millis: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000)
    }

    #[test]
    fn knowledge_survives_the_process_and_ends_with_the_state_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let cache = StatCache::open(dir.path(), Path::new("/ctx"));
        cache.insert(&meta((1000, 1)), known(), at(2000, 0));
        cache.save().unwrap();
        let again = StatCache::open(dir.path(), Path::new("/ctx"));
        assert_eq!(again.get(&meta((1000, 1))), Some(known()));
        assert_eq!(again.get(&meta((1000, 2))), None);
        assert_eq!(StatCache::open(dir.path(), Path::new("/other")).get(&meta((1000, 1))), None);
    }

    #[test]
    fn a_file_that_changed_just_now_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        for (ctime, now, remembered) in [
            ((1000, 1), at(1000, 5), false),
            ((1000, 1), at(1000, 50), true),
            ((1001, 1), at(1000, 50), false),
        ] {
            let cache = StatCache::open(dir.path(), Path::new("/ctx"));
            cache.insert(&meta(ctime), known(), now);
            assert_eq!(cache.get(&meta(ctime)).is_some(), remembered, "{ctime:?}");
        }
    }

    #[test]
    fn a_damaged_memory_is_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let cache = StatCache::open(dir.path(), Path::new("/ctx"));
        cache.insert(&meta((1000, 1)), known(), at(2000, 0));
        cache.save().unwrap();
        let mut bytes = fs_err::read(&cache.file).unwrap();
        bytes[30] ^= 1;
        fs_err::write(&cache.file, bytes).unwrap();
        assert!(StatCache::open(dir.path(), Path::new("/ctx")).old.is_empty());
    }
}
