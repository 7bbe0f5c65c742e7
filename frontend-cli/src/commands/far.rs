//! Layers of images that lie in registries, fetched when a command needs them.

use std::collections::BTreeSet;

use cache::Store;
use cache::image::Image;
use cache::image::far::layers_absent;
use cache::oci::Descriptor;
use cache::remote::{Registries, RemoteError};

use crate::report::CliError;

/// Brings what is missing of an image's layers here, so that it can be passed on whole.
pub(crate) async fn bring_layers(
    store: &Store,
    registries: &Registries,
    image: &Image,
    what: &str,
) -> Result<(), CliError> {
    let absent = layers_absent(store, image).map_err(|error| CliError::caused(what, &error))?;
    if absent.is_empty() {
        return Ok(());
    }
    let size: u64 = absent.iter().map(Descriptor::size).sum();
    // Without a terminal to watch, this line is all that explains the wait.
    eprintln!("Fetching {} ({})", layers(absent.len()), super::human_size(size));
    let fetched = registries.fetch_to_send(store, image, &BTreeSet::new(), &|_, _, _| {}).await;
    fetched.map_err(|error| unavailable(what, &error))
}

/// So many layers, in words.
pub(crate) fn layers(count: usize) -> String {
    format!("{count} {}", if count == 1 { "layer" } else { "layers" })
}

/// What to do about layers that cannot be had.
pub(crate) fn unavailable(what: &str, error: &RemoteError) -> CliError {
    let report = CliError::caused(what, error);
    match hint(error) {
        Some(hint) => report.hint(hint),
        None => report,
    }
}

/// What to do about an error of a registry, where layers of an image are concerned.
pub(crate) fn hint(error: &RemoteError) -> Option<String> {
    Some(match error {
        error if error.is_offline() => "leave out --offline".to_owned(),
        RemoteError::LayerUnavailable { places, .. } => {
            let registries: BTreeSet<&str> = places.iter().map(|place| place.registry()).collect();
            let registries: Vec<&str> = registries.into_iter().collect();
            format!(
                "the image was built without its base's files, which no step needed: make {} reachable, or build it again on a base that can be had",
                registries.join(" or ")
            )
        }
        RemoteError::LayerNowhere { .. } => {
            "build the image again, or pull or load one that is whole".to_owned()
        }
        _ => return None,
    })
}
