//! The build cache on its way: read before a build, written after it.
//!
//! A cache that cannot be read costs a warning. It is not known to be broken before its blobs are
//! wanted, so that a solve may fail of it half way; then the build begins anew without it, and finds
//! everything that was done until then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cache::Store;
use cache::bundle::document::Document;
use cache::bundle::{BundleError, Imported, LocalPlace, Place, RegistryPlace, S3Place, inline};
use cache::index::Record;
use cache::remote::{Registries, RegistryConfig};
use cache::snapshot::SnapshotId;
use executor::LocalWorker;
use futures_util::future::join_all;
use solver::llb::{Definition, InputRole, VertexId};
use solver::{ContentRequest, Records, Solution, Worker, portable};

use super::build_records::BuildRecords;
use super::cache_spec::{CacheFrom, PlaceSpec};
use super::uploads::{Target, Uploads};
use crate::commands::engine::Engine;
use crate::progress::{Outcome, Progress};
use crate::report::{CliError, chain};

/// The place of a spec.
pub(crate) fn place(spec: &PlaceSpec, offline: bool) -> Result<Arc<dyn Place>, CliError> {
    Ok(match spec {
        PlaceSpec::Local { directory, tag, digest } => {
            Arc::new(LocalPlace::new(directory.clone(), tag, *digest))
        }
        PlaceSpec::Registry { name, insecure } => {
            let mut config = cache_config(offline);
            if *insecure {
                config.insecure.push(name.registry().to_owned());
            }
            Arc::new(RegistryPlace::new((**name).clone(), Registries::new(config)))
        }
        PlaceSpec::S3(spec) => {
            let (names, mut config) = (spec.names.clone(), cache_config(offline));
            config.attempts = spec.attempts.unwrap_or(config.attempts);
            let place = S3Place::new(&spec.options, &spec.prefixes, names, spec.writing, config);
            Arc::new(place.map_err(|error| CliError::caused("the S3 store is unusable", &error))?)
        }
    })
}

/// Less patient than for what a build cannot do without.
fn cache_config(offline: bool) -> RegistryConfig {
    RegistryConfig {
        offline,
        patience: Duration::from_secs(15),
        attempts: 3,
        longest_wait: Duration::from_secs(5),
        ..RegistryConfig::default()
    }
}

/// Reads the documents of all caches at the same time. One that cannot be read is warned of. What the
/// store remembers of earlier ones is with them.
pub(super) async fn import(
    store: &Store,
    from: &[CacheFrom],
    offline: bool,
    progress: &Progress,
) -> Result<Imported, CliError> {
    let places =
        from.iter().map(|from| place(&from.place, offline)).collect::<Result<Vec<_>, _>>()?;
    let documents = join_all(places.into_iter().map(|place| async move {
        let step = progress.begin(&format!("importing cache manifest from {place}"));
        match place.read().await {
            Ok(document) => {
                progress.finish(step, Outcome::Done);
                Some((place, document))
            }
            Err(error) => {
                progress.finish(step, Outcome::Failed(error.to_string()));
                progress.warn(warning(&place.to_string(), &error));
                None
            }
        }
    }));
    let documents: Vec<_> = documents.await.into_iter().flatten().collect();
    let registries = Registries::new(cache_config(offline));
    Imported::with_remembered(documents.clone(), store, registries).or_else(|error| {
        progress.warn(format!("results of earlier caches are not used: {error}"));
        Ok(Imported::new(documents))
    })
}

/// Says which caches turned out to be broken; `true` if any did.
pub(super) fn warn_of_failures(imported: &Imported, progress: &Progress) -> bool {
    let failures = imported.failures();
    for (place, error) in &failures {
        progress.warn(warning(place, error));
    }
    !failures.is_empty()
}

fn warning(place: &str, error: &BundleError) -> String {
    format!("the cache {place} is not used: {}", chain(error).replace('\n', ": "))
}

/// What a cache export works on.
pub(super) struct CacheExporter<'a> {
    pub(super) engine: &'a Engine,
    pub(super) imported: &'a Imported,
    pub(super) records: &'a Arc<BuildRecords>,
    pub(super) worker: &'a Arc<LocalWorker>,
    pub(super) definition: &'a Definition,
    pub(super) solution: &'a Solution,
    pub(super) progress: &'a Progress,
}

impl CacheExporter<'_> {
    /// Writes the results of the build to a place, and waits for those of its layers that are on
    /// their way.
    pub(super) async fn export(&self, uploads: Uploads) -> Result<(), CliError> {
        for target in uploads.finish().await {
            self.export_to(&target).await?;
        }
        Ok(())
    }

    async fn export_to(&self, target: &Target) -> Result<(), CliError> {
        let Target { to, place, .. } = target;
        let step = self.progress.begin(match &to.place {
            Some(PlaceSpec::Local { .. }) | None => "exporting cache to client directory",
            Some(PlaceSpec::Registry { .. }) => "exporting cache to registry",
            Some(PlaceSpec::S3(_)) => "exporting cache to Amazon S3",
        });
        self.progress.log(step, "preparing build cache for export");
        match self.write(target, &target.sent()).await {
            Ok(digest) => {
                self.progress.log(step, &format!("writing cache image manifest {digest}"));
                self.progress.finish(step, Outcome::Done);
                Ok(())
            }
            Err(error) => {
                let text = chain(error.as_ref()).replace('\n', ": ");
                self.progress.finish(step, Outcome::Failed(text.clone()));
                if to.ignore_error {
                    self.progress.warn(format!("the cache was not written to {place}: {text}"));
                    return Ok(());
                }
                Err(CliError::caused(format!("cannot write the cache to {place}"), error.as_ref()))
            }
        }
    }

    async fn write(
        &self,
        Target { to, place, .. }: &Target,
        known: &HashSet<cache::oci::Digest>,
    ) -> Result<cache::oci::Digest, Box<dyn std::error::Error + Send + Sync>> {
        let records = self.result_records(to.all_steps).await?;
        let (store, imported, form) = (self.engine.store.clone(), self.imported.clone(), to.form);
        let made = tokio::task::spawn_blocking(move || {
            let records = portable_records(&store, &imported, &records);
            exporter::bundle(&store, &imported, &records, form).map_err(Box::new)
        });
        let document: Document = made.await??;
        let placed = place.write(&document, &self.engine.store, self.imported, known).await?;
        Ok(placed.manifest)
    }

    /// The cache that an image carries itself, as a field of its configuration.
    pub(super) async fn inline(
        &self,
        output: &solver::Output,
    ) -> Result<(String, serde_json::Value), CliError> {
        let failed = |error: &dyn std::error::Error| {
            CliError::caused("cannot put the cache into the image", error)
        };
        let records = self.result_records(false).await.map_err(|error| failed(&error))?;
        let (store, imported) = (self.engine.store.clone(), self.imported.clone());
        let id = output.snapshot;
        let made = tokio::task::spawn_blocking(move || {
            let rootfs = match id {
                Some(id) => store.snapshots().get(&id).map_err(|error| Box::new(error.into()))?,
                None => None,
            };
            let Some(rootfs) = rootfs else { return Ok(Document::default()) };
            let records = portable_records(&store, &imported, &records);
            exporter::inline_bundle(&store, &imported, &rootfs, &records).map_err(Box::new)
        });
        let document = made.await.map_err(|error| CliError::internal(error.to_string()))?;
        Ok(inline::field(&document.map_err(|error: Box<exporter::ExportError>| failed(&error))?))
    }

    /// The records of the steps whose results go.
    async fn result_records(&self, all_steps: bool) -> Result<Vec<Record>, solver::RecordsError> {
        let results = if all_steps { None } else { Some(result_vertices(self.definition)) };
        let mut records = Vec::new();
        for (id, report) in self.definition.ids().zip(&self.solution.decisions.vertices) {
            if results.as_ref().is_some_and(|results| !results.contains(&id)) {
                continue;
            }
            let Some(key) = report.key.filter(|_| report.origin.is_some()) else { continue };
            if let Some(mut record) = self.records.lookup(&key)? {
                self.add_contents(id, &mut record).await;
                records.push(record);
            }
        }
        Ok(records)
    }
}

impl CacheExporter<'_> {
    /// Adds the content of the parts of trees that a step read: at home the trees themselves are
    /// compared, when it comes to that. What is not here any more is left out.
    async fn add_contents(&self, id: VertexId, record: &mut Record) {
        for (number, input) in self.definition.vertex(id).inputs.iter().enumerate() {
            let InputRole::Content(selector) = &input.role else { continue };
            let producer = input.edge.vertex;
            let report = &self.solution.decisions.vertices[producer.index()];
            let Some(output) = report.outputs.get(input.edge.output) else { continue };
            let far = |id| self.imported.knows(&id) && self.imported.made(&id).is_none();
            if solver::has_content(record, number) || output.snapshot.is_some_and(far) {
                continue;
            }
            let request = ContentRequest {
                vertex: Arc::clone(self.definition.vertex(producer)),
                output: Some(output.clone()),
                selector: selector.clone(),
            };
            if let Ok(content) = self.worker.content(request).await {
                solver::add_content(record, number, content.fingerprint);
            }
        }
    }
}

/// The vertices that the targets' trees were made by, one on the other.
pub(super) fn result_vertices(definition: &Definition) -> HashSet<VertexId> {
    let mut open: Vec<VertexId> = definition.targets().iter().map(|target| target.vertex).collect();
    let mut found = HashSet::new();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            let inputs = definition.vertex(id).inputs.iter();
            let rootfs = inputs.filter(|input| matches!(input.role, InputRole::Rootfs));
            open.extend(rootfs.map(|input| input.edge.vertex));
        }
    }
    found
}

/// The records with everything that another machine can find them by, each key once.
pub(crate) fn portable_records(
    store: &cache::Store,
    imported: &Imported,
    records: &[Record],
) -> Vec<Record> {
    let mut contents = HashMap::new();
    let mut content = |id: &SnapshotId| {
        *contents.entry(*id).or_insert_with(|| {
            let id = imported.made(id).unwrap_or(*id);
            store.snapshots().get(&id).ok().flatten()?.chain_content().ok()
        })
    };
    let mut seen = HashSet::new();
    let travelling = records.iter().flat_map(|record| portable(record, &mut content));
    travelling.filter(|record| seen.insert(record.key)).collect()
}
