//! Build contexts: directories of the user.

use std::io::Read;
use std::path::{Path, PathBuf};

use cache::Store;

use crate::ExecutorError;

/// A directory that stands for a context that came as an archive; removed when dropped.
#[derive(Debug)]
pub struct UnpackedContext {
    root: PathBuf,
    store: Store,
}

impl UnpackedContext {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }
}

impl Drop for UnpackedContext {
    fn drop(&mut self) {
        let _ = self.store.trash(&self.root);
    }
}

/// Unpacks a context that is a tar archive, plain or compressed (gzip, bzip2, xz, zstd), into a
/// directory of the store.
///
/// # Errors
///
/// [`ExecutorError::Archive`] if it is broken or wants out of its directory.
pub fn from_tar(reader: impl Read + Send, store: &Store) -> Result<UnpackedContext, ExecutorError> {
    let _ = (reader, store);
    todo!()
}
