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
    Fault, ImageRequest, LowerError, Lowered, Plan, ResolvedImage, ResolvedImages, Settings,
    Warnings, lower_or_warn,
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
    let platforms = match &options.platforms[..] {
        [] => vec![Platform::host()],
        platforms => platforms.to_vec(),
    };
    let (mut findings, mut faults, mut plan) = (Findings::default(), errors(&parsed), None);
    let mut used_build_args = Vec::new();
    for platform in &platforms {
        let settings = settings(options, source, &named.contexts, platform, false);
        if parsed.has_errors() {
            findings.merge(Findings::of_file(&parsed, &settings));
            continue;
        }
        let look = look(engine, source, question, &parsed, &settings, options.target.is_some())?;
        findings.merge(look.findings);
        used_build_args.extend(look.used_build_args);
        for fault in look.faults {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        if plan.is_none() {
            plan = look.plan.map(|plan| (plan, settings));
        }
    }
    if question == Question::Check && faults.is_empty() {
        findings.add_unused_build_args(options, &parsed, &used_build_args);
    }
    let findings = findings.reported(&parsed);
    let plan = plan.filter(|_| faults.is_empty());
    Ok(Inspection { parsed, findings, faults, plan })
}

fn errors(parsed: &Parsed) -> Vec<Fault> {
    let errors = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
    errors
        .map(|error| Fault {
            message: error.message.clone(),
            span: Some(error.span),
            hint: error.hint.clone(),
        })
        .collect()
}

/// What was seen for one platform.
#[derive(Default)]
struct Look {
    findings: Findings,
    faults: Vec<Fault>,
    plan: Option<Plan>,
    used_build_args: Vec<String>,
}

fn look(
    engine: &Engine,
    source: &BuildSource,
    question: Question,
    parsed: &Parsed,
    settings: &Settings,
    has_target: bool,
) -> Result<Look, CliError> {
    let findings = Findings::of_file(parsed, settings);
    let mut look = Look { findings, ..Look::default() };
    // The whole file is checked unless a target is named.
    let plan = match question {
        Question::Check if !has_target => Plan::of_all_stages(&parsed.dockerfile, settings),
        _ => Plan::new(&parsed.dockerfile, settings),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(faults) => {
            look.faults = faults;
            return Ok(look);
        }
    };
    look.findings.add_plan(&plan);
    if question == Question::Check {
        let mut unknown = Vec::new();
        let lowered = lower_locally(engine, parsed, &plan, settings, &mut unknown)?;
        let guessed: Vec<parser::Span> = lint::stages_upon(&plan, &unknown)
            .into_iter()
            .map(|index| parsed.dockerfile.stages[index].span)
            .collect();
        let is_known = |finding: &Finding| {
            let is_inside = |span: parser::Span| {
                guessed.iter().any(|stage| stage.start <= span.start && span.start < stage.end)
            };
            finding.rule != "UndefinedVar" || !finding.span.is_some_and(is_inside)
        };
        match lowered {
            Ok(lowered) => {
                look.findings.add_lowered(&lowered, source, is_known);
                look.used_build_args = lowered.used_build_args;
            }
            Err((faults, warnings)) => {
                look.findings.add_warnings(&warnings, is_known);
                look.faults = faults;
            }
        }
    }
    look.plan = Some(plan);
    Ok(look)
}

/// Lowers with the images of the local store; the others are `unknown`.
fn lower_locally(
    engine: &Engine,
    parsed: &Parsed,
    plan: &Plan,
    settings: &Settings,
    unknown: &mut Vec<ImageRequest>,
) -> Result<Result<Lowered, (Vec<Fault>, Warnings)>, CliError> {
    let mut found: ResolvedImages = BTreeMap::new();
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
        let (graph, warnings) = (&mut Definition::new(), &mut Vec::new());
        match lower_or_warn(&parsed.dockerfile, plan, settings, &found, graph, warnings) {
            Ok(lowered) => return Ok(Ok(lowered)),
            Err(LowerError::Faults(faults)) => {
                return Ok(Err((faults, std::mem::take(warnings))));
            }
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
