//! The changes of one layer, in however many directories they lie.
//!
//! Nearly always that is one. A snapshot that amends another
//! ([`crate::snapshot::Snapshots::amend`]) has only its differences in a directory of its own, which
//! lies over the other's: the layer is both, seen as one.
//!
//! ```text
//! amendment   d1/b′   d2/c (whiteout)
//! amended     d1/a  d1/b   d2/c  d2/d        the layer: d1/a  d1/b′  d2/d
//! ```
//!
//! A whiteout in an amendment takes out what the amended one has, and says nothing of the layers
//! below both; one in the lowest directory is a deletion like any other.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Stat, statat};
use rustix::io::Errno;

use crate::tree;

/// A directory of a layer.
#[derive(Default)]
pub(super) struct Changes {
    /// Topmost first; none lies below an opaque one.
    dirs: Vec<Arc<OwnedFd>>,
    /// It hides what the layers below have there.
    is_opaque: bool,
}

/// What stands under a name.
pub(super) struct Change {
    pub(super) stat: Stat,
    /// The directory that it was found in.
    pub(super) dir: Arc<OwnedFd>,
    /// Position of that directory.
    index: usize,
}

impl Changes {
    /// The root of the layer whose directories of changes are these, bottom first.
    pub(super) fn open<'a>(
        directories: impl DoubleEndedIterator<Item = &'a Path>,
    ) -> Result<Changes, Errno> {
        let dirs = directories.rev().map(|path| tree::open_root(path).map(Arc::new));
        Ok(Changes { dirs: dirs.collect::<Result<_, _>>()?, is_opaque: false })
    }

    /// Every name, in byte order.
    pub(super) fn names(&self) -> Result<Vec<CString>, Errno> {
        if let [dir] = &self.dirs[..] {
            return tree::names(dir);
        }
        let mut names = Vec::new();
        for dir in &self.dirs {
            names.extend(tree::names(dir)?);
        }
        names.sort_unstable();
        names.dedup();
        let mut there = Vec::with_capacity(names.len());
        for name in names {
            if self.entry(&name)?.is_some() {
                there.push(name);
            }
        }
        Ok(there)
    }

    /// What stands under `name`, a deletion too; `None` if nothing does.
    pub(super) fn entry(&self, name: &CStr) -> Result<Option<Change>, Errno> {
        for (index, dir) in self.dirs.iter().enumerate() {
            let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            let is_taken_out = index + 1 < self.dirs.len() && tree::is_whiteout(&stat);
            return Ok((!is_taken_out).then(|| Change { stat, dir: Arc::clone(dir), index }));
        }
        Ok(None)
    }

    /// The directory `name`, which is `change`.
    pub(super) fn below(&self, name: &CStr, change: &Change) -> Result<Changes, Errno> {
        let mut below = Changes::default();
        for dir in &self.dirs[change.index..] {
            let dir = match tree::open_dir(dir, name) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                // A file, or a whiteout: it hides what lies below it.
                Err(Errno::NOTDIR | Errno::LOOP) if !below.dirs.is_empty() => break,
                Err(errno) => return Err(errno),
            };
            below.is_opaque = tree::is_opaque(&dir)?;
            below.dirs.push(Arc::new(dir));
            if below.is_opaque {
                break;
            }
        }
        Ok(below)
    }

    /// Whether it hides what the layers below have there.
    pub(super) fn is_opaque(&self) -> bool {
        self.is_opaque
    }

    /// The directory itself, as its topmost one is.
    pub(super) fn topmost(&self) -> Option<BorrowedFd<'_>> {
        self.dirs.first().map(|dir| dir.as_fd())
    }
}
