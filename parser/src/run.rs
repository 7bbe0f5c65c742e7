//! `RUN`: flags, and where heredoc bodies go.

use crate::ast::{CommandForm, Device, Heredoc, Network, Run, Script, Security};
use crate::diagnostic::Diagnostic;
use crate::flags::Takes;
use crate::grammar;
use crate::head::{Head, go_quoted};
use crate::heredoc;
use crate::mount::Mount;
use crate::span::Spanned;
use crate::suggest;

const FLAGS: &[(&str, Takes)] = &[
    ("mount", Takes::Texts),
    ("network", Takes::Text),
    ("security", Takes::Text),
    ("device", Takes::Texts),
];

pub(crate) fn parse(head: Head<'_>, heredocs: Vec<Heredoc>) -> Result<Run, Diagnostic> {
    let command = head.command()?;
    let mut flags = head.flags(FLAGS)?;
    let mounts = flags.texts("mount").into_iter().map(Mount::parse);
    let devices = flags.texts("device");
    Ok(Run {
        command,
        heredocs,
        mounts: mounts.collect::<Result<_, _>>()?,
        network: flags.given("network").map(network).transpose()?,
        security: flags.given("security").map(security).transpose()?,
        devices: devices.into_iter().map(device).collect::<Result<_, _>>()?,
    })
}

fn network(text: Spanned<String>) -> Result<Spanned<Network>, Diagnostic> {
    let network = match text.as_str() {
        "default" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => {
            let message = format!("invalid network mode {}", go_quoted(other));
            let error = Diagnostic::error(message, text.span);
            return Err(hinted(error, other, &["default", "none", "host"]));
        }
    };
    Ok(Spanned::new(network, text.span))
}

fn security(text: Spanned<String>) -> Result<Spanned<Security>, Diagnostic> {
    let security = match text.as_str() {
        "sandbox" => Security::Sandbox,
        "insecure" => Security::Insecure,
        other => {
            let message = format!("security {} is not valid", go_quoted(other));
            let error = Diagnostic::error(message, text.span);
            return Err(hinted(error, other, &["sandbox", "insecure"]));
        }
    };
    Ok(Spanned::new(security, text.span))
}

/// `[name=]NAME[,required[=BOOL]]`
fn device(text: Spanned<String>) -> Result<Spanned<Device>, Diagnostic> {
    let span = text.span;
    let error = |message: String| Diagnostic::error(message, span);
    let fields = grammar::csv(text.as_str())
        .map_err(|_| error("failed to parse csv devices: a quote stands wrong".to_owned()))?;
    let mut device = Device { name: String::new(), required: false };
    for (field, _) in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required = go_bool(value)
                    .ok_or_else(|| error(format!("invalid value for {key}: {value}")))?;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(error(format!("device name already set to {}", device.name)));
            }
            ("name", Some(value)) => device.name = value.to_owned(),
            _ if device.name.is_empty() => device.name = field.to_string(),
            (_, None) => {
                return Err(error(format!("invalid field '{field}' must be a key=value pair")));
            }
            (_, Some(_)) => {
                let unexpected = error(format!("unexpected key '{key}' in '{field}'"));
                return Err(hinted(unexpected, &key, &["name", "required"]));
            }
        }
    }
    if device.name.is_empty() {
        return Err(error("a device needs a name".to_owned()));
    }
    Ok(Spanned::new(device, span))
}

/// A bool as Go's `strconv.ParseBool` reads it.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `error` with the nearest of the words that would have been right.
fn hinted(error: Diagnostic, word: &str, options: &[&str]) -> Diagnostic {
    match suggest::nearest(word, options) {
        Some(near) => error.with_hint(format!("did you mean {near}?")),
        None => error.with_hint(format!("use one of {}", options.join(", "))),
    }
}

impl Run {
    /// What this instruction executes, heredocs put where they belong.
    pub fn script(&self) -> Script {
        let command = match &self.command {
            CommandForm::Exec(command) => return Script::Exec(command.clone()),
            CommandForm::Shell(command) => command,
        };
        let Some(first) = self.heredocs.first() else { return Script::Shell(command.clone()) };
        if heredoc::parse_word(command, 0..command.len()).is_some() {
            // The heredoc is the whole command: its body is the script.
            if first.content.starts_with("#!") {
                return Script::File { name: first.name.clone(), content: first.body() };
            }
            return Script::Shell(first.body());
        }
        // Something reads the heredocs: the shell gets them as they were written.
        let mut script = command.clone();
        for heredoc in &self.heredocs {
            script.push('\n');
            script.push_str(&heredoc.content);
            script.push_str(&heredoc.name);
        }
        Script::Shell(script)
    }
}
