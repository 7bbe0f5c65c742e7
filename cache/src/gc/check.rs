//! Looking for damage, and taking away what is damaged.
//!
//! A blob must have the digest it is named by. A snapshot must have a readable description, its
//! parent and its tree, and a layer that was made here must still pack to the digest that was
//! written down beside it; of a layer that came from elsewhere only the structure can be checked,
//! since its tar is not kept. A record must have its snapshots, unless they are known to be far away, and an image its manifest, its
//! configuration and, where no registry could send them again, its layers.
//!
//! Repair removes: the next build makes or fetches anew what it then does not find.

use std::collections::BTreeSet;
use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::GcError;
use crate::image::document::digest_of;
use crate::image::far::has_place;
use crate::layer;
use crate::oci::{ChainId, Digest};
use crate::snapshot::SnapshotId;
use crate::state::{Store, is_there};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A blob has other content than its name says.
    Blob(Digest),
    /// A snapshot's description or tree is missing or unreadable.
    Snapshot(SnapshotId),
    /// A snapshot's parent is gone.
    Orphan(SnapshotId),
    /// A layer's files are not those it was committed with.
    Layer(SnapshotId),
    /// A step's record, by its name, whose trees are gone. Harmless: the step runs again.
    Record(String),
    /// An image, by its name or manifest digest, that cannot be used any more.
    Image(String),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Blob(digest) => write!(f, "blob {digest} has other content"),
            Damage::Snapshot(id) => write!(f, "snapshot {id} is incomplete"),
            Damage::Orphan(id) => write!(f, "snapshot {id} has lost what it stands on"),
            Damage::Layer(id) => write!(f, "files of snapshot {id} were changed"),
            Damage::Record(name) => write!(f, "the result of step {name} is gone"),
            Damage::Image(name) => write!(f, "image {name} is incomplete"),
        }
    }
}

/// Looks at everything. Reads every blob and every layer that was made here.
pub fn check(store: &Store) -> Result<Vec<Damage>, GcError> {
    check_all(store, false)
}

/// As [`check`], alone in the store, removing what is damaged.
///
/// # Errors
/// [`crate::StoreError::Busy`] if other processes use the store.
pub fn repair(store: &Store) -> Result<Vec<Damage>, GcError> {
    let _alone = store.exclusive()?;
    let damages = check_all(store, true)?;
    store.snapshots().sweep_undurable()?;
    Ok(damages)
}

fn check_all(store: &Store, repair: bool) -> Result<Vec<Damage>, GcError> {
    let mut damages = Vec::new();
    check_blobs(store, repair, &mut damages)?;
    let lost = check_snapshots(store, repair, &mut damages)?;
    check_records(store, repair, &lost, &mut damages)?;
    check_images(store, repair, &mut damages)?;
    Ok(damages)
}

fn check_blobs(store: &Store, repair: bool, damages: &mut Vec<Damage>) -> Result<(), GcError> {
    for digest in store.blobs().list()? {
        let path = store.blobs().path(&digest);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let read = fs_err::File::open(&path).and_then(|mut file| {
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => hasher.update(&buffer[..count]),
                }
            }
        });
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            // A disk that cannot read it back has lost it.
            Err(_) => {}
            Ok(()) if Digest::from_bytes(hasher.finalize().into()) == digest => continue,
            Ok(()) => {}
        }
        damages.push(Damage::Blob(digest));
        if repair {
            store.blobs().remove(&digest)?;
        }
    }
    Ok(())
}

/// Says which snapshots cannot be used: the damaged ones and those on top of them.
fn check_snapshots(
    store: &Store,
    repair: bool,
    damages: &mut Vec<Damage>,
) -> Result<BTreeSet<SnapshotId>, GcError> {
    let snapshots = store.snapshots();
    let ids = snapshots.list()?;
    let mut lost = BTreeSet::new();
    for id in &ids {
        let dir = snapshots.directory(id);
        if snapshots.origin(id)?.is_none() || !dir.join("fs").is_dir() {
            lost.insert(*id);
            // Removed by somebody else a moment ago?
            if is_there(&dir)? {
                damages.push(Damage::Snapshot(*id));
            }
        } else if let Some(snapshot) = snapshots.get(id)?
            && !snapshot.layer_is_intact()?
        {
            lost.insert(*id);
            damages.push(Damage::Layer(*id));
        }
    }
    // What stands on something lost is lost; each round goes one level up.
    loop {
        let before = lost.len();
        for id in &ids {
            if lost.contains(id) {
                continue;
            }
            let Some((Some(parent), _)) = snapshots.origin(id)? else { continue };
            if lost.contains(&parent) || ids.binary_search(&parent).is_err() {
                lost.insert(*id);
                damages.push(Damage::Orphan(*id));
            }
        }
        if lost.len() == before {
            break;
        }
    }
    if repair {
        for id in &lost {
            snapshots.remove(id)?;
        }
    }
    Ok(lost)
}

fn check_records(
    store: &Store,
    repair: bool,
    lost: &BTreeSet<SnapshotId>,
    damages: &mut Vec<Damage>,
) -> Result<(), GcError> {
    let ids = store.snapshots().list()?;
    let far = store.index().far_layers()?;
    let is_gone = |id: &SnapshotId| ids.binary_search(id).is_err() && !far.contains_key(id);
    let mut gone = Vec::new();
    for record in store.index().records()? {
        let mut trees = record.outputs.iter().filter_map(|output| output.snapshot);
        if trees.any(|id| lost.contains(&id) || is_gone(&id)) {
            damages.push(Damage::Record(record.name));
            gone.push(record.key);
        }
    }
    if repair {
        store.index().remove(&gone)?;
    }
    Ok(())
}

fn check_images(store: &Store, repair: bool, damages: &mut Vec<Damage>) -> Result<(), GcError> {
    let is_whole = |manifest: &Digest| -> Result<bool, GcError> {
        if !store.blobs().contains(manifest)? {
            return Ok(false);
        }
        match store.images().by_manifest(manifest) {
            Ok(Some(image)) => has_layers(store, &image),
            Ok(None) | Err(_) => Ok(false),
        }
    };
    let mut broken = BTreeSet::new();
    for (name, manifest) in store.images().rows()? {
        if !is_whole(&manifest)? {
            let shown = name.map_or_else(|| manifest.to_string(), |name| name.familiar());
            damages.push(Damage::Image(shown));
            broken.insert(manifest);
        }
    }
    if repair && !broken.is_empty() {
        store.images().forget(&broken)?;
    }
    Ok(())
}

/// Whether every layer is here or could be fetched again. A layer that was made here is listed by
/// the digest of its tar; no registry has it until it was pushed, and that is noted where it matters.
fn has_layers(store: &Store, image: &crate::image::Image) -> Result<bool, GcError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    for count in (1..=diff_ids.len()).rev() {
        let digest = digest_of(&image.manifest.layers()[count - 1]).ok();
        if let Some(chain) = ChainId::of(&diff_ids[..count])
            && store.snapshots().unpacked(&chain)?.is_some()
        {
            return Ok(true);
        }
        let made_here = digest == Some(diff_ids[count - 1].0) && !has_place(store, image)?;
        if made_here && crate::image::unpack::layer_blob(store, image, count - 1)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl crate::snapshot::Snapshot {
    /// Whether the tree still packs to what is written down beside it; true where nothing is, or
    /// where the layer came from elsewhere.
    fn layer_is_intact(&self) -> Result<bool, GcError> {
        let Some(known) = self.recorded_layer()? else { return Ok(true) };
        match layer::pack(self, &mut std::io::sink()) {
            Ok(packed) => Ok(packed.diff_id == known.diff_id && packed.content == known.content),
            Err(error) => {
                tracing::warn!("snapshot {} cannot be packed: {error}", self.id());
                Ok(false)
            }
        }
    }
}
