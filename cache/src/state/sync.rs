//! Durable without waiting.
//!
//! A commit leaves an empty file in `unsynced/`, named after what was committed, and a mark with
//! the boot id on the thing itself. A sync lists those files, asks the kernel to write the whole
//! file system, and then takes the marks off. A thing that still has the mark of an earlier boot is
//! as good as missing: nobody knows how much of it reached the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::{file_error, make_dir};
use crate::blob;
use crate::error::StoreError;
use crate::oci::Digest;
use crate::snapshot::{SnapshotId, Snapshots};

/// What is committed and perhaps not on the disk. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Unsynced {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    dir: PathBuf,
    boot: String,
}

/// A sync under way. Dropping this does not stop it.
#[derive(Debug)]
pub struct BackgroundSync {
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

impl BackgroundSync {
    /// Waits until the disk has everything, which can take seconds.
    pub fn wait(self) -> Result<(), StoreError> {
        match self.thread.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Unsynced {
    pub(crate) fn open(root: &Path) -> Result<Unsynced, StoreError> {
        let dir = root.join("unsynced");
        make_dir(&dir, 0o755)?;
        // Without /proc there is no container either; one constant mark then never goes stale.
        let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let inner = Inner { root: root.to_owned(), dir, boot: boot.trim().to_owned() };
        Ok(Unsynced { inner: Arc::new(inner) })
    }

    /// The mark that things get which are committed now.
    pub(crate) fn boot(&self) -> &str {
        &self.inner.boot
    }

    /// Notes a committed blob.
    pub(crate) fn add_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.inner.dir.join(digest.to_string());
        fs_err::File::create(&path).map_err(file_error("make", &path))?;
        Ok(())
    }

    /// Where the note of a committed snapshot lies.
    pub(crate) fn snapshot_note(&self, id: &SnapshotId) -> PathBuf {
        self.inner.dir.join(id.to_string())
    }

    pub(crate) fn sync_in_background(&self) -> BackgroundSync {
        let inner = self.inner.clone();
        let thread = std::thread::Builder::new().name("sync".to_owned());
        // Without a thread the next process syncs.
        BackgroundSync { thread: thread.spawn(move || inner.sync()).ok() }
    }
}

impl Inner {
    fn sync(&self) -> Result<(), StoreError> {
        // The names first: what is committed while the kernel writes is for the next sync.
        let mut names = Vec::new();
        for entry in fs_err::read_dir(&self.dir).map_err(file_error("list", &self.dir))? {
            names.push(entry.map_err(file_error("list", &self.dir))?.file_name());
        }
        if names.is_empty() {
            return Ok(());
        }
        fs_err::File::open(&self.dir)
            .and_then(|dir| Ok(rustix::fs::syncfs(&dir)?))
            .map_err(file_error("sync", &self.root))?;
        for name in names {
            let text = name.to_string_lossy();
            if let Ok(id) = text.parse::<SnapshotId>() {
                Snapshots::mark_durable(&self.root.join("snapshots-v1"), &id, &self.boot)?;
            } else if let Ok(digest) = text.parse::<Digest>() {
                blob::mark_durable(&self.root.join("content"), &digest, &self.boot)?;
            }
            let note = self.dir.join(&name);
            match fs_err::remove_file(&note) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &note)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
