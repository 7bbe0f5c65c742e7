//! Instructions → vertices and an image configuration.
//!
//! Stages are lowered in the order of the file, each starting from a copy of what its base left
//! behind: edge, configuration, variables in scope. An instruction changes that state; those that
//! touch files add a vertex and a history entry with a layer, the others a history entry without.
//!
//! | part | what |
//! |---|---|
//! | [`stage`] | the state of a stage, the steps that all instructions share |
//! | [`config`] | instructions that only change the configuration, and WORKDIR |
//! | [`run`] | RUN with its mounts |
//! | [`copy`] | COPY and ADD |
//! | [`args`] | the ARGs in scope |
//! | [`history`] | what an instruction leaves in the image's history |

mod args;
mod config;
mod copy;
mod history;
mod run;
mod stage;

use std::collections::BTreeMap;

use cache::oci::ImageConfiguration;
use executor::pattern::PatternMatcher;
use parser::{Dockerfile, Instruction, InstructionKind};
use solver::llb::{
    Definition, Edge, ImageSource, Input, LocalContext, Op, SourceLocation, SourceOp, Vertex,
    VertexMeta,
};

use super::fault::Fault;
use super::lint;
use super::plan::{
    Base, ImageRequest, NamedContext, Origin, Plan, Reference, ResolvedImages, Settings,
};
pub(crate) use copy::git_source;
use stage::{StageState, Steps};

/// A lowered target.
#[derive(Debug, Clone)]
pub(crate) struct Lowered {
    /// The root file system of the result.
    pub(crate) edge: Edge,
    /// The result's configuration. Its history has no times for the build's own steps, and its
    /// `diff_ids` are those of the base image.
    pub(crate) config: ImageConfiguration,
    /// The image that the result stands upon, through any number of stages.
    pub(crate) base: Option<ImageRequest>,
    /// What the layer is called that no instruction has made, where there is one.
    pub(crate) unrecorded: Option<String>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub(crate) source_date: Option<i64>,
    /// Warnings under the names of BuildKit's checks.
    pub(crate) warnings: Vec<(&'static str, Fault)>,
    /// Patterns that COPY and ADD look for in the build context, and where they stand.
    pub(crate) context_patterns: Vec<(String, parser::Span)>,
    /// `--build-arg`s that some instruction declared.
    pub(crate) used_build_args: Vec<String>,
}

/// Why a plan could not be lowered.
#[derive(Debug, Clone)]
pub(crate) enum LowerError {
    /// An ONBUILD trigger of a base image names images that nobody has resolved yet.
    NeedsImages(Vec<ImageRequest>),
    Faults(Vec<Fault>),
}

/// Warnings under the names of BuildKit's checks.
pub(crate) type Warnings = Vec<(&'static str, Fault)>;

/// Adds the vertices of the plan's target to `definition`.
pub(crate) fn lower(
    dockerfile: &Dockerfile,
    plan: &Plan,
    settings: &Settings,
    images: &ResolvedImages,
    definition: &mut Definition,
) -> Result<Lowered, LowerError> {
    lower_or_warn(dockerfile, plan, settings, images, definition, &mut Vec::new())
}

/// As [`lower`], and where faults end it `warnings` are what was found all the same.
pub(crate) fn lower_or_warn(
    dockerfile: &Dockerfile,
    plan: &Plan,
    settings: &Settings,
    images: &ResolvedImages,
    definition: &mut Definition,
    warnings: &mut Warnings,
) -> Result<Lowered, LowerError> {
    let mut lowering = Lowering {
        dockerfile,
        plan,
        settings,
        images,
        definition,
        stages: BTreeMap::new(),
        sources: Vec::new(),
        missing: Vec::new(),
        faults: Vec::new(),
        warnings: Vec::new(),
        // Rules that cannot be read are an error of the context's loading.
        ignore: PatternMatcher::new(&settings.context_excludes).unwrap_or_default(),
        context_patterns: Vec::new(),
        used_build_args: Vec::new(),
        current: 0,
        location: None,
    };
    for index in &plan.needed {
        lowering.stage(*index);
    }
    if !lowering.faults.is_empty() {
        *warnings = std::mem::take(&mut lowering.warnings);
    }
    lowering.into_result()
}

/// The lowering while it goes on.
struct Lowering<'a> {
    dockerfile: &'a Dockerfile,
    plan: &'a Plan,
    settings: &'a Settings,
    images: &'a ResolvedImages,
    definition: &'a mut Definition,
    /// The stages that are done.
    stages: BTreeMap<usize, StageState>,
    /// Source vertices that exist, so that equal ones exist once.
    sources: Vec<(SourceOp, Edge)>,
    missing: Vec<ImageRequest>,
    faults: Vec<Fault>,
    warnings: Vec<(&'static str, Fault)>,
    /// The context's ignore file.
    ignore: PatternMatcher,
    context_patterns: Vec<(String, parser::Span)>,
    used_build_args: Vec<String>,
    /// The stage that is being lowered.
    current: usize,
    /// The instruction that is being lowered; absent for triggers of base images.
    location: Option<SourceLocation>,
}

impl Lowering<'_> {
    fn into_result(mut self) -> Result<Lowered, LowerError> {
        if !self.missing.is_empty() {
            self.missing.sort();
            self.missing.dedup();
            return Err(LowerError::NeedsImages(self.missing));
        }
        if !self.faults.is_empty() {
            return Err(LowerError::Faults(self.faults));
        }
        let target = self.plan.target;
        let source_date = self.epoch();
        let Some(mut stage) = self.stages.remove(&target) else {
            let message = "the target stage could not be lowered".to_owned();
            return Err(LowerError::Faults(vec![Fault { message, span: None, hint: None }]));
        };
        for (key, value) in &self.settings.labels {
            stage.config.config.labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
        Ok(Lowered {
            edge: stage.edge,
            config: stage.config,
            base: stage.base,
            unrecorded: stage.unrecorded,
            source_date,
            warnings: self.warnings,
            context_patterns: self.context_patterns,
            used_build_args: self.used_build_args,
        })
    }

    fn stage(&mut self, index: usize) {
        self.current = index;
        let stage = &self.dockerfile.stages[index];
        self.location = Some(self.location_of(stage.from_lines));
        let Some(on_build) = self.inherited_triggers(index) else { return };

        let mut instructions = Vec::new();
        for trigger in &on_build {
            match parser::parse_trigger(trigger) {
                Ok(instruction) => instructions.push((instruction, true)),
                Err(diagnostics) => {
                    let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
                    let message = format!("ONBUILD trigger `{trigger}` of the base image: {first}");
                    self.faults.push(Fault::new(message, stage.base.span));
                }
            }
        }
        instructions.extend(stage.instructions.iter().cloned().map(|i| (i, false)));
        let steps = instructions.iter().filter(|(i, _)| makes_step(&i.kind)).count();
        let Some(mut state) = self.start(index, steps) else { return };

        for (instruction, is_trigger) in &instructions {
            state.steps.is_trigger = *is_trigger;
            let lines = if *is_trigger { stage.from_lines } else { instruction.lines };
            self.location = Some(self.location_of(lines));
            if let Err(mut fault) = self.instruction(&mut state, instruction) {
                if *is_trigger {
                    // Its span is one of the trigger's text, not of the file.
                    fault.span = Some(stage.base.span);
                    fault.message = format!("ONBUILD {}: {}", instruction.text, fault.message);
                }
                self.faults.push(fault);
            }
        }
        self.stages.insert(index, state);
    }

    /// The triggers that fire at the start of a stage. `None` if its base is missing.
    fn inherited_triggers(&mut self, index: usize) -> Option<Vec<String>> {
        let config = match &self.plan.stages[index].base {
            Base::Scratch | Base::Context(_) => return Some(Vec::new()),
            Base::Stage(base) => &self.stages.get(base)?.config,
            Base::Image(request) => match self.images.get(request) {
                Some(image) => &image.config,
                None => {
                    self.missing.push(request.clone());
                    return None;
                }
            },
        };
        Some(config.config.on_build.clone().unwrap_or_default())
    }

    fn instruction(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        match &instruction.kind {
            InstructionKind::Run(run) => self.run(state, run, instruction),
            InstructionKind::Copy(copy) => self.copy(state, copy, instruction),
            InstructionKind::Add(add) => self.add(state, add, instruction),
            InstructionKind::Workdir(workdir) => self.workdir(state, workdir, instruction),
            _ => self.configure(state, instruction),
        }
    }

    /// The state that a stage of so many steps starts with. `None` if its base is missing.
    fn start(&mut self, index: usize, steps: usize) -> Option<StageState> {
        let planned = &self.plan.stages[index];
        let has_step = matches!(planned.base, Base::Image(_) | Base::Context(_));
        let mut steps = Steps::new(
            (self.dockerfile.stages.len() > 1).then(|| planned.label.clone()),
            self.settings.multi_platform.then(|| planned.platform.to_string()),
            steps + usize::from(has_step),
        );
        let platform = planned.platform.clone();
        let mut state = match &planned.base {
            Base::Stage(base) => self.stages.get(base)?.child(steps),
            Base::Scratch => {
                let edge = self.source(SourceOp::Scratch, "scratch".into());
                StageState::scratch(edge, platform, steps)
            }
            Base::Context(name) => {
                let name_of_step = format!("{}FROM {name}", steps.advance());
                let edge = self.context_rootfs(name, name_of_step);
                let mut state = StageState::scratch(edge, platform, steps);
                state.unrecorded = Some(format!("local source for {name}"));
                state
            }
            Base::Image(request) => {
                let image = self.images.get(request)?;
                let span = self.dockerfile.stages[index].base.span;
                self.warnings.extend(lint::foreign_base(request, &image.config, span));
                let prefix = steps.advance();
                let edge = self.image(request, &prefix);
                StageState::from_image(edge, request.clone(), image, steps)
            }
        };
        state.config.config.on_build = None;
        state.label = planned.label.clone();
        state.no_cache = self.settings.no_cache
            || self.settings.no_cache_stages.contains(&planned.label.to_lowercase());
        Some(state)
    }

    /// A named context as a root file system: its files are copied, since a context has no layers.
    fn context_rootfs(&mut self, name: &str, text: String) -> Edge {
        use solver::llb::{CopyAction, FileAction, FileOp, Selector};
        let scratch = self.source(SourceOp::Scratch, "scratch".into());
        let Some(context) = self.context_source(name) else { return scratch };
        let from_context =
            matches!(self.settings.contexts.get(name), Some(NamedContext::Local { .. }));
        let copy = CopyAction { input: 1, from_context, ..CopyAction::plain("/", "/") };
        let op = Op::File(FileOp { actions: vec![FileAction::Copy(copy)] });
        let inputs = vec![Input::rootfs(scratch), Input::content(context, Selector::everything())];
        self.vertex(op, inputs, self.meta(text, false, None))
    }

    /// The vertex of an image, made once for each image.
    fn image(&mut self, request: &ImageRequest, prefix: &str) -> Edge {
        let Some(image) = self.images.get(request) else {
            self.missing.push(request.clone());
            return self.source(SourceOp::Scratch, "scratch".into());
        };
        let diff_ids = image.config.rootfs.diff_ids.clone();
        if diff_ids.is_empty() {
            return self.source(SourceOp::Scratch, "scratch".into());
        }
        let op = SourceOp::Image(ImageSource {
            name: request.name.clone(),
            digest: image.manifest,
            config: image.config_digest,
            diff_ids,
            platform: request.platform.clone(),
        });
        self.source(op, format!("{prefix}FROM {}", request.name))
    }

    /// The files behind a `--from`.
    fn origin(&mut self, reference: &Reference) -> Result<OriginEdge, Fault> {
        match self.plan.find(self.dockerfile, self.settings, self.current, reference)? {
            Origin::Stage(index) => match self.stages.get(&index) {
                Some(stage) => Ok(OriginEdge { edge: stage.edge, is_context: false }),
                // A trigger may name a stage that the plan did not know to be needed.
                None => {
                    let (current, location) = (self.current, self.location.clone());
                    self.stage(index);
                    (self.current, self.location) = (current, location);
                    let edge = self.stages.get(&index).map(|stage| stage.edge);
                    let edge =
                        edge.unwrap_or_else(|| self.source(SourceOp::Scratch, "scratch".into()));
                    Ok(OriginEdge { edge, is_context: false })
                }
            },
            Origin::Image(request) => {
                Ok(OriginEdge { edge: self.image(&request, ""), is_context: false })
            }
            Origin::Context(name) => {
                let is_context =
                    matches!(self.settings.contexts.get(&name), Some(NamedContext::Local { .. }));
                let edge = self.context_source(&name);
                let edge = edge.unwrap_or_else(|| self.source(SourceOp::Scratch, "scratch".into()));
                Ok(OriginEdge { edge, is_context })
            }
        }
    }

    /// The build context.
    fn context(&mut self) -> Edge {
        let excludes = self.settings.context_excludes.clone();
        let op = SourceOp::Context(LocalContext { name: "context".into(), excludes });
        self.source(op, "[internal] load build context".into())
    }

    fn context_source(&mut self, name: &str) -> Option<Edge> {
        let label = format!("[context {name}] load");
        let op = match self.settings.contexts.get(name)? {
            NamedContext::Local { excludes } => SourceOp::Context(LocalContext {
                name: name.to_owned(),
                excludes: excludes.clone(),
            }),
            NamedContext::Scratch | NamedContext::Image(_) => SourceOp::Scratch,
            NamedContext::Http(url) => copy::http_source(url, None, 0o600),
            NamedContext::Git(url) => match copy::git_source(url, None, None) {
                Ok(source) => SourceOp::Git(source),
                Err(message) => {
                    self.faults.push(Fault { message, span: None, hint: None });
                    return None;
                }
            },
        };
        Some(self.source(op, label))
    }

    fn source(&mut self, op: SourceOp, name: String) -> Edge {
        if let Some((_, edge)) = self.sources.iter().find(|(known, _)| *known == op) {
            return *edge;
        }
        let meta = self.meta(name, false, None);
        let edge = self.vertex(Op::Source(op.clone()), Vec::new(), meta);
        self.sources.push((op, edge));
        edge
    }

    fn vertex(&mut self, op: Op, inputs: Vec<Input>, meta: VertexMeta) -> Edge {
        let name = meta.name.clone();
        match self.definition.add(Vertex { op, inputs, meta }) {
            Ok(vertex) => vertex.into(),
            Err(error) => {
                let message = format!("{name}: {error}");
                self.faults.push(Fault { message, span: None, hint: None });
                // The fault ends the lowering; until then any edge will do.
                self.definition
                    .ids()
                    .next()
                    .map(Edge::from)
                    .unwrap_or_else(|| self.source(SourceOp::Scratch, "scratch".into()))
            }
        }
    }

    fn meta(&self, name: String, no_cache: bool, stage: Option<String>) -> VertexMeta {
        VertexMeta { name, source: self.location.clone(), stage, no_cache, progress_group: None }
    }

    fn location_of(&self, lines: parser::Lines) -> SourceLocation {
        SourceLocation {
            file: self.settings.file.clone(),
            first_line: lines.first,
            last_line: lines.last,
        }
    }
}

/// Where files come from, and whether owners in it mean something.
struct OriginEdge {
    edge: Edge,
    /// A local directory: its files belong to whoever checked them out.
    is_context: bool,
}

/// Whether an instruction is a step of its own in the progress.
fn makes_step(kind: &InstructionKind) -> bool {
    matches!(
        kind,
        InstructionKind::Run(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Add(_)
            | InstructionKind::Workdir(_)
    )
}

#[cfg(test)]
mod tests;
