//! `strake why`: what made the steps of the last build hits or misses.
//!
//! A build writes down, for each of its steps, where the result came from and, for a step that was
//! executed, which parts of its key differ from the step of that name in the build before of the
//! same Dockerfile and target.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cache::index::CacheKey;
use cache::{Store, StoreError};
use serde::{Deserialize, Serialize};
use solver::llb::{Definition, Op};
use solver::why::Difference;
use solver::{Origin, Solution, why};

use super::engine::{Engine, Needs, store_error};
use super::say;
use crate::args::WhyArgs;
use crate::report::CliError;

/// Where the last build is kept in the index.
const SPACE: &str = "why";
const LAST: &str = "last";

/// A step with more differing parts than this has simply changed.
const MAX_DIFFERENCES: usize = 20;

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    name: String,
    origin: StepOrigin,
    /// Sentences.
    differences: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StepOrigin {
    /// The same definition was built before.
    SameDefinition,
    /// The same step was applied to the same content before.
    SameContent,
    /// Nothing of this name was ever built in this place.
    New,
    /// It was executed.
    Executed,
}

/// Names the builds whose steps are compared with each other.
pub(super) fn scope(context: &Path, file: &str, target: Option<&str>) -> String {
    let context = fs_err::canonicalize(context).unwrap_or_else(|_| context.to_owned());
    format!("{}\n{file}\n{}", context.display(), target.unwrap_or_default())
}

/// Writes down a build.
pub(super) fn record(
    store: &Store,
    scope: &str,
    definition: &Definition,
    solution: &Solution,
) -> Result<(), StoreError> {
    let index = store.index();
    let mut steps = Vec::new();
    let mut keys: Vec<(String, CacheKey)> = Vec::new();
    for (id, report) in definition.ids().zip(&solution.vertices) {
        let vertex = definition.vertex(id);
        let (Some(origin), Some(key)) = (report.origin, report.key) else { continue };
        if matches!(vertex.op, Op::Source(_)) {
            continue;
        }
        let name = vertex.meta.name.clone();
        let (origin, differences) = match origin {
            Origin::Fast | Origin::Shared => (StepOrigin::SameDefinition, Vec::new()),
            Origin::Slow => (StepOrigin::SameContent, Vec::new()),
            Origin::Executed => match index.latest_for_name(scope, &name)? {
                None => (StepOrigin::New, Vec::new()),
                Some(previous) => {
                    let differences = why::explain(&previous, &solution.ingredients(id));
                    let input_name = |input: usize| {
                        let input = vertex.inputs.get(input)?;
                        Some(definition.vertex(input.edge.vertex).meta.name.clone())
                    };
                    (StepOrigin::Executed, sentences(&differences, input_name))
                }
            },
        };
        keys.push((name.clone(), key));
        steps.push(Step { name, origin, differences });
    }
    index.set_latest(scope, &keys)?;
    let text = serde_json::to_vec(&steps).unwrap_or_default();
    index.put_value(SPACE, LAST, &text)
}

pub(crate) fn why(root: Option<PathBuf>, args: &WhyArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Documents)?;
    let text = engine.store.index().value(SPACE, LAST).map_err(store_error)?;
    let text = text.ok_or_else(|| {
        CliError::input("nothing was built in this store yet")
            .hint("build something: strake build .")
    })?;
    let steps: Vec<Step> = serde_json::from_slice(&text)
        .map_err(|error| CliError::caused("the record of the last build cannot be read", &error))?;
    let mut shown = 0;
    for step in &steps {
        let wanted = match &args.step {
            Some(text) => step.name.contains(text.as_str()),
            None => true,
        };
        if wanted {
            shown += 1;
            print_step(step);
        }
    }
    match (shown, &args.step) {
        (0, Some(text)) => {
            Err(CliError::input(format!("the last build has no step with `{text}` in its name")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn print_step(step: &Step) {
    let verdict = match step.origin {
        StepOrigin::SameDefinition => "cached: the same step was built before",
        StepOrigin::SameContent => "cached: its inputs have the same content as before",
        StepOrigin::New => "executed: this step is new",
        StepOrigin::Executed if step.differences.is_empty() => {
            "executed: nothing in its key changed (the cache was not asked, or its result is gone)"
        }
        StepOrigin::Executed => "executed, because these differ from the build before:",
    };
    say(format!("{}\n  {verdict}", step.name));
    for difference in step.differences.iter().take(MAX_DIFFERENCES) {
        say(format!("    {difference}"));
    }
    if let Some(more) = step.differences.len().checked_sub(MAX_DIFFERENCES).filter(|more| *more > 0)
    {
        say(format!("    and {more} more"));
    }
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
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".into());
        sentences.push(format!("{part}: {} -> {}", value(before), value(after)));
    }
    sentences
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
    fn differences_are_told_in_words() {
        let difference = |part: &str, before: Option<&str>, after: Option<&str>| Difference {
            part: part.into(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let differences = [
            difference("env.A", Some("1"), Some("2")),
            difference("input.0", Some("x"), Some("y")),
            difference("input.1", Some("x"), Some("y")),
            difference("input.1.file:/a", Some("mode=100644 size=6"), Some("mode=100644 size=7")),
            difference("input.1.file:/b", None, Some("mode=100644")),
        ];
        assert_eq!(
            sentences(&differences, |input| (input == 0).then(|| "[1/2] RUN x".into())),
            [
                "env.A: 1 -> 2",
                "`[1/2] RUN x` has another result",
                "file /a: size 6 -> 7",
                "file /b is new"
            ]
        );
    }
}
