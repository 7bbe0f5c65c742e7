//! A stack of overlay directories read as one, without a mount.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use super::{is_opaque, is_whiteout, names, open_dir, open_root};

/// A directory as the overlay of its layers shows it. Clones share the open files.
#[derive(Clone, Debug, Default)]
pub struct MergedDir {
    /// Topmost first; none lies below an opaque one.
    layers: Vec<Arc<OwnedFd>>,
    /// The lowest of them is opaque.
    is_opaque: bool,
}

/// What a [`MergedDir`] shows under one name.
#[derive(Debug)]
pub struct MergedEntry {
    /// What it is. Of a directory: of its topmost layer.
    pub stat: Stat,
    /// Which layer of the directory has it.
    layer: Arc<OwnedFd>,
    /// Position of that layer.
    index: usize,
}

impl MergedEntry {
    /// The directory, of one layer, that the name stands in.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.layer.as_fd()
    }

    /// The same, to be kept open.
    pub(crate) fn shared_dir(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.layer)
    }

    /// The type of the file.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl MergedDir {
    /// The root of a stack of layers, bottom first.
    pub fn open<'a>(layers: impl DoubleEndedIterator<Item = &'a Path>) -> Result<MergedDir, Errno> {
        let layers = layers.rev().map(|path| open_root(path).map(Arc::new));
        Ok(MergedDir { layers: layers.collect::<Result<_, _>>()?, is_opaque: false })
    }

    /// Whether no layer has the directory.
    pub fn is_nowhere(&self) -> bool {
        self.layers.is_empty()
    }

    /// The directory of the topmost layer that has it.
    pub fn topmost(&self) -> Option<BorrowedFd<'_>> {
        self.layers.first().map(|layer| layer.as_fd())
    }

    /// What stands under `name`, one path component.
    pub fn entry(&self, name: &CStr) -> Result<Option<MergedEntry>, Errno> {
        Ok(self.topmost_entry(name)?.filter(|entry| !is_whiteout(&entry.stat)))
    }

    /// As [`MergedDir::entry`], where the layers are parts of one: a whiteout of the lowest is
    /// shown, since what it deletes lies below them all.
    pub(crate) fn entry_or_deletion(&self, name: &CStr) -> Result<Option<MergedEntry>, Errno> {
        let is_shown =
            |entry: &MergedEntry| entry.index + 1 == self.layers.len() || !is_whiteout(&entry.stat);
        Ok(self.topmost_entry(name)?.filter(is_shown))
    }

    /// What the topmost layer has that has anything.
    fn topmost_entry(&self, name: &CStr) -> Result<Option<MergedEntry>, Errno> {
        for (index, layer) in self.layers.iter().enumerate() {
            match statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => return Ok(Some(MergedEntry { stat, layer: layer.clone(), index })),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    /// The directory `name`; nowhere, if there is none or if it is something else.
    pub fn dir(&self, name: &CStr) -> Result<MergedDir, Errno> {
        match self.entry(name)? {
            Some(entry) => self.dir_of(name, &entry),
            None => Ok(MergedDir::default()),
        }
    }

    /// As [`MergedDir::dir`], where the entry is known already.
    pub fn dir_of(&self, name: &CStr, entry: &MergedEntry) -> Result<MergedDir, Errno> {
        let mut merged = MergedDir::default();
        for layer in &self.layers[entry.index..] {
            let dir = match open_dir(layer, name) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                // A file or a whiteout: it hides what lies below it.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(errno) => return Err(errno),
            };
            merged.is_opaque = is_opaque(&dir)?;
            merged.layers.push(Arc::new(dir));
            if merged.is_opaque {
                break;
            }
        }
        Ok(merged)
    }

    /// Whether it hides what layers below these have there.
    pub(crate) fn is_opaque(&self) -> bool {
        self.is_opaque
    }

    /// As [`MergedDir::names`], with those that [`MergedDir::entry_or_deletion`] shows.
    pub(crate) fn names_and_deletions(&self) -> Result<Vec<CString>, Errno> {
        if let [layer] = &self.layers[..] {
            return names(layer);
        }
        self.names_that(|name| Ok(self.entry_or_deletion(name)?.is_some()))
    }

    /// Every name, in byte order.
    pub fn names(&self) -> Result<Vec<CString>, Errno> {
        self.names_that(|name| Ok(self.entry(name)?.is_some()))
    }

    /// The names of all layers that `is_shown` takes, in byte order.
    fn names_that(
        &self,
        is_shown: impl Fn(&CStr) -> Result<bool, Errno>,
    ) -> Result<Vec<CString>, Errno> {
        let mut seen = BTreeSet::new();
        for layer in &self.layers {
            seen.extend(names(layer)?);
        }
        let mut shown = Vec::new();
        for name in seen {
            if is_shown(&name)? {
                shown.push(name);
            }
        }
        Ok(shown)
    }
}
