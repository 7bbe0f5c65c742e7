//! Which checkpoint of an earlier packing a tree has come past.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, readlinkat, statat};

use super::checkpoint::{Checkpoint, Trace};
use super::pack::MAX_DEPTH;
use super::tree_error;
use crate::error::LayerError;
use crate::tree::{self, Metadata};

/// How many of the checkpoints, which are of a layer on the same parent, hold of `upper` too. No
/// file is opened for that.
pub(super) fn shared(upper: &OwnedFd, checkpoints: &[Checkpoint]) -> Result<usize, LayerError> {
    let mut walk = Walk { checkpoints, shared: 0, trace: Trace::new() };
    if !checkpoints.is_empty() {
        walk.directory(upper, b"", 0)?;
    }
    Ok(walk.shared)
}

struct Walk<'a> {
    checkpoints: &'a [Checkpoint],
    shared: usize,
    trace: Trace,
}

impl Walk<'_> {
    /// Whether to go on.
    fn directory(&mut self, dir: &OwnedFd, path: &[u8], depth: usize) -> Result<bool, LayerError> {
        let names = tree::names(dir).map_err(|errno| tree_error("list", path, errno))?;
        for name in names {
            let path = [path, name.to_bytes()].concat();
            let read = |errno| tree_error("read", &path, errno);
            let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(read)?;
            let goes_on = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below = tree::open_dir(dir, &name).map_err(read)?;
                    if depth == MAX_DEPTH || tree::is_opaque(&below).map_err(read)? {
                        return Ok(false);
                    }
                    let metadata = tree::read_metadata(&stat, Some(below.as_fd())).map_err(read)?;
                    self.trace.add(&path, &stat, &metadata, b"");
                    self.compare()
                        && self.directory(&below, &[&path[..], b"/"].concat(), depth + 1)?
                }
                FileType::Symlink => {
                    let link = readlinkat(dir, &name, Vec::new()).map_err(read)?;
                    self.trace.add(&path, &stat, &Metadata::default(), link.to_bytes());
                    self.compare()
                }
                _ => {
                    self.trace.add(&path, &stat, &Metadata::default(), b"");
                    self.compare()
                }
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks whether the next checkpoint is here; `false` if there is none, or another one.
    fn compare(&mut self) -> bool {
        let Some(next) = self.checkpoints.get(self.shared) else { return false };
        if self.trace.names() == next.names {
            if self.trace.mark().trace != next.trace {
                return false;
            }
            self.shared += 1;
        }
        self.trace.names() < self.checkpoints.last().map_or(0, |last| last.names)
    }
}
