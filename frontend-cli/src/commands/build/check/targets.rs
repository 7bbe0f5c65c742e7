//! `--call=targets`: the stages of a Dockerfile.

use parser::{Parsed, Stage};
use serde::Serialize;

use super::super::findings::printable;
use super::super::source::BuildSource;
use super::document::{Location, Source, pretty, source_of};
use super::outline::description;
use crate::commands::table;
use crate::report::CliError;

#[derive(Serialize)]
struct TargetsDocument {
    targets: Vec<Target>,
    sources: Vec<Source>,
}

#[derive(Serialize)]
struct Target {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    location: Location,
}

fn name(stage: &Stage) -> &str {
    stage.name.as_ref().map_or("", |name| name.as_str())
}

pub(super) fn json(parsed: &Parsed, source: &BuildSource) -> Result<String, CliError> {
    let stages = &parsed.dockerfile.stages;
    let targets = stages.iter().enumerate().map(|(index, stage)| Target {
        name: name(stage).to_owned(),
        default: index + 1 == stages.len(),
        description: description(&stage.comments, name(stage)),
        base: stage.base.value.clone(),
        platform: stage.platform.as_ref().map(|platform| platform.value.clone()),
        location: Location::of(parsed, stage.from_span),
    });
    pretty(&TargetsDocument { targets: targets.collect(), sources: vec![source_of(source)] })
}

pub(super) fn print(parsed: &Parsed) {
    let stages = &parsed.dockerfile.stages;
    let rows: Vec<Vec<String>> = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let is_default = index + 1 == stages.len();
            let shown = match (name(stage), is_default) {
                ("", true) => "(default)".to_owned(),
                // A stage without a name is built by its number.
                ("", false) => index.to_string(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            };
            let description = description(&stage.comments, name(stage)).unwrap_or_default();
            vec![printable(&shown), printable(&description)]
        })
        .collect();
    table(&["TARGET", "DESCRIPTION"], &rows);
}
