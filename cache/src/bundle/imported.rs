//! What other machines built: records that are here, trees that can be.
//!
//! A record names its trees as every record does, by snapshot ids; but these are names that
//! [`Imported`] made up, and there is nothing behind them yet. Whoever needs the files asks for the
//! tree to be [made](Imported::make): what is missing of its layers is fetched, unpacked and held
//! to its digests. A place that fails once is given up for the rest of the build, and its records
//! with it: its names [are offered](Imported::offers) no more, and the solver does the work again.
//!
//! Trees of earlier builds that were never fetched are of the same kind: the store's own records name
//! them, and [`super::far`] says what they are.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{StreamExt, TryStreamExt, iter};

use super::document::{Document, Layer};
use super::{BundleError, Place};
use crate::error::StoreError;
use crate::hash::Fingerprint;
use crate::image::document::{descriptor, layer_type};
use crate::index::{CacheKey, Output, Record};
use crate::layer::{UnpackLimits, decompressor, unpack};
use crate::oci::{ChainId, Descriptor, DiffId, Digest, ImageName, MediaType};
use crate::snapshot::{CommitInfo, Snapshot, SnapshotId};
use crate::state::Store;

/// Layers being fetched at the same time for one tree.
const AT_ONCE: usize = 6;

/// The imported caches of a build, in the order in which they are asked. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    sources: Vec<Arc<Source>>,
    /// Made-up name → (source, layer).
    trees: HashMap<SnapshotId, (usize, usize)>,
    /// Trees that the store remembers; absent if it remembers none.
    pub(super) remembered: Option<super::far::Remembered>,
    /// Names whose trees are here now.
    made: Mutex<HashMap<SnapshotId, SnapshotId>>,
    /// Trees share layers: they are made one after the other.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Source {
    /// `None`: all there is of it is in the store.
    pub(super) place: Option<Arc<dyn Place>>,
    /// Blobs that are somewhere else than the rest.
    pub(super) apart: HashMap<Digest, Arc<dyn Place>>,
    pub(super) document: Document,
    /// Of the tree that ends with each layer.
    pub(super) chains: Vec<ChainId>,
    pub(super) names: Vec<SnapshotId>,
    /// key → number of the record.
    keys: HashMap<CacheKey, usize>,
    ops: HashSet<Fingerprint>,
    trust: Arc<Trust>,
}

/// Whether a place is still asked.
#[derive(Debug, Default)]
pub(super) struct Trust {
    given_up: AtomicBool,
    failure: Mutex<Option<(String, BundleError)>>,
}

/// Layers that need not be brought here, and how they lie where they are.
pub type Elsewhere = HashMap<DiffId, Descriptor>;

/// One layer of a tree that is not here, for passing it on.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Its layers with their blobs, bottom first.
    pub layers: Vec<(Layer, Descriptor)>,
}

impl Imported {
    /// The documents of these places, of which earlier ones are asked first.
    pub fn new(documents: Vec<(Arc<dyn Place>, Document)>) -> Imported {
        Imported::with(documents, None)
    }

    /// The same, with the trees that the store remembers.
    pub(super) fn with(
        documents: Vec<(Arc<dyn Place>, Document)>,
        remembered: Option<super::far::Remembered>,
    ) -> Imported {
        let mut trees = HashMap::new();
        let sources = documents.into_iter().enumerate().map(|(number, (place, document))| {
            let names: Vec<SnapshotId> =
                document.layers.iter().map(|_| SnapshotId::random()).collect();
            trees.extend(names.iter().enumerate().map(|(layer, name)| (*name, (number, layer))));
            Arc::new(Source::new(Some(place), document, names, Arc::default()))
        });
        let sources = sources.collect();
        let inner = Inner { sources, trees, remembered, ..Inner::default() };
        Imported { inner: Arc::new(inner) }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Whether nothing was imported, and nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.inner.sources.is_empty() && self.inner.remembered.is_none()
    }

    /// The record of a key. Trees that are on this machine anyway go by their own names.
    pub fn lookup(&self, store: &Store, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        let found = self.alive().find_map(|source| Some((source, *source.keys.get(key)?)));
        let Some((source, entry)) = found else { return Ok(None) };
        let entry = &source.document.records[entry];
        let outputs = entry.outputs.iter().map(|layer| {
            let Some(layer) = layer else { return Ok(Output { snapshot: None, content: None }) };
            let name = source.names[*layer];
            let (chain, content) = (source.chains[*layer], source.document.content(*layer));
            let here = match self.made(&name) {
                Some(made) => Some(made),
                None => store.snapshots().unpacked(&chain)?.map(|snapshot| *snapshot.id()),
            };
            Ok(Output { snapshot: Some(here.unwrap_or(name)), content: Some(content) })
        });
        Ok(Some(Record {
            key: entry.key,
            op: entry.op,
            name: entry.name.clone(),
            outputs: outputs.collect::<Result<_, StoreError>>()?,
            created: entry.created.clone(),
            ingredients: entry.ingredients.clone(),
        }))
    }

    /// Whether any record is of this operation.
    pub fn has_op(&self, op: &Fingerprint) -> bool {
        self.alive().any(|source| source.ops.contains(op))
    }

    /// The keys of all records of these operations.
    pub fn keys_of(&self, ops: &HashSet<Fingerprint>) -> Vec<CacheKey> {
        let records = self.alive().flat_map(|source| &source.document.records);
        records.filter(|record| ops.contains(&record.op)).map(|record| record.key).collect()
    }

    /// Whether a tree of this name can be had.
    pub fn offers(&self, name: &SnapshotId) -> bool {
        self.made(name).is_some() || self.wanted(name).is_some()
    }

    /// The snapshot that a name stands for, if it has been made.
    pub fn made(&self, name: &SnapshotId) -> Option<SnapshotId> {
        self.lock_made().get(name).copied()
    }

    /// Whether a name is one of ours.
    pub fn knows(&self, name: &SnapshotId) -> bool {
        self.source(name).is_some()
    }

    /// Whether a name is one of ours, whose tree is not here.
    pub fn is_far(&self, name: &SnapshotId) -> bool {
        self.knows(name) && self.made(name).is_none()
    }

    /// Where the layers of a tree are, if that is a repository.
    pub fn repository(&self, name: &SnapshotId) -> Option<ImageName> {
        self.wanted(name)?.0.place.as_ref()?.repository().cloned()
    }

    /// The layers of a tree that is not here, bottom first: each in a form that is here, or in that
    /// of `elsewhere`, or, where there is no other, as it travels.
    pub fn layers(
        &self,
        store: &Store,
        name: &SnapshotId,
        elsewhere: &Elsewhere,
    ) -> Result<Option<Tree>, BundleError> {
        let Some((source, top)) = self.wanted(name) else { return Ok(None) };
        let forms = forms(store, &source, top, elsewhere)?;
        Ok(Some(Tree { layers: forms.into_iter().map(|(layer, blob, _)| (layer, blob)).collect() }))
    }

    /// Those of [`Imported::layers`] that are neither here nor elsewhere.
    pub fn missing(
        &self,
        store: &Store,
        name: &SnapshotId,
        elsewhere: &Elsewhere,
    ) -> Result<Vec<(Layer, Descriptor)>, BundleError> {
        let Some((source, top)) = self.wanted(name) else { return Err(self.given_up(name)) };
        let missing = forms(store, &source, top, elsewhere)?.into_iter().filter(|(.., had)| !had);
        Ok(missing.map(|(layer, blob, _)| (layer, blob)).collect())
    }

    /// Brings some layers of a tree here, without making the tree.
    ///
    /// # Errors
    /// As [`Imported::make`].
    pub async fn fetch(
        &self,
        store: &Store,
        name: &SnapshotId,
        layers: &[(Layer, Descriptor)],
    ) -> Result<(), BundleError> {
        let Some((source, _)) = self.wanted(name) else { return Err(self.given_up(name)) };
        let source = &source;
        let fetches = layers.iter().map(|(layer, blob)| async move {
            source.fetch(blob, store).await?;
            remember_blob(store, layer, blob)
        });
        let fetches: Vec<_> = fetches.collect();
        let fetched = iter(fetches).buffer_unordered(AT_ONCE).try_collect::<()>().await;
        fetched.map_err(|error| source.give_up(error))
    }

    fn given_up(&self, name: &SnapshotId) -> BundleError {
        match self.source(name) {
            Some((source, _)) => BundleError::GivenUp { place: source.shown() },
            None => crate::StoreError::NoSnapshot { id: *name }.into(),
        }
    }

    /// What a tree is made of, for passing it on without having it.
    pub fn tree(&self, name: &SnapshotId) -> Option<Tree> {
        let (source, top) = self.wanted(name)?;
        let layers = source.document.stack(top).into_iter().map(|number| {
            let layer = source.document.layers[number].clone();
            let blob = layer.blob.as_ref()?.descriptor();
            Some((layer, blob))
        });
        Some(Tree { layers: layers.collect::<Option<_>>()? })
    }

    /// Makes the tree of a name, unless it is here.
    ///
    /// # Errors
    /// The first one of a place gives it up: it is not asked again, and its records are gone.
    pub async fn make(
        &self,
        store: &Store,
        name: &SnapshotId,
        progress: &(dyn Fn(&Descriptor, bool) + Send + Sync),
    ) -> Result<SnapshotId, BundleError> {
        if let Some(made) = self.made(name) {
            return Ok(made);
        }
        let Some((source, top)) = self.wanted(name) else { return Err(self.given_up(name)) };
        match self.make_of(store, &source, top, progress).await {
            Ok(snapshot) => {
                self.lock_made().insert(*name, snapshot);
                Ok(snapshot)
            }
            Err(error) => Err(source.give_up(error)),
        }
    }

    /// Brings a blob that is known here to be somewhere.
    pub async fn bring(&self, store: &Store, blob: &Descriptor) -> Result<(), BundleError> {
        let digest = super::place::digest(blob)?;
        let has = |source: &Arc<Source>| {
            let mut blobs = source.document.layers.iter().filter_map(|layer| layer.blob.as_ref());
            !source.is_given_up() && blobs.any(|blob| blob.digest == digest)
        };
        match self.sources().into_iter().find(has) {
            Some(source) => source.fetch(blob, store).await,
            None => Err(crate::StoreError::NoBlob { digest }.into()),
        }
    }

    /// The places that were given up since the last call, and why.
    pub fn failures(&self) -> Vec<(String, BundleError)> {
        let failure = |source: &Arc<Source>| {
            source.trust.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        self.sources().iter().filter_map(failure).collect()
    }

    async fn make_of(
        &self,
        store: &Store,
        source: &Source,
        top: usize,
        progress: &(dyn Fn(&Descriptor, bool) + Send + Sync),
    ) -> Result<SnapshotId, BundleError> {
        let _alone = self.inner.making.lock().await;
        let stack = source.document.stack(top);
        let mut below: Option<Snapshot> = None;
        let mut first = 0;
        for (position, number) in stack.iter().enumerate().rev() {
            if let Some(here) = store.snapshots().unpacked(&source.chains[*number])? {
                (below, first) = (Some(here), position + 1);
                break;
            }
        }
        let open = &stack[first..];
        let fetches = open.iter().map(|number| async {
            let layer = &source.document.layers[*number];
            let blob = blob_of(store, source, layer)?;
            progress(&blob, false);
            source.fetch(&blob, store).await?;
            progress(&blob, true);
            Ok::<_, BundleError>((*number, blob))
        });
        let fetches: Vec<_> = fetches.collect();
        let blobs: HashMap<usize, Descriptor> =
            iter(fetches).buffer_unordered(AT_ONCE).try_collect().await?;
        for number in open {
            let layer = source.document.layers[*number].clone();
            let blob = blobs[number].clone();
            let (store, chain) = (store.clone(), source.chains[*number]);
            let work = move || unpack_layer(&store, &layer, &blob, chain, below.as_ref());
            let work = tokio::task::spawn_blocking(work);
            let unpacked =
                work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            below = Some(unpacked?);
        }
        // A tree has a layer.
        below
            .map(|snapshot| *snapshot.id())
            .ok_or_else(|| BundleError::Refused { reason: "a tree has no layers".to_owned() })
    }

    fn alive(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.inner.sources.iter().filter(|source| !source.is_given_up())
    }

    /// Those that are remembered too.
    fn sources(&self) -> Vec<Arc<Source>> {
        let remembered = self.inner.remembered.iter().flat_map(|remembered| remembered.sources());
        self.inner.sources.iter().cloned().chain(remembered).collect()
    }

    /// Whose tree it is, and the number of its highest layer.
    pub(super) fn source(&self, name: &SnapshotId) -> Option<(Arc<Source>, usize)> {
        match self.inner.trees.get(name) {
            Some((source, layer)) => Some((Arc::clone(&self.inner.sources[*source]), *layer)),
            None => self.inner.remembered.as_ref()?.source(name),
        }
    }

    fn wanted(&self, name: &SnapshotId) -> Option<(Arc<Source>, usize)> {
        self.source(name).filter(|(source, _)| !source.is_given_up())
    }

    /// A tree of this name has been found here.
    pub(super) fn set_made(&self, name: SnapshotId, snapshot: SnapshotId) {
        self.lock_made().insert(name, snapshot);
    }

    fn lock_made(&self) -> std::sync::MutexGuard<'_, HashMap<SnapshotId, SnapshotId>> {
        self.inner.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    pub(super) fn new(
        place: Option<Arc<dyn Place>>,
        document: Document,
        names: Vec<SnapshotId>,
        trust: Arc<Trust>,
    ) -> Source {
        let records = document.records.iter();
        Source {
            apart: HashMap::new(),
            chains: document.chains(),
            names,
            keys: records.clone().enumerate().map(|(at, record)| (record.key, at)).collect(),
            ops: records.map(|record| record.op).collect(),
            place,
            document,
            trust,
        }
    }

    fn shown(&self) -> String {
        match &self.place {
            Some(place) => place.to_string(),
            None => "of earlier builds".to_owned(),
        }
    }

    async fn fetch(&self, blob: &Descriptor, store: &Store) -> Result<(), BundleError> {
        match self.place_of(blob)? {
            Some(place) => place.fetch_in_time(blob, store.blobs()).await,
            None => match store.blobs().holds(blob)? {
                true => Ok(()),
                false => Err(StoreError::NoBlob { digest: super::place::digest(blob)? }.into()),
            },
        }
    }

    /// Where a blob is, beside the store.
    pub(super) fn place_of(
        &self,
        blob: &Descriptor,
    ) -> Result<Option<&Arc<dyn Place>>, BundleError> {
        Ok(self.apart.get(&super::place::digest(blob)?).or(self.place.as_ref()))
    }

    fn is_given_up(&self) -> bool {
        self.trust.given_up.load(Ordering::Acquire)
    }

    /// The error for whoever wanted something; the reason is told once.
    fn give_up(&self, error: BundleError) -> BundleError {
        let place = self.shown();
        if !self.trust.given_up.swap(true, Ordering::AcqRel) {
            let mut failure = self.trust.failure.lock().unwrap_or_else(PoisonError::into_inner);
            *failure = Some((place.clone(), error));
        }
        BundleError::GivenUp { place }
    }
}

/// Every layer of a tree in the form that is best to have, and whether it is here or elsewhere.
fn forms(
    store: &Store,
    source: &Source,
    top: usize,
    elsewhere: &Elsewhere,
) -> Result<Vec<(Layer, Descriptor, bool)>, BundleError> {
    let mut forms = Vec::new();
    for number in source.document.stack(top) {
        let layer = source.document.layers[number].clone();
        let blob = blob_of(store, source, &layer)?;
        if store.blobs().contains(&super::place::digest(&blob)?)? {
            forms.push((layer, blob, true));
            continue;
        }
        let other = match elsewhere.get(&layer.diff_id) {
            Some(other) => Some(other.clone()),
            None => made_here(store, &source.chains[number], &layer)?,
        };
        let is_had = other.is_some();
        forms.push((layer, other.unwrap_or(blob), is_had));
    }
    Ok(forms)
}

/// The layer as a plain tar, if there is a snapshot of which that can be made.
fn made_here(
    store: &Store,
    chain: &ChainId,
    layer: &Layer,
) -> Result<Option<Descriptor>, BundleError> {
    let Some(snapshot) = store.snapshots().unpacked(chain)? else { return Ok(None) };
    let recorded = snapshot.recorded_layer()?.filter(|own| own.diff_id == layer.diff_id);
    Ok(recorded.map(|own| descriptor(MediaType::ImageLayer, own.size, &own.diff_id.0)))
}

/// The blob of a layer: another form of it where that is here already.
pub(super) fn blob_of(
    store: &Store,
    source: &Source,
    layer: &Layer,
) -> Result<Descriptor, BundleError> {
    let known = store.index().layer_blobs(&layer.diff_id)?;
    for (_, blob) in known {
        if store.blobs().holds(&blob)? {
            return Ok(blob);
        }
    }
    match &layer.blob {
        Some(blob) => Ok(blob.descriptor()),
        None => Err(BundleError::NotACache { place: source.shown() }),
    }
}

fn unpack_layer(
    store: &Store,
    layer: &Layer,
    blob: &Descriptor,
    chain: ChainId,
    below: Option<&Snapshot>,
) -> Result<Snapshot, BundleError> {
    let failed = |source| BundleError::Layer { source: Box::new(source) };
    let file = store.blobs().open(&super::place::digest(blob)?)?;
    let mut tar = decompressor(layer_type(blob.media_type()).as_ref(), file).map_err(failed)?;
    let active = store.snapshots().prepare(below.map(Snapshot::id))?;
    let found = unpack(&mut tar, &active, &UnpackLimits::default()).map_err(failed)?;
    let expected: DiffId = layer.diff_id;
    if found != expected {
        return Err(BundleError::DiffId { expected: expected.0, found: found.0 });
    }
    remember_blob(store, layer, blob)?;
    Ok(active.commit(CommitInfo {
        created: layer.created.clone(),
        chain: Some(chain),
        diff_id: Some(expected),
        content: Some(layer.content),
        ..CommitInfo::default()
    })?)
}

/// Who passes the layer on need not compress it anew.
fn remember_blob(store: &Store, layer: &Layer, blob: &Descriptor) -> Result<(), BundleError> {
    let kind = format!("imported {}", blob.media_type());
    Ok(store.index().put_layer_blob(&layer.diff_id, &kind, blob)?)
}
