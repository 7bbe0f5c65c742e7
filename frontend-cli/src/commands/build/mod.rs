//! `strake build`: from a Dockerfile to an image, the whole way.
//!
//! read and parse → plan → resolve images → lower → solve → assemble → export

mod export;
mod failure;
mod forward;
pub(crate) mod images;
pub(crate) mod options;
mod output;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use cache::oci::Platform;
use executor::{LocalWorker, LocalWorkerConfig};
use parser::{ParseOptions, Parsed};
use solver::llb::Definition;
use solver::{EventSender, Solution, Solver, SolverOptions};

use super::engine::{Engine, Needs, registries, store_error};
use super::{say, why};
use crate::args::BuildArgs;
use crate::dockerfile::{LowerError, Lowered, NamedContext, Plan, RequestedImage, Settings, lower};
use crate::progress::{self, Outcome, Progress};
use crate::report::CliError;
use export::{Built, Exporter};
use failure::FailureReporter;
use images::ImageResolver;
use options::{BuildOptions, ContextValue};
use source::BuildSource;

/// Triggers may name images whose triggers name images; nobody means more rounds than this.
const MAX_LOWERING_ROUNDS: usize = 16;

pub(crate) fn build(root: Option<PathBuf>, args: BuildArgs) -> Result<ExitCode, CliError> {
    let options = BuildOptions::new(args)?;
    let engine = Engine::open(root, Needs::Containers)?;
    let source = BuildSource::open(&options, &engine.store)?;
    let (progress, view) = progress::start(options.progress);
    let result = engine.block_on(build_image(&engine, &options, &source, &progress));
    drop(progress);
    view.finish();
    let built = result?;
    if options.quiet
        && let Some(id) = built.iter().find_map(Built::id)
    {
        say(id);
    }
    Ok(ExitCode::SUCCESS)
}

async fn build_image(
    engine: &Engine,
    options: &BuildOptions,
    source: &BuildSource,
    progress: &Progress,
) -> Result<Vec<Built>, CliError> {
    let reporter = FailureReporter::new(source);
    let parsed = parse(source, options, &reporter, progress)?;

    let registries = registries();
    let mut resolver = ImageResolver {
        store: engine.store.clone(),
        registries: registries.clone(),
        pull: options.pull,
        found: BTreeMap::new(),
    };
    let (contexts, directories) = named_contexts(engine, options)?;
    let platforms = match &options.platforms[..] {
        [] => vec![Platform::host()],
        platforms => platforms.to_vec(),
    };

    let mut definition = Definition::new();
    let mut targets = Vec::new();
    for platform in &platforms {
        let settings = settings(options, source, &contexts, platform, platforms.len() > 1);
        let plan =
            Plan::new(&parsed.dockerfile, &settings).map_err(|faults| reporter.faults(faults))?;
        let lowered = lower_with_images(
            &parsed,
            &plan,
            &settings,
            &mut resolver,
            &mut definition,
            &reporter,
            progress,
        )
        .await?;
        definition.target(lowered.edge).map_err(|error| CliError::internal(error.to_string()))?;
        for (rule, fault) in plan.warnings.iter().chain(&lowered.warnings) {
            progress.warn(reporter.warning(rule, fault));
        }
        targets.push((platform.clone(), lowered));
    }
    warn_unused_build_args(options, &parsed, &targets, progress);

    let worker = Arc::new(LocalWorker::new(LocalWorkerConfig {
        store: engine.store.clone(),
        spawner: engine.spawner()?,
        identity: engine.identity()?,
        registries: registries.clone(),
        contexts: directories
            .into_iter()
            .chain([("context".to_owned(), source.directory.clone())])
            .collect(),
        secrets: options.secrets.clone(),
        ssh: options.ssh.clone(),
        allow: allowed(options),
        created: None,
    }));
    let definition = Arc::new(definition);
    let solution = solve(engine, options, &reporter, &worker, definition.clone(), progress).await?;

    let scope = why::scope(&source.directory, &source.file, options.target.as_deref());
    why::record(&engine.store, &scope, &definition, &solution).map_err(store_error)?;
    let exporter =
        Exporter { engine, options, registries: &registries, resolver: &resolver, progress };
    let built = exporter.export(targets, &solution).await?;
    worker.finish().await;
    Ok(built)
}

fn parse(
    source: &BuildSource,
    options: &BuildOptions,
    reporter: &FailureReporter<'_>,
    progress: &Progress,
) -> Result<Parsed, CliError> {
    let step = progress.begin(&format!("[internal] load build definition from {}", source.file));
    let check = options
        .build_args
        .get("BUILDKIT_DOCKERFILE_CHECK")
        .map(|text| parser::Checks::parse(text))
        .transpose()
        .map_err(|message| CliError::input(format!("BUILDKIT_DOCKERFILE_CHECK: {message}")))?;
    let parsed = parser::parse_with(&source.text, &ParseOptions { check });
    if parsed.has_errors() {
        progress.finish(step, Outcome::Failed("the Dockerfile has errors".into()));
        return Err(reporter.parse_errors(&parsed.diagnostics));
    }
    progress.finish(step, Outcome::Done);
    for diagnostic in &parsed.diagnostics {
        let line = parsed.lines.line(diagnostic.span.start);
        progress.warn(format!("{diagnostic} ({}:{line})", source.file));
    }
    if let Some(violation) = parsed.dockerfile.directives.check.violation(&parsed.diagnostics) {
        return Err(CliError::input(violation));
    }
    Ok(parsed)
}

fn settings(
    options: &BuildOptions,
    source: &BuildSource,
    contexts: &BTreeMap<String, NamedContext>,
    platform: &Platform,
    multi_platform: bool,
) -> Settings {
    Settings {
        build_args: options.build_args.clone(),
        target: options.target.clone(),
        build_platform: Platform::host(),
        target_platform: platform.clone(),
        contexts: contexts.clone(),
        labels: options.labels.clone(),
        network: options.network,
        extra_hosts: options.extra_hosts.clone(),
        allow_network_host: options.allow.iter().any(|allowed| allowed == "network.host"),
        allow_insecure: options.allow.iter().any(|allowed| allowed == "security.insecure"),
        no_cache: options.no_cache,
        no_cache_stages: options.no_cache_stages.clone(),
        shm_size: options.shm_size,
        ulimits: options.ulimits.clone(),
        context_excludes: source.ignore.rules(),
        file: source.file.clone(),
        multi_platform,
    }
}

/// `--network host` on the command line is the grant as well, as with buildx.
fn allowed(options: &BuildOptions) -> Vec<String> {
    let mut allow = options.allow.clone();
    if options.network == parser::Network::Host {
        allow.push("network.host".into());
    }
    allow
}

/// The named contexts as the plan sees them, and the directories among them.
type Contexts = (BTreeMap<String, NamedContext>, BTreeMap<String, PathBuf>);

fn named_contexts(engine: &Engine, options: &BuildOptions) -> Result<Contexts, CliError> {
    let mut contexts = BTreeMap::new();
    let mut directories = BTreeMap::new();
    for (name, value) in &options.contexts {
        let context = match value {
            ContextValue::Other(context) => context.clone(),
            ContextValue::Directory(directory) => {
                if !directory.is_dir() {
                    return Err(CliError::input(format!(
                        "the build context `{name}` is not a directory: {}",
                        directory.display()
                    )));
                }
                let ignore = directory.join(".dockerignore");
                let excludes = match ignore.is_file() {
                    true => source::read_ignore_file(&ignore)?.rules(),
                    false => Vec::new(),
                };
                directories.insert(name.clone(), directory.clone());
                NamedContext::Local { excludes }
            }
            ContextValue::OciLayout { path } => {
                NamedContext::Image(export::load_layout(engine, name, path)?)
            }
        };
        contexts.insert(name.clone(), context);
    }
    Ok((contexts, directories))
}

async fn lower_with_images(
    parsed: &Parsed,
    plan: &Plan,
    settings: &Settings,
    resolver: &mut ImageResolver,
    definition: &mut Definition,
    reporter: &FailureReporter<'_>,
    progress: &Progress,
) -> Result<Lowered, CliError> {
    let mut requests = plan.images.clone();
    for _ in 0..MAX_LOWERING_ROUNDS {
        resolver.resolve(&requests, progress, &|span| reporter.excerpt(span)).await?;
        // A round that turns out to need more images leaves vertices behind; they must not stay.
        let mut attempt = definition.clone();
        match lower(&parsed.dockerfile, plan, settings, &resolver.resolved(), &mut attempt) {
            Ok(lowered) => {
                *definition = attempt;
                return Ok(lowered);
            }
            Err(LowerError::Faults(faults)) => return Err(reporter.faults(faults)),
            Err(LowerError::NeedsImages(images)) => {
                requests = images
                    .into_iter()
                    .map(|request| RequestedImage { request, span: None })
                    .collect();
            }
        }
    }
    Err(CliError::input("the ONBUILD triggers of the base images name ever more images"))
}

/// Decision D7: an argument that nothing declared is most often a typo.
fn warn_unused_build_args(
    options: &BuildOptions,
    parsed: &Parsed,
    targets: &[(Platform, Lowered)],
    progress: &Progress,
) {
    let declared: Vec<&str> = parsed
        .dockerfile
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions)
        .filter_map(|instruction| match &instruction.kind {
            parser::InstructionKind::Arg(arg) => Some(arg),
            _ => None,
        })
        .chain(parsed.dockerfile.global_args.iter().map(|instruction| &instruction.kind))
        .flat_map(|arg| arg.args.iter().map(|definition| definition.name.as_str()))
        .collect();
    for name in options.build_args.keys() {
        let is_predefined = name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
            || name.to_lowercase().ends_with("_proxy");
        let is_used = declared.contains(&name.as_str())
            || targets.iter().any(|(_, lowered)| lowered.used_build_args.contains(name));
        if !is_predefined && !is_used {
            let near = crate::dockerfile::nearest(name, declared.iter().copied());
            let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            progress
                .warn(format!("the build argument {name} was not used: no ARG declares it{hint}"));
        }
    }
}

async fn solve(
    engine: &Engine,
    options: &BuildOptions,
    reporter: &FailureReporter<'_>,
    worker: &Arc<LocalWorker>,
    definition: Arc<Definition>,
    progress: &Progress,
) -> Result<Solution, CliError> {
    let records = Arc::new(engine.store.index().clone());
    let solver = Solver::new(
        worker.clone(),
        records,
        SolverOptions { max_parallelism: options.max_parallelism },
    );
    let (sender, events): (EventSender, _) = EventSender::channel();
    let forwarded = forward::forward(&definition, events, progress.clone());
    let (solution, ()) = tokio::join!(solver.solve(definition.clone(), sender), forwarded);
    solution.map_err(|error| reporter.solve_error(&error))
}
