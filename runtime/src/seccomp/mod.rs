//! The seccomp filter of containers: Docker's default profile, compiled to the kernel's BPF.

mod compile;
mod profile;
mod syscalls;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Filters by bounding set; a process makes containers with one or two sets.
static COMPILED: Mutex<BTreeMap<u64, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// The default filter for a container with this capability bounding set: instructions of 8 bytes
/// each, as the kernel takes them.
pub(crate) fn default_filter(bounding: u64) -> Vec<u8> {
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    compiled.entry(bounding).or_insert_with(|| compile::filter(bounding)).clone()
}
