//! One source of a COPY or ADD on its way into the tree.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cache::hash::Fingerprint;
use rayon::prelude::*;

use super::file::{self, Links};
use super::reuse::{self, Reuse};
use super::{Attributes, Ownership, TargetDir, failed};
use crate::ExecutorError;
use crate::filter::{Filter, FilterState, Verdict};
use crate::merged::{Dir, Entry, Kind, Located, Meta, Xattrs, display_path};
use crate::selection::child;
use crate::source_tree::{SourceTree, join};
use crate::stat_cache::Listing;

/// Fewer names of a directory are left to one thread: the kernel lets only one at a time make files
/// in a directory, so that threads go to other directories first.
const NAMES_AT_ONCE: usize = 128;

/// One COPY: what is copied from, how it is owned, and the hard links seen so far.
pub(super) struct Copier<'a> {
    pub(super) source: &'a SourceTree,
    pub(super) ownership: &'a Ownership,
    pub(super) links: Links,
    pub(super) reuse: Option<&'a Reuse>,
    pub(super) cancelled: &'a AtomicBool,
}

impl Copier<'_> {
    /// Copies the contents of a directory that was selected.
    pub(super) fn directory_contents(
        &self,
        dir: &Dir,
        located: &Located,
        target: &Arc<TargetDir>,
        filter: &Filter<'_>,
    ) -> Result<(), ExecutorError> {
        let path = join(located.components());
        let state = filter.start(&path);
        self.contents(dir, target, &Walk { path: &path, relative: &[], state: &state, filter })
    }

    fn contents(
        &self,
        dir: &Dir,
        target: &Arc<TargetDir>,
        walk: &Walk<'_>,
    ) -> Result<(), ExecutorError> {
        let (dirs, files): (Vec<_>, Vec<_>) = self
            .listing(dir, walk)?
            .into_iter()
            .partition(|(_, entry)| entry.meta.kind == Kind::Dir);
        let copy = |(name, entry): &(OsString, Entry)| {
            match self.below(dir, name, entry, target, walk) {
                // Gone meanwhile.
                Err(_) if matches!(dir.lookup(name), Ok(None)) => Ok(()),
                copied => copied,
            }
        };
        let (files, dirs) = rayon::join(
            || files.par_iter().with_min_len(NAMES_AT_ONCE).try_for_each(copy),
            || dirs.par_iter().try_for_each(copy),
        );
        files.and(dirs)
    }

    /// What is in a directory; as the walk for the key found it, if that was a moment ago.
    fn listing(&self, dir: &Dir, walk: &Walk<'_>) -> Result<Listing, ExecutorError> {
        if let Some(cache) = &self.source.cache
            && let Some(meta) = dir.meta().map_err(walk.failed("look at"))?
            && let Some(listing) = cache.take_listing(&meta)
        {
            return Ok(listing);
        }
        let names = dir.names().map_err(walk.failed("list"))?;
        let look = |name: OsString| match dir.lookup(&name).map_err(walk.failed("look at")) {
            // Gone meanwhile.
            Ok(None) => None,
            Ok(Some(entry)) => Some(Ok((name, entry))),
            Err(error) => Some(Err(error)),
        };
        names.into_par_iter().with_min_len(NAMES_AT_ONCE).filter_map(look).collect()
    }

    /// Copies one name of a directory, with what is below it, as far as the filter takes it.
    fn below(
        &self,
        dir: &Dir,
        name: &OsStr,
        entry: &Entry,
        target: &Arc<TargetDir>,
        walk: &Walk<'_>,
    ) -> Result<(), ExecutorError> {
        let is_dir = entry.meta.kind == Kind::Dir;
        if walk.filter.takes_all() && !is_dir {
            return self.entry(dir, name, entry, target, name);
        }
        let (path, relative) = (child(walk.path, name), child(walk.relative, name));
        let (verdict, state) = walk.filter.judge(walk.state, &path, &relative, is_dir);
        match verdict {
            Verdict::Skip => return Ok(()),
            _ if !is_dir => return self.entry(dir, name, entry, target, name),
            _ => {}
        }
        let below = dir.open_dir(name).map_err(walk.failed("open"))?;
        let walk = Walk { path: &path, relative: &relative, state: &state, filter: walk.filter };
        if verdict == Verdict::Through && !self.has_below(&below, &walk)? {
            return Ok(());
        }
        let new = self.directory(target, name)?;
        self.contents(&below, &new, &walk)?;
        let xattrs = below.xattrs().map_err(walk.failed("read the attributes of"))?;
        let xattrs = self.xattrs(xattrs);
        let attributes = self.attributes(&entry.meta, &xattrs);
        new.set_attributes(&attributes).map_err(failed("set the attributes of", &new, None))
    }

    /// The directory `name` of the target, made if it is not there.
    fn directory(
        &self,
        target: &Arc<TargetDir>,
        name: &OsStr,
    ) -> Result<Arc<TargetDir>, ExecutorError> {
        match target.lookup(name).map_err(failed("look at", target, Some(name)))? {
            None => target.make_dir(name).map_err(failed("create", target, Some(name))),
            Some(existing) if existing.meta.kind == Kind::Dir => {
                target.open_dir(name).map_err(failed("open", target, Some(name)))
            }
            Some(_) => Err(ExecutorError::DirectoryOverFile { path: target.path().join(name) }),
        }
    }

    /// Copies anything but a directory to `target_name` in `target`.
    pub(super) fn entry(
        &self,
        dir: &Dir,
        name: &OsStr,
        entry: &Entry,
        target: &Arc<TargetDir>,
        target_name: &OsStr,
    ) -> Result<(), ExecutorError> {
        if self.cancelled.load(Ordering::Relaxed) {
            let source = io::ErrorKind::Interrupted.into();
            let path = target.path().join(target_name);
            return Err(ExecutorError::File { attempt: "copy to", path, source });
        }
        // In a directory that the base does not have, what is taken hides nothing.
        if target.is_new()
            && self.take_earlier(entry, &file::Place { dir: target, name: target_name })
        {
            return Ok(());
        }
        let existing = target.lookup(target_name);
        match existing.map_err(failed("look at", target, Some(target_name)))? {
            Some(existing) if existing.meta.kind == Kind::Dir => {
                let path = target.path().join(target_name);
                return Err(ExecutorError::FileOverDirectory { path });
            }
            Some(existing) if existing.in_upper => {
                if let Some(reuse) = self.reuse {
                    reuse.distrust();
                }
            }
            _ => {}
        }
        let copy = || -> io::Result<()> {
            let place = file::Place { dir: target, name: target_name };
            if entry.meta.links > 1 && entry.meta.kind != Kind::Dir {
                return self
                    .links
                    .copy_once(&entry.meta, &place, || self.copy_file(dir, name, entry, &place));
            }
            self.copy_file(dir, name, entry, &place)
        };
        copy().map_err(failed("copy to", target, Some(target_name)))
    }

    fn copy_file(
        &self,
        dir: &Dir,
        name: &OsStr,
        entry: &Entry,
        place: &file::Place<'_>,
    ) -> io::Result<()> {
        let meta = &entry.meta;
        match meta.kind {
            Kind::File => {
                if !place.dir.is_new() && self.take_earlier(entry, place) {
                    return Ok(());
                }
                // Before it is read: only then does its age say that a later change would show.
                let known = self.identity(meta, place);
                let source = dir.open_file(name, entry)?;
                let xattrs = self.xattrs(dir.file_xattrs(source.as_fd())?);
                let attributes = self.attributes(meta, &xattrs);
                file::copy_regular(&source, meta, place, &attributes)?;
                match known {
                    Some((reuse, identity)) => reuse.copied(identity, meta, &source),
                    None => Ok(()),
                }
            }
            Kind::Symlink => {
                let target = dir.read_link(name, entry)?;
                let none = Xattrs::new();
                let attributes = self.attributes(meta, &none);
                if place.dir.keep_symlink(place.name, &target, &attributes)? {
                    return Ok(());
                }
                file::make_symlink(&target, place, &attributes)
            }
            _ => file::make_special(meta, place, &self.attributes(meta, &Xattrs::new())),
        }
    }

    /// Takes a file from the last result of the step, if it is there and the same.
    fn take_earlier(&self, entry: &Entry, place: &file::Place<'_>) -> bool {
        let is_candidate = entry.meta.kind == Kind::File && place.dir.earlier().is_some();
        let known = if is_candidate { self.identity(&entry.meta, place) } else { None };
        known.is_some_and(|(reuse, identity)| reuse.take(identity, &entry.meta, place))
    }

    /// What tells the copy of a file from others, where copies are noted.
    fn identity(&self, meta: &Meta, place: &file::Place<'_>) -> Option<(&Reuse, Fingerprint)> {
        let reuse = self.reuse?;
        let none = Xattrs::new();
        let attributes = self.attributes(meta, &none);
        Some((reuse, reuse::identity(meta, &attributes, place)?))
    }

    fn xattrs(&self, mut xattrs: Xattrs) -> Xattrs {
        if self.ownership.from_context {
            xattrs.remove(&b"security.capability"[..]);
        }
        xattrs
    }

    /// What the copy of a file gets.
    fn attributes<'x>(&self, meta: &Meta, xattrs: &'x Xattrs) -> Attributes<'x> {
        let own = if self.ownership.from_context { (0, 0) } else { (meta.uid, meta.gid) };
        let (uid, gid) = self.ownership.owner.unwrap_or(own);
        let mode = match &self.ownership.chmod {
            Some(chmod) if meta.kind != Kind::Symlink => {
                chmod.apply(meta.mode, meta.kind == Kind::Dir)
            }
            _ => meta.mode,
        };
        Attributes { uid, gid, mode, mtime: Some(meta.mtime), xattrs }
    }

    /// Whether the filter takes anything of a selected directory.
    pub(super) fn has_any(
        &self,
        dir: &Dir,
        located: &Located,
        filter: &Filter<'_>,
    ) -> Result<bool, ExecutorError> {
        let path = join(located.components());
        let state = filter.start(&path);
        self.has_below(dir, &Walk { path: &path, relative: &[], state: &state, filter })
    }

    fn has_below(&self, dir: &Dir, walk: &Walk<'_>) -> Result<bool, ExecutorError> {
        for name in dir.names().map_err(walk.failed("list"))? {
            let Some(entry) = dir.lookup(&name).map_err(walk.failed("look at"))? else { continue };
            let path = child(walk.path, &name);
            let relative = child(walk.relative, &name);
            let is_dir = entry.meta.kind == Kind::Dir;
            let (verdict, state) = walk.filter.judge(walk.state, &path, &relative, is_dir);
            match verdict {
                Verdict::Take => return Ok(true),
                Verdict::Skip => {}
                Verdict::Through => {
                    let below = dir.open_dir(&name).map_err(walk.failed("open"))?;
                    let walk = Walk {
                        path: &path,
                        relative: &relative,
                        state: &state,
                        filter: walk.filter,
                    };
                    if self.has_below(&below, &walk)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Where a walk is.
struct Walk<'a> {
    /// From the root of the source.
    path: &'a [u8],
    /// From the selected path.
    relative: &'a [u8],
    state: &'a FilterState,
    filter: &'a Filter<'a>,
}

impl Walk<'_> {
    fn failed(&self, attempt: &'static str) -> impl FnOnce(io::Error) -> ExecutorError {
        use std::os::unix::ffi::OsStrExt;
        let path = display_path([OsStr::from_bytes(self.path)]);
        move |source| ExecutorError::File { attempt, path, source }
    }
}
