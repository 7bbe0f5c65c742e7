//! Failures that a shell hides: `a | b` is as successful as `b`, and a script goes on behind a
//! command that failed.
//!
//! This reads shell text as a reader skims it, not as a shell: quotes, comments and `case` are
//! stepped over, nothing is expanded. It rather says nothing than something wrong.

use std::collections::BTreeMap;

use parser::{Dockerfile, InstructionKind, Run, Script, Span};

use super::super::fault::Fault;

/// Programs whose language this module knows.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Commands that do not fail, or whose failure is asked for.
const HARMLESS: [&str; 8] = ["echo", "printf", "yes", "true", "if", "while", "until", "!"];

/// What SHELL says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ShellState {
    /// A shell of the POSIX kind.
    known: bool,
    pipefail: bool,
    errexit: bool,
}

const DEFAULT_SHELL: ShellState = ShellState { known: true, pipefail: false, errexit: false };

pub(super) fn check(dockerfile: &Dockerfile, found: &mut Vec<(&'static str, Fault)>) {
    let mut shells: BTreeMap<String, ShellState> = BTreeMap::new();
    for stage in &dockerfile.stages {
        let inherited = shells.get(&stage.base.value.to_lowercase());
        let mut shell = inherited.copied().unwrap_or(DEFAULT_SHELL);
        for instruction in &stage.instructions {
            let first_word = Span::new(
                instruction.span.start,
                instruction.span.end.min(instruction.span.start + "RUN".len()),
            );
            match &instruction.kind {
                InstructionKind::Shell(words) => shell = shell_of(&words.command),
                InstructionKind::Run(run) if shell.known => {
                    found.extend(step(run, shell).map(|(rule, message, hint)| {
                        (rule, Fault::new(message, first_word).hint(hint))
                    }));
                }
                _ => {}
            }
        }
        if let Some(name) = &stage.name {
            shells.insert(name.value.to_lowercase(), shell);
        }
    }
}

fn shell_of(words: &[String]) -> ShellState {
    let program = words.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
    ShellState {
        known: SHELLS.contains(&program),
        pipefail: words.iter().any(|word| word == "pipefail"),
        errexit: words.iter().skip(1).any(|word| sets_errexit(word)),
    }
}

/// `-e`, `-ec`, `-eux`.
fn sets_errexit(word: &str) -> bool {
    word == "errexit"
        || word.strip_prefix('-').is_some_and(|flags| {
            flags.contains('e') && flags.bytes().all(|b| b.is_ascii_lowercase())
        })
}

/// What a step hides: rule, message, advice.
fn step(run: &Run, shell: ShellState) -> Option<(&'static str, String, String)> {
    let (text, is_heredoc) = match run.script() {
        Script::Exec(_) => return None,
        Script::File { content, .. } => {
            let first = content.lines().next().unwrap_or_default();
            let mut words = first.trim_start_matches("#!").split_whitespace();
            let program = words.clone().next().unwrap_or_default();
            if program.ends_with("/env") {
                words.next();
            }
            let own = shell_of(&words.map(str::to_owned).collect::<Vec<_>>());
            if !own.known || own.errexit {
                return None;
            }
            (content, true)
        }
        Script::Shell(text) if run.heredocs.is_empty() => (text, false),
        // Something else reads the heredoc: cat, a shell, an interpreter.
        Script::Shell(text) if run.heredocs.len() > 1 || text.contains("<<") => return None,
        Script::Shell(text) => (text, true),
    };
    if is_heredoc && !shell.errexit && !says(&text, "set", sets_errexit) {
        let commands = commands_of(&text);
        if commands > 1 {
            let message = format!(
                "Only the last of the {commands} commands of the heredoc decides whether RUN fails"
            );
            let advice = "begin it with `set -e`";
            return Some(("HeredocWithoutErrexit", message, advice.into()));
        }
    }
    if shell.pipefail || text.contains("pipefail") {
        return None;
    }
    let hidden = hidden_by_pipe(&text)?;
    let message =
        format!("If `{hidden}` fails, RUN goes on: only the command behind the pipe counts");
    let advice = "set pipefail: SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]";
    Some(("PipelineWithoutPipefail", message, advice.into()))
}

/// Whether a line is `command` with an option that `is_option` accepts.
fn says(text: &str, command: &str, is_option: impl Fn(&str) -> bool) -> bool {
    text.split(['\n', ';']).any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(command) && words.any(&is_option)
    })
}

/// How many commands a script has that can fail unnoticed: lines that end neither in `\` nor in an
/// operator, up to the second.
fn commands_of(text: &str) -> usize {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| !["\\", "&&", "||", "|"].iter().any(|end| line.ends_with(end)))
        .count()
}

/// The first command before a `|` that may fail.
fn hidden_by_pipe(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut at = 0;
    let mut cases = 0_usize;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            quote @ (b'\'' | b'"') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' && quote == b'"' { 2 } else { 1 };
                }
            }
            b'#' if at == 0 || bytes[at - 1].is_ascii_whitespace() => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                start = at + 1;
            }
            b';' | b'\n' | b'&' | b'(' | b'{' => start = at + 1,
            b'|' if bytes.get(at + 1) == Some(&b'|') => {
                at += 1;
                start = at + 1;
            }
            // `>|` overwrites.
            b'|' if at > 0 && bytes[at - 1] == b'>' => {}
            b'|' => {
                let command = text[start..at].trim();
                let first = command.split_whitespace().next().unwrap_or_default();
                if cases == 0 && !command.is_empty() && !HARMLESS.contains(&first) {
                    return Some(shortened(command));
                }
                start = at + 1;
            }
            b'c' if word_at(text, at, "case") => cases += 1,
            b'e' if word_at(text, at, "esac") => cases = cases.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

fn word_at(text: &str, at: usize, word: &str) -> bool {
    let outside = |byte: Option<&u8>| byte.is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_');
    let bytes = text.as_bytes();
    bytes[at..].starts_with(word.as_bytes())
        && outside(bytes.get(at + word.len()))
        && outside(at.checked_sub(1).and_then(|before| bytes.get(before)))
}

fn shortened(command: &str) -> String {
    const LENGTH: usize = 40;
    let line = command.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LENGTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    fn rules(text: &str) -> Vec<&'static str> {
        let parsed = parser::parse(text.as_bytes());
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let mut found = Vec::new();
        check(&parsed.dockerfile, &mut found);
        found.into_iter().map(|(rule, _)| rule).collect()
    }

    #[test]
    fn a_pipe_that_hides_a_failure_is_found_and_no_other() {
        const PIPE: &[&str] = &["PipelineWithoutPipefail"];
        for (run, expected) in [
            ("curl -f x | sh", PIPE),
            ("a && b 2>&1 | tee log", PIPE),
            ("for i in 1 2; do a | b; done", PIPE),
            ("a || b", &[]),
            ("echo 1 | sha256sum -c", &[]),
            ("echo 'a | b' \"c | d\"", &[]),
            ("set -o pipefail && a | b", &[]),
            ("case $x in a|b) true;; esac", &[]),
            ("[\"a\", \"|\", \"b\"]", &[]),
            ("x >| y", &[]),
            ("a \\| b", &[]),
        ] {
            assert_eq!(rules(&format!("FROM a\nRUN {run}\n")), expected, "{run}");
        }
    }

    #[test]
    fn the_shell_of_a_base_stage_counts() {
        let text =
            "FROM a AS b\nSHELL [\"bash\", \"-o\", \"pipefail\", \"-c\"]\nFROM b\nRUN x | y\n";
        assert!(rules(text).is_empty());
        assert!(rules("FROM a\nSHELL [\"powershell\"]\nRUN x | y\n").is_empty());
    }

    #[test]
    fn a_script_that_goes_on_after_a_failure_is_found_and_no_other() {
        const HEREDOC: &[&str] = &["HeredocWithoutErrexit"];
        for (run, expected) in [
            ("<<EOF\na\nb\nEOF", HEREDOC),
            ("<<EOF\n#!/bin/sh\na\nb\nEOF", HEREDOC),
            ("<<EOF\na\nEOF", &[]),
            ("<<EOF\nset -e\na\nb\nEOF", &[]),
            ("<<EOF\nset -eux\na\nb\nEOF", &[]),
            ("<<EOF\na &&\nb\nEOF", &[]),
            ("<<EOF\n#!/bin/sh -e\na\nb\nEOF", &[]),
            ("<<EOF\n#!/usr/bin/env python3\na\nb\nEOF", &[]),
            ("cat <<EOF\na\nb\nEOF", &[]),
        ] {
            assert_eq!(rules(&format!("FROM a\nRUN {run}\n")), expected, "{run}");
        }
    }
}
