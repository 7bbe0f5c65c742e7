//! Results that another machine made: what the outputs need of them is brought here, and no more.
//!
//! | output | needs |
//! |---|---|
//! | `tar`, `local`; an inline cache | the files: layers are fetched and unpacked |
//! | an image in the local store, `oci`, `docker` | the layers, packed as they are |
//! | an image that is only pushed | layers that the registry neither has nor can mount |
//! | `cacheonly` | nothing |

use std::collections::BTreeSet;

use cache::Store;
use cache::bundle::{BundleError, Imported};
use cache::image::document::{digest_of, layer_type};
use cache::oci::{Digest, ImageName, MediaType};
use cache::remote::Registries;
use cache::snapshot::SnapshotId;
use futures_util::future::{join_all, try_join_all};

use super::options::BuildOptions;
use super::output::{Output, OutputKind};

/// How much of a result is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Push,
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
        } else {
            Needs::Layers
        }
    }
}

/// Whether an image goes to a registry with its layers as they are.
fn is_only_pushed(output: &Output) -> bool {
    matches!(output.kind, OutputKind::Image { push: true, .. }) && !output.form.force
}

/// Brings here what of the layers of a far tree a push must send. Answers with those that are where
/// the image goes.
pub(super) async fn bring_for_push(
    store: &Store,
    imported: &Imported,
    registries: &Registries,
    options: &BuildOptions,
    tree: &SnapshotId,
) -> Result<BTreeSet<Digest>, BundleError> {
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
    let is_there = layers.iter().map(|(_, blob)| async {
        // What is not compressed is compressed for a push.
        let kind = layer_type(blob.media_type()).filter(|kind| *kind != MediaType::ImageLayer);
        let digest = digest_of(blob).ok().filter(|digest| absent.contains(digest));
        let (Some(_), Some(digest)) = (kind, digest) else { return None };
        let asked = names.iter().map(|name| registries.has_or_mounts(name, blob, source.as_ref()));
        // A registry that does not answer says so when the image is pushed.
        let had = try_join_all(asked).await.unwrap_or_default();
        (!had.is_empty() && had.into_iter().all(|had| had)).then_some(digest)
    });
    let there = join_all(is_there).await.into_iter().flatten().collect();
    imported.fetch(store, tree, &imported.missing(store, tree, &there)?).await?;
    Ok(there)
}

/// Brings here all layers of a far tree, without unpacking them.
pub(super) async fn bring_layers(
    store: &Store,
    imported: &Imported,
    tree: &SnapshotId,
) -> Result<(), BundleError> {
    imported.fetch(store, tree, &imported.missing(store, tree, &BTreeSet::new())?).await
}
