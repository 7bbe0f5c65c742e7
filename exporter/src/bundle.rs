//! Results of builds become a bundle that can travel.
//!
//! Every tree is taken apart into its layers, each of which is in the bundle once. A layer travels
//! in a form that is here already, whichever that is, and is compressed only where there is none.
//! Trees that were imported and never needed here are passed on by name: whoever stores the bundle
//! brings their blobs if the place has not got them.

use std::collections::{BTreeMap, HashMap};

use cache::Store;
use cache::bundle::Imported;
use cache::bundle::document::{Blob, Document, Entry, Layer};
use cache::image::document::{digest_of, layer_type};
use cache::index::Record;
use cache::oci::{ChainId, Descriptor, DiffId, MediaType};
use cache::snapshot::{LayerDigests, Snapshot};
use rayon::prelude::*;

use crate::ExportError;
use crate::assemble::stack;
use crate::layers::{Layer as Form, LayerForm, Source, in_form};
use crate::push::store_packed;
use crate::stop::Stop;

/// Makes the document of these records; the blobs it names are in the store, but for those of trees
/// that are in `imported` and not here. A record whose tree is gone, or has a layer whose tar cannot
/// be had any more, is left out. CPU-bound: call it from a blocking task.
pub fn bundle(
    store: &Store,
    imported: &Imported,
    records: &[Record],
    form: LayerForm,
) -> Result<Document, ExportError> {
    let mut trees = Trees::default();
    let mut entries = Vec::with_capacity(records.len());
    for record in records {
        let outputs: Result<Option<Vec<Option<usize>>>, ExportError> = record
            .outputs
            .iter()
            .map(|output| match output.snapshot {
                None => Ok(Some(None)),
                Some(id) => {
                    let id = imported.made(&id).unwrap_or(id);
                    if let Some(snapshot) = store.snapshots().get(&id)? {
                        return Ok(Some(Some(trees.add_snapshot(&snapshot)?)));
                    }
                    Ok(imported.tree(&id).map(|tree| Some(trees.add_tree(tree.layers))))
                }
            })
            .collect();
        if let Some(outputs) = outputs? {
            entries.push((record, outputs));
        }
    }
    trees.document(store, entries, form)
}

/// The layers of an image, without blobs, and the records of these whose trees they are: what an
/// image can carry itself.
pub fn inline_bundle(
    store: &Store,
    imported: &Imported,
    rootfs: &Snapshot,
    records: &[Record],
) -> Result<Document, ExportError> {
    let mut trees = Trees::default();
    trees.add_snapshot(rootfs)?;
    let count = trees.layers.len();
    let mut document = Document::default();
    for record in records {
        let mut outputs = Vec::new();
        for output in &record.outputs {
            let Some(id) = output.snapshot else {
                outputs.push(None);
                continue;
            };
            let id = imported.made(&id).unwrap_or(id);
            let Some(snapshot) = store.snapshots().get(&id)? else { break };
            let top = trees.add_snapshot(&snapshot)?;
            if top >= count {
                break;
            }
            outputs.push(Some(top));
        }
        if outputs.len() == record.outputs.len() {
            document.records.push(entry(record, outputs));
        }
    }
    document.layers = trees.layers.into_iter().take(count).map(|layer| layer.layer).collect();
    Ok(document)
}

/// The layers of all trees, each once, those below first.
#[derive(Default)]
struct Trees {
    layers: Vec<Travelling>,
    numbers: HashMap<ChainId, usize>,
}

struct Travelling {
    layer: Layer,
    /// Where its tar is made from; `None` where its blob is known.
    snapshot: Option<(Snapshot, LayerDigests)>,
}

impl Trees {
    fn add_snapshot(&mut self, top: &Snapshot) -> Result<usize, ExportError> {
        let stack = stack(Some(top));
        let digests: Vec<LayerDigests> =
            stack.par_iter().map(|snapshot| snapshot.layer()).collect::<Result<_, _>>()?;
        let layers = stack.into_iter().zip(digests).map(|(snapshot, digests)| Travelling {
            layer: Layer {
                parent: None,
                diff_id: digests.diff_id,
                content: digests.content,
                created: snapshot.created().to_owned(),
                blob: None,
            },
            snapshot: Some((snapshot.clone(), digests)),
        });
        Ok(self.add(layers))
    }

    fn add_tree(&mut self, layers: Vec<(Layer, Descriptor)>) -> usize {
        self.add(layers.into_iter().map(|(layer, _)| Travelling { layer, snapshot: None }))
    }

    fn add(&mut self, layers: impl Iterator<Item = Travelling>) -> usize {
        let mut below: Option<(ChainId, usize)> = None;
        for mut travelling in layers {
            let chain = ChainId::on(below.map(|(chain, _)| chain), travelling.layer.diff_id);
            let number = *self.numbers.entry(chain).or_insert_with(|| {
                travelling.layer.parent = below.map(|(_, number)| number);
                self.layers.push(travelling);
                self.layers.len() - 1
            });
            below = Some((chain, number));
        }
        below.map_or(0, |(_, number)| number)
    }

    /// Gives every layer its blob, and leaves out what has none.
    fn document(
        self,
        store: &Store,
        entries: Vec<(&Record, Vec<Option<usize>>)>,
        form: LayerForm,
    ) -> Result<Document, ExportError> {
        let blobs = blobs(store, &self.layers, form)?;
        let mut document = Document::default();
        // Old number → new one.
        let mut kept: Vec<Option<usize>> = Vec::with_capacity(blobs.len());
        for (travelling, blob) in self.layers.into_iter().zip(blobs) {
            let parent = travelling.layer.parent.map(|parent| kept[parent]);
            let number = match (blob, parent) {
                (None, _) | (_, Some(None)) => None,
                (Some(blob), parent) => {
                    let parent = parent.flatten();
                    let layer = Layer { parent, blob: Some(blob), ..travelling.layer };
                    document.layers.push(layer);
                    Some(document.layers.len() - 1)
                }
            };
            kept.push(number);
        }
        for (record, outputs) in entries {
            let outputs = outputs.into_iter().map(|output| match output {
                None => Some(None),
                Some(number) => kept[number].map(Some),
            });
            if let Some(outputs) = outputs.collect() {
                document.records.push(entry(record, outputs));
            }
        }
        Ok(document)
    }
}

fn entry(record: &Record, outputs: Vec<Option<usize>>) -> Entry {
    Entry {
        key: record.key,
        op: record.op,
        name: record.name.clone(),
        created: record.created.clone(),
        outputs,
        ingredients: record.ingredients.clone(),
    }
}

/// The blob of each layer, several being compressed at the same time.
fn blobs(
    store: &Store,
    layers: &[Travelling],
    form: LayerForm,
) -> Result<Vec<Option<Blob>>, ExportError> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let images = std::sync::OnceLock::new();
    let mut blobs = Vec::with_capacity(layers.len());
    for some in layers.chunks(at_once) {
        let done: Vec<Result<Option<Blob>, ExportError>> = std::thread::scope(|scope| {
            let started: Vec<_> = some
                .iter()
                .map(|layer| scope.spawn(|| blob(store, layer, form, &images, &Stop::default())))
                .collect();
            let joined = started.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        });
        blobs.extend(done.into_iter().collect::<Result<Vec<_>, _>>()?);
    }
    Ok(blobs)
}

fn blob(
    store: &Store,
    travelling: &Travelling,
    form: LayerForm,
    images: &std::sync::OnceLock<BTreeMap<DiffId, Descriptor>>,
    stop: &Stop,
) -> Result<Option<Blob>, ExportError> {
    match &travelling.snapshot {
        Some((snapshot, digests)) => blob_of(store, snapshot, digests, form, images, stop),
        None => Ok(travelling.layer.blob.clone()),
    }
}

/// The blob that the topmost layer of a snapshot travels as, as [`bundle`] chooses it.
pub(crate) fn pack_layer(
    store: &Store,
    snapshot: &Snapshot,
    form: LayerForm,
    stop: &Stop,
) -> Result<Option<Descriptor>, ExportError> {
    let images = std::sync::OnceLock::new();
    let blob = blob_of(store, snapshot, &snapshot.layer()?, form, &images, stop)?;
    Ok(blob.map(|blob| blob.descriptor()))
}

fn blob_of(
    store: &Store,
    snapshot: &Snapshot,
    digests: &LayerDigests,
    form: LayerForm,
    images: &std::sync::OnceLock<BTreeMap<DiffId, Descriptor>>,
    stop: &Stop,
) -> Result<Option<Blob>, ExportError> {
    let of = |descriptor: &Descriptor| {
        let digest = digest_of(descriptor)
            .map_err(|source| ExportError::Document { digest: digests.diff_id.0, source })?;
        let media_type = layer_type(descriptor.media_type());
        let media_type = media_type.unwrap_or_else(|| descriptor.media_type().clone());
        Ok(Some(Blob { media_type: media_type.to_string(), digest, size: descriptor.size() }))
    };
    let fits = |descriptor: &Descriptor| {
        let media_type = layer_type(descriptor.media_type());
        let wanted = media_type.as_ref() == Some(&form.media_type());
        let compressed = media_type != Some(MediaType::ImageLayer);
        wanted || (compressed && !form.force)
    };
    let mut known = Vec::new();
    for (kind, blob) in store.index().layer_blobs(&digests.diff_id)? {
        if fits(&blob) && store.blobs().holds(&blob)? {
            known.push((kind, blob));
        }
    }
    let same_kind = known.iter().find(|(kind, _)| *kind == form.kind());
    if let Some((_, known)) = same_kind.or(known.first()) {
        return of(known);
    }
    let of_images = match images.get() {
        Some(known) => known,
        None => {
            let found = image_layers(store)?;
            images.get_or_init(|| found)
        }
    };
    if let Some(pulled) = of_images.get(&digests.diff_id).filter(|blob| fits(blob)) {
        return of(pulled);
    }
    let source = match of_images.get(&digests.diff_id) {
        // It came in another form than is wanted now.
        Some(pulled) => Source::Blob(Box::new(pulled.clone())),
        None => Source::Snapshot(snapshot.clone(), *digests),
    };
    match in_form(store, source, digests.diff_id, form, stop) {
        Ok(Form::Blob(blob)) => of(&blob),
        Ok(Form::Packed { descriptor, snapshot }) => {
            of(&store_packed(store, &descriptor, &snapshot)?)
        }
        // Somebody else's tar, of which only the files are left: no tar of ours has its digest.
        Err(ExportError::DiffId { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The blobs of images that are here, by the layers that they are.
fn image_layers(store: &Store) -> Result<BTreeMap<DiffId, Descriptor>, ExportError> {
    let mut layers = BTreeMap::new();
    for row in store.images().list()? {
        let Some(image) = store.images().by_manifest(&row.manifest)? else { continue };
        for (diff_id, blob) in image.config.rootfs.diff_ids.iter().zip(image.manifest.layers()) {
            if store.blobs().holds(blob)? {
                layers.entry(*diff_id).or_insert_with(|| blob.clone());
            }
        }
    }
    Ok(layers)
}
