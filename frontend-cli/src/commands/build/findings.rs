//! What is odd about a build, beside the errors: gathered from the parser, the plan, the lowering
//! and the context, shown in the progress and again at the end.

use std::path::Path;

use executor::pattern::{PatternMatcher, clean, glob_match, has_wildcards};
use parser::{Parsed, Span};

use super::options::BuildOptions;
use super::source::BuildSource;
use crate::args::ProgressMode;
use crate::dockerfile::lint::{self, Finding};
use crate::dockerfile::{Lowered, Plan, Settings, Warnings, nearest};
use crate::progress::Progress;
use crate::report::CliError;

/// Entries of the context that are looked at for one wildcard; beyond, it is taken to match.
const WALK_LIMIT: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
}

impl Findings {
    /// The checks that need no plan.
    pub(super) fn of_file(parsed: &Parsed, settings: &Settings) -> Self {
        let found = lint::check(&parsed.dockerfile, settings);
        Findings { found: found.iter().map(Finding::from).collect() }
    }

    /// What another platform's look at the same file has found, each finding once.
    pub(super) fn merge(&mut self, other: Findings) {
        for finding in other.found {
            if !self.found.contains(&finding) {
                self.found.push(finding);
            }
        }
    }

    /// What a lowering found before faults ended it, except at the places that `is_known` refuses.
    pub(super) fn add_warnings(
        &mut self,
        warnings: &Warnings,
        is_known: impl Fn(&Finding) -> bool,
    ) {
        self.found.extend(warnings.iter().map(Finding::from).filter(is_known));
    }

    pub(super) fn add_plan(&mut self, plan: &Plan) {
        self.found.extend(plan.warnings.iter().map(Finding::from));
    }

    /// What the lowering found, except at the places that `is_known` refuses.
    pub(super) fn add_lowered(
        &mut self,
        lowered: &Lowered,
        source: &BuildSource,
        is_known: impl Fn(&Finding) -> bool,
    ) {
        self.add_warnings(&lowered.warnings, is_known);
        let Ok(ignore) = PatternMatcher::new(&source.ignore.rules()) else { return };
        for (pattern, span) in &lowered.context_patterns {
            let mut left = WALK_LIMIT;
            if !matches_something(&source.directory, pattern, &ignore, &mut left) {
                let detail = format!("The wildcard \"{pattern}\" matches nothing in the context");
                self.found.push(Finding {
                    rule: "WildcardWithoutMatch",
                    detail,
                    span: Some(*span),
                });
            }
        }
    }

    /// An argument that nothing declares is most often a typo.
    pub(super) fn add_unused_build_args(
        &mut self,
        options: &BuildOptions,
        parsed: &Parsed,
        used: &[String],
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
            if is_predefined || declared.contains(&name.as_str()) || used.contains(name) {
                continue;
            }
            let hint = match nearest(name, declared.iter().copied()) {
                Some(near) => format!(", did you mean {near}?"),
                None => String::new(),
            };
            let detail =
                format!("the build argument {name} was not used: no ARG declares it{hint}");
            self.found.push(Finding { rule: "UnusedBuildArg", detail, span: None });
        }
    }

    /// Everything that is to be reported, in the order of the file.
    pub(super) fn reported(self, parsed: &Parsed) -> Vec<Finding> {
        lint::reported(&parsed.dockerfile, &parsed.diagnostics, self.found)
    }
}

/// Shows findings in the progress; under `# check=error=true` warnings are an error.
pub(super) fn report(
    findings: &[Finding],
    parsed: &Parsed,
    progress: &Progress,
) -> Result<(), CliError> {
    for finding in findings {
        let place = finding.span.map(|span| format!(" (line {})", parsed.lines.line(span.start)));
        progress.warn(format!("{}: {}{}", finding.rule, finding.detail, place.unwrap_or_default()));
    }
    match lint::violation(&parsed.dockerfile.directives.check, findings) {
        Some(violation) => Err(CliError::input(violation)
            .hint("`# check=error=true` (or BUILDKIT_DOCKERFILE_CHECK) makes warnings errors")),
        None => Ok(()),
    }
}

/// Lists the warnings of a build at its end, as buildx does.
pub(super) fn list(warnings: &[String], mode: ProgressMode) {
    let is_shown =
        !matches!(mode, ProgressMode::Quiet | ProgressMode::None | ProgressMode::Rawjson);
    if warnings.is_empty() || !is_shown {
        return;
    }
    let plural = if warnings.len() == 1 { "" } else { "s" };
    eprintln!("\n {} warning{plural} found:", warnings.len());
    for warning in warnings {
        eprintln!(" - {}", printable(warning));
    }
}

/// Text of a foreign file must not drive the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

/// Whether a wildcard of COPY or ADD finds something below `root` that is not ignored. What lies
/// behind links is not looked at and taken to match.
fn matches_something(
    root: &Path,
    pattern: &str,
    ignore: &PatternMatcher,
    left: &mut usize,
) -> bool {
    let pattern = clean(&format!("/{pattern}"));
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    walk(root, "", &parts, ignore, left)
}

fn walk(
    directory: &Path,
    prefix: &str,
    parts: &[&str],
    ignore: &PatternMatcher,
    left: &mut usize,
) -> bool {
    let Some((part, rest)) = parts.split_first() else { return true };
    // A parent directory in COPY --parents patterns.
    if *part == "**" {
        return true;
    }
    let names: Vec<std::ffi::OsString> = if has_wildcards(part) {
        let Ok(entries) = fs_err::read_dir(directory) else { return false };
        entries.flatten().map(|entry| entry.file_name()).collect()
    } else {
        vec![part.into()]
    };
    for name in names {
        if *left == 0 {
            return true;
        }
        *left -= 1;
        // A name that is no text cannot be compared here; let it match.
        let Some(text) = name.to_str() else { return true };
        if has_wildcards(part) && !glob_match(part, text.as_bytes()).unwrap_or(true) {
            continue;
        }
        let path = if prefix.is_empty() { text.to_owned() } else { format!("{prefix}/{text}") };
        let Ok(meta) = fs_err::symlink_metadata(directory.join(&name)) else { continue };
        let is_ignored = ignore.matches(path.as_bytes());
        if is_ignored && !ignore.may_reinclude_below(path.as_bytes()) {
            continue;
        }
        if rest.is_empty() || meta.is_symlink() {
            return true;
        }
        if meta.is_dir() && walk(&directory.join(&name), &path, rest, ignore, left) {
            return true;
        }
    }
    false
}

/// The place of a finding, in lines.
pub(super) fn lines_of(parsed: &Parsed, span: Span) -> (u32, u32) {
    let lines = parsed.lines.lines(span);
    (lines.first, lines.last)
}
