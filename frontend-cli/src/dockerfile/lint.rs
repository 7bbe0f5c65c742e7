//! Build checks: which findings are reported, and those that neither the parser nor the lowering
//! comes by on its way.
//!
//! | who finds | what |
//! |---|---|
//! | `parser` | what the text alone shows: casing, duplicate names, legacy forms, secrets |
//! | `plan` | undeclared arguments in FROM |
//! | `lower` | undefined variables, relative WORKDIR, EXPOSE, ignored sources, foreign base images |
//! | here | constant and redundant platforms, defaults that name no image |
//! | [`shell`] | our own: failures that a shell hides |
//!
//! Rules of BuildKit are warnings: they fail a build under `# check=error=true`, and `--check`. Our
//! own are hints and never do, so that what passes BuildKit's checks passes here.

pub(crate) mod shell;

use cache::oci::{ImageName, Platform};
use executor::pattern::{PatternMatcher, clean};
use parser::{Checks, Diagnostic, Dockerfile, Expander, Skip, Span};

use super::fault::Fault;
use super::plan::{Base, ImageRequest, Plan, Settings};
use super::variables::Variables;

/// A rule of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnRule {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
}

/// Our own rules; `docs/checks.md` explains them.
pub(crate) const OWN_RULES: &[OwnRule] = &[
    OwnRule { name: "UnusedBuildArg", description: "A --build-arg should be declared by an ARG" },
    OwnRule {
        name: "WildcardWithoutMatch",
        description: "A wildcard of COPY or ADD should match something",
    },
    OwnRule {
        name: "MultipleSourcesToFile",
        description: "The destination of several sources should end with a slash",
    },
    OwnRule {
        name: "PipelineWithoutPipefail",
        description: "The failure of a command before a pipe should fail the step",
    },
    OwnRule {
        name: "HeredocWithoutErrexit",
        description: "The failure of a command in a heredoc should fail the step",
    },
];

/// Something odd, with the name of the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) rule: &'static str,
    /// What is wrong, with the advice behind it.
    pub(crate) detail: String,
    /// Where; `None` where the command line is to blame.
    pub(crate) span: Option<Span>,
}

impl Finding {
    /// Whether it is one of BuildKit's warnings and not a hint of ours.
    pub(crate) fn is_warning(&self) -> bool {
        parser::lint_rule(self.rule).is_some()
    }

    /// What the rule is about.
    pub(crate) fn description(&self) -> &'static str {
        let own = || OWN_RULES.iter().find(|rule| rule.name == self.rule);
        match parser::lint_rule(self.rule) {
            Some(rule) => rule.description,
            None => own().map_or("", |rule| rule.description),
        }
    }

    pub(crate) fn url(&self) -> Option<&'static str> {
        parser::lint_rule(self.rule).and_then(|rule| rule.url)
    }
}

impl From<&(&'static str, Fault)> for Finding {
    fn from((rule, fault): &(&'static str, Fault)) -> Self {
        // BuildKit's brackets: `(did you mean $X?)`.
        let detail = match &fault.hint {
            Some(hint) => format!("{} ({hint})", fault.message),
            None => fault.message.clone(),
        };
        Finding { rule, detail, span: fault.span }
    }
}

impl Finding {
    /// A warning of the parser; `None` for an error.
    fn from_diagnostic(diagnostic: &Diagnostic) -> Option<Self> {
        let rule = diagnostic.rule?;
        let hint = diagnostic.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let detail = format!("{}{hint}", diagnostic.message);
        Some(Finding { rule, detail, span: Some(diagnostic.span) })
    }
}

/// What is reported of all that was found: in the order of the file, each once, without what
/// `# check=` skips there or in general.
pub(crate) fn reported(
    dockerfile: &Dockerfile,
    diagnostics: &[Diagnostic],
    found: impl IntoIterator<Item = Finding>,
) -> Vec<Finding> {
    let checks = &dockerfile.directives.check;
    let nothing = Skip::default();
    let mut findings: Vec<Finding> =
        diagnostics.iter().filter_map(Finding::from_diagnostic).collect();
    findings.extend(found.into_iter().filter(|finding| {
        let skip = finding.span.and_then(|span| skip_at(dockerfile, span)).unwrap_or(&nothing);
        checks.reports(finding.rule, skip)
    }));
    // A stable sort: what stands at one place keeps the order in which it was found.
    findings.sort_by_key(|finding| finding.span.map_or(usize::MAX, |span| span.start));
    let mut once: Vec<Finding> = Vec::with_capacity(findings.len());
    for finding in findings {
        let same_place =
            |known: &&Finding| known.span.map(|s| s.start) == finding.span.map(|s| s.start);
        if !once.iter().rev().take_while(same_place).any(|known| *known == finding) {
            once.push(finding);
        }
    }
    once
}

/// The message that fails a build under `# check=error=true`; hints never do.
pub(crate) fn violation(checks: &Checks, findings: &[Finding]) -> Option<String> {
    let warnings: Vec<Diagnostic> = findings
        .iter()
        .filter(|finding| finding.is_warning())
        .map(|finding| Diagnostic::warning(finding.rule, "", Span::default()))
        .collect();
    checks.violation(&warnings)
}

/// The rules that a comment above the instruction at `span` skips.
fn skip_at(dockerfile: &Dockerfile, span: Span) -> Option<&Skip> {
    let holds =
        |outer: Span| outer.start <= span.start && span.start < outer.end.max(outer.start + 1);
    if let Some(arg) = dockerfile.global_args.iter().find(|arg| holds(arg.span)) {
        return Some(&arg.skip);
    }
    let stage = dockerfile.stages.iter().find(|stage| holds(stage.span))?;
    if holds(stage.from_span) {
        return Some(&stage.skip);
    }
    stage.instructions.iter().find(|instruction| holds(instruction.span)).map(|i| &i.skip)
}

/// The checks of this module and of [`shell`].
pub(crate) fn check(dockerfile: &Dockerfile, settings: &Settings) -> Vec<(&'static str, Fault)> {
    let mut found = Vec::new();
    from_lines(dockerfile, &mut found);
    default_base_names(dockerfile, settings, &mut found);
    shell::check(dockerfile, &mut found);
    found
}

/// `RedundantTargetPlatform` and `FromPlatformFlagConstDisallowed`.
fn from_lines(dockerfile: &Dockerfile, found: &mut Vec<(&'static str, Fault)>) {
    for stage in &dockerfile.stages {
        let Some(platform) = &stage.platform else { continue };
        let text = platform.as_str();
        if matches!(text, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            let message = format!(
                "Setting platform to predefined {text} in FROM is redundant as this is the default behavior"
            );
            found.push(("RedundantTargetPlatform", Fault::new(message, platform.span)));
        }
        if text.contains('$') {
            continue;
        }
        let Ok(parsed) = text.parse::<Platform>() else { continue };
        // A stage that is named after its platform means it.
        let name = stage.name.as_ref().map_or("", |name| name.as_str());
        if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
            let message = format!("FROM --platform flag should not use constant value \"{text}\"");
            found.push(("FromPlatformFlagConstDisallowed", Fault::new(message, platform.span)));
        }
    }
}

/// `InvalidDefaultArgInFrom`: what FROM would name if no `--build-arg` were given.
fn default_base_names(
    dockerfile: &Dockerfile,
    settings: &Settings,
    found: &mut Vec<(&'static str, Fault)>,
) {
    let without = Settings { build_args: Default::default(), target: None, ..settings.clone() };
    let last = dockerfile.stages.len().saturating_sub(1);
    if dockerfile.stages.is_empty() {
        return;
    }
    let mut globals: Variables = super::plan::platform_variables(&without, dockerfile, last);
    let expander = Expander { escape: dockerfile.directives.escape };
    for arg in dockerfile.global_args.iter().flat_map(|instruction| &instruction.kind.args) {
        let Some(default) = &arg.default else { continue };
        let expanded =
            expander.expand(default.as_str(), &|name| globals.value(name).map(str::to_owned));
        if let Ok(expanded) = expanded {
            globals.set(arg.name.as_str(), &expanded.text);
        }
    }
    for stage in &dockerfile.stages {
        let base = stage.base.as_str();
        let lookup = |name: &str| globals.value(name).map(str::to_owned);
        let Ok(expanded) = expander.expand(base, &lookup) else { continue };
        if expanded.text.parse::<ImageName>().is_err() && base.contains('$') {
            let message =
                format!("Default value for ARG {base} results in empty or invalid base image name");
            found.push(("InvalidDefaultArgInFrom", Fault::new(message, stage.base.span)));
        }
    }
}

/// `CopyIgnoredFile`: a source of the context that the ignore file takes out. A directory in which
/// a later `!` line takes something back in is not meant.
pub(crate) fn ignored_source(
    ignore: &PatternMatcher,
    keyword: &str,
    source: &str,
    span: Span,
) -> Option<(&'static str, Fault)> {
    let path = clean(&format!("/{source}"));
    let path = path.trim_start_matches('/');
    if path.is_empty()
        || !ignore.matches(path.as_bytes())
        || ignore.may_reinclude_below(path.as_bytes())
    {
        return None;
    }
    let verb = if keyword == "ADD" { "Add" } else { "Copy" };
    let message =
        format!("Attempting to {verb} file \"{source}\" that is excluded by .dockerignore");
    Some(("CopyIgnoredFile", Fault::new(message, span)))
}

/// `InvalidBaseImagePlatform`: an image that was made for another platform than it was asked for.
pub(crate) fn foreign_base(
    request: &ImageRequest,
    actual: &cache::oci::ImageConfiguration,
    span: Span,
) -> Option<(&'static str, Fault)> {
    let expected = &request.platform;
    if actual.os == expected.os && actual.architecture == expected.architecture {
        return None;
    }
    let actual = Platform {
        os: actual.os.clone(),
        architecture: actual.architecture.clone(),
        variant: actual.variant.clone(),
        os_version: None,
    };
    let message = format!(
        "Base image {} was pulled with platform \"{actual}\", expected \"{expected}\" for current build",
        request.name.familiar()
    );
    Some(("InvalidBaseImagePlatform", Fault::new(message, span)))
}

/// The stages that stand upon one of these images, through any number of stages.
pub(crate) fn stages_upon(plan: &Plan, images: &[ImageRequest]) -> Vec<usize> {
    let mut upon: Vec<usize> = Vec::new();
    for (index, stage) in plan.stages.iter().enumerate() {
        let is_upon = match &stage.base {
            Base::Image(request) => images.contains(request),
            Base::Stage(base) => upon.contains(base),
            Base::Scratch | Base::Context(_) => false,
        };
        if is_upon {
            upon.push(index);
        }
    }
    upon
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
