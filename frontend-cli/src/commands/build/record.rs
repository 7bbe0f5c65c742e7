//! What of a build goes into the history.

use cache::oci::ImageName;

use super::options::BuildOptions;
use super::source::BuildSource;
use crate::commands::engine::Engine;
use crate::config::Config;
use crate::history::{
    Build, History, Limits, LogFiles, Recording, Status, without_password, without_secret_value,
};
use crate::progress::Shown;
use crate::report::CliError;

/// Begins to write a build down, if builds are kept.
pub(super) fn begin(
    engine: &Engine,
    options: &BuildOptions,
    source: &BuildSource,
    configured: &Config,
) -> (Option<Recording>, Option<LogFiles>) {
    let limits = Limits::of(configured);
    if limits.builds == 0 {
        return (None, None);
    }
    let context = without_password(&source.origin.display().to_string());
    let build = Build {
        name: name(&context, &source.file, options.target.as_deref()),
        command: command(),
        context,
        dockerfile: source.file.clone(),
        target: options.target.clone(),
        tags: options.tags.iter().map(ImageName::familiar).collect(),
        platforms: options.platforms.iter().map(ToString::to_string).collect(),
        ..Build::default()
    };
    match Recording::begin(History::of(&engine.store), limits, build) {
        Ok((recording, logs)) => (Some(recording), Some(logs)),
        Err(error) => {
            tracing::warn!("the build is not written down: {error}");
            (None, None)
        }
    }
}

/// Writes down how it ended.
pub(super) fn finish(
    recording: Recording,
    shown: &Shown,
    options: &BuildOptions,
    error: Option<&CliError>,
) {
    let status = status(error);
    let text = error.map(CliError::text);
    let hidden = options.secrets.redactions();
    let finished =
        recording.finish(&shown.state, &shown.log_sizes, &hidden, status, text.as_deref());
    if let Err(error) = finished {
        tracing::warn!("the build is not written down: {error}");
    }
}

/// How a build ended.
pub(super) fn status(error: Option<&CliError>) -> Status {
    match error {
        None => Status::Completed,
        Some(error) if matches!(error.exit_code(), 130 | 143) => Status::Canceled,
        Some(_) => Status::Error,
    }
}

/// The command line, without what is secret in it.
fn command() -> Vec<String> {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let mut words: Vec<String> =
        words.map(|word| without_password(&without_secret_value(&word))).collect();
    if let Some(program) = words.first_mut() {
        "strake".clone_into(program);
    }
    words
}

/// `app/Dockerfile (test)`: the context's last name, the file where it is not the usual one, the
/// target.
fn name(context: &str, file: &str, target: Option<&str>) -> String {
    let context = context.trim_end_matches('/');
    let mut name = context.rsplit('/').next().unwrap_or(context).to_owned();
    let file = file.rsplit('/').next().unwrap_or(file);
    if file != "Dockerfile" {
        name = format!("{name}/{file}");
    }
    match target {
        Some(target) => format!("{name} ({target})"),
        None => name,
    }
}
