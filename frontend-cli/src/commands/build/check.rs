//! `strake build --check` and `--call`: what can be said about a Dockerfile without building it.
//!
//! Nothing is fetched: an image that is not in the local store is taken to be an image about whose
//! environment nothing is known, so that no variable that it may set is called undefined. The
//! texts and the JSON are those of buildx; hints of ours stand in a list of their own.

mod document;
mod outline;
mod print;
mod targets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use cache::oci::{Digest, ImageConfiguration, Platform};
use parser::{ParseOptions, Parsed};
use solver::llb::Definition;

use super::contexts::NamedContexts;
use super::failure::FailureReporter;
use super::findings::Findings;
use super::options::BuildOptions;
use super::source::BuildSource;
use super::{MAX_LOWERING_ROUNDS, settings};
use crate::commands::engine::{Engine, Needs};
use crate::commands::say;
use crate::dockerfile::lint::{self, Finding};
use crate::dockerfile::{
    Fault, ImageRequest, LowerError, Lowered, Plan, ResolvedImage, ResolvedImages, Settings, lower,
};
use crate::report::CliError;

/// What `--call` asks for, other than a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Which checks fail.
    Check,
    /// Which arguments, secrets and agents the target takes.
    Outline,
    /// Which stages there are.
    Targets,
}

/// A `--call`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) question: Question,
    pub(super) json: bool,
    /// `ignorestatus=true`: findings do not change the exit code.
    pub(super) ignore_status: bool,
}

impl Call {
    /// Reads `METHOD[,format=text|json][,ignorestatus=BOOL]`; `None` for a build.
    pub(super) fn parse(text: &str) -> Result<Option<Call>, CliError> {
        let invalid =
            |reason: String| CliError::input(format!("invalid --call `{text}`: {reason}"));
        let (mut method, mut json, mut ignore_status) = ("", false, false);
        for field in text.split(',') {
            match field.split_once('=') {
                None if method.is_empty() => method = field,
                Some(("format", "json")) => json = true,
                Some(("format", "text")) => json = false,
                Some(("ignorestatus", "true" | "1")) => ignore_status = true,
                Some(("ignorestatus", "false" | "0")) => ignore_status = false,
                _ => {
                    return Err(invalid(format!("unexpected `{field}`"))
                        .hint("write METHOD[,format=json|text][,ignorestatus=true|false]"));
                }
            }
        }
        let question = match method {
            "" | "build" => return Ok(None),
            "check" | "lint" => Question::Check,
            "outline" => Question::Outline,
            "targets" => Question::Targets,
            _ => {
                return Err(invalid(format!("there is no method `{method}`"))
                    .hint("use build, check, outline or targets"));
            }
        };
        Ok(Some(Call { question, json, ignore_status }))
    }
}

/// What is known of a file after looking at it.
struct Inspection {
    parsed: Parsed,
    findings: Vec<Finding>,
    /// Why it could not be built.
    faults: Vec<Fault>,
    /// Absent where the faults prevented it.
    plan: Option<(Plan, Settings)>,
}

pub(super) fn call(
    root: Option<PathBuf>,
    options: &BuildOptions,
    call: Call,
) -> Result<ExitCode, CliError> {
    // An archive as the context is unpacked, and its files have any owner.
    let needs =
        if BuildSource::is_foreign(&options.context) { Needs::Trees } else { Needs::Documents };
    let engine = Engine::open(root, needs)?;
    let source = BuildSource::open(options, &engine)?;
    let inspection = inspect(&engine, options, &source, call.question)?;
    let reporter = FailureReporter::new(&source);
    match (call.question, inspection.plan.as_ref()) {
        (Question::Check, _) => {
            if call.json {
                say(document::check(&inspection, &source)?);
            } else {
                print::check(&inspection, &source);
                if !inspection.faults.is_empty() {
                    return Err(reporter.faults(inspection.faults));
                }
            }
            let failed = !inspection.faults.is_empty()
                || inspection.findings.iter().any(Finding::is_warning);
            Ok(if failed && !call.ignore_status { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        (_, None) => Err(reporter.faults(inspection.faults)),
        (Question::Outline, Some((plan, settings))) => {
            let outline = outline::Outline::new(&inspection.parsed, plan, settings);
            if call.json {
                say(outline.json(&source)?);
            } else {
                outline.print();
            }
            Ok(ExitCode::SUCCESS)
        }
        (Question::Targets, Some(_)) => {
            if call.json {
                say(targets::json(&inspection.parsed, &source)?);
            } else {
                targets::print(&inspection.parsed);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn inspect(
    engine: &Engine,
    options: &BuildOptions,
    source: &BuildSource,
    question: Question,
) -> Result<Inspection, CliError> {
    let check = super::check_override(options)?;
    let parsed = parser::parse_with(&source.text, &ParseOptions { check });
    let named = NamedContexts::open(engine, options)?;
    let platform = options.platforms.first().cloned().unwrap_or_else(Platform::host);
    let settings = settings(options, source, &named.contexts, &platform, false);
    let mut findings = Findings::of_file(&parsed, &settings);
    let failed = |parsed: Parsed, findings: Findings, faults: Vec<Fault>| {
        let findings = findings.reported(&parsed);
        Ok(Inspection { parsed, findings, faults, plan: None })
    };
    if parsed.has_errors() {
        let errors = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
        let faults = errors
            .map(|error| Fault {
                message: error.message.clone(),
                span: Some(error.span),
                hint: error.hint.clone(),
            })
            .collect();
        return failed(parsed, findings, faults);
    }
    // The whole file is checked unless a target is named.
    let plan = match (question, &options.target) {
        (Question::Check, None) => Plan::of_all_stages(&parsed.dockerfile, &settings),
        _ => Plan::new(&parsed.dockerfile, &settings),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(faults) => return failed(parsed, findings, faults),
    };
    findings.add_plan(&plan);
    if question == Question::Check {
        let (lowered, unknown) = match lower_locally(engine, &parsed, &plan, &settings)? {
            Ok(lowered) => lowered,
            Err(faults) => return failed(parsed, findings, faults),
        };
        let guessed: Vec<parser::Span> = lint::stages_upon(&plan, &unknown)
            .into_iter()
            .map(|index| parsed.dockerfile.stages[index].span)
            .collect();
        findings.add_lowered(&lowered, source, |finding| {
            let is_inside = |span: parser::Span| {
                guessed.iter().any(|stage| stage.start <= span.start && span.start < stage.end)
            };
            finding.rule != "UndefinedVar" || !finding.span.is_some_and(is_inside)
        });
        findings.add_unused_build_args(options, &parsed, &lowered.used_build_args);
    }
    let findings = findings.reported(&parsed);
    Ok(Inspection { parsed, findings, faults: Vec::new(), plan: Some((plan, settings)) })
}

/// What was lowered, and the images that were not here.
type LocallyLowered = (Lowered, Vec<ImageRequest>);

/// Lowers with the images of the local store; the others are unknown.
fn lower_locally(
    engine: &Engine,
    parsed: &Parsed,
    plan: &Plan,
    settings: &Settings,
) -> Result<Result<LocallyLowered, Vec<Fault>>, CliError> {
    let mut found: ResolvedImages = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut requests: Vec<ImageRequest> =
        plan.images.iter().map(|wanted| wanted.request.clone()).collect();
    for _ in 0..MAX_LOWERING_ROUNDS {
        for request in requests {
            let local = engine.store.images().get(&request.name, &request.platform);
            let image = match local.map_err(|error| {
                CliError::caused(
                    format!("cannot look up image `{}`", request.name.familiar()),
                    &error,
                )
            })? {
                Some(image) => ResolvedImage {
                    manifest: image.manifest_digest,
                    config_digest: image.config_digest,
                    config: image.config,
                },
                None => {
                    unknown.push(request.clone());
                    unknown_image(&request)
                }
            };
            found.insert(request, image);
        }
        // The graph is thrown away: nothing is built.
        match lower(&parsed.dockerfile, plan, settings, &found, &mut Definition::new()) {
            Ok(lowered) => return Ok(Ok((lowered, unknown))),
            Err(LowerError::Faults(faults)) => return Ok(Err(faults)),
            Err(LowerError::NeedsImages(images)) => requests = images,
        }
    }
    Err(CliError::input("the ONBUILD triggers of the base images name ever more images"))
}

fn unknown_image(request: &ImageRequest) -> ResolvedImage {
    let nothing = Digest::of(b"");
    let config = ImageConfiguration {
        os: request.platform.os.clone(),
        architecture: request.platform.architecture.clone(),
        variant: request.platform.variant.clone(),
        ..ImageConfiguration::default()
    };
    ResolvedImage { manifest: nothing, config_digest: nothing, config }
}

#[cfg(test)]
mod tests {
    use super::{Call, Question};

    #[test]
    fn calls_are_a_method_and_fields() {
        let call = |text: &str| Call::parse(text).map_err(|error| error.message());
        let check = Call { question: Question::Check, json: true, ignore_status: false };
        assert_eq!(call("check,format=json"), Ok(Some(check)));
        assert_eq!(call("lint,format=json"), Ok(Some(check)));
        assert_eq!(call("build"), Ok(None));
        assert!(call("chekc").is_err());
        assert!(call("check,format=xml").is_err());
    }
}
