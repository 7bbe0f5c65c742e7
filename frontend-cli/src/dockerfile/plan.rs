//! The plan of a build: its stages, what each starts from, and which of them the target needs.
//!
//! Only `FROM` lines, global `ARG`s and the names in `COPY --from` and `RUN --mount=from=` are
//! read here; the instructions themselves wait for the base images (`lower`).

use std::collections::{BTreeMap, BTreeSet};

use cache::oci::{Digest, ImageConfiguration, ImageName, Platform};
use parser::{Dockerfile, Expander, InstructionKind, Span, Stage};

use super::fault::{Fault, nearest};
use super::variables::Variables;

/// What the command line says about a build, as far as the plan and the lowering need it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) build_args: BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    pub(crate) build_platform: Platform,
    pub(crate) target_platform: Platform,
    pub(crate) contexts: BTreeMap<String, NamedContext>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) network: parser::Network,
    pub(crate) extra_hosts: Vec<(String, String)>,
    pub(crate) allow_network_host: bool,
    pub(crate) allow_insecure: bool,
    pub(crate) no_cache: bool,
    /// Lower-case stage names.
    pub(crate) no_cache_stages: BTreeSet<String>,
    pub(crate) shm_size: Option<u64>,
    pub(crate) ulimits: Vec<(String, i64, i64)>,
    /// The lines of the context's ignore file, `!` before the negated ones.
    pub(crate) context_excludes: Vec<String>,
    /// The Dockerfile as the user named it.
    pub(crate) file: String,
    /// Several platforms are built: step names say which.
    pub(crate) multi_platform: bool,
}

impl Settings {
    /// A build of `file` on and for `platform`, of which nothing else was said.
    pub(crate) fn new(file: &str, platform: &Platform) -> Settings {
        Settings {
            build_args: BTreeMap::new(),
            target: None,
            build_platform: platform.clone(),
            target_platform: platform.clone(),
            contexts: BTreeMap::new(),
            labels: Vec::new(),
            network: parser::Network::Default,
            extra_hosts: Vec::new(),
            allow_network_host: false,
            allow_insecure: false,
            no_cache: false,
            no_cache_stages: BTreeSet::new(),
            shm_size: None,
            ulimits: Vec::new(),
            context_excludes: Vec::new(),
            file: file.to_owned(),
            multi_platform: false,
        }
    }

    /// The context of this name, in any case, and its key; one for the platform alone
    /// (`name::linux/arm64`) comes first.
    pub(crate) fn context(&self, name: &str, platform: &Platform) -> Option<(&str, &NamedContext)> {
        if self.contexts.is_empty() {
            return None;
        }
        let name = name.to_lowercase();
        let found = self.contexts.get_key_value(&format!("{name}::{platform}"));
        let (key, context) = found.or_else(|| self.contexts.get_key_value(&name))?;
        Some((key, context))
    }
}

/// What `--build-context NAME=` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamedContext {
    /// A directory, known to the worker under this name, and its own ignore lines.
    Local {
        excludes: Vec<String>,
    },
    Image(ImageName),
    Scratch,
    Http(String),
    Git(String),
}

/// An image that the build needs the configuration of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ImageRequest {
    pub(crate) name: ImageName,
    pub(crate) platform: Platform,
}

/// An [`ImageRequest`] and the word that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestedImage {
    pub(crate) request: ImageRequest,
    pub(crate) span: Option<Span>,
}

/// What the caller found for each request.
pub(crate) type ResolvedImages = BTreeMap<ImageRequest, ResolvedImage>;

/// An image's identity and configuration; no layer of it is here yet.
#[derive(Debug, Clone)]
pub(crate) struct ResolvedImage {
    pub(crate) manifest: Digest,
    pub(crate) config_digest: Digest,
    pub(crate) config: ImageConfiguration,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    Scratch,
    /// The stage of this index, which stands before.
    Stage(usize),
    Image(ImageRequest),
    /// A named context that is no image: its files are the root file system.
    Context(String),
}

/// One stage of the plan.
#[derive(Debug, Clone)]
pub(crate) struct PlannedStage {
    pub(crate) base: Base,
    pub(crate) platform: Platform,
    /// The name as the progress shows it.
    pub(crate) label: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) stages: Vec<PlannedStage>,
    pub(crate) target: usize,
    /// The stages that the target needs, in order of the file.
    pub(crate) needed: BTreeSet<usize>,
    /// Global arguments: those of the platform and those before the first FROM.
    pub(crate) globals: Variables,
    pub(crate) images: Vec<RequestedImage>,
    pub(crate) warnings: Vec<(&'static str, Fault)>,
}

impl Plan {
    /// The plan of the target and what it needs.
    pub(crate) fn new(dockerfile: &Dockerfile, settings: &Settings) -> Result<Plan, Vec<Fault>> {
        let mut plan = Plan::of_stages(dockerfile, settings)?;
        plan.reach(dockerfile, settings, vec![plan.target])?;
        Ok(plan)
    }

    /// The plan of every stage, needed or not, for those who look at the whole file.
    pub(crate) fn of_all_stages(
        dockerfile: &Dockerfile,
        settings: &Settings,
    ) -> Result<Plan, Vec<Fault>> {
        let mut plan = Plan::of_stages(dockerfile, settings)?;
        plan.reach(dockerfile, settings, (0..plan.stages.len()).collect())?;
        Ok(plan)
    }

    /// The stages, nothing reached yet.
    fn of_stages(dockerfile: &Dockerfile, settings: &Settings) -> Result<Plan, Vec<Fault>> {
        let expander = Expander { escape: dockerfile.directives.escape };
        let mut faults = Vec::new();
        let mut warnings = Vec::new();

        let target = match find_target(dockerfile, settings) {
            Ok(target) => target,
            Err(fault) => return Err(vec![fault]),
        };
        let mut globals = platform_variables(settings, dockerfile, target);
        let mut epoch = None;
        for instruction in &dockerfile.global_args {
            for arg in &instruction.kind.args {
                let value = match settings.build_args.get(arg.name.as_str()) {
                    Some(value) => Some(value.clone()),
                    None => match &arg.default {
                        None => None,
                        Some(default) => {
                            match expander.expand(default.as_str(), &|name| {
                                globals.value(name).map(str::to_owned)
                            }) {
                                Ok(expanded) => Some(expanded.text),
                                Err(error) => {
                                    faults.push(Fault::new(error.to_string(), default.span));
                                    None
                                }
                            }
                        }
                    },
                };
                if let Some(value) = value {
                    if arg.name.value == "SOURCE_DATE_EPOCH" {
                        epoch = Some((value.clone(), arg.name.span));
                    }
                    globals.set(arg.name.as_str(), &value);
                }
            }
        }

        if let Some((value, span)) = epoch
            && !value.is_empty()
            && value.parse::<i64>().is_err()
        {
            let fault = Fault::new(format!("invalid SOURCE_DATE_EPOCH: {value}"), span);
            faults.push(fault.hint("it is a number of seconds since 1970"));
        }

        let mut stages: Vec<PlannedStage> = Vec::new();
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            match plan_stage(dockerfile, index, stage, settings, &globals, &expander, &mut warnings)
            {
                Ok(planned) => stages.push(planned),
                Err(fault) => {
                    faults.push(fault);
                    stages.push(PlannedStage {
                        base: Base::Scratch,
                        platform: settings.target_platform.clone(),
                        label: stage_label(index, stage),
                    });
                }
            }
        }
        faults.extend(impossible_references(dockerfile));
        if !faults.is_empty() {
            return Err(faults);
        }

        Ok(Plan { stages, target, needed: BTreeSet::new(), globals, images: Vec::new(), warnings })
    }

    /// Walks from the stages of `open` to everything that they need.
    fn reach(
        &mut self,
        dockerfile: &Dockerfile,
        settings: &Settings,
        mut open: Vec<usize>,
    ) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        while let Some(index) = open.pop() {
            if !self.needed.insert(index) {
                continue;
            }
            let stage = &dockerfile.stages[index];
            match &self.stages[index].base {
                Base::Stage(base) => open.push(*base),
                Base::Image(request) => {
                    self.images.push(RequestedImage {
                        request: request.clone(),
                        span: Some(stage.base.span),
                    });
                }
                Base::Scratch | Base::Context(_) => {}
            }
            for reference in stage.instructions.iter().flat_map(|i| references(&i.kind)) {
                match self.find(dockerfile, settings, index, &reference) {
                    Ok(Origin::Stage(from)) => open.push(from),
                    Ok(Origin::Image(request)) => {
                        self.images.push(RequestedImage { request, span: Some(reference.span) });
                    }
                    Ok(Origin::Context(_)) => {}
                    Err(fault) => faults.push(fault),
                }
            }
        }
        self.images.sort_by(|a, b| a.request.cmp(&b.request));
        self.images.dedup_by(|a, b| a.request == b.request);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// What a `--from` means in stage `current`.
    pub(crate) fn find(
        &self,
        dockerfile: &Dockerfile,
        settings: &Settings,
        current: usize,
        reference: &Reference,
    ) -> Result<Origin, Fault> {
        let name = reference.name.as_str();
        if name.contains('$') {
            let message = match reference.user {
                ReferenceUser::Copy => {
                    "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
                }
                ReferenceUser::Mount => {
                    "'from' doesn't support variable expansion, define alias stage instead"
                }
            };
            return Err(Fault::new(message, reference.span));
        }
        let platform = &self.stages[current].platform;
        if let Some((key, context)) = settings.context(name, platform) {
            return Ok(origin_of_context(key, context, platform));
        }
        // Only COPY counts stages: `from=0` of a mount is an image name.
        if reference.user == ReferenceUser::Copy
            && let Ok(number) = name.parse::<usize>()
        {
            if number >= dockerfile.stages.len() {
                let message = format!("invalid stage index {number}");
                return Err(Fault::new(message, reference.span));
            }
            return earlier(dockerfile, current, number, reference);
        }
        let lower = name.to_lowercase();
        let named = dockerfile.stages.iter().rposition(|stage| {
            stage.name.as_ref().is_some_and(|known| known.value.eq_ignore_ascii_case(&lower))
        });
        if let Some(number) = named {
            return earlier(dockerfile, current, number, reference);
        }
        if lower == "scratch" {
            return Ok(Origin::Context("scratch".into()));
        }
        let image: ImageName = name.parse().map_err(|error| {
            let known = stage_names(dockerfile);
            Fault::new(format!("invalid reference `{name}`: {error}"), reference.span)
                .suggest(name, known.iter().map(String::as_str))
        })?;
        let platform = settings.target_platform.clone();
        Ok(Origin::Image(ImageRequest { name: image, platform }))
    }
}

/// `--from` of a stage that does not exist or is the one around it: an error also in stages that
/// are not built.
fn impossible_references(dockerfile: &Dockerfile) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (current, stage) in dockerfile.stages.iter().enumerate() {
        for reference in stage.instructions.iter().flat_map(|i| references(&i.kind)) {
            let is_named = |stage: &Stage| {
                stage
                    .name
                    .as_ref()
                    .is_some_and(|name| name.value.eq_ignore_ascii_case(&reference.name))
            };
            let number = match reference.user {
                ReferenceUser::Copy => reference.name.parse::<i64>().ok(),
                ReferenceUser::Mount => None,
            };
            let number = number.or_else(|| {
                let named = dockerfile.stages.iter().rposition(is_named);
                named.and_then(|index| i64::try_from(index).ok())
            });
            let message = match number.map(usize::try_from) {
                Some(Ok(number)) if number == current => {
                    format!(
                        "circular dependency detected on stage: {}",
                        stage_label(current, stage)
                    )
                }
                Some(Ok(number)) if number < dockerfile.stages.len() => continue,
                Some(_) => format!("invalid stage index {}", reference.name),
                None => continue,
            };
            faults.push(Fault::new(message, reference.span));
        }
    }
    faults
}

/// Where files of a COPY or a mount come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Stage(usize),
    Image(ImageRequest),
    /// A named context, or `scratch`.
    Context(String),
}

/// A name in `--from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) user: ReferenceUser,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReferenceUser {
    Copy,
    Mount,
}

/// The `--from`s of one instruction.
pub(crate) fn references(kind: &InstructionKind) -> Vec<Reference> {
    match kind {
        InstructionKind::Copy(copy) => copy
            .from
            .iter()
            .map(|from| Reference {
                name: from.value.clone(),
                span: from.span,
                user: ReferenceUser::Copy,
            })
            .collect(),
        InstructionKind::Run(run) => run
            .mounts
            .iter()
            .flat_map(|mount| &mount.options)
            .filter(|option| option.key.value == "from")
            .filter_map(|option| option.value.as_ref())
            .map(|from| Reference {
                name: from.value.clone(),
                span: from.span,
                user: ReferenceUser::Mount,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn origin_of_context(name: &str, context: &NamedContext, platform: &Platform) -> Origin {
    match context {
        NamedContext::Image(image) => {
            Origin::Image(ImageRequest { name: image.clone(), platform: platform.clone() })
        }
        _ => Origin::Context(name.to_owned()),
    }
}

fn earlier(
    dockerfile: &Dockerfile,
    current: usize,
    number: usize,
    reference: &Reference,
) -> Result<Origin, Fault> {
    if number < current {
        return Ok(Origin::Stage(number));
    }
    let here = stage_name_or_number(dockerfile, current);
    let message = match reference.user {
        ReferenceUser::Copy if number == current => {
            format!("circular dependency detected on stage: {here}")
        }
        ReferenceUser::Copy => format!(
            "cannot copy from stage \"{}\", it needs to be defined before current stage \"{here}\"",
            reference.name
        ),
        ReferenceUser::Mount => format!(
            "cannot mount from stage \"{}\" to \"{here}\", stage needs to be defined before current command",
            reference.name
        ),
    };
    Err(Fault::new(message, reference.span))
}

fn stage_name_or_number(dockerfile: &Dockerfile, index: usize) -> String {
    match &dockerfile.stages[index].name {
        Some(name) => name.value.clone(),
        None => index.to_string(),
    }
}

fn stage_label(index: usize, stage: &Stage) -> String {
    stage.name.as_ref().map_or_else(|| format!("stage-{index}"), |name| name.value.clone())
}

pub(crate) fn stage_names(dockerfile: &Dockerfile) -> Vec<String> {
    dockerfile
        .stages
        .iter()
        .filter_map(|stage| stage.name.as_ref())
        .map(|name| name.value.clone())
        .collect()
}

fn find_target(dockerfile: &Dockerfile, settings: &Settings) -> Result<usize, Fault> {
    let last = dockerfile.stages.len().checked_sub(1).ok_or(Fault {
        message: "dockerfile contains no stages to build".into(),
        span: None,
        hint: Some("a Dockerfile starts with a FROM instruction".into()),
    })?;
    let Some(target) = settings.target.as_deref().filter(|target| !target.is_empty()) else {
        return Ok(last);
    };
    let named = dockerfile.stages.iter().rposition(|stage| {
        stage.name.as_ref().is_some_and(|name| name.value.eq_ignore_ascii_case(target))
    });
    if let Some(index) = named {
        return Ok(index);
    }
    let names = stage_names(dockerfile);
    let known = if names.is_empty() {
        "no stage of the Dockerfile has a name".to_owned()
    } else {
        format!("the stages are: {}", names.join(", "))
    };
    let hint = match nearest(target, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => known,
    };
    Err(Fault {
        message: format!("target stage \"{target}\" could not be found"),
        span: None,
        hint: Some(hint),
    })
}

fn plan_stage(
    dockerfile: &Dockerfile,
    index: usize,
    stage: &Stage,
    settings: &Settings,
    globals: &Variables,
    expander: &Expander,
    warnings: &mut Vec<(&'static str, Fault)>,
) -> Result<PlannedStage, Fault> {
    let lookup = |name: &str| globals.value(name).map(str::to_owned);
    let expanded = expander
        .expand(stage.base.as_str(), &lookup)
        .map_err(|error| Fault::new(error.to_string(), stage.base.span))?;
    undeclared(&expanded.unset, stage.base.span, globals, warnings);
    if expanded.text.is_empty() {
        let message = format!("base name ({}) should not be blank", stage.base.value);
        let mut fault = Fault::new(message, stage.base.span);
        if let Some(name) = expanded.unset.first() {
            fault = fault.hint(format!(
                "declare `ARG {name}=…` before the first FROM, or pass --build-arg {name}=…"
            ));
        }
        return Err(fault);
    }
    let platform = match &stage.platform {
        None => settings.target_platform.clone(),
        Some(platform) => {
            let expanded = expander
                .expand(platform.as_str(), &lookup)
                .map_err(|error| Fault::new(error.to_string(), platform.span))?;
            undeclared(&expanded.unset, platform.span, globals, warnings);
            let text = expanded.text;
            if text.is_empty() {
                let message = format!("empty platform value from expression {}", platform.value);
                return Err(Fault::new(message, platform.span));
            }
            text.parse().map_err(|error| {
                Fault::new(format!("failed to parse platform {text}: {error}"), platform.span)
            })?
        }
    };
    let base = find_base(dockerfile, index, stage, settings, &expanded.text, &platform)?;
    Ok(PlannedStage { base, platform, label: stage_label(index, stage) })
}

fn undeclared(
    unset: &[String],
    span: Span,
    globals: &Variables,
    warnings: &mut Vec<(&'static str, Fault)>,
) {
    for name in unset {
        let fault = Fault::new(format!("FROM argument '{name}' is not declared"), span)
            .suggest(name, globals.names());
        warnings.push(("UndefinedArgInFrom", fault));
    }
}

fn find_base(
    dockerfile: &Dockerfile,
    index: usize,
    stage: &Stage,
    settings: &Settings,
    name: &str,
    platform: &Platform,
) -> Result<Base, Fault> {
    // A named context of the stage's own name replaces the whole stage (BuildKit's rule).
    let own = stage.name.as_ref().map(|own| own.value.to_lowercase());
    for key in own.into_iter().chain(std::iter::once(name.to_lowercase())) {
        if let Some((key, context)) = settings.context(&key, platform) {
            return Ok(match context {
                NamedContext::Image(image) => {
                    Base::Image(ImageRequest { name: image.clone(), platform: platform.clone() })
                }
                NamedContext::Scratch => Base::Scratch,
                _ => Base::Context(key.to_owned()),
            });
        }
    }
    let earlier = dockerfile.stages[..index].iter().rposition(|stage| {
        stage.name.as_ref().is_some_and(|known| known.value.eq_ignore_ascii_case(name))
    });
    if let Some(earlier) = earlier {
        return Ok(Base::Stage(earlier));
    }
    if name == "scratch" {
        return Ok(Base::Scratch);
    }
    let image = name.parse::<ImageName>().map_err(|error| {
        let known = stage_names(dockerfile);
        Fault::new(format!("invalid base image name `{name}`: {error}"), stage.base.span)
            .suggest(name, known.iter().map(String::as_str))
    })?;
    if let Some((_, context)) = settings.context(&image.familiar(), platform)
        && let NamedContext::Image(image) = context
    {
        return Ok(Base::Image(ImageRequest { name: image.clone(), platform: platform.clone() }));
    }
    Ok(Base::Image(ImageRequest { name: image, platform: platform.clone() }))
}

/// BUILD* and TARGET* arguments of the global scope (features of BuildKit's frontend).
pub(super) fn platform_variables(
    settings: &Settings,
    dockerfile: &Dockerfile,
    target: usize,
) -> Variables {
    let mut variables = Variables::default();
    for (prefix, platform) in
        [("BUILD", &settings.build_platform), ("TARGET", &settings.target_platform)]
    {
        variables.set(&format!("{prefix}PLATFORM"), &platform.to_string());
        variables.set(&format!("{prefix}OS"), &platform.os);
        variables
            .set(&format!("{prefix}OSVERSION"), platform.os_version.as_deref().unwrap_or_default());
        variables.set(&format!("{prefix}ARCH"), &platform.architecture);
        variables.set(&format!("{prefix}VARIANT"), platform.variant.as_deref().unwrap_or_default());
    }
    let stage = dockerfile.stages[target].name.as_ref();
    variables.set("TARGETSTAGE", stage.map_or("default", |name| name.as_str()));
    let overrides: Vec<_> = variables
        .names()
        .filter_map(|name| Some((name.to_owned(), settings.build_args.get(name)?.clone())))
        .collect();
    for (name, value) in overrides {
        variables.set(&name, &value);
    }
    variables
}
