//! `strake cache export` and `strake cache import`: all that a store has of the build cache, with
//! the cache mounts, in one bundle.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use cache::bundle::document::{Document, Mount};
use cache::bundle::mounts::{pack_mounts, unpack_mount, wants_mount};
use cache::bundle::{BundleError, Imported, Place};
use cache::index::Record;
use cache::snapshot::SnapshotId;
use futures_util::stream::{StreamExt, TryStreamExt, iter};

use super::build::cache_spec::{self, CacheTo};
use super::build::travel::{self, portable_records};
use super::engine::{Engine, Needs, store_error};
use super::say;
use crate::args::{CacheExportArgs, CacheImportArgs};
use crate::report::CliError;

pub(crate) fn export(root: Option<PathBuf>, args: &CacheExportArgs) -> Result<ExitCode, CliError> {
    let to = cache_spec::bundle_to(&args.destination)?;
    let Some(spec) = &to.place else { return Err(no_place(&args.destination)) };
    let place = travel::place(spec, false)?;
    let engine = Engine::open(root, Needs::Trees)?;
    let records = all_records(&engine)?;
    let mut document = bundle(&engine, &to, &records)?;
    if !args.no_mounts {
        document.mounts = mounts(&engine)?;
    }
    let (records, layers, mounts) =
        (document.records.len(), document.layers.len(), document.mounts.len());
    let store = engine.store.clone();
    let written = engine.block_on(async {
        let written = place.write(&document, &store, &Imported::default(), &HashSet::new()).await;
        written
            .map_err(|error| CliError::caused(format!("cannot write the cache to {place}"), &error))
    })?;
    let manifest = written.manifest;
    say(format!("{manifest}"));
    eprint(&format!(
        "{records} records, {layers} layers and {mounts} cache mounts are at {place}; \
         {} blobs were sent",
        written.sent
    ));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn import(root: Option<PathBuf>, args: &CacheImportArgs) -> Result<ExitCode, CliError> {
    let place = travel::place(&cache_spec::bundle_from(&args.source)?, false)?;
    let engine = Engine::open(root, Needs::Trees)?;
    let failed =
        |error: BundleError| CliError::caused(format!("cannot read the cache of {place}"), &error);
    let document = engine.block_on(async { place.read().await.map_err(failed) })?;
    let imported = Imported::new(vec![(Arc::clone(&place), document.clone())]);
    let records = engine
        .block_on(async { fetch_trees(&engine, &imported, &document).await.map_err(failed) })?;
    engine.store.index().insert_many(&records).map_err(store_error)?;
    let mut mounts = 0;
    if !args.no_mounts {
        for mount in &document.mounts {
            let fetched = engine
                .block_on(async { fetch_mount(&engine, &place, mount).await.map_err(failed) })?;
            mounts += usize::from(fetched);
        }
    }
    engine.sync_later();
    eprint(&format!("{} records and {mounts} cache mounts came from {place}", records.len()));
    Ok(ExitCode::SUCCESS)
}

/// What is said beside the result. A closed standard error must not end the command.
fn eprint(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn no_place(text: &str) -> CliError {
    CliError::input(format!("`{text}` is no place for a cache"))
        .hint("name a directory, type=registry,ref=NAME or type=s3,bucket=NAME,…")
}

/// Every record, as it may travel: what stands under a fast key first, so that it says most.
fn all_records(engine: &Engine) -> Result<Vec<Record>, CliError> {
    let index = engine.store.index();
    let mut records = Vec::new();
    for record in index.records().map_err(store_error)? {
        records.extend(index.lookup(&record.key).map_err(store_error)?);
    }
    // The records of one state of the store are always in the same order.
    records.sort_by_key(|record| {
        (record.ingredients.iter().all(|part| part.part != "op"), record.key)
    });
    Ok(records)
}

fn bundle(engine: &Engine, to: &CacheTo, records: &[Record]) -> Result<Document, CliError> {
    let imported = Imported::default();
    let records = portable_records(&engine.store, &imported, records);
    exporter::bundle(&engine.store, &imported, &records, to.form)
        .map_err(|error| CliError::caused("cannot pack the cache", &error))
}

fn mounts(engine: &Engine) -> Result<Vec<Mount>, CliError> {
    let packed = pack_mounts(&engine.store)
        .map_err(|error| CliError::caused("cannot pack the cache mounts", &error))?;
    for (id, reason) in &packed.left_out {
        eprint(&format!("warning: the cache mount `{id}` is left out: {reason}"));
    }
    Ok(packed.mounts)
}

/// Makes all trees, and gives the records with the names they have here.
async fn fetch_trees(
    engine: &Engine,
    imported: &Imported,
    document: &Document,
) -> Result<Vec<Record>, BundleError> {
    let mut records = Vec::new();
    let mut seen: HashSet<SnapshotId> = HashSet::new();
    for entry in &document.records {
        let Some(mut record) = imported.lookup(&engine.store, &entry.key)? else { continue };
        for output in &mut record.outputs {
            let Some(id) = output.snapshot.filter(|id| imported.knows(id)) else { continue };
            if seen.insert(id)
                && let Err(error) = imported.make(&engine.store, &id, &|_, _| {}).await
            {
                // The reason is with the place that was given up.
                let reason = imported.failures().into_iter().next();
                return Err(reason.map_or(error, |(_, reason)| reason));
            }
            output.snapshot = imported.made(&id);
        }
        records.push(record);
    }
    Ok(records)
}

/// Segments of a mount on their way at the same time.
const AT_ONCE: usize = 6;

async fn fetch_mount(
    engine: &Engine,
    place: &Arc<dyn Place>,
    mount: &Mount,
) -> Result<bool, BundleError> {
    if !wants_mount(&engine.store, mount)? {
        return Ok(false);
    }
    let fetches: Vec<_> =
        mount
            .segments
            .iter()
            .map(|blob| async move {
                place.fetch_in_time(&blob.descriptor(), engine.store.blobs()).await
            })
            .collect();
    iter(fetches).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let (store, mount) = (engine.store.clone(), mount.clone());
    let work = tokio::task::spawn_blocking(move || unpack_mount(&store, &mount));
    work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
