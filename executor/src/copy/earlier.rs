//! The last result of a step, beside the tree that a new run of it makes.
//!
//! A file of it that is still what the step would write can be had in two ways:
//!
//! - it is **linked**: the new tree is one of its own, and gets a hard link to the file;
//! - it is **kept**: the new tree lies over the last one
//!   ([`cache::snapshot::Snapshots::amend`]), where the file is already. Only its name is noted. When
//!   all is copied, whatever the last result has and nobody noted or wrote anew is taken out:
//!   [`TargetDir::settle`].
//!
//! ```text
//! last result   a  b  d/c          new run keeps a, d/c, writes b         new tree   b′
//!                                  finds nothing for e                               e (whiteout)
//! ```

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::tree;
use rayon::prelude::*;

use super::target::{Attributes, TargetDir};
use crate::merged::{Dir, Entry, Kind, Meta, Xattrs};

/// A directory of the last result.
#[derive(Debug)]
pub(super) struct Earlier {
    dir: Dir,
    /// What the new tree keeps of it; `None` where it is linked.
    kept: Option<Arc<Kept>>,
}

/// Names of a directory that the new tree has where the last one had them; of directories, what is
/// kept below them.
#[derive(Debug, Default)]
struct Kept {
    names: Mutex<HashMap<OsString, Option<Arc<Kept>>>>,
}

impl Kept {
    fn names(&self) -> MutexGuard<'_, HashMap<OsString, Option<Arc<Kept>>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Earlier {
    /// The root of a result whose files will be linked.
    pub(super) fn linked(dir: Dir) -> Self {
        Self { dir, kept: None }
    }

    /// The root of a result that the new tree lies over.
    pub(super) fn kept(dir: Dir) -> Self {
        Self { dir, kept: Some(Arc::default()) }
    }

    /// Whether the new tree lies over it.
    pub(super) fn is_below(&self) -> bool {
        self.kept.is_some()
    }

    /// The directory `name` in it, which the new tree has too.
    pub(super) fn directory(&self, name: &OsStr) -> Option<Earlier> {
        let dir = self.dir.open_dir(name).ok()?;
        let kept = match &self.kept {
            None => None,
            Some(kept) => {
                let mut names = kept.names();
                let below = names.entry(name.to_owned()).or_insert_with(|| Some(Arc::default()));
                Some(Arc::clone(below.as_ref()?))
            }
        };
        Some(Earlier { dir, kept })
    }

    /// What is kept at `name`.
    pub(super) fn kept_entry(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        let is_kept = |kept: &Arc<Kept>| kept.names().contains_key(name);
        if self.kept.as_ref().is_some_and(is_kept) { self.dir.lookup(name) } else { Ok(None) }
    }

    pub(super) fn read_link(&self, name: &OsStr, entry: &Entry) -> io::Result<OsString> {
        self.dir.read_link(name, entry)
    }

    /// What the directory is like.
    pub(super) fn metadata(&self) -> io::Result<Option<(Meta, Xattrs)>> {
        self.dir.metadata()
    }

    /// Makes `name` of `into` a link to the file.
    fn link(&self, name: &OsStr, into: BorrowedFd<'_>) -> io::Result<()> {
        self.dir.link_topmost(name, into)
    }

    /// Notes that the new tree has `name`; `false` if it was noted before.
    fn keep(&self, name: &OsStr) -> bool {
        let keep = |kept: &Arc<Kept>| kept.names().insert(name.to_owned(), None).is_none();
        self.kept.as_ref().is_some_and(keep)
    }
}

impl TargetDir {
    /// Takes the file `name` from the last result, of which the caller knows that it has there what
    /// is wanted; `false` if this run has something there.
    pub(super) fn take_earlier(&self, name: &OsStr) -> io::Result<bool> {
        match self.earlier() {
            Some(earlier) if earlier.is_below() => Ok(!self.has_own(name)? && earlier.keep(name)),
            Some(earlier) => earlier.link(name, self.upper()?).map(|()| true),
            None => Ok(false),
        }
    }

    /// Keeps the symbolic link `name`, if the last result has the same one and the new tree lies
    /// over it.
    pub(super) fn keep_symlink(
        &self,
        name: &OsStr,
        target: &OsStr,
        attributes: &Attributes<'_>,
    ) -> io::Result<bool> {
        let Some(earlier) = self.earlier().filter(|earlier| earlier.is_below()) else {
            return Ok(false);
        };
        let Some(entry) = earlier.dir.lookup(name)? else { return Ok(false) };
        let is_same = entry.meta.kind == Kind::Symlink
            && (entry.meta.uid, entry.meta.gid) == (attributes.uid, attributes.gid)
            && Some(entry.meta.mtime) == attributes.mtime
            && earlier.dir.read_link(name, &entry)? == target;
        Ok(is_same && !self.has_own(name)? && earlier.keep(name))
    }

    /// Ends a run whose tree lies over the last result: takes out what is not kept. `false` if the
    /// tree cannot be had that way, since a whiteout would hide a file of the base too, or since
    /// something that was kept is not there.
    pub(super) fn settle(self: &Arc<Self>) -> io::Result<bool> {
        let Some(earlier) = self.earlier() else { return Ok(true) };
        let Some(kept) = &earlier.kept else { return Ok(true) };
        let kept = std::mem::take(&mut *kept.names());
        let (mut found, mut directories, mut gone) = (0, Vec::new(), Vec::new());
        for name in earlier.dir.names()? {
            match kept.get(&name) {
                Some(below) => {
                    found += 1;
                    directories.extend(below.as_ref().map(|below| (name, Arc::clone(below))));
                }
                None if self.has_own(&name)? => {}
                None if self.is_in_base(&name)? => return Ok(false),
                None => gone.push(name),
            }
        }
        if found != kept.len() {
            return Ok(false);
        }
        self.take_out(&gone)?;
        let settle = |(name, below): &(OsString, Arc<Kept>)| {
            let dir = Earlier { dir: earlier.dir.open_dir(name)?, kept: Some(Arc::clone(below)) };
            self.open_with(name, Some(dir))?.settle()
        };
        let settled = directories.par_iter().map(settle);
        settled.try_reduce(|| true, |all, one| Ok(all && one))
    }

    /// Hides names of the last result.
    fn take_out(&self, names: &[OsString]) -> io::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let upper = self.upper()?;
        let meta = Meta::of_stat(&rustix::fs::fstat(upper)?);
        for name in names {
            let name = CString::new(name.as_bytes())?;
            tree::make_whiteout(upper.as_fd(), &name)?;
        }
        self.set_mtime(meta.mtime)
    }
}
