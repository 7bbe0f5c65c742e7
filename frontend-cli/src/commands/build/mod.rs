//! `strake build`: from a Dockerfile to an image, the whole way.
//!
//! read and parse → plan → resolve images → lower → solve → assemble → export

mod build_records;
pub(crate) mod cache_spec;
mod check;
mod contexts;
mod explain;
mod export;
mod failure;
mod far;
mod findings;
mod foreign;
mod forward;
pub(crate) mod images;
mod offline;
pub(crate) mod options;
mod output;
mod record;
mod source;
mod ssh;
pub(crate) mod travel;
mod uploads;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use cache::bundle::{Elsewhere, Imported};
use cache::gc::prune;
use cache::image::Image;
use cache::oci::Platform;
use cache::remote::Registries;
use executor::{ExecutorError, LocalWorker, LocalWorkerConfig};
use parser::{ParseOptions, Parsed};
use solver::llb::Definition;
use solver::{
    Budget, Event, EventSender, LogSink, Origin, Solution, SolveError, Solver, SolverOptions,
};

use super::du::gc_error;
use super::engine::{Engine, Needs, registries};
use super::{human_size, say, why};
use crate::args::{BuildArgs, ProgressMode};
use crate::config::Config;
use crate::dockerfile::{
    LowerError, Lowered, NamedContext, Plan, RequestedImage, Settings, lower, stage_names,
};
use crate::progress::{self, Outcome, Progress};
use crate::report::{CliError, chain};
use build_records::BuildRecords;
use contexts::NamedContexts;
use explain::Decided;
use export::{Built, Exporter};
use failure::FailureReporter;
use far::Needs as FarNeeds;
use findings::Findings;
use images::ImageResolver;
use options::BuildOptions;
use source::BuildSource;
use travel::CacheExporter;
use uploads::Uploads;

/// Triggers may name images whose triggers name images; nobody means more rounds than this.
const MAX_LOWERING_ROUNDS: usize = 16;

pub(crate) fn build(
    root: Option<PathBuf>,
    args: BuildArgs,
    configured: &Config,
) -> Result<ExitCode, CliError> {
    let call = check::Call::parse(if args.check { "check" } else { &args.call })?;
    let options = BuildOptions::new(args, configured)?;
    offline::check(&options)?;
    if let Some(call) = call {
        return check::call(root, &options, call);
    }
    export::check_source_date_epoch(&options)?;
    let engine = Engine::open(root, Needs::Containers { first: None })?;
    let opened = BuildSource::open(&options, &engine)
        .and_then(|source| Ok((source, NamedContexts::open(&engine, &options)?)));
    let (source, named) = opened.inspect_err(|error| {
        if let Err(error) = explain::unsolved(&engine, &options, error) {
            tracing::warn!("`strake why` will not know this build: {error}");
        }
    })?;
    let (recording, logs) = record::begin(&engine, &options, &source, configured);
    let (progress, view) = progress::start_recording(options.progress, logs);
    let decided = Decided::default();
    let work = build_image(&engine, &options, &source, &named, &progress, &decided);
    let result = engine.block_on(work);
    let explanation = decided.explain(&engine, &options, &source, result.as_ref().err());
    let explanation = explanation.unwrap_or_else(|error| {
        progress.warn(format!("`strake why` will not know this build: {error}"));
        None
    });
    if let Some(explanation) = &explanation
        && options.explain
        && options.progress == ProgressMode::Rawjson
    {
        let step = progress.begin("[internal] explain the cache");
        why::lines(explanation).iter().for_each(|line| progress.log(step, line));
        progress.finish(step, Outcome::Done);
    }
    if options.cap.is_cap() {
        hold_to_cap(&engine, &options, &progress);
    }
    drop(progress);
    let shown = view.finish();
    findings::list(&shown.state.warnings, options.progress);
    if let Some(recording) = recording {
        record::finish(recording, &shown, &options, result.as_ref().err());
    }
    let is_for_people = !matches!(
        options.progress,
        ProgressMode::Rawjson | ProgressMode::Quiet | ProgressMode::None
    );
    if let Some(explanation) = &explanation
        && options.explain
        && is_for_people
    {
        let mut out = std::io::stderr().lock();
        for line in why::lines(explanation) {
            // A closed stderr must not fail the build.
            let _ = writeln!(out, "{line}");
        }
    }
    let built = result?;
    if options.quiet
        && let Some(id) = built.iter().find_map(Built::id)
    {
        say(id);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prunes what is too much by the user's own limits. The build's result does not depend on it.
fn hold_to_cap(engine: &Engine, options: &BuildOptions, progress: &Progress) {
    let pruned = options
        .cap
        .options(&engine.store)
        .and_then(|options| prune(&engine.store, &options).map_err(gc_error));
    match pruned {
        Ok(pruned) if pruned.removed.is_empty() => {}
        Ok(pruned) => {
            let step = progress.begin("[internal] hold the build cache to its limits");
            let size = human_size(pruned.freed);
            progress.log(step, &format!("{} entries removed, {size} freed", pruned.removed.len()));
            progress.finish(step, Outcome::Done);
        }
        Err(error) => progress.warn(format!("the build cache was not pruned: {}", error.text())),
    }
}

async fn build_image(
    engine: &Engine,
    options: &BuildOptions,
    source: &BuildSource,
    named: &NamedContexts,
    progress: &Progress,
    decided: &Decided,
) -> Result<Vec<Built>, CliError> {
    let reporter = FailureReporter::new(source).running_as(&engine.identity()?);
    let parsed = parse(source, options, &reporter, progress)?;

    let registries = registries(options.offline);
    let mut resolver = ImageResolver {
        store: engine.store.clone(),
        registries: registries.clone(),
        pull: options.pull,
        found: BTreeMap::new(),
    };
    let platforms = match &options.platforms[..] {
        [] => vec![Platform::host()],
        platforms => platforms.to_vec(),
    };

    let mut definition = Definition::new();
    let mut targets = Vec::new();
    let mut findings = Findings::default();
    for platform in &platforms {
        let settings = settings(options, source, &named.contexts, platform, platforms.len() > 1);
        if targets.is_empty() {
            findings = Findings::of_file(&parsed, &settings);
        }
        let plan =
            Plan::new(&parsed.dockerfile, &settings).map_err(|faults| reporter.faults(faults))?;
        findings.add_plan(&plan);
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
        if !far::is_named_only(&definition, &lowered, options) {
            definition
                .target(lowered.edge)
                .map_err(|error| CliError::internal(error.to_string()))?;
        }
        findings.add_lowered(&lowered, source, |_| true);
        targets.push((platform.clone(), lowered));
    }
    let used: Vec<String> =
        targets.iter().flat_map(|(_, lowered)| lowered.used_build_args.iter().cloned()).collect();
    findings.add_unused_build_args(options, &parsed, &used);
    findings::report(&findings.reported(&parsed), &parsed, progress)?;

    let imported =
        travel::import(&engine.store, &options.cache_from, options.offline, progress).await?;
    let worker = LocalWorker::new(LocalWorkerConfig {
        store: engine.store.clone(),
        spawner: engine.spawner()?,
        identity: engine.identity()?,
        registries: registries.clone(),
        contexts: named
            .directories
            .clone()
            .into_iter()
            .chain([("context".to_owned(), source.directory.clone())])
            .collect(),
        secrets: options.secrets.clone(),
        ssh: options.ssh.clone(),
        allow: allowed(options),
        limits: options.limits.clone(),
        offline: options.offline,
        devices: options.devices.clone(),
        created: None,
    });
    let worker = Arc::new(worker.with_imported(imported.clone()));
    let definition = Arc::new(definition);
    let records = Arc::new(BuildRecords::new(engine.store.clone(), imported.clone()));
    let uploads = Uploads::start(&options.cache_to, options.offline, &engine.store, &definition)?;
    let bases: Vec<Option<Image>> = targets
        .iter()
        .filter(|(_, lowered)| definition.targets().contains(&lowered.edge))
        .map(|(_, lowered)| resolver.found.get(lowered.base.as_ref()?).cloned())
        .collect();
    let solving = Solving {
        engine,
        options,
        reporter: &reporter,
        worker: &worker,
        uploads: &uploads,
        records: &records,
        registries: &registries,
        progress,
        decided,
        bases: &bases,
    };
    let (solution, elsewhere) = solving.solve_with(&imported, definition.clone()).await?;
    if !imported.is_empty() {
        let settled = far::base_places(&engine.store, &bases)
            .map_err(|error| chain(&error))
            .and_then(|bases| {
                records.settle(&definition, &solution, &bases).map_err(|error| chain(&error))
            });
        if let Err(error) = settled {
            progress.warn(format!("the imported results are not recorded: {error}"));
        }
    }

    let caches = CacheExporter {
        engine,
        imported: &imported,
        records: &records,
        worker: &worker,
        definition: &definition,
        solution: &solution,
        progress,
    };
    let mut targets = far::with_outputs(targets, &definition, &solution);
    if options.inline_cache() {
        for (_, lowered, output) in &mut targets {
            let Some(output) = output else { continue };
            let (field, value) = caches.inline(output).await?;
            lowered.config.extra.insert(field, value);
        }
    }
    let exporter = Exporter {
        engine,
        options,
        registries: &registries,
        resolver: &resolver,
        imported: &imported,
        elsewhere,
        decided,
        progress,
    };
    let built = exporter.export(targets).await?;
    caches.export(uploads).await?;
    worker.finish().await;
    if solution.decisions.vertices.iter().any(|vertex| vertex.origin == Some(Origin::Executed)) {
        engine.sync_later();
    }
    Ok(built)
}

fn parse(
    source: &BuildSource,
    options: &BuildOptions,
    reporter: &FailureReporter<'_>,
    progress: &Progress,
) -> Result<Parsed, CliError> {
    let step = progress.begin(&format!("[internal] load build definition from {}", source.file));
    let check = check_override(options)?;
    let parsed = parser::parse_with(&source.text, &ParseOptions { check });
    if parsed.has_errors() {
        progress.finish(step, Outcome::Failed("the Dockerfile has errors".into()));
        return Err(reporter.parse_errors(&parsed.diagnostics));
    }
    progress.finish(step, Outcome::Done);
    Ok(parsed)
}

/// The checks that the command line chooses instead of the file's own.
fn check_override(options: &BuildOptions) -> Result<Option<parser::Checks>, CliError> {
    options
        .build_args
        .get("BUILDKIT_DOCKERFILE_CHECK")
        .map(|text| parser::Checks::parse(text))
        .transpose()
        .map_err(|message| CliError::input(format!("BUILDKIT_DOCKERFILE_CHECK: {message}")))
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
    let stages = stage_names(&parsed.dockerfile);
    for _ in 0..MAX_LOWERING_ROUNDS {
        resolver.resolve(&requests, &stages, progress, &|span| reporter.excerpt(span)).await?;
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

/// What a solve works with.
struct Solving<'a> {
    engine: &'a Engine,
    options: &'a BuildOptions,
    reporter: &'a FailureReporter<'a>,
    worker: &'a Arc<LocalWorker>,
    uploads: &'a Uploads,
    records: &'a Arc<BuildRecords>,
    registries: &'a Registries,
    progress: &'a Progress,
    decided: &'a Decided,
    /// The base image of each target that is solved.
    bases: &'a [Option<Image>],
}

impl Solving<'_> {
    /// Solves; and again without a cache that turns out to be broken, of which there are so many at
    /// the most. What the outputs need of the targets' trees is here at the end, but for the layers
    /// that are where they go already, or may stay where they are: those are the answer's second
    /// half.
    async fn solve_with(
        &self,
        imported: &Imported,
        definition: Arc<Definition>,
    ) -> Result<(Solution, Elsewhere), CliError> {
        loop {
            let solved = self.solve(definition.clone()).await;
            let failure = match solved {
                Ok(mut solution) => match self.bring_targets(imported, &mut solution).await {
                    Ok(elsewhere) => return Ok((solution, elsewhere)),
                    Err(error) => CliError::caused("cannot fetch the build's result", &error),
                },
                Err(error) => self.reporter.solve_error(&error),
            };
            if !travel::warn_of_failures(imported, self.progress) {
                return Err(failure);
            }
        }
    }

    async fn bring_targets(
        &self,
        imported: &Imported,
        solution: &mut Solution,
    ) -> Result<Elsewhere, ExecutorError> {
        let (options, store) = (self.options, &self.engine.store);
        let mut elsewhere = Elsewhere::new();
        for (output, base) in solution.outputs.iter_mut().zip(self.bases) {
            let Some(tree) = output.snapshot.filter(|id| imported.knows(id)) else { continue };
            let needs = FarNeeds::of(options);
            match needs {
                FarNeeds::Nothing => continue,
                FarNeeds::Files => self.worker.bring(output, &LogSink::nobody()).await?,
                _ if !imported.is_far(&tree) => {}
                FarNeeds::Image | FarNeeds::Layers => {
                    let base = match base {
                        Some(base) if needs == FarNeeds::Image => {
                            far::left_in_registries(store, base).map_err(|source| {
                                let (image, source) =
                                    (base.config_digest.to_string(), source.into());
                                ExecutorError::Image { image, source }
                            })?
                        }
                        _ => Elsewhere::new(),
                    };
                    elsewhere.extend(far::bring_layers(store, imported, &tree, base).await?);
                }
                FarNeeds::Push => {
                    let registries = self.registries;
                    elsewhere.extend(
                        far::bring_for_push(store, imported, registries, options, &tree).await?,
                    );
                }
            }
            output.snapshot = Some(imported.made(&tree).unwrap_or(tree));
        }
        Ok(elsewhere)
    }

    async fn solve(&self, definition: Arc<Definition>) -> Result<Solution, SolveError> {
        let solver = Solver::new(
            self.uploads.watching(self.worker),
            self.records.clone(),
            SolverOptions {
                max_parallelism: self.options.max_parallelism,
                budget: Some(Arc::new(|| Budget {
                    memory: runtime::available_memory(),
                    cpu: Some(processors()),
                })),
            },
        );
        let (sender, events): (EventSender, _) = EventSender::channel();
        for vertex in far::untouched(&definition) {
            let at = std::time::SystemTime::now();
            sender.send(Event::Completed { vertex, at, cached: true, error: None });
        }
        let forwarded = forward::forward(&definition, events, self.progress.clone());
        let solved = solver.solve_telling(definition.clone(), sender, self.decided.door());
        let (solution, ()) = tokio::join!(solved, forwarded);
        solution
    }
}

/// Thousandths of processors for steps to share: twice as many as there are. Steps compute and wait
/// in turns, and a processor without work is worse than one more step that wants it.
fn processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(count.saturating_mul(2000)).unwrap_or(u32::MAX)
}
