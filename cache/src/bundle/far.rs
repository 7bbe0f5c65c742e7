//! Trees that the store's records name and that were never fetched.
//!
//! A build that finds its steps in an imported cache and needs no file of them leaves their trees
//! where they are. What they are made of is remembered, a layer a row, so that later builds without
//! that cache find the steps too:
//!
//! ```text
//! record ── outputs: names ──► far layer {below: name, diff_id, content, blob, repository} ──► …
//! ```
//!
//! The names are those that [`Imported`] had made up. Nothing here is needed: a tree whose layers
//! are neither in the store nor in a repository that answers is a miss, like one that was pruned.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::document::{Blob, Document, Layer};
use super::imported::{Source, Trust, blob_of};
use super::{BundleError, Imported, Place, RegistryPlace};
use crate::error::StoreError;
use crate::oci::{Descriptor, DiffId, ImageName};
use crate::remote::Registries;
use crate::snapshot::SnapshotId;
use crate::state::Store;

/// What can be stacked.
const MAX_DEPTH: usize = 500;

/// A layer of a tree that is not here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FarLayer {
    /// The tree that it stands on.
    pub(crate) below: Option<SnapshotId>,
    layer: Layer,
    /// The repository that has its blob; without one, only the store may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repository: Option<ImageName>,
}

/// Layers of base images that are to be had from these repositories, as they lie there.
pub type Bases = HashMap<DiffId, (Descriptor, ImageName)>;

/// The trees of one store that were asked for in this build.
#[derive(Debug)]
pub(super) struct Remembered {
    registries: Registries,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// What the store has said.
    layers: HashMap<SnapshotId, Option<FarLayer>>,
    /// Name → whose tree it is, and the number of its highest layer.
    trees: HashMap<SnapshotId, (Arc<Source>, usize)>,
    /// A repository that fails once is given up with all trees that lie there.
    trust: HashMap<Option<ImageName>, Arc<Trust>>,
}

impl Imported {
    /// As [`Imported::new`], with what the store remembers of earlier imports.
    ///
    /// # Errors
    /// If the store's index cannot be asked; then [`Imported::new`] is what there is.
    pub fn with_remembered(
        documents: Vec<(Arc<dyn Place>, Document)>,
        store: &Store,
        registries: Registries,
    ) -> Result<Imported, StoreError> {
        // Nearly every store has none, and nothing is looked for then.
        let remembered = store
            .index()
            .has_far_layers()?
            .then(|| Remembered { registries, asked: Mutex::default() });
        Ok(Imported::with(documents, remembered))
    }

    /// Takes up a tree that a record of the store names and that is not here. Answers whether it can
    /// be had, as far as that is known without asking anybody.
    pub fn take_up(&self, store: &Store, name: &SnapshotId) -> Result<bool, BundleError> {
        if self.knows(name) {
            return Ok(self.offers(name));
        }
        let Some(remembered) = &self.inner().remembered else { return Ok(false) };
        let mut asked = remembered.lock();
        let Some(layers) = asked.stack(store, name)? else { return Ok(false) };
        let source = asked.source_of(layers, &remembered.registries);
        let top = source.document.layers.len() - 1;
        let here = store.snapshots().unpacked(&source.chains[top])?;
        if here.is_none() && !can_be_had(store, &source, top)? {
            return Ok(false);
        }
        asked.trees.insert(*name, (Arc::new(source), top));
        drop(asked);
        if let Some(here) = here {
            self.set_made(*name, *here.id());
        }
        Ok(self.offers(name))
    }

    /// Remembers what these trees of imported caches are made of, as far as they can be had later.
    /// Layers of `bases` are to be had where the base images are from.
    pub fn remember(
        &self,
        store: &Store,
        trees: &[SnapshotId],
        bases: &Bases,
    ) -> Result<(), BundleError> {
        let mut rows = BTreeMap::new();
        for name in trees {
            let Some((source, top)) = self.source(name) else { continue };
            let repository = source.place.as_ref().and_then(|place| place.repository());
            let mut layers = Vec::new();
            for number in source.document.stack(top) {
                let layer = &source.document.layers[number];
                let mut far = FarLayer {
                    below: layer.parent.map(|parent| source.names[parent]),
                    layer: Layer { parent: None, ..layer.clone() },
                    repository: repository.map(ImageName::without_reference),
                };
                if let Some((blob, base)) = bases.get(&layer.diff_id) {
                    far.layer.blob = Some(Blob::of(blob)?);
                    far.repository = Some(base.without_reference());
                } else if repository.is_none() && !is_here(store, &source, number)? {
                    layers.clear();
                    break;
                }
                layers.push((source.names[number], far));
            }
            rows.extend(layers);
        }
        Ok(store.index().put_far_layers(&rows)?)
    }
}

impl Remembered {
    pub(super) fn sources(&self) -> Vec<Arc<Source>> {
        self.lock().trees.values().map(|(source, _)| Arc::clone(source)).collect()
    }

    pub(super) fn source(&self, name: &SnapshotId) -> Option<(Arc<Source>, usize)> {
        self.lock().trees.get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// The layers of a remembered tree, bottom first.
    fn stack(
        &mut self,
        store: &Store,
        top: &SnapshotId,
    ) -> Result<Option<Vec<(SnapshotId, FarLayer)>>, StoreError> {
        let mut layers = Vec::new();
        let mut open = Some(*top);
        while let Some(name) = open {
            let known = match self.layers.entry(name) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(store.index().far_layer(&name)?),
            };
            let Some(layer) = known.clone() else { return Ok(None) };
            open = layer.below;
            layers.push((name, layer));
            // A damaged index could say anything.
            if layers.len() > MAX_DEPTH {
                return Ok(None);
            }
        }
        layers.reverse();
        Ok(Some(layers))
    }

    /// A tree as one that is imported from where its highest layer is.
    fn source_of(
        &mut self,
        layers: Vec<(SnapshotId, FarLayer)>,
        registries: &Registries,
    ) -> Source {
        let place = |name: &ImageName| {
            Arc::new(RegistryPlace::new(name.clone(), registries.clone())) as Arc<dyn Place>
        };
        let repository = layers.last().and_then(|(_, layer)| layer.repository.clone());
        let apart = layers.iter().filter(|(_, layer)| layer.repository != repository);
        let apart = apart.filter_map(|(_, far)| {
            Some((far.layer.blob.as_ref()?.digest, place(far.repository.as_ref()?)))
        });
        let apart = apart.collect();
        let names = layers.iter().map(|(name, _)| *name).collect();
        let document = Document::of_stack(layers.into_iter().map(|(_, far)| far.layer));
        let trust = self.trust.entry(repository.clone()).or_default().clone();
        let mut source = Source::new(repository.as_ref().map(place), document, names, trust);
        source.apart = apart;
        source
    }
}

/// Whether a layer is in the store, packed or unpacked.
fn is_here(store: &Store, source: &Source, number: usize) -> Result<bool, BundleError> {
    let blob = blob_of(store, source, &source.document.layers[number])?;
    Ok(store.blobs().holds(&blob)? || store.snapshots().unpacked(&source.chains[number])?.is_some())
}

/// Whether every layer of a tree is in the store or known to be elsewhere.
fn can_be_had(store: &Store, source: &Source, top: usize) -> Result<bool, BundleError> {
    for number in source.document.stack(top).into_iter().rev() {
        if store.snapshots().unpacked(&source.chains[number])?.is_some() {
            break;
        }
        let layer = &source.document.layers[number];
        let blob = blob_of(store, source, layer)?;
        if source.place_of(&blob)?.is_none() && !store.blobs().holds(&blob)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// These trees with all that they stand on.
pub(crate) fn closure(
    layers: &HashMap<SnapshotId, FarLayer>,
    tops: impl Iterator<Item = SnapshotId>,
) -> HashSet<SnapshotId> {
    let mut found = HashSet::new();
    for top in tops {
        let mut open = Some(top);
        while let Some(name) = open.filter(|name| found.insert(*name)) {
            open = layers.get(&name).and_then(|layer| layer.below);
        }
    }
    found
}
