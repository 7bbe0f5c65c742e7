//! `strake pull` and `strake push`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use cache::layer::Compression;
use cache::oci::{Descriptor, ImageName, Platform};
use cache::remote::PushTarget;
use exporter::{LayerForm, PushOptions};

use super::engine::{Engine, Needs, registries};
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
    let registries = registries();
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

/// Only the digest goes to standard output.
pub(crate) fn push(root: Option<PathBuf>, args: &PushArgs) -> Result<ExitCode, CliError> {
    let name = image_name(&args.name)?;
    let engine = Engine::open(root, Needs::Trees)?;
    let image = engine.find_image(&args.name)?;
    let registries = registries();
    let options = PushOptions {
        form: LayerForm { compression: Compression::Gzip(6), force: false },
        target: PushTarget::Name,
        annotations: BTreeMap::new(),
    };
    let (progress, view) = progress::start(mode(args.quiet));
    let pushed = engine.block_on(async {
        let step = progress.begin(&format!("pushing {name}"));
        let report = |blob: &Descriptor, current: u64, total: u64| {
            let (id, at) = (blob.digest().to_string(), std::time::SystemTime::now());
            progress.send(Update::Transfer { step, id, current, total: Some(total), at });
        };
        let pushed =
            exporter::push(&engine.store, &registries, &image, &name, &options, &report).await;
        progress.finish(step, outcome(&pushed));
        pushed.map_err(|error| CliError::caused(format!("cannot push {}", name.familiar()), &error))
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
