//! Leases: what a process relies on, so that pruning can run beside it.
//!
//! ```text
//! <root>/leases.lock              shared while one lease is written, exclusive while a prune decides
//! <root>/ingest/<process>/leases  what that process relies on, a line each; gone with the process
//! ```
//!
//! Whoever is about to rely on something that a prune could remove writes a lease first, and looks
//! whether the thing is there *afterwards*:
//!
//! ```text
//! user                               prune
//! ── shared ───────────────          ── exclusive ─────────────────────────────────
//! append the lease                   read the leases of all processes
//! ─────────────────────────          read what images, kept containers and records need
//! is it there? then use it           forget the records of what goes
//!                                    rename what goes into the trash
//!                                    ──────────────────────────────────────────────
//! ```
//!
//! The two sections cannot overlap. If the lease was written before the prune's section, the prune
//! sees it and lets the thing be, with all that it stands on. If it was written after, the renames
//! are over and the user finds nothing: a miss, as if it had never been there. A record that was
//! read before is no danger, since a record is only used after its trees were asked for in this way.
//!
//! What a process makes is leased before it becomes visible. A lease ends with its process, never
//! earlier. By then whatever has to stay has another reason: a name in the table of images, or a
//! container that is kept. The prune reads the leases first and those reasons afterwards, so a
//! process that ends meanwhile is seen in one place or in the other.
//!
//! The prune's section reads and renames; it walks no tree and deletes nothing, and so takes
//! milliseconds. Sizes are measured before it, and what was really freed after it. A killed prune
//! leaves trees in the trash, which the next process empties, or trees without records, which the
//! next prune takes. The list of a killed process counts no more, since its lock can be had.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use super::file_error;
use super::process::LOCK as PROCESS_LOCK;
use crate::error::StoreError;
use crate::lock::{LockMode, lock_within, open_lock_file, try_lock};
use crate::oci::Digest;
use crate::snapshot::SnapshotId;

/// The name of a process's list in its directory.
pub(super) const FILE: &str = "leases";

/// A prune decides within milliseconds; who waits longer sits behind a stopped one.
const PRUNE_PATIENCE: Duration = Duration::from_secs(60);

/// Leases are written within microseconds; a prune gives up on who takes longer.
const LEASE_PATIENCE: Duration = Duration::from_secs(5);

/// Something that a process relies on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lease {
    /// A tree, with everything below it.
    Snapshot(SnapshotId),
    Blob(Digest),
    /// A directory in `cache-mounts/`.
    CacheMount(String),
}

/// The leases of this process.
#[derive(Debug)]
pub(crate) struct Leases {
    ingest: PathBuf,
    /// The process's own directory in `ingest`.
    own: PathBuf,
    lock_path: PathBuf,
    state: Mutex<State>,
    alone_ended: Condvar,
}

#[derive(Debug)]
struct State {
    lock: File,
    list: Option<File>,
    held: HashSet<Lease>,
    /// The thread that has the lock alone.
    alone: Option<ThreadId>,
}

/// While this lives, nobody takes a lease.
#[derive(Debug)]
pub(crate) struct Alone<'a> {
    leases: &'a Leases,
}

impl Leases {
    pub(super) fn new(ingest: &Path, own: &Path) -> Result<Leases, StoreError> {
        let lock_path = ingest.with_file_name("leases.lock");
        let lock = open_lock_file(&lock_path)?;
        let state = State { lock, list: None, held: HashSet::new(), alone: None };
        Ok(Leases {
            ingest: ingest.to_owned(),
            own: own.to_owned(),
            lock_path,
            state: Mutex::new(state),
            alone_ended: Condvar::new(),
        })
    }

    /// Keeps prunes of other processes from removing this for as long as the process lives. Ask
    /// whether it is there afterwards, never before.
    pub(crate) fn take(&self, lease: Lease) -> Result<(), StoreError> {
        let mut state = self.state();
        // Who prunes decides for itself.
        if state.alone.is_some() || state.held.contains(&lease) {
            return Ok(());
        }
        self.shared(&mut state, |state| {
            let path = self.own.join(FILE);
            let list = match &mut state.list {
                Some(list) => list,
                list => list.insert(
                    fs_err::File::create(&path).map_err(file_error("make", &path))?.into_parts().0,
                ),
            };
            list.write_all(lease.line().as_bytes()).map_err(file_error("write", &path))?;
            state.held.insert(lease);
            Ok(())
        })
    }

    /// Does something that must not fall into a prune's section.
    pub(crate) fn beside_prunes<T>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state();
        if state.alone.is_some() {
            return work();
        }
        self.shared(&mut state, |_| work())
    }

    /// Begins a prune's section. Others of this process wait for its end.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if somebody was stopped while writing a lease.
    pub(crate) fn alone(&self) -> Result<Alone<'_>, StoreError> {
        let mut state = self.state();
        if !lock_within(&state.lock, &self.lock_path, LockMode::Exclusive, LEASE_PATIENCE)? {
            return Err(StoreError::Busy { path: self.lock_path.clone(), doing: "using" });
        }
        state.alone = Some(std::thread::current().id());
        Ok(Alone { leases: self })
    }

    /// What this process relies on.
    pub(crate) fn own(&self) -> HashSet<Lease> {
        self.state().held.clone()
    }

    /// What other processes that live rely on.
    pub(crate) fn of_others(&self) -> Result<HashSet<Lease>, StoreError> {
        let mut leases = HashSet::new();
        let ingest = &self.ingest;
        for entry in fs_err::read_dir(ingest).map_err(file_error("list", ingest))? {
            let dir = entry.map_err(file_error("list", ingest))?.path();
            if dir == self.own {
                continue;
            }
            let path = dir.join(FILE);
            match fs_err::read(&path) {
                // Who has a list has its lock, or is dead.
                Ok(_) if is_dead(&dir)? => {}
                Ok(text) => {
                    leases.extend(String::from_utf8_lossy(&text).lines().filter_map(Lease::of_line))
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) => {}
                Err(source) => return Err(file_error("read", &path)(source)),
            }
        }
        Ok(leases)
    }

    fn shared<T>(
        &self,
        state: &mut State,
        work: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !lock_within(&state.lock, &self.lock_path, LockMode::Shared, PRUNE_PATIENCE)? {
            return Err(StoreError::Busy { path: self.lock_path.clone(), doing: "pruning" });
        }
        let result = work(state);
        state.lock.unlock().map_err(file_error("unlock", &self.lock_path))?;
        result
    }

    /// Waits while another thread prunes.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let own = std::thread::current().id();
        while state.alone.is_some_and(|thread| thread != own) {
            state = self.alone_ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

fn is_dead(dir: &Path) -> Result<bool, StoreError> {
    let path = dir.join(PROCESS_LOCK);
    match fs_err::File::open(&path) {
        Ok(lock) => try_lock(lock.file(), &path, LockMode::Shared),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(file_error("open", &path)(source)),
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut state = self.leases.state();
        state.alone = None;
        if let Err(error) = state.lock.unlock() {
            tracing::warn!("the lock of the leases could not be given back: {error}");
        }
        self.leases.alone_ended.notify_all();
    }
}

impl Lease {
    fn line(&self) -> String {
        match self {
            Lease::Snapshot(id) => format!("snapshot {id}\n"),
            Lease::Blob(digest) => format!("blob {digest}\n"),
            Lease::CacheMount(name) => format!("cache-mount {name}\n"),
        }
    }

    fn of_line(line: &str) -> Option<Lease> {
        let (kind, name) = line.split_once(' ')?;
        match kind {
            "snapshot" => name.parse().ok().map(Lease::Snapshot),
            "blob" => name.parse().ok().map(Lease::Blob),
            "cache-mount" => Some(Lease::CacheMount(name.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_seen_by_others_and_ends_with_its_process() {
        let place = tempfile::tempdir().unwrap();
        let ingest = place.path().join("ingest");
        for name in ["one", "two"] {
            fs_err::create_dir_all(ingest.join(name)).unwrap();
        }
        let alive = fs_err::File::create(ingest.join("one").join(PROCESS_LOCK)).unwrap();
        alive.file().lock().unwrap();
        let one = Leases::new(&ingest, &ingest.join("one")).unwrap();
        let two = Leases::new(&ingest, &ingest.join("two")).unwrap();
        let leases = [
            Lease::Snapshot("00112233445566778899aabbccddeeff".parse().unwrap()),
            Lease::Blob(Digest::of(b"x")),
            Lease::CacheMount("a-1".to_owned()),
        ];
        for lease in &leases {
            one.take(lease.clone()).unwrap();
            one.take(lease.clone()).unwrap();
        }
        assert_eq!(two.of_others().unwrap(), leases.iter().cloned().collect());
        assert_eq!(one.of_others().unwrap(), HashSet::new());
        drop(alive);
        assert_eq!(two.of_others().unwrap(), HashSet::new());
    }

    #[test]
    fn nobody_takes_a_lease_while_a_prune_decides() {
        let place = tempfile::tempdir().unwrap();
        let ingest = place.path().join("ingest");
        fs_err::create_dir_all(ingest.join("one")).unwrap();
        fs_err::create_dir_all(ingest.join("two")).unwrap();
        let alive = fs_err::File::create(ingest.join("one").join(PROCESS_LOCK)).unwrap();
        alive.file().lock().unwrap();
        let one = Leases::new(&ingest, &ingest.join("one")).unwrap();
        let two = Leases::new(&ingest, &ingest.join("two")).unwrap();
        let alone = two.alone().unwrap();
        // The pruner itself does not wait for itself.
        two.take(Lease::CacheMount("own".to_owned())).unwrap();
        let taken = std::thread::scope(|scope| {
            let taking = scope.spawn(|| one.take(Lease::CacheMount("a".to_owned())));
            std::thread::sleep(Duration::from_millis(50));
            assert!(two.of_others().unwrap().is_empty());
            drop(alone);
            taking.join().unwrap()
        });
        taken.unwrap();
        assert_eq!(two.of_others().unwrap().len(), 1);
        assert!(two.own().is_empty());
    }
}
