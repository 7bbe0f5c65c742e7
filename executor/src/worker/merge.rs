//! `COPY --link`: a layer that was made on nothing is laid over a base.
//!
//! The layer's files become hard links in a new snapshot over the base: committed snapshots never
//! change, so sharing their inodes is safe, and nothing is read or written. Directories that the
//! base has keep the base's attributes; whatever else stands in the way of a directory is replaced
//! by it.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use rayon::prelude::*;
use solver::{InputValue, Output};

use super::{LocalWorker, input};
use crate::ExecutorError;
use crate::copy::{Attributes, TargetDir, view};
use crate::executor::blocking;
use crate::merged::{Dir, Kind};

impl LocalWorker {
    pub(super) async fn merge_op(&self, inputs: &[InputValue]) -> Result<Output, ExecutorError> {
        let base = self.rootfs(inputs)?;
        let layer = match input(inputs, 1)? {
            InputValue::Output(output) => self.snapshot(output)?,
            InputValue::Direct(vertex) => {
                let reason = format!("`{}` is not a layer", vertex.meta.name);
                return Err(ExecutorError::Process { reason });
            }
        };
        let active = self.prepare(base.as_ref())?;
        let owners = self.owners;
        let active = blocking(move || {
            let merge = || -> io::Result<()> {
                let source = view(layer.as_ref(), owners)?;
                let lower = view(active.parent(), owners)?;
                let target = TargetDir::root(active.upper(), lower, owners)?;
                merge(&source, &target)
            };
            merge().map_err(ExecutorError::file("merge a layer into", active.upper()))?;
            Ok(active)
        })
        .await?;
        self.commit(active).await
    }
}

fn merge(source: &Dir, target: &Arc<TargetDir>) -> io::Result<()> {
    source
        .names()?
        .par_iter()
        .with_min_len(16)
        .try_for_each(|name| merge_entry(source, target, name))
}

fn merge_entry(source: &Dir, target: &Arc<TargetDir>, name: &OsStr) -> io::Result<()> {
    let Some(entry) = source.lookup(name)? else { return Ok(()) };
    let existing = target.lookup(name)?.map(|existing| existing.meta.kind);
    if entry.meta.kind != Kind::Dir {
        target.clear(name)?;
        return source.link(name, &entry, target.upper()?);
    }
    let below = source.open_dir(name)?;
    if existing == Some(Kind::Dir) {
        return merge(&below, &target.open_dir(name)?);
    }
    target.clear(name)?;
    let new = target.make_dir(name)?;
    merge(&below, &new)?;
    let xattrs = below.xattrs()?;
    new.set_attributes(&Attributes {
        uid: entry.meta.uid,
        gid: entry.meta.gid,
        mode: entry.meta.mode,
        mtime: Some(entry.meta.mtime),
        xattrs: &xattrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merged::{Format, Owners};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_layer_shares_its_files_and_leaves_directories_of_the_base_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["base/etc", "layer/etc/conf.d", "layer/opt", "upper"] {
            fs_err::create_dir_all(at(path)).unwrap();
        }
        for (path, mode) in [("base/etc", 0o700), ("layer/etc", 0o755), ("layer/opt", 0o750)] {
            fs_err::set_permissions(at(path), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("etc", at("base/opt")).unwrap();
        fs_err::write(at("layer/etc/conf.d/a"), "a").unwrap();
        fs_err::write(at("layer/opt/b"), "b").unwrap();

        let format = Format::layers(Owners::Native);
        let source = Dir::root([at("layer")], format).unwrap();
        let lower = Dir::root([at("base")], format).unwrap();
        let target = TargetDir::root(&at("upper"), lower, Owners::Native).unwrap();
        merge(&source, &target).unwrap();

        let mode = |path: &str| fs_err::metadata(at(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("upper/etc"), mode("upper/opt")), (0o700, 0o750));
        let inode = |path: &str| fs_err::metadata(at(path)).unwrap().ino();
        assert_eq!(inode("upper/etc/conf.d/a"), inode("layer/etc/conf.d/a"));
        assert_eq!(inode("upper/opt/b"), inode("layer/opt/b"));
    }
}
