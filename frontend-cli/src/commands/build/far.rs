//! Results that are not here: what the outputs need of them is brought here, and no more.
//!
//! | output | needs |
//! |---|---|
//! | `tar`, `local`; an inline cache | the files: layers are fetched and unpacked |
//! | `oci`, `docker` | the layers, packed as they are |
//! | an image in the local store | layers of a cache; those of the base may stay where they are |
//! | an image that is only pushed | layers that the registry neither has nor can mount |
//! | `cacheonly` | nothing |
//!
//! A result is not here if another machine made it, or if it is the base image itself: a build that
//! only changes the configuration has no step, and so nothing to solve.

use std::collections::{BTreeSet, HashMap, HashSet};

use cache::Store;
use cache::bundle::{Bases, BundleError, Elsewhere, Imported};
use cache::image::document::{digest_of, layer_type};
use cache::image::far::layers_absent;
use cache::image::{Image, ImageError};
use cache::oci::{ImageName, MediaType, Platform};
use cache::remote::Registries;
use cache::snapshot::SnapshotId;
use futures_util::future::{join_all, try_join_all};

use solver::llb::{Definition, Op, SourceOp, VertexId};
use solver::{Output as SolvedOutput, Solution};

use super::options::BuildOptions;
use super::output::{Output, OutputKind};
use crate::dockerfile::Lowered;

/// How much of a result is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Push,
    Image,
    Layers,
    Files,
}

impl Needs {
    /// What the outputs of a build need together.
    pub(super) fn of(options: &BuildOptions) -> Needs {
        let outputs = &options.outputs;
        let any = |is: fn(&OutputKind) -> bool| outputs.iter().any(|output| is(&output.kind));
        if outputs.iter().all(Output::is_nothing) {
            Needs::Nothing
        } else if options.inline_cache()
            || any(|kind| matches!(kind, OutputKind::Tar { .. } | OutputKind::Local { .. }))
        {
            Needs::Files
        } else if outputs.iter().all(|output| output.is_nothing() || is_only_pushed(output)) {
            Needs::Push
        } else if outputs.iter().all(|output| output.is_nothing() || is_only_stored(output)) {
            Needs::Image
        } else {
            Needs::Layers
        }
    }
}

/// Whether a result has the files of an image, and the outputs want no file of it: its name tells
/// enough.
pub(super) fn is_named_only(
    definition: &Definition,
    lowered: &Lowered,
    options: &BuildOptions,
) -> bool {
    let op = &definition.vertex(lowered.edge.vertex).op;
    matches!(op, Op::Source(SourceOp::Image(_))) && Needs::of(options) != Needs::Files
}

/// What came of each target; `None` where there was nothing to solve.
pub(super) fn with_outputs(
    targets: Vec<(Platform, Lowered)>,
    definition: &Definition,
    solution: &Solution,
) -> Vec<(Platform, Lowered, Option<SolvedOutput>)> {
    let solved: HashMap<_, _> = definition.targets().iter().zip(&solution.outputs).collect();
    let with_output = |(platform, lowered): (Platform, Lowered)| {
        let output = solved.get(&lowered.edge).map(|output| (*output).clone());
        (platform, lowered, output)
    };
    targets.into_iter().map(with_output).collect()
}

/// The images that are only named: nothing asks for their files.
pub(super) fn untouched(definition: &Definition) -> impl Iterator<Item = VertexId> {
    let mut needed: HashSet<VertexId> =
        definition.targets().iter().map(|target| target.vertex).collect();
    for vertex in definition.vertices() {
        needed.extend(vertex.inputs.iter().map(|input| input.edge.vertex));
    }
    let is_image =
        |id: &VertexId| matches!(definition.vertex(*id).op, Op::Source(SourceOp::Image(_)));
    definition.ids().filter(move |id| !needed.contains(id)).filter(is_image)
}

/// Whether an image goes to a registry with its layers as they are.
pub(super) fn is_only_pushed(output: &Output) -> bool {
    matches!(output.kind, OutputKind::Image { push: true, .. }) && !output.form.force
}

/// Whether an image goes nowhere but into the local store.
fn is_only_stored(output: &Output) -> bool {
    matches!(output.kind, OutputKind::Image { push: false, .. })
}

/// Brings here what of the layers of a far tree a push must send. Answers with those that are where
/// the image goes.
pub(super) async fn bring_for_push(
    store: &Store,
    imported: &Imported,
    registries: &Registries,
    options: &BuildOptions,
    tree: &SnapshotId,
) -> Result<Elsewhere, BundleError> {
    let names: BTreeSet<&ImageName> = options
        .outputs
        .iter()
        .filter(|output| is_only_pushed(output))
        .flat_map(|output| options.tags.iter().chain(&output.names))
        .collect();
    let source = imported.repository(tree);
    let layers = imported.tree(tree).map(|tree| tree.layers).unwrap_or_default();
    let mut absent = BTreeSet::new();
    for digest in layers.iter().filter_map(|(_, blob)| digest_of(blob).ok()) {
        if !store.blobs().contains(&digest)? {
            absent.insert(digest);
        }
    }
    let is_there = layers.iter().map(|(layer, blob)| async {
        // What is not compressed is compressed for a push.
        let kind = layer_type(blob.media_type()).filter(|kind| *kind != MediaType::ImageLayer);
        kind.filter(|_| digest_of(blob).is_ok_and(|digest| absent.contains(&digest)))?;
        let asked = names.iter().map(|name| registries.has_or_mounts(name, blob, source.as_ref()));
        // A registry that does not answer says so when the image is pushed.
        let had = try_join_all(asked).await.unwrap_or_default();
        let is_there = !had.is_empty() && had.into_iter().all(|had| had);
        is_there.then(|| (layer.diff_id, blob.clone()))
    });
    let there = join_all(is_there).await.into_iter().flatten().collect();
    imported.fetch(store, tree, &imported.missing(store, tree, &there)?).await?;
    Ok(there)
}

/// Brings here all layers of a far tree, without unpacking them; those of its base only if these are
/// not to be had where the base is from.
pub(super) async fn bring_layers(
    store: &Store,
    imported: &Imported,
    tree: &SnapshotId,
    base: Elsewhere,
) -> Result<Elsewhere, BundleError> {
    imported.fetch(store, tree, &imported.missing(store, tree, &base)?).await?;
    Ok(base)
}

/// The layers of a base image that were never fetched.
pub(super) fn left_in_registries(store: &Store, base: &Image) -> Result<Elsewhere, ImageError> {
    let absent = layers_absent(store, base)?;
    let diff_ids = base.config.rootfs.diff_ids.iter();
    let listed = diff_ids.zip(base.manifest.layers()).filter(|(_, layer)| absent.contains(layer));
    Ok(listed.map(|(diff_id, layer)| (*diff_id, layer.clone())).collect())
}

/// Where the layers of base images are that were never fetched.
pub(super) fn base_places(store: &Store, bases: &[Option<Image>]) -> Result<Bases, ImageError> {
    let mut places = Bases::new();
    for base in bases.iter().flatten() {
        let Some(place) = store.images().places(&base.manifest_digest)?.into_iter().next() else {
            continue;
        };
        let left = left_in_registries(store, base)?.into_iter();
        places.extend(left.map(|(diff_id, layer)| (diff_id, (layer, place.clone()))));
    }
    Ok(places)
}
