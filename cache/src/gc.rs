//! What the store holds, who needs it, and what can go.
//!
//! ```text
//! image names → manifests, configurations, blobs
//!             → layer chains ──────────┐
//! kept containers ─────────────────────┼─► snapshots → their parents
//! build records ───────────────────────┘
//! cache mounts, context memory           stand alone
//! volumes                                are never touched
//! ```
//!
//! What images and containers need stays. Everything else is cache, and goes least recently used
//! first, children before what they stand on. Builds and containers may run meanwhile: what they
//! rely on is leased (`state/lease.rs` has the argument why nothing falls between), and records are
//! forgotten before their snapshots are moved away, so a prune that is killed leaves at most
//! snapshots that nobody needs, which the next one takes.
//!
//! Sizes are disk blocks, with every inode counted once. What a removal frees counts an inode only
//! when its last link goes, and is measured on what was taken away.

pub mod check;
mod filter;
mod images;
mod survey;
mod usage;
pub(crate) mod uses;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::image::ImageError;
use crate::state::{Store, StoreError, file_error};
pub use filter::{Filter, FilterError};
pub use images::{ImageUsage, VolumeUsage, image_usage, images_size, kept_size, volumes};
pub use survey::{Entry, Object, RecordType, Survey, survey};
use usage::{Links, Usage};

/// Deleting what was pruned may take this long before the next process takes it over.
const TRASH_PATIENCE: Duration = Duration::from_secs(120);

/// Why the store could not be surveyed, pruned or checked.
#[derive(Debug, Error)]
pub enum GcError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image store failed.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What [`prune`] may remove. Sizes are bytes; a limit of zero is none.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Forget the records of what images need, too.
    pub all: bool,
    /// Remove only blobs and trees that no record leads to, such as a removed image leaves.
    pub leftovers: bool,
    /// Remove only what all of these fit.
    pub filters: Vec<Filter>,
    /// Never shrink the cache below this.
    pub reserved_space: u64,
    /// Stop when the cache is no larger than this.
    pub max_used_space: u64,
    /// Stop when the file system has this much free space.
    pub min_free_space: u64,
}

/// What [`prune`] did.
#[derive(Debug, Default)]
pub struct Pruned {
    /// What went, in the order of its going.
    pub removed: Vec<Entry>,
    /// Bytes of disk that this gave back.
    pub freed: u64,
    /// Bytes of cache that are left.
    pub left: u64,
}

/// Removes cache, beside whoever uses the store: what others rely on stays.
///
/// # Errors
/// [`StoreError::Busy`] if another process was stopped while writing a lease; nothing is removed
/// then.
pub fn prune(store: &Store, options: &PruneOptions) -> Result<Pruned, GcError> {
    let measured = survey(store)?;
    let total = measured.cache_size();
    if keep_bytes(store, options, total)?.is_none() {
        return Ok(Pruned { left: total, ..Pruned::default() });
    }
    let alone = store.process().leases().alone()?;
    let mut survey = survey::graph(store)?;
    survey.adopt_sizes(measured);
    let total = survey.cache_size();
    let Some(keep) = keep_bytes(store, options, total)? else {
        return Ok(Pruned { left: total, ..Pruned::default() });
    };
    let mut keys = std::mem::take(&mut survey.stale);
    if options.all && keep == 0 {
        let needed = survey.entries.iter().filter(|entry| !entry.is_cache());
        let fitting = needed.filter(|entry| options.filters.iter().all(|one| one.fits(entry)));
        keys.extend(fitting.flat_map(|entry| entry.keys.iter().copied()));
        if options.filters.is_empty() {
            keys.extend(std::mem::take(&mut survey.far).into_iter().map(|(key, _)| key));
        }
    }
    let chosen = choose(&mut survey, options, total.saturating_sub(keep), keep > 0);
    let removed: Vec<Entry> = chosen.into_iter().map(|at| survey.entries[at].clone()).collect();
    keys.extend(removed.iter().flat_map(|entry| entry.keys.iter().copied()));
    store.index().remove(&keys)?;
    forget_far(store, &survey)?;
    let mut held = Vec::new();
    for entry in &removed {
        hold(store, &entry.object, &mut held)?;
    }
    store.snapshots().sweep_undurable()?;
    drop(alone);
    // Nobody can link to it any more, so this is what the disk gives back.
    let mut links = Links::default();
    let usage = Usage::of(held.clone(), &mut links)?;
    let freed = links.take(&usage);
    store.trash_can().delete(held);
    // What is reported free is free.
    store.empty_trash(TRASH_PATIENCE);
    Ok(Pruned { removed, freed, left: total.saturating_sub(freed) })
}

/// Forgets what is known of far trees that no record names any more.
fn forget_far(store: &Store, survey: &Survey) -> Result<(), StoreError> {
    let layers = store.index().far_layers()?;
    let named = survey.far.iter().flat_map(|(_, trees)| trees.iter().copied());
    let needed = crate::bundle::far::closure(&layers, named);
    let forgotten = layers.into_keys().filter(|tree| !needed.contains(tree)).collect();
    store.index().remove_far_layers(&forgotten)
}

/// The size of the file system that the store lies on, in bytes.
pub fn disk_size(store: &Store) -> Result<u64, GcError> {
    let disk = statvfs(store)?;
    Ok(disk.f_blocks * disk.f_frsize)
}

fn statvfs(store: &Store) -> Result<rustix::fs::StatVfs, StoreError> {
    let root = store.root();
    rustix::fs::statvfs(root)
        .map_err(|errno| file_error("ask for the free space of", root)(errno.into()))
}

/// How much of the cache may stay; `None` if all of it may.
fn keep_bytes(store: &Store, options: &PruneOptions, total: u64) -> Result<Option<u64>, GcError> {
    let PruneOptions { reserved_space, max_used_space, min_free_space, .. } = *options;
    if (reserved_space, max_used_space, min_free_space) == (0, 0, 0) {
        return Ok(Some(0));
    }
    let mut keep = match (max_used_space, min_free_space) {
        // A reserve alone is what to shrink to.
        (0, 0) => reserved_space,
        (0, _) => total,
        (max, _) => max,
    };
    let disk = statvfs(store)?;
    let missing = min_free_space.saturating_sub(disk.f_bavail * disk.f_frsize);
    keep = keep.min(total.saturating_sub(missing)).max(reserved_space);
    Ok((keep < total).then_some(keep))
}

/// The places in the survey of what goes, in order.
fn choose(survey: &mut Survey, options: &PruneOptions, goal: u64, has_goal: bool) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut freed = 0;
    for at in survey.eviction_order() {
        if has_goal && freed >= goal {
            break;
        }
        let entry = &survey.entries[at];
        let fits = options.filters.iter().all(|filter| filter.fits(entry))
            && !(options.leftovers && (entry.is_mutable() || !entry.keys.is_empty()));
        if !entry.is_removable() || !fits || !survey.is_measured(at) || survey.has_children(at) {
            continue;
        }
        freed += survey.take(at);
        chosen.push(at);
    }
    chosen
}

/// Moves something into the trash, and adds where it lies there.
fn hold(store: &Store, object: &Object, held: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    if let Object::Snapshot(id) = object {
        store.snapshots().forget(id);
    }
    let process = store.process().name();
    for path in object.paths(store)? {
        held.extend(store.trash_can().hold(&path, &process)?);
    }
    Ok(())
}

/// Removes images without a name or, with `all`, every image that none of `keep` (ids or names of
/// images as users wrote them) is of. Says which names and ids went. Their blobs and trees are
/// cache from then on; [`prune`] frees them.
pub fn prune_images(store: &Store, all: bool, keep: &[String]) -> Result<Vec<String>, GcError> {
    let images = store.images();
    let host = crate::oci::Platform::host();
    let mut used = BTreeSet::new();
    for text in keep {
        used.extend(images.find(text, &host)?.map(|image| image.config_digest));
    }
    let mut gone = Vec::new();
    for row in images.list()? {
        if used.contains(&row.id) || (!all && row.name.is_some()) {
            continue;
        }
        let Some(image) = images.by_manifest(&row.manifest)? else { continue };
        let removal = images.remove(&image)?;
        gone.extend(removal.untagged.iter().map(|name| format!("untagged: {}", name.familiar())));
        gone.push(format!("deleted: {}", row.id));
    }
    gone.dedup();
    Ok(gone)
}
