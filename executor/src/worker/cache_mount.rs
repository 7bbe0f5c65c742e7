//! Directories that outlive a build: `RUN --mount=type=cache`.
//!
//! ```text
//! cache-mounts/<hash of id and first state>[-<n>]/
//!     data/       what is mounted
//!     lock        flock: shared while it is mounted, exclusive by a step that wants it alone
//!     id          the id in the user's words, for listings
//! ```
//!
//! The names are hashes, so no id can lead anywhere else.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cache::Store;
use cache::hash::FingerprintBuilder;
use cache::state::is_there;
use rustix::fs::{CWD, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use solver::llb::{CopyAction, Sharing};

use crate::ExecutorError;
use crate::copy::{FileOperation, TargetDir};
use crate::merged::{Dir, Format, Meta, Owners};
use crate::source_tree::SourceTree;

/// How often a lock that somebody holds is tried.
const POLL: Duration = Duration::from_millis(50);

/// Copies of a private mount that may be in use at once.
const MAX_COPIES: usize = 1000;

/// A cache mount as a step asks for it.
#[derive(Debug, Clone)]
pub(crate) struct CacheMount {
    pub id: String,
    pub sharing: Sharing,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// What it starts with: a tree, a name for its state, and the path in it.
    pub first: Option<(SourceTree, String, String)>,
}

/// A cache mount in use; others may have their turn when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldCache {
    pub data: PathBuf,
    _lock: OwnedFd,
}

impl CacheMount {
    /// The directory's name. Who wants another first state means another directory.
    fn name(&self) -> String {
        let mut name =
            FingerprintBuilder::new("strake cache mount v1").field("id", self.id.as_bytes());
        if (self.mode, self.uid, self.gid) != (0o755, 0, 0) {
            name.add("mode", &self.mode.to_le_bytes());
            name.add("uid", &self.uid.to_le_bytes());
            name.add("gid", &self.gid.to_le_bytes());
        }
        if let Some((_, state, path)) = &self.first {
            name.add("from", state.as_bytes());
            name.add("source", path.as_bytes());
        }
        name.finish().to_string()[..32].to_owned()
    }

    /// Waits for its turn and makes the directory if it is not there. With `fresh` what was in it
    /// is gone, unless somebody is using it.
    pub(crate) async fn hold(
        &self,
        store: &Store,
        owners: Owners,
        fresh: bool,
    ) -> Result<HeldCache, ExecutorError> {
        let base = store.cache_mounts_dir();
        let name = self.name();
        for copy in 0..MAX_COPIES {
            let dir = match copy {
                0 => base.join(&name),
                copy => base.join(format!("{name}-{copy}")),
            };
            let wanted = match self.sharing {
                Sharing::Shared => FlockOperation::NonBlockingLockShared,
                Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
            };
            loop {
                if let Some(held) = self.try_hold(store, &dir, wanted, owners, fresh)? {
                    return Ok(held);
                }
                if self.sharing == Sharing::Private {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
        }
        let reason = format!("more than {MAX_COPIES} steps use the cache mount `{}`", self.id);
        Err(ExecutorError::Process { reason })
    }

    fn try_hold(
        &self,
        store: &Store,
        dir: &Path,
        wanted: FlockOperation,
        owners: Owners,
        fresh: bool,
    ) -> Result<Option<HeldCache>, ExecutorError> {
        let failed = |attempt, path: &Path| {
            let path = path.to_owned();
            move |errno: Errno| ExecutorError::File { attempt, path, source: errno.into() }
        };
        if let Some(name) = dir.file_name() {
            store.lease_cache_mount(&name.to_string_lossy())?;
        }
        fs_err::create_dir_all(dir).map_err(ExecutorError::file("make the cache mount", dir))?;
        let lock_path = dir.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(CWD, &lock_path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("open", &lock_path))?;
        let data = dir.join("data");
        // Alone for as long as it takes to look after the directory, then as wanted.
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                if fresh && is_there(&data)? {
                    store.trash(&data)?;
                }
                if !is_there(&data)? {
                    self.fill(dir, &data, owners)?;
                }
            }
            Err(Errno::WOULDBLOCK) if !is_there(&data)? => return Ok(None),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(failed("lock", &lock_path)(errno)),
        }
        match rustix::fs::flock(&lock, wanted) {
            Ok(()) if is_there(&data)? => {
                if let Some(name) = dir.file_name() {
                    store.mark_cache_mount_used(&name.to_string_lossy());
                }
                Ok(Some(HeldCache { data, _lock: lock }))
            }
            Ok(()) | Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed("lock", &lock_path)(errno)),
        }
    }

    fn fill(&self, dir: &Path, data: &Path, owners: Owners) -> Result<(), ExecutorError> {
        let made = tempfile::Builder::new()
            .prefix("new-")
            .tempdir_in(dir)
            .map_err(ExecutorError::file("make a directory in", dir))?;
        let path = made.path();
        let (mut mode, mut uid, mut gid) = (self.mode, self.uid, self.gid);
        if let Some((tree, _, source)) = &self.first {
            copy_into(path, tree, source)?;
            // As in BuildKit its mode and owner are then those of what it starts with.
            if let Some(meta) = directory_meta(tree, source)? {
                (mode, uid, gid) = match tree.is_context {
                    true => (meta.mode, 0, 0),
                    false => (meta.mode, meta.uid, meta.gid),
                };
            }
        }
        let mode = Mode::from_raw_mode(mode);
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match rustix::fs::chown(path, owner.0, owner.1) {
            // With a single id there is nobody else to give it to.
            Err(Errno::INVAL | Errno::PERM) if owners == Owners::Attribute => {}
            other => other.map_err(|errno| ExecutorError::File {
                attempt: "set the owner of",
                path: path.to_owned(),
                source: errno.into(),
            })?,
        }
        rustix::fs::chmod(path, mode).map_err(|errno| ExecutorError::File {
            attempt: "set the mode of",
            path: path.to_owned(),
            source: errno.into(),
        })?;
        let id = dir.join("id");
        fs_err::write(&id, &self.id).map_err(ExecutorError::file("write", &id))?;
        fs_err::rename(path, data).map_err(ExecutorError::file("make", data))?;
        // It has moved away; there is nothing to remove.
        let _ = made.keep();
        Ok(())
    }
}

/// The metadata of the directory `source` of `tree`.
fn directory_meta(tree: &SourceTree, source: &str) -> Result<Option<Meta>, ExecutorError> {
    let found = tree.find(source, false, true)?;
    let Some(found) = found.first().filter(|found| tree.is_dir(&found.located)) else {
        return Ok(None);
    };
    tree.open_dir(&found.located)?.meta().map_err(ExecutorError::file("look at", source))
}

/// Copies the contents of the directory `source` of `tree` into the directory `into`.
pub(crate) fn copy_into(into: &Path, tree: &SourceTree, source: &str) -> Result<(), ExecutorError> {
    let operation = FileOperation::plain(into)?;
    let action = CopyAction { from_context: tree.is_context, ..CopyAction::plain(source, "/") };
    operation.copy(&action, tree).map(drop)
}

/// A directory outside of snapshots, as the target of copies.
impl FileOperation {
    pub(crate) fn plain(into: &Path) -> Result<Self, ExecutorError> {
        let format = Format::layers(Owners::Native);
        let root = TargetDir::root(into, Dir::empty(format), Owners::Native)
            .map_err(ExecutorError::file("open", into))?;
        Ok(Self::over(root, Arc::new(Dir::empty(format))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: &str, sharing: Sharing) -> CacheMount {
        CacheMount { id: id.into(), sharing, mode: 0o755, uid: 0, gid: 0, first: None }
    }

    async fn hold(mount: &CacheMount, store: &Store, fresh: bool) -> HeldCache {
        mount.hold(store, Owners::Native, fresh).await.unwrap()
    }

    #[tokio::test]
    async fn a_cache_mount_keeps_its_files_until_it_is_wanted_fresh() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let mount = mount("../../etc", Sharing::Shared);
        let first = hold(&mount, &store, false).await;
        assert!(first.data.starts_with(store.cache_mounts_dir()));
        fs_err::write(first.data.join("x"), "1").unwrap();
        drop(first);
        assert!(hold(&mount, &store, false).await.data.join("x").exists());
        assert!(!hold(&mount, &store, true).await.data.join("x").exists());
    }

    #[tokio::test]
    async fn sharing_decides_who_waits() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let shared = hold(&mount("a", Sharing::Shared), &store, false).await;
        let second = hold(&mount("a", Sharing::Shared), &store, false).await;
        assert_eq!(shared.data, second.data);
        let private = hold(&mount("a", Sharing::Private), &store, false).await;
        assert_ne!(shared.data, private.data);

        let locked = hold(&mount("b", Sharing::Locked), &store, false).await;
        let waiting = mount("b", Sharing::Locked);
        let blocked =
            tokio::time::timeout(POLL * 3, waiting.hold(&store, Owners::Native, false)).await;
        assert!(blocked.is_err(), "a locked mount was shared");
        drop(locked);
        hold(&waiting, &store, false).await;
    }
}
