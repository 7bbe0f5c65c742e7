//! Build checks: which of them are on, and those that need nothing but the text.
//!
//! Checks that need an environment, a base image or the context (`UndefinedVar`,
//! `WorkdirRelativePath`, `CopyIgnoredFile`, …) are the caller's; [`Checks::reports`] tells it
//! whether to.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::ast::*;
use crate::diagnostic::Diagnostic;
use crate::head::go_quoted;
use crate::rules;
use crate::span::Span;

/// A set of build checks: `all`, or some names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skip {
    /// Every check.
    pub all: bool,
    /// These checks.
    pub names: BTreeSet<String>,
}

impl Skip {
    /// Whether `rule` is in the set.
    pub fn contains(&self, rule: &str) -> bool {
        self.all || self.names.contains(rule)
    }

    /// `all`, or names between commas.
    fn parse(text: &str) -> Skip {
        match text.trim() {
            "all" => Skip { all: true, names: BTreeSet::new() },
            names => {
                let names = names.split(',').map(|name| name.trim().to_owned()).collect();
                Skip { all: false, names }
            }
        }
    }
}

/// The value of `# check=` or `BUILDKIT_DOCKERFILE_CHECK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Checks that do not run.
    pub skip: Skip,
    /// Experimental checks that do run.
    pub experimental: Skip,
    /// Whether a warning fails the build.
    pub error: bool,
}

impl Checks {
    /// Reads `skip=A,B|all;error=true;experimental=A|all`, at most three parts. Names that are no
    /// check are tolerated: a newer file may know more of them.
    pub fn parse(text: &str) -> Result<Checks, String> {
        let mut checks = Checks::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(checks);
        }
        for part in text.splitn(3, ';') {
            let invalid = |option: &str| format!("invalid check option {}", go_quoted(option));
            let (key, value) = part.split_once('=').ok_or_else(|| invalid(part))?;
            match key.trim() {
                "skip" => checks.skip = Skip::parse(value),
                "experimental" => checks.experimental = Skip::parse(value),
                "error" => {
                    checks.error = crate::run::go_bool(value.trim()).ok_or_else(|| {
                        format!("failed to parse check option {}", go_quoted(part))
                    })?;
                }
                key => return Err(invalid(key)),
            }
        }
        Ok(checks)
    }

    /// Whether `rule` is to be reported at a place whose comment skips `inline`.
    pub fn reports(&self, rule: &str, inline: &Skip) -> bool {
        match rules::lint_rule(rule) {
            Some(known) if known.experimental => self.experimental.contains(rule),
            _ => !self.skip.contains(rule) && !inline.contains(rule),
        }
    }

    /// With `error=true`, the message that fails the build for these warnings: `lint violation
    /// found for rules: A, B`.
    pub fn violation(&self, diagnostics: &[Diagnostic]) -> Option<String> {
        let rules: BTreeSet<&str> = diagnostics.iter().filter_map(|d| d.rule).collect();
        if !self.error || rules.is_empty() {
            return None;
        }
        let rules: Vec<&str> = rules.into_iter().collect();
        Some(format!("lint violation found for rules: {}", rules.join(", ")))
    }
}

/// Runs the checks that need only the text. Empty continuation lines are no longer in the tree;
/// the lexer's caller reports them.
pub(crate) fn check(dockerfile: &Dockerfile) -> Vec<Diagnostic> {
    let checks = &dockerfile.directives.check;
    if checks.skip.all && checks.experimental == Skip::default() {
        return Vec::new();
    }
    let mut linter = Linter { checks, found: Vec::new() };
    for arg in &dockerfile.global_args {
        linter.described_args(&arg.kind, arg);
    }
    linter.casing(dockerfile);
    linter.stage_names(dockerfile);
    let mut with_shell = HashSet::new();
    for stage in &dockerfile.stages {
        let shell = with_shell.contains(stage.base.value.to_lowercase().as_str());
        let shell = linter.stage(stage, shell);
        if let Some(name) = &stage.name {
            // The name now means this stage, whatever an earlier one of that name had.
            with_shell.remove(name.as_str());
            if shell {
                with_shell.insert(name.as_str());
            }
        }
    }
    linter.found
}

struct Linter<'a> {
    checks: &'a Checks,
    found: Vec<Diagnostic>,
}

/// The keyword of an instruction as written.
fn keyword(text: &str) -> &str {
    text.split(crate::grammar::is_blank).next().unwrap_or_default()
}

/// The span of the keyword at the start of an instruction. A keyword cannot cross a joint unless
/// someone continues a line within it; then the span is still inside the instruction.
fn keyword_span(text: &str, span: Span) -> Span {
    Span::new(span.start, (span.start + keyword(text).len()).min(span.end))
}

impl Linter<'_> {
    fn report(&mut self, rule: &'static str, skip: &Skip, span: Span, message: String) {
        if self.checks.reports(rule, skip) {
            self.found.push(Diagnostic::warning(rule, message, span));
        }
    }

    /// `ConsistentInstructionCasing`: everything as most of the file has it.
    fn casing(&mut self, dockerfile: &Dockerfile) {
        let places: Vec<(&str, Span, &Skip)> = dockerfile
            .stages
            .iter()
            .flat_map(|stage| {
                let parts = stage.instructions.iter();
                std::iter::once((stage.text.as_str(), stage.from_span, &stage.skip))
                    .chain(parts.map(|i| (i.text.as_str(), i.span, &i.skip)))
            })
            .collect();
        let is_lower = |word: &str| !word.contains(|c: char| c.is_ascii_uppercase());
        let is_upper = |word: &str| !word.contains(|c: char| c.is_ascii_lowercase());
        let count = |is: &dyn Fn(&str) -> bool| {
            places.iter().filter(|(text, ..)| is(keyword(text))).count()
        };
        let lower = count(&is_lower) > count(&is_upper);
        for (text, span, skip) in places {
            let word = keyword(text);
            let (right, majority) =
                if lower { (is_lower(word), "lowercase") } else { (is_upper(word), "uppercase") };
            if !right {
                let message = format!(
                    "Command '{word}' should match the case of the command majority ({majority})"
                );
                let span = keyword_span(text, span);
                self.report("ConsistentInstructionCasing", skip, span, message);
            }
        }
    }

    /// The names behind `AS`, and `AS` itself.
    fn stage_names(&mut self, dockerfile: &Dockerfile) {
        let mut seen: HashSet<&str> = HashSet::new();
        for stage in &dockerfile.stages {
            let Some(name) = &stage.name else { continue };
            let skip = &stage.skip;
            let mut words =
                stage.text.split(crate::grammar::is_blank).rev().filter(|w| !w.is_empty());
            let (written, between) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            if written != name.as_str() {
                let message = format!("Stage name '{written}' should be lowercase");
                self.report("StageNameCasing", skip, name.span, message);
            }
            let from = keyword(&stage.text);
            let matches = if from == from.to_ascii_lowercase() {
                between == between.to_ascii_lowercase()
            } else if from == from.to_ascii_uppercase() {
                between == between.to_ascii_uppercase()
            } else {
                true
            };
            if !matches {
                let message = format!("'{between}' and '{from}' keywords' casing do not match");
                self.report("FromAsCasing", skip, stage.from_span, message);
            }
            let name_of = name.as_str();
            if matches!(name_of, "scratch" | "context") {
                let message = format!(
                    "Stage name should not use the same name as reserved stage {}",
                    go_quoted(name_of)
                );
                self.report("ReservedStageName", skip, name.span, message);
            }
            if !seen.insert(name_of) {
                let message = format!(
                    "Duplicate stage name {}, stage names should be unique",
                    go_quoted(name_of)
                );
                self.report("DuplicateStageName", skip, name.span, message);
            }
            self.described("FROM", &[name_of], &stage.comments, stage.from_span, skip);
        }
    }

    /// The instructions of one stage. `shell` tells whether its base has set `SHELL`; the result,
    /// whether the stage has.
    fn stage(&mut self, stage: &Stage, mut shell: bool) -> bool {
        let mut last: HashMap<&'static str, &Instruction> = HashMap::new();
        for instruction in &stage.instructions {
            let Instruction { kind, span, skip, text, .. } = instruction;
            let (span, keyword) = (*span, keyword(text));
            match kind {
                InstructionKind::Shell(_) => shell = true,
                InstructionKind::Cmd(Cmd { command })
                | InstructionKind::Entrypoint(Entrypoint { command })
                    if matches!(command, CommandForm::Shell(_)) && !shell =>
                {
                    let message = format!(
                        "JSON arguments recommended for {keyword} to prevent unintended behavior \
                         related to OS signals"
                    );
                    self.report("JSONArgsRecommended", skip, span, message);
                }
                InstructionKind::Maintainer(_) => {
                    let message = "Maintainer instruction is deprecated in favor of using label";
                    self.report("MaintainerDeprecated", skip, span, message.to_owned());
                }
                InstructionKind::Env(Env { pairs, legacy }) => {
                    if *legacy {
                        self.legacy(keyword, skip, span);
                    }
                    for pair in pairs {
                        self.secret("ENV", &pair.key.value, skip, pair.key.span);
                    }
                }
                InstructionKind::Label(Label { legacy: true, .. }) => {
                    self.legacy(keyword, skip, span);
                }
                InstructionKind::Arg(arg) => {
                    self.secret_args(arg, skip);
                    self.described_args(arg, instruction);
                }
                _ => {}
            }
            let once = matches!(
                kind,
                InstructionKind::Cmd(_)
                    | InstructionKind::Entrypoint(_)
                    | InstructionKind::Healthcheck(_)
            );
            if once && let Some(previous) = last.insert(kind.keyword(), instruction) {
                let message = format!(
                    "Multiple {keyword} instructions should not be used in the same stage because \
                     only the last one will be used"
                );
                // The place is the earlier one, which is without effect; a comment at either works.
                if !skip.contains("MultipleInstructionsDisallowed") {
                    let (skip, span) = (&previous.skip, previous.span);
                    self.report("MultipleInstructionsDisallowed", skip, span, message);
                }
            }
        }
        shell
    }

    fn legacy(&mut self, keyword: &str, skip: &Skip, span: Span) {
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        self.report("LegacyKeyValueFormat", skip, span, message);
    }

    fn secret_args(&mut self, arg: &Arg, skip: &Skip) {
        for argument in &arg.args {
            self.secret("ARG", &argument.name.value, skip, argument.name.span);
        }
    }

    fn secret(&mut self, keyword: &str, name: &str, skip: &Skip, span: Span) {
        if names_a_secret(name) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({keyword} {})",
                go_quoted(name)
            );
            self.report("SecretsUsedInArgOrEnv", skip, span, message);
        }
    }

    fn described_args<K>(&mut self, arg: &Arg, instruction: &Instruction<K>) {
        let names: Vec<&str> = arg.args.iter().map(|arg| arg.name.as_str()).collect();
        let Instruction { comments, span, skip, .. } = instruction;
        self.described("ARG", &names, comments, *span, skip);
    }

    /// `InvalidDefinitionDescription`: a comment above describes what it names.
    fn described(
        &mut self,
        keyword: &str,
        names: &[&str],
        comments: &[String],
        span: Span,
        skip: &Skip,
    ) {
        let (Some(comment), Some(first)) = (comments.last(), names.first()) else { return };
        let described = comment.split(' ').next().unwrap_or_default();
        if names.contains(&described) || comment.starts_with("check=") {
            return;
        }
        let name = if names.len() > 1 { "<arg_key>" } else { first };
        let message =
            format!("Comment for {keyword} should follow the format: `# {name} <description>`");
        self.report("InvalidDefinitionDescription", skip, span, message);
    }
}

/// Whether a part of `name` between underscores is a word for a secret, and none says that it is
/// not one itself.
pub fn names_a_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has = |words: &[&str]| {
        name.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)))
    };
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_told_by_their_parts() {
        for name in [
            "AUTH",
            "api_key",
            "DATABASE_PASSWORD",
            "GITHUB_TOKEN",
            "secret_MESSAGE",
            "MY_CREDENTIALS_X",
        ] {
            assert!(names_a_secret(name), "{name}");
        }
        for name in
            ["AUTHOR", "MONKEY", "SSH_PUBLIC_KEY", "TOKEN_FILE", "SECRET_VERSION", "PASSWORDS"]
        {
            assert!(!names_a_secret(name), "{name}");
        }
    }

    #[test]
    fn check_options_are_read_as_buildkit_reads_them() {
        let checks = Checks::parse("skip=A, B ; error=true;experimental=all").unwrap();
        assert!(checks.error && checks.experimental.all && !checks.skip.all);
        assert!(
            checks.skip.contains("A") && checks.skip.contains("B") && !checks.skip.contains("C")
        );
        assert!(Checks::parse("skip=all").unwrap().skip.contains("anything"));
        assert_eq!(Checks::parse("").unwrap(), Checks::default());
        assert_eq!(Checks::parse("skip").unwrap_err(), "invalid check option \"skip\"");
        assert_eq!(Checks::parse("a=b").unwrap_err(), "invalid check option \"a\"");
        assert_eq!(
            Checks::parse("error=maybe").unwrap_err(),
            "failed to parse check option \"error=maybe\""
        );
    }

    #[test]
    fn a_violation_names_every_rule_once() {
        let warnings = ["B", "A", "B"].map(|rule| Diagnostic::warning(rule, "", Span::default()));
        let checks = Checks { error: true, ..Checks::default() };
        assert_eq!(
            checks.violation(&warnings).as_deref(),
            Some("lint violation found for rules: A, B")
        );
        assert_eq!(checks.violation(&[]), None);
        assert_eq!(Checks::default().violation(&warnings), None);
    }

    #[test]
    fn the_table_has_all_rules() {
        assert_eq!(rules::RULES.len(), 22);
        let json = rules::lint_rule("JSONArgsRecommended").unwrap();
        let url = "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/";
        assert_eq!(json.url, Some(url));
    }
}
