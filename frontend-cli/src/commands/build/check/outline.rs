//! `--call=outline`: what a target takes from the command line.

use parser::{Arg, Instruction, InstructionKind, Parsed, Span};
use serde::Serialize;

use super::super::findings::printable;
use super::super::source::BuildSource;
use super::document::{Location, Source, pretty, source_of};
use crate::commands::{say, table};
use crate::dockerfile::{Plan, Settings};
use crate::report::CliError;

/// See the module.
#[derive(Serialize)]
pub(super) struct Outline {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Argument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<Cache>,
}

#[derive(Serialize)]
struct Argument {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    location: Location,
    #[serde(skip)]
    at: usize,
}

#[derive(Serialize)]
struct Named {
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

#[derive(Serialize)]
struct Cache {
    #[serde(rename = "ID")]
    id: String,
    location: Location,
}

#[derive(Serialize)]
struct OutlineDocument<'a> {
    #[serde(flatten)]
    outline: &'a Outline,
    sources: Vec<Source>,
}

impl Outline {
    pub(super) fn new(parsed: &Parsed, plan: &Plan, settings: &Settings) -> Self {
        let target = &parsed.dockerfile.stages[plan.target];
        let name = target.name.as_ref().map_or("", |name| name.as_str());
        let mut outline = Outline {
            name: name.to_owned(),
            description: description(&target.comments, name),
            args: Vec::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            cache: Vec::new(),
        };
        let stages: Vec<_> =
            plan.needed.iter().filter_map(|index| parsed.dockerfile.stages.get(*index)).collect();
        // A global argument counts where a FROM of the target uses it; one that a stage takes over
        // is listed at its first declaration.
        for instruction in &parsed.dockerfile.global_args {
            let is_used = |name: &str| {
                let uses = |text: &str| uses_variable(text, name);
                stages.iter().any(|stage| {
                    uses(&stage.base.value)
                        || stage.platform.as_ref().is_some_and(|platform| uses(&platform.value))
                        || stage.instructions.iter().any(|i| declares(&i.kind, name))
                })
            };
            outline.arguments(parsed, settings, plan, instruction, &is_used);
        }
        for instruction in stages.iter().flat_map(|stage| &stage.instructions) {
            match &instruction.kind {
                InstructionKind::Arg(arg) => {
                    let arg = Instruction {
                        kind: arg.clone(),
                        span: instruction.span,
                        lines: instruction.lines,
                        text: instruction.text.clone(),
                        comments: instruction.comments.clone(),
                        skip: instruction.skip.clone(),
                    };
                    outline.arguments(parsed, settings, plan, &arg, &|_| true);
                }
                InstructionKind::Run(run) => {
                    for mount in &run.mounts {
                        outline.mount(parsed, mount, instruction.span);
                    }
                }
                _ => {}
            }
        }
        outline.args.sort_by_key(|argument| argument.at);
        outline
    }

    fn arguments(
        &mut self,
        parsed: &Parsed,
        settings: &Settings,
        plan: &Plan,
        instruction: &Instruction<Arg>,
        is_used: &dyn Fn(&str) -> bool,
    ) {
        for definition in &instruction.kind.args {
            let name = definition.name.as_str();
            if !is_used(name) || self.args.iter().any(|known| known.name == name) {
                continue;
            }
            let given = settings.build_args.get(name).cloned();
            let default = || definition.default.as_ref().map(|default| default.value.clone());
            let global = || plan.globals.value(name).map(str::to_owned);
            self.args.push(Argument {
                name: name.to_owned(),
                description: description(&instruction.comments, name),
                value: given.or_else(global).or_else(default),
                location: Location::of(parsed, instruction.span),
                at: instruction.span.start,
            });
        }
    }

    /// Secrets, agents and caches; options are shown as written, since their variables have values
    /// only while a stage is built.
    fn mount(&mut self, parsed: &Parsed, mount: &parser::Mount, span: Span) {
        let option = |names: &[&str]| {
            mount.options.iter().find(|option| names.contains(&option.key.value.as_str()))
        };
        let value = |names: &[&str]| {
            option(names).and_then(|option| option.value.as_ref()).map(|value| value.value.clone())
        };
        let required = option(&["required"]).is_some_and(|option| {
            option.value.as_ref().is_none_or(|v| v.value == "true" || v.value == "1")
        });
        let location = || Location::of(parsed, span);
        let target = value(&["target", "dst", "destination"]);
        match value(&["type"]).as_deref() {
            Some("secret") => {
                let base = target.as_deref().and_then(|target| target.rsplit('/').next());
                let name = value(&["id"]).or(base.map(str::to_owned)).unwrap_or_default();
                add(&mut self.secrets, name, required, location());
            }
            Some("ssh") => {
                let name = value(&["id"]).unwrap_or_else(|| "default".into());
                add(&mut self.ssh, name, required, location());
            }
            Some("cache") => {
                let id = value(&["id"]).or(target).unwrap_or_default();
                if !self.cache.iter().any(|known| known.id == id) {
                    self.cache.push(Cache { id, location: location() });
                }
            }
            _ => {}
        }
    }

    pub(super) fn json(&self, source: &BuildSource) -> Result<String, CliError> {
        pretty(&OutlineDocument { outline: self, sources: vec![source_of(source)] })
    }

    pub(super) fn print(&self) {
        let name = if self.name.is_empty() { "(default)" } else { &self.name };
        say(format!("TARGET:   {}", printable(name)));
        if let Some(description) = &self.description {
            say(format!("DESCRIPTION:   {}", printable(description)));
        }
        if !self.args.is_empty() {
            let rows: Vec<_> = self
                .args
                .iter()
                .map(|arg| {
                    [Some(&arg.name), arg.value.as_ref(), arg.description.as_ref()]
                        .map(|cell| printable(cell.map_or("", String::as_str)))
                        .to_vec()
                })
                .collect();
            say("");
            table(&["BUILD ARG", "VALUE", "DESCRIPTION"], &rows);
        }
        for (head, list) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if list.is_empty() {
                continue;
            }
            let rows: Vec<_> = list
                .iter()
                .map(|entry| {
                    let required = if entry.required { "true" } else { "" };
                    vec![printable(&entry.name), required.to_owned()]
                })
                .collect();
            say("");
            table(&[head, "REQUIRED"], &rows);
        }
    }
}

fn add(list: &mut Vec<Named>, name: String, required: bool, location: Location) {
    match list.iter_mut().find(|known| known.name == name) {
        Some(known) => known.required |= required,
        None => list.push(Named { name, required, location }),
    }
}

fn declares(kind: &InstructionKind, name: &str) -> bool {
    matches!(kind, InstructionKind::Arg(arg) if arg.args.iter().any(|a| a.name.value == name))
}

/// Whether `$name` or `${name…}` stands in `text`.
fn uses_variable(text: &str, name: &str) -> bool {
    text.match_indices('$').any(|(at, _)| {
        let rest = &text[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.strip_prefix(name).is_some_and(|after| {
            !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        })
    })
}

/// The last comment line above, if it is `name description`.
pub(super) fn description(comments: &[String], name: &str) -> Option<String> {
    let (named, text) = comments.last()?.trim().split_once(char::is_whitespace)?;
    (named == name && !name.is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_describes_what_it_names() {
        let above = |text: &str| description(&[text.to_owned()], "base");
        assert_eq!(above("base is the start").as_deref(), Some("is the start"));
        assert_eq!(above("something else"), None);
        assert_eq!(description(&["x".into()], ""), None);
    }

    #[test]
    fn a_variable_is_used_by_its_whole_name() {
        assert!(uses_variable("a:${TAG:-1}", "TAG"));
        assert!(uses_variable("$A/$TAG", "TAG"));
        assert!(!uses_variable("a:$TAGS", "TAG"));
        assert!(!uses_variable("TAG", "TAG"));
    }
}
