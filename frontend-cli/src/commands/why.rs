//! `strake why`: what made the steps of the last build hits or misses.
//!
//! A build writes down, for each of its steps, where the result came from and which parts of its key
//! differ from the same step in the build before of the same Dockerfile and target. The same step is
//! the one of the same name, else the one with the same instruction (others were added before it),
//! else the one in the same place (the instruction was edited). `build --explain` shows the same at
//! the end of the build. Of a build that failed or was cancelled it says what was decided until then,
//! and where it ended: at a step, at an output, or before the first step, with the error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cache::index::{CacheKey, Index, Record};
use cache::{Store, StoreError};
use serde::{Deserialize, Serialize};
use solver::llb::{Definition, VertexId};
use solver::why::Difference;
use solver::{Decisions, Origin, Unfinished, VertexReport, why};

use super::engine::{Engine, Needs, store_error};
use super::{ago, say};
use crate::args::WhyArgs;
use crate::history::Status;
use crate::progress::sanitize;
use crate::report::CliError;

/// Where the last build is kept in the index.
const SPACE: &str = "why";
const LAST: &str = "last-build";

/// Longer values are cut.
const MAX_VALUE: usize = 200;

/// A step with more differing parts than this has simply changed.
const MAX_DIFFERENCES: usize = 20;

/// What is known of a build.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Explanation {
    status: Status,
    steps: Vec<Step>,
    /// What it ended with, if it did not succeed.
    #[serde(default)]
    fault: Option<Fault>,
}

/// An error that ended a build.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    /// The output that failed, as it is asked for.
    pub(super) output: Option<String>,
    /// As it was shown.
    pub(super) text: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    name: String,
    origin: StepOrigin,
    /// When the result was made that was found, RFC 3339.
    #[serde(default)]
    created: Option<String>,
    /// Sentences.
    differences: Vec<String>,
    end: StepEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StepEnd {
    /// Its result is there.
    Done,
    /// It failed.
    Failed,
    /// The build ended before it did.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StepOrigin {
    /// The same definition was built before.
    SameDefinition,
    /// The same step was applied to the same content before.
    SameContent,
    /// Another step of the build is the same.
    SameStep,
    /// Nothing like it was ever built in this place.
    New,
    /// The cache was not to be asked.
    NoCache,
    /// Nothing in its key changed, but its result is gone.
    Gone,
    /// Nothing in its key changed, but something it stands on was made anew without the cache.
    Anew,
    /// It was executed, because its key changed.
    Executed,
    /// It failed before its key was known.
    NoKey,
}

/// Names the builds whose steps are compared with each other.
pub(super) fn scope(context: &Path, file: &str, target: Option<&str>) -> String {
    let context = fs_err::canonicalize(context).unwrap_or_else(|_| context.to_owned());
    format!("{}\n{file}\n{}", context.display(), target.unwrap_or_default())
}

/// Writes down a build that ended so, and says what is known of its steps.
pub(super) fn record(
    store: &Store,
    scope: &str,
    decisions: &Decisions,
    status: Status,
    fault: Option<Fault>,
) -> Result<Explanation, StoreError> {
    let index = store.index();
    let definition = decisions.definition();
    let mut steps = Vec::new();
    let mut keys: Vec<(String, CacheKey)> = Vec::new();
    for (id, report) in definition.ids().zip(&decisions.vertices) {
        let vertex = definition.vertex(id);
        let Some((origin, end)) = ending(report) else { continue };
        let name = vertex.meta.name.clone();
        let created = report.created.clone();
        let Some(key) = report.key else {
            let origin = StepOrigin::NoKey;
            steps.push(Step { name, origin, created, differences: Vec::new(), end });
            continue;
        };
        // A hit has its record; where that is what the step had before, nothing differs.
        let is_unchanged =
            origin == Origin::Fast && index.latest_key_for_name(scope, &name)? == Some(key);
        let previous = match is_unchanged {
            true => None,
            false => previous(index, scope, &name)?,
        };
        let differences = match &previous {
            Some(previous) if previous.key != key => {
                let differences = why::explain(previous, &decisions.ingredients(id));
                let input_name = |input: usize| {
                    let input = vertex.inputs.get(input)?;
                    Some(definition.vertex(input.edge.vertex).meta.name.clone())
                };
                sentences(&differences, input_name)
            }
            _ => Vec::new(),
        };
        let origin = match origin {
            Origin::Fast => StepOrigin::SameDefinition,
            Origin::Shared => StepOrigin::SameStep,
            Origin::Slow => StepOrigin::SameContent,
            Origin::Executed if vertex.meta.no_cache => StepOrigin::NoCache,
            Origin::Executed if !differences.is_empty() => StepOrigin::Executed,
            Origin::Executed if previous.is_none() => StepOrigin::New,
            Origin::Executed if stands_on_uncached(definition, id) => StepOrigin::Anew,
            Origin::Executed => StepOrigin::Gone,
        };
        // The next build compares with the last result that there was.
        if end == StepEnd::Done {
            keys.extend(aliases(&name).into_iter().map(|alias| (alias, key)));
        }
        steps.push(Step { name, origin, created, differences, end });
    }
    index.set_latest(scope, &keys)?;
    let explanation = Explanation { status, steps, fault };
    explanation.keep(store)?;
    Ok(explanation)
}

/// Writes down a build that ended before anything was decided about its steps.
pub(super) fn record_unsolved(
    store: &Store,
    status: Status,
    fault: Option<Fault>,
) -> Result<(), StoreError> {
    Explanation { status, steps: Vec::new(), fault }.keep(store)
}

impl Explanation {
    fn keep(&self, store: &Store) -> Result<(), StoreError> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        store.index().put_value(SPACE, LAST, &text)
    }
}

/// Where the result of a step came from, or would have, and how it ended; `None` for one that was
/// not reached.
fn ending(report: &VertexReport) -> Option<(Origin, StepEnd)> {
    match (report.unfinished, report.origin) {
        (Some(Unfinished::Failed), _) => Some((Origin::Executed, StepEnd::Failed)),
        (Some(Unfinished::Cut), _) => Some((Origin::Executed, StepEnd::Cut)),
        (None, Some(origin)) => Some((origin, StepEnd::Done)),
        (None, None) => None,
    }
}

/// What the step was in the build before.
fn previous(index: &Index, scope: &str, name: &str) -> Result<Option<Record>, StoreError> {
    for alias in aliases(name) {
        if let Some(record) = index.latest_for_name(scope, &alias)? {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// What a step is found by in the next build, best first. For `[builder 2/4] RUN make`: the whole
/// name, `builder RUN make`, `builder 2`.
fn aliases(name: &str) -> Vec<String> {
    let mut aliases = vec![name.to_owned()];
    let parts = name.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    if let Some((place, instruction)) = parts {
        let (stage, number) = place.rsplit_once(' ').unwrap_or(("", place));
        if let Some((number, _)) = number.split_once('/') {
            // A blank in front: no step is called so.
            aliases.push(format!(" {stage} {}", instruction.trim()));
            aliases.push(format!(" {stage} {number}"));
        }
    }
    aliases
}

/// Whether the cache was not to be asked for something that the vertex needs.
fn stands_on_uncached(definition: &Definition, id: VertexId) -> bool {
    let mut seen = BTreeSet::from([id]);
    let mut pending = vec![id];
    while let Some(id) = pending.pop() {
        for input in &definition.vertex(id).inputs {
            let producer = input.edge.vertex;
            if definition.vertex(producer).meta.no_cache {
                return true;
            }
            if seen.insert(producer) {
                pending.push(producer);
            }
        }
    }
    false
}

pub(crate) fn why(root: Option<PathBuf>, args: &WhyArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Documents)?;
    let text = engine.store.index().value(SPACE, LAST).map_err(store_error)?;
    let text = text.ok_or_else(|| {
        CliError::input("nothing was built in this store yet")
            .hint("build something: strake build .")
    })?;
    let explanation: Explanation = serde_json::from_slice(&text)
        .map_err(|error| CliError::caused("the record of the last build cannot be read", &error))?;
    let mut shown = 0;
    for step in &explanation.steps {
        let wanted = match &args.step {
            Some(text) => step.name.contains(text.as_str()),
            None => true,
        };
        if wanted {
            shown += 1;
            step_lines(step).iter().for_each(say);
        }
    }
    match (shown, &args.step) {
        (0, Some(text)) => {
            let text = format!("the last build has no step with `{text}` in its name");
            let end = end_of_build(&explanation).into_iter();
            Err(end.fold(CliError::input(text), CliError::hint))
        }
        _ => {
            end_of_build(&explanation).iter().for_each(say);
            fault_lines(&explanation).iter().for_each(say);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is known of a build, a line each.
pub(super) fn lines(explanation: &Explanation) -> Vec<String> {
    let mut lines: Vec<String> = explanation.steps.iter().flat_map(step_lines).collect();
    if lines.is_empty() && explanation.status == Status::Completed {
        lines.push(
            "no step: the result has the files of its base image, and none was needed".into(),
        );
    }
    // The error itself is shown by the build.
    lines.extend(end_of_build(explanation));
    lines
}

/// How a build ended that did not succeed, and where.
fn end_of_build(explanation: &Explanation) -> Option<String> {
    let names = |end: StepEnd| {
        let steps = explanation.steps.iter().filter(|step| step.end == end);
        let names: Vec<String> =
            steps.map(|step| format!("`{}`", sanitize(&step.name, false))).collect();
        names.join(", ")
    };
    let (verdict, at) = match explanation.status {
        Status::Completed => return None,
        Status::Canceled => ("the build was cancelled", names(StepEnd::Cut)),
        Status::Error | Status::Running | Status::Killed => {
            ("the build failed", names(StepEnd::Failed))
        }
    };
    let output = explanation.fault.as_ref().and_then(|fault| fault.output.as_deref());
    Some(match (at.as_str(), output) {
        ("", Some(output)) => format!("{verdict} after its steps, at the output `{output}`"),
        ("", None) if explanation.steps.is_empty() => format!("{verdict} before its first step"),
        ("", None) => format!("{verdict}, but not in a step"),
        (at, _) => format!("{verdict} at {at}; what stands on that was not reached"),
    })
}

/// The error of a build that did not end in a step, a line each. That of a step is in its log.
fn fault_lines(explanation: &Explanation) -> Vec<String> {
    let in_step = explanation.steps.iter().any(|step| step.end != StepEnd::Done);
    let fault = explanation.fault.as_ref().filter(|_| !in_step);
    let lines = fault.into_iter().flat_map(|fault| fault.text.lines());
    lines.map(|line| format!("  {}", sanitize(line, false)).trim_end().to_owned()).collect()
}

/// What is known of a step, a line each.
fn step_lines(step: &Step) -> Vec<String> {
    let made = match &step.created {
        Some(created) => format!(" ({})", ago(Some(created))),
        None => String::new(),
    };
    let verdict = match step.origin {
        StepOrigin::SameDefinition => format!("cached: the same step was built before{made}"),
        StepOrigin::SameContent => {
            format!("cached: its inputs have the same content as before{made}")
        }
        StepOrigin::SameStep => "cached: another step of this build is the same".to_owned(),
        StepOrigin::New => "executed: this step is new".to_owned(),
        StepOrigin::NoCache => "executed: the cache was not to be asked (--no-cache)".to_owned(),
        StepOrigin::Gone => {
            "executed: nothing in its key changed, but its result is gone (pruned?)".to_owned()
        }
        StepOrigin::Anew => {
            "executed: a step before it was made anew without the cache, with another result"
                .to_owned()
        }
        StepOrigin::Executed => "executed, because these differ from the build before:".to_owned(),
        StepOrigin::NoKey => "not looked up: what it reads could not be told".to_owned(),
    };
    let mut lines = vec![sanitize(&step.name, false), format!("  {verdict}")];
    let is_hit = matches!(
        step.origin,
        StepOrigin::SameDefinition | StepOrigin::SameContent | StepOrigin::SameStep
    );
    if is_hit && !step.differences.is_empty() {
        lines.push("  though these differ from the build before:".to_owned());
    }
    let shown = step.differences.iter().take(MAX_DIFFERENCES);
    lines.extend(shown.map(|difference| format!("    {}", sanitize(difference, false))));
    if let Some(more @ 1..) = step.differences.len().checked_sub(MAX_DIFFERENCES) {
        lines.push(format!("    and {more} more"));
    }
    match step.end {
        StepEnd::Done => {}
        StepEnd::Failed => lines.push("  and it failed".to_owned()),
        StepEnd::Cut => lines.push("  and it was not done when the build ended".to_owned()),
    }
    lines
}

/// What differs, in words. A key names parts as `env.PATH`, `input.0`, `input.1.file:/a.c`.
fn sentences(
    differences: &[Difference],
    input_name: impl Fn(usize) -> Option<String>,
) -> Vec<String> {
    let mut sentences = Vec::new();
    for difference in differences {
        let Difference { part, before, after } = difference;
        let input = part.strip_prefix("input.");
        if let Some((_, path)) = input.and_then(|input| input.split_once(".file:")) {
            sentences.push(file_sentence(path, before.as_deref(), after.as_deref()));
            continue;
        }
        if let Some(number) = input.and_then(|number| number.parse::<usize>().ok()) {
            // The parts of an input say more than its digest does.
            let detail = format!("{part}.");
            if differences.iter().any(|other| other.part.starts_with(&detail)) {
                continue;
            }
            let name = input_name(number).unwrap_or_else(|| format!("input {number}"));
            sentences.push(format!("`{name}` has another result"));
            continue;
        }
        if part == "layers" {
            sentences.push(layers_sentence(before.as_deref(), after.as_deref()));
            continue;
        }
        let secret = part.strip_prefix("env.").is_some_and(parser::names_a_secret);
        let value = |value: &Option<String>| match value {
            None => "(none)".to_owned(),
            Some(_) if secret => "***".to_owned(),
            Some(value) => console::truncate_str(value, MAX_VALUE, "…").into_owned(),
        };
        sentences.push(format!("{part}: {} -> {}", value(before), value(after)));
    }
    sentences
}

/// `the image has other layers: 3 (…, sha256:1a2b3c) -> 4 (…, sha256:4d5e6f)`
fn layers_sentence(before: Option<&str>, after: Option<&str>) -> String {
    let told = |layers: Option<&str>| {
        let layers: Vec<String> =
            layers.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let last = layers.last().map_or("", |digest| digest.get(..19).unwrap_or(digest));
        format!("{} (last {last})", layers.len())
    };
    format!("the image has other layers: {} -> {}", told(before), told(after))
}

/// `file /a.c: size 6 -> 11, content c2df69 -> 69b059`
fn file_sentence(path: &str, before: Option<&str>, after: Option<&str>) -> String {
    let (Some(before), Some(after)) = (before, after) else {
        let what = if before.is_none() { "is new" } else { "is gone" };
        return format!("file {path} {what}");
    };
    let fields = |text: &str| -> Vec<(String, String)> {
        let pairs = text.split(' ').filter_map(|field| field.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let (before, after) = (fields(before), fields(after));
    let changed = after.iter().filter_map(|(key, now)| {
        let then =
            before.iter().find(|(known, _)| known == key).map_or("(none)", |(_, value)| value);
        (then != now).then(|| format!("{key} {then} -> {now}"))
    });
    format!("file {path}: {}", changed.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_found_by_less_and_less() {
        assert_eq!(
            aliases("[builder 2/4] RUN make"),
            ["[builder 2/4] RUN make", " builder RUN make", " builder 2"]
        );
        assert_eq!(aliases("[2/4] RUN make"), ["[2/4] RUN make", "  RUN make", "  2"]);
        assert_eq!(aliases("[internal] x"), ["[internal] x"]);
    }

    #[test]
    fn differences_are_told_in_words() {
        let difference = |part: &str, before: Option<&str>, after: Option<&str>| Difference {
            part: part.into(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let differences = [
            difference("env.A", Some("1"), Some("2")),
            difference("env.NPM_TOKEN", Some("1"), Some("2")),
            difference("input.0", Some("x"), Some("y")),
            difference("input.1", Some("x"), Some("y")),
            difference("input.1.file:/a", Some("mode=100644 size=6"), Some("mode=100644 size=7")),
            difference("input.1.file:/b", None, Some("mode=100644")),
        ];
        assert_eq!(
            sentences(&differences, |input| (input == 0).then(|| "[1/2] RUN x".into())),
            [
                "env.A: 1 -> 2",
                "env.NPM_TOKEN: *** -> ***",
                "`[1/2] RUN x` has another result",
                "file /a: size 6 -> 7",
                "file /b is new"
            ]
        );
    }
}
