//! The answers to `--call` as JSON: the field names and the leaving-out of what is empty are those
//! of BuildKit's `subrequests`.

use parser::{Parsed, Span};
use serde::Serialize;

use super::super::findings::lines_of;
use super::super::source::BuildSource;
use super::Inspection;
use crate::progress::base64;
use crate::report::CliError;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckDocument {
    warnings: Vec<Warning>,
    /// Ours alone; absent where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hints: Vec<Warning>,
    sources: Vec<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_error: Option<BuildError>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning {
    rule_name: String,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

#[derive(Serialize)]
struct BuildError {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// Lines of the only source.
#[derive(Serialize)]
pub(super) struct Location {
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Serialize)]
struct Position {
    line: u32,
}

/// A file and its text.
#[derive(Serialize)]
pub(super) struct Source {
    filename: String,
    language: &'static str,
    /// LLB of the file's loading; ours has none.
    definition: Option<()>,
    data: String,
}

impl Location {
    pub(super) fn of(parsed: &Parsed, span: Span) -> Location {
        let (first, last) = lines_of(parsed, span);
        Location {
            ranges: vec![Range { start: Position { line: first }, end: Position { line: last } }],
        }
    }
}

pub(super) fn source_of(source: &BuildSource) -> Source {
    Source {
        filename: source.file.clone(),
        language: "Dockerfile",
        definition: None,
        data: base64(&source.text),
    }
}

pub(super) fn check(inspection: &Inspection, source: &BuildSource) -> Result<String, CliError> {
    let parsed = &inspection.parsed;
    let (mut warnings, mut hints) = (Vec::new(), Vec::new());
    for finding in &inspection.findings {
        let list = if finding.is_warning() { &mut warnings } else { &mut hints };
        list.push(Warning {
            rule_name: finding.rule.to_owned(),
            description: finding.description().to_owned(),
            url: finding.url().map(str::to_owned),
            detail: finding.detail.clone(),
            location: finding.span.map(|span| Location::of(parsed, span)),
        });
    }
    let build_error = inspection.faults.first().map(|fault| BuildError {
        message: fault.message.clone(),
        location: fault.span.map(|span| Location::of(parsed, span)),
    });
    pretty(&CheckDocument { warnings, hints, sources: vec![source_of(source)], build_error })
}

/// Indented as buildx does.
pub(super) fn pretty(document: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(document).map_err(|error| CliError::internal(error.to_string()))
}
