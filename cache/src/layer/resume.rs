//! Which checkpoint of an earlier packing a tree has come past.

use rustix::fs::{FileType, readlinkat};
use rustix::io::Errno;

use super::changes::Changes;
use super::checkpoint::{Checkpoint, Trace};
use super::pack::MAX_DEPTH;
use super::tree_error;
use crate::error::LayerError;
use crate::tree::{self, Metadata};

/// How many of the checkpoints, which are of a layer on the same parent, hold of `upper` too. No
/// file is opened for that.
pub(super) fn shared(upper: &Changes, checkpoints: &[Checkpoint]) -> Result<usize, LayerError> {
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
    fn directory(&mut self, dir: &Changes, path: &[u8], depth: usize) -> Result<bool, LayerError> {
        let names = dir.names().map_err(|errno| tree_error("list", path, errno))?;
        for name in names {
            let path = [path, name.to_bytes()].concat();
            let read = |errno| tree_error("read", &path, errno);
            let change = dir.entry(&name).map_err(read)?;
            let change = change.ok_or_else(|| read(Errno::NOENT))?;
            let stat = change.stat;
            let goes_on = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below = dir.below(&name, &change).map_err(read)?;
                    if depth == MAX_DEPTH || below.is_opaque() {
                        return Ok(false);
                    }
                    let metadata = tree::read_metadata(&stat, below.topmost()).map_err(read)?;
                    self.trace.add(&path, &stat, &metadata, b"");
                    self.compare()
                        && self.directory(&below, &[&path[..], b"/"].concat(), depth + 1)?
                }
                FileType::Symlink => {
                    let link = readlinkat(&change.dir, &name, Vec::new()).map_err(read)?;
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
