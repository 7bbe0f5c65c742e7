//! `strake pull` and `strake push`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use cache::image::unpack::layers_needed;
use cache::layer::Compression;
use cache::oci::{Descriptor, ImageName, Platform};
use cache::remote::PushTarget;
use exporter::{LayerForm, PushOptions};

use super::engine::{Engine, Needs, registries};
use super::far::unavailable;
use super::say;
use crate::args::{ProgressMode, PullArgs, PushArgs};
use crate::progress::{self, Outcome, Update};
use crate::report::CliError;

pub(crate) fn pull(root: Option<PathBuf>, args: &PullArgs) -> Result<ExitCode, CliError> {
    let name = image_name(&args.name)?;
    let platform: Platform = match &args.platform {
        Some(text) => text
            .parse()
            .map_err(|error| CliError::input(format!("invalid platform `{text}`: {error}")))?,
        None => Platform::host(),
    };
    let engine = Engine::open(root, Needs::Documents)?;
    if args.offline {
        return pull_offline(&engine, &name, &platform);
    }
    let registries = registries(false);
    let (progress, view) = progress::start(mode(args.quiet));
    let pulled = engine.block_on(async {
        let step = progress.begin(&format!("pulling {name}"));
        let report = |layer: usize, current: u64, total: u64| {
            let (id, at) = (format!("layer {}", layer + 1), std::time::SystemTime::now());
            progress.send(Update::Transfer { step, id, current, total: Some(total), at });
        };
        let pulled = registries.pull(&engine.store, &name, &platform, &report).await;
        progress.finish(step, outcome(&pulled));
        pulled.map_err(|error| CliError::caused(format!("cannot pull {}", name.familiar()), &error))
    });
    drop(progress);
    view.finish();
    pulled?;
    engine.sync_later();
    say(&name);
    Ok(ExitCode::SUCCESS)
}

/// There is nothing to do if everything is here, and nothing that can be done else.
fn pull_offline(
    engine: &Engine,
    name: &ImageName,
    platform: &Platform,
) -> Result<ExitCode, CliError> {
    let failed = |error: &dyn std::error::Error| CliError::caused("cannot read the image", error);
    let image = engine.store.images().get(name, platform).map_err(|error| failed(&error))?;
    let missing = match &image {
        Some(image) => layers_needed(&engine.store, image).map_err(|error| failed(&error))?.len(),
        None => 0,
    };
    let text = match (image, missing) {
        (Some(_), 0) => {
            say(name);
            return Ok(ExitCode::SUCCESS);
        }
        (Some(_), count) => format!("{count} layers of {} are not here", name.familiar()),
        (None, _) => format!("{} is not here for {platform}", name.familiar()),
    };
    Err(CliError::environment(text).hint("pulling it needs the network: leave out --offline"))
}

/// Only the digest goes to standard output.
pub(crate) fn push(root: Option<PathBuf>, args: &PushArgs) -> Result<ExitCode, CliError> {
    let name = image_name(&args.name)?;
    let engine = Engine::open(root, Needs::Trees)?;
    let image = engine.find_image(&args.name)?;
    let registries = registries(false);
    let (progress, view) = progress::start(mode(args.quiet));
    let pushed = engine.block_on(async {
        let step = progress.begin(&format!("pushing {name}"));
        let report = |blob: &Descriptor, current: u64, total: u64| {
            let (id, at) = (blob.digest().to_string(), std::time::SystemTime::now());
            progress.send(Update::Transfer { step, id, current, total: Some(total), at });
        };
        let what = format!("cannot push {}", name.familiar());
        let names = std::slice::from_ref(&name);
        let known = BTreeSet::new();
        let there = registries.fetch_for_push(&engine.store, &image, names, &known, &report).await;
        let there = match there {
            Ok(there) => there,
            Err(error) => {
                progress.finish(step, Outcome::Failed(error.to_string()));
                return Err(unavailable(&what, &error));
            }
        };
        let options = PushOptions {
            form: LayerForm { compression: Compression::Gzip(6), force: false },
            target: PushTarget::Name,
            there,
            ..PushOptions::default()
        };
        let pushed =
            exporter::push(&engine.store, &registries, &image, &name, &options, &report).await;
        progress.finish(step, outcome(&pushed));
        pushed.map_err(|error| CliError::caused(what, &error))
    });
    drop(progress);
    view.finish();
    say(pushed?);
    Ok(ExitCode::SUCCESS)
}

fn image_name(text: &str) -> Result<ImageName, CliError> {
    text.parse().map_err(|error| CliError::input(format!("invalid image name `{text}`: {error}")))
}

fn mode(quiet: bool) -> ProgressMode {
    if quiet { ProgressMode::Quiet } else { ProgressMode::Auto }
}

fn outcome<T, E: std::fmt::Display>(result: &Result<T, E>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}
