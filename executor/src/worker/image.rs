//! The files of images.

use std::sync::Arc;

use cache::image::unpack::{layers_needed, unpack_image};
use cache::oci::Descriptor;
use cache::snapshot::Snapshot;
use solver::LogSink;
use solver::llb::ImageSource;

use super::LocalWorker;
use crate::ExecutorError;
use crate::executor::blocking;

impl LocalWorker {
    /// The snapshot of an image's layers; what is missing of them is fetched, and unpacked.
    pub(super) async fn fetch_image(
        &self,
        source: &ImageSource,
        log: &LogSink,
    ) -> Result<Option<Snapshot>, ExecutorError> {
        let shown = source.name.familiar();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ExecutorError::Image {
            image: shown.clone(),
            source,
        };
        let store = self.config.store.clone();
        let found = store.images().by_manifest(&source.digest).map_err(|e| failed(e.into()))?;
        let missing = || format!("its manifest {} is not in the store", source.digest);
        let image = found.ok_or_else(|| failed(missing().into()))?;
        let needed = layers_needed(&store, &image).map_err(|e| failed(e.into()))?;
        let report = |layer: &Descriptor, done: u64, all: u64| {
            log.status(layer.digest().to_string(), done, Some(all), done == all);
        };
        let registries = &self.config.registries;
        let fetched =
            registries.fetch_layers(&store, &image, &needed, Some(&source.name), &report).await;
        fetched.map_err(|e| failed(e.into()))?;
        let image = Arc::new(image);
        let store = self.config.store.clone();
        let unpacked = blocking(move || Ok(unpack_image(&store, &image))).await?;
        unpacked.map_err(|e| failed(e.into()))
    }
}
