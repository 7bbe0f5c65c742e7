//! Build checks: their table, which of them are on, and those that need only the text.

use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;

/// A build check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LintRule {
    /// BuildKit's name for it.
    pub name: &'static str,
    /// What it is about, in one sentence.
    pub description: &'static str,
    /// Its page, where it has one.
    pub url: Option<&'static str>,
    /// Whether it runs only when asked for by `experimental=`.
    pub experimental: bool,
}

/// All build checks.
pub const RULES: &[LintRule] = &[];

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
    /// Reads `skip=A,B|all;error=true;experimental=A|all`.
    pub fn parse(text: &str) -> Result<Checks, String> {
        let _ = text;
        todo!()
    }

    /// Whether `rule` is to be reported at a place whose comment skips `inline`.
    pub fn reports(&self, rule: &str, inline: &Skip) -> bool {
        let _ = (rule, inline);
        todo!()
    }

    /// With `error=true`, the message that fails the build for these warnings: `lint violation
    /// found for rules: A, B`.
    pub fn violation(&self, diagnostics: &[Diagnostic]) -> Option<String> {
        let _ = diagnostics;
        todo!()
    }
}
