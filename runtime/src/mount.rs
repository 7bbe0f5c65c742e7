//! skeleton
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use crate::RuntimeError;

/// Mounts of the engine's own namespace, detached when this is dropped.
#[derive(Debug)]
pub struct MountGuard {
    targets: Vec<PathBuf>,
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        for _ in self.targets.drain(..).rev() {}
    }
}

/// Performs `mounts` below the existing directory `target`, in the engine's own mount namespace:
/// the destination `/` is `target` itself. Needs [`crate::isolate`] first.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<MountGuard, RuntimeError> {
    let _ = mounts;
    todo!("{}", target.display())
}
