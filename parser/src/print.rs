//! Trees as text again. What is printed parses to the tree that it was printed from; comments,
//! blanks and continuation lines of the original are gone.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

use crate::ast::*;
use crate::grammar::is_blank;
use crate::heredoc;
use crate::lint::{Checks, Skip};
use crate::span::Spanned;

impl Display for Dockerfile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Directives { syntax, escape, check } = &self.directives;
        if let Some(syntax) = syntax {
            writeln!(f, "# syntax={syntax}")?;
        }
        if *escape != '\\' {
            writeln!(f, "# escape={escape}")?;
        }
        if *check != Checks::default() {
            writeln!(f, "# check={check}")?;
        }
        // An empty line ends the directives: a comment below is no longer one.
        writeln!(f)?;
        for arg in &self.global_args {
            write_skip(f, &arg.skip)?;
            write_arg(f, &arg.kind, *escape)?;
            writeln!(f)?;
        }
        for stage in &self.stages {
            write_skip(f, &stage.skip)?;
            write_from(f, stage, *escape)?;
            for instruction in &stage.instructions {
                write_skip(f, &instruction.skip)?;
                write_kind(f, &instruction.kind, *escape)?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl Display for Checks {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (name, set) in [("skip", &self.skip), ("experimental", &self.experimental)] {
            if *set != Skip::default() {
                parts.push(format!("{name}={set}"));
            }
        }
        if self.error {
            parts.push("error=true".to_owned());
        }
        f.write_str(&parts.join(";"))
    }
}

impl Display for Skip {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.all {
            return f.write_str("all");
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        f.write_str(&names.join(","))
    }
}

/// The exec form, or the text.
impl Display for CommandForm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CommandForm::Shell(text) => f.write_str(text),
            CommandForm::Exec(words) => write_json(f, words.iter().map(String::as_str)),
        }
    }
}

fn write_skip(f: &mut Formatter<'_>, skip: &Skip) -> fmt::Result {
    match *skip == Skip::default() {
        true => Ok(()),
        false => writeln!(f, "# check=skip={skip}"),
    }
}

fn write_from(f: &mut Formatter<'_>, stage: &Stage, escape: char) -> fmt::Result {
    f.write_str("FROM")?;
    write_flag(f, "platform", stage.platform.as_ref(), escape)?;
    write_text(f, stage.base.as_str(), escape)?;
    if let Some(name) = &stage.name {
        write!(f, " AS {name}")?;
    }
    writeln!(f)
}

fn write_kind(f: &mut Formatter<'_>, kind: &InstructionKind, escape: char) -> fmt::Result {
    use InstructionKind as Kind;
    if let Kind::Arg(arg) = kind {
        return write_arg(f, arg, escape);
    }
    f.write_str(kind.keyword())?;
    match kind {
        Kind::Arg(_) => Ok(()),
        Kind::Add(add) => write_add(f, add, escape),
        Kind::Cmd(Cmd { command }) | Kind::Entrypoint(Entrypoint { command }) => {
            write_text(f, &command.to_string(), escape)
        }
        Kind::Copy(copy) => write_copy(f, copy, escape),
        Kind::Env(Env { pairs, legacy }) | Kind::Label(Label { pairs, legacy }) => {
            let delimiter = if *legacy { ' ' } else { '=' };
            let pairs = pairs.iter().map(|pair| format!("{}{delimiter}{}", pair.key, pair.value));
            write_text(f, &pairs.collect::<Vec<_>>().join(" "), escape)
        }
        Kind::Expose(Expose { ports }) => {
            let ports: Vec<&str> = ports.iter().map(|port| port.as_str()).collect();
            write_text(f, &ports.join(" "), escape)
        }
        Kind::Healthcheck(healthcheck) => write_healthcheck(f, healthcheck),
        Kind::Maintainer(Maintainer { name: text })
        | Kind::Stopsignal(Stopsignal { signal: text })
        | Kind::User(User { user: text })
        | Kind::Workdir(Workdir { path: text }) => write_text(f, text.as_str(), escape),
        Kind::Onbuild(Onbuild { trigger, .. }) => write_text(f, trigger, escape),
        Kind::Run(run) => write_run(f, run, escape),
        Kind::Shell(Shell { command }) => {
            f.write_char(' ')?;
            write_json(f, command.iter().map(String::as_str))
        }
        Kind::Volume(Volume { paths }) => {
            write_words(f, &paths.iter().map(|path| path.as_str()).collect::<Vec<_>>(), escape)
        }
    }
}

/// Text behind flags: `--` keeps it from being taken for one. A text that ends in an escape
/// character was followed by a blank that is none to continuation lines, and must be again.
fn write_text(f: &mut Formatter<'_>, text: &str, escape: char) -> fmt::Result {
    if text.is_empty() {
        return Ok(());
    }
    let guard = if text.starts_with("--") { " --" } else { "" };
    let mut last = text.chars().rev();
    let continues = last.next() == Some(escape) && last.next() != Some(escape);
    write!(f, "{guard} {text}{}", if continues { "\u{b}" } else { "" })
}

fn write_arg(f: &mut Formatter<'_>, arg: &Arg, escape: char) -> fmt::Result {
    let args = arg.args.iter().map(|arg| match &arg.default {
        Some(default) => format!("{}={default}", arg.name),
        None => arg.name.to_string(),
    });
    f.write_str("ARG")?;
    write_text(f, &args.collect::<Vec<_>>().join(" "), escape)
}

fn write_run(f: &mut Formatter<'_>, run: &Run, escape: char) -> fmt::Result {
    for mount in &run.mounts {
        write_value(f, "mount", &mount.text, escape)?;
    }
    if let Some(network) = &run.network {
        let mode = match network.value {
            Network::Default => "default",
            Network::None => "none",
            Network::Host => "host",
        };
        write!(f, " --network={mode}")?;
    }
    if let Some(security) = &run.security {
        let mode = match security.value {
            Security::Sandbox => "sandbox",
            Security::Insecure => "insecure",
        };
        write!(f, " --security={mode}")?;
    }
    for device in &run.devices {
        let Device { name, required } = &device.value;
        let mut field = format!("name={name}");
        if field.contains([',', '"']) {
            field = format!("\"{}\"", field.replace('"', "\"\""));
        }
        if *required {
            field.push_str(",required");
        }
        write_value(f, "device", &field, escape)?;
    }
    write_text(f, &run.command.to_string(), escape)?;
    write_bodies(f, &run.heredocs.iter().collect::<Vec<_>>())
}

fn write_copy(f: &mut Formatter<'_>, copy: &Copy, escape: char) -> fmt::Result {
    write_flag(f, "from", copy.from.as_ref(), escape)?;
    write_flag(f, "chown", copy.chown.as_ref(), escape)?;
    write_flag(f, "chmod", copy.chmod.as_ref(), escape)?;
    write_bool(f, "link", copy.link.then_some(true))?;
    write_bool(f, "parents", copy.parents.then_some(true))?;
    for exclude in &copy.excludes {
        write_flag(f, "exclude", Some(exclude), escape)?;
    }
    write_sources(f, &copy.sources, &copy.destination, escape)
}

fn write_add(f: &mut Formatter<'_>, add: &Add, escape: char) -> fmt::Result {
    write_flag(f, "chown", add.chown.as_ref(), escape)?;
    write_flag(f, "chmod", add.chmod.as_ref(), escape)?;
    write_bool(f, "link", add.link.then_some(true))?;
    for exclude in &add.excludes {
        write_flag(f, "exclude", Some(exclude), escape)?;
    }
    write_flag(f, "checksum", add.checksum.as_ref(), escape)?;
    write_bool(f, "keep-git-dir", add.keep_git_dir)?;
    write_bool(f, "unpack", add.unpack)?;
    write_sources(f, &add.sources, &add.destination, escape)
}

fn write_sources(
    f: &mut Formatter<'_>,
    sources: &[Source],
    destination: &Spanned<String>,
    escape: char,
) -> fmt::Result {
    let mut words = Vec::with_capacity(sources.len() + 1);
    let mut heredocs = Vec::new();
    for source in sources {
        match source {
            Source::Path(path) => words.push(path.as_str()),
            Source::Heredoc(heredoc) => {
                words.push(heredoc.word.as_str());
                heredocs.push(heredoc);
            }
        }
    }
    words.push(destination.as_str());
    if heredocs.is_empty() {
        return write_words(f, &words, escape);
    }
    write_text(f, &words.join(" "), escape)?;
    write_bodies(f, &heredocs)
}

fn write_bodies(f: &mut Formatter<'_>, heredocs: &[&Heredoc]) -> fmt::Result {
    for heredoc in heredocs {
        write!(f, "\n{}{}", heredoc.content, heredoc.name)?;
    }
    Ok(())
}

/// Words between blanks, or as JSON where that would say something else.
fn write_words(f: &mut Formatter<'_>, words: &[&str], escape: char) -> fmt::Result {
    let awkward = |word: &&str| {
        word.is_empty()
            || word.contains(|c: char| c.is_whitespace() || is_blank(c))
            || word.contains("<<")
            || word.ends_with(escape)
            || heredoc::parse_word(word, 0..word.len()).is_some()
    };
    if words.iter().any(awkward) || words.first().is_some_and(|w| w.starts_with('[')) {
        f.write_char(' ')?;
        return write_json(f, words.iter().copied());
    }
    write_text(f, &words.join(" "), escape)
}

fn write_json<'a>(f: &mut Formatter<'_>, words: impl Iterator<Item = &'a str>) -> fmt::Result {
    f.write_char('[')?;
    for (index, word) in words.enumerate() {
        f.write_str(if index == 0 { "\"" } else { ", \"" })?;
        for c in word.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')?;
    }
    f.write_char(']')
}

fn write_healthcheck(f: &mut Formatter<'_>, healthcheck: &Healthcheck) -> fmt::Result {
    let Healthcheck::Test { command, interval, timeout, start_period, start_interval, retries } =
        healthcheck
    else {
        return f.write_str(" NONE");
    };
    let durations = [
        ("interval", interval),
        ("timeout", timeout),
        ("start-period", start_period),
        ("start-interval", start_interval),
    ];
    for (name, duration) in durations {
        if let Some(duration) = duration {
            write!(f, " --{name}={}", go_duration(*duration))?;
        }
    }
    if let Some(retries) = retries {
        write!(f, " --retries={retries}")?;
    }
    write!(f, " CMD {command}")
}

fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        _ if nanos.is_multiple_of(1_000_000_000) => format!("{}s", nanos / 1_000_000_000),
        _ if nanos.is_multiple_of(1_000_000) => format!("{}ms", nanos / 1_000_000),
        _ => format!("{nanos}ns"),
    }
}

fn write_flag(
    f: &mut Formatter<'_>,
    name: &str,
    value: Option<&Spanned<String>>,
    escape: char,
) -> fmt::Result {
    value.map_or(Ok(()), |value| write_value(f, name, value.as_str(), escape))
}

fn write_bool(f: &mut Formatter<'_>, name: &str, value: Option<bool>) -> fmt::Result {
    match value {
        Some(true) => write!(f, " --{name}"),
        Some(false) => write!(f, " --{name}=false"),
        None => Ok(()),
    }
}

/// A flag, its value quoted so that the flag's own quoting and the shell's, which finds heredocs,
/// both read it as one word.
fn write_value(f: &mut Formatter<'_>, name: &str, value: &str, escape: char) -> fmt::Result {
    write!(f, " --{name}=")?;
    for c in value.chars() {
        let special = c == '"' || c == '\'' || c == '\\' || c == escape || c.is_whitespace();
        match (special, escape) {
            (false, _) => f.write_char(c)?,
            (true, '\\') => write!(f, "\\{c}")?,
            (true, _) if c == escape => write!(f, "{escape}{escape}")?,
            (true, _) if c == '\'' => f.write_str("\"'\"")?,
            (true, _) => write!(f, "'{c}'")?,
        }
    }
    Ok(())
}
