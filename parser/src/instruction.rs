//! One logical instruction → one node of the tree, or the one thing that is wrong with it.

use std::ops::Range;
use std::time::Duration;

use crate::ast::*;
use crate::copy;
use crate::diagnostic::Diagnostic;
use crate::expand::Expander;
use crate::flags::Takes;
use crate::grammar::is_blank;
use crate::head::{Head, go_quoted};
use crate::run;
use crate::span::Spanned;
use crate::suggest;
use crate::value;

/// All keywords, for suggestions.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What an instruction is: the start of a stage, or part of one.
pub(crate) enum Node {
    From(From),
    Part(InstructionKind),
}

/// `FROM`
pub(crate) struct From {
    pub(crate) base: Spanned<String>,
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) platform: Option<Spanned<String>>,
}

/// A heredoc of the instruction and the range of its word in the joined text.
pub(crate) type PlacedHeredoc = (Range<usize>, Heredoc);

/// Whether heredocs may follow the instruction, as far as its keyword tells.
pub(crate) fn takes_heredocs(keyword: &str) -> bool {
    ["RUN", "COPY", "ADD"].iter().any(|known| keyword.eq_ignore_ascii_case(known))
}

/// Whether there is no instruction of this name.
pub(crate) fn is_unknown(keyword: &str) -> bool {
    !KEYWORDS.iter().any(|known| keyword.eq_ignore_ascii_case(known))
}

/// Parses the instruction that `head` begins.
///
/// What words expand to is not looked at, even where no variable stands in them: BuildKit checks
/// ports, signals, modes and quotes only of the stages that it builds, and so does the lowering.
pub(crate) fn parse(head: Head<'_>, heredocs: Vec<PlacedHeredoc>) -> Result<Node, Diagnostic> {
    use InstructionKind as Kind;
    let bodies = |heredocs: Vec<PlacedHeredoc>| heredocs.into_iter().map(|(_, h)| h).collect();
    let part = match head.keyword().to_ascii_uppercase().as_str() {
        "FROM" => return from(head).map(Node::From),
        "ADD" => Kind::Add(copy::parse_add(head, heredocs)?),
        "ARG" => Kind::Arg(arg(head)?),
        "CMD" => Kind::Cmd(Cmd { command: plain_command(head)? }),
        "COPY" => Kind::Copy(copy::parse_copy(head, heredocs)?),
        "ENTRYPOINT" => Kind::Entrypoint(Entrypoint { command: plain_command(head)? }),
        "ENV" => {
            let (pairs, legacy) = key_values(head, "ENV")?;
            Kind::Env(Env { pairs, legacy })
        }
        "EXPOSE" => Kind::Expose(expose(head)?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(head)?),
        "LABEL" => {
            let (pairs, legacy) = key_values(head, "LABEL")?;
            Kind::Label(Label { pairs, legacy })
        }
        "MAINTAINER" => Kind::Maintainer(Maintainer { name: one_text(head, "MAINTAINER")? }),
        "ONBUILD" => Kind::Onbuild(onbuild(head, heredocs)?),
        "RUN" => Kind::Run(run::parse(head, bodies(heredocs))?),
        "SHELL" => Kind::Shell(shell(head)?),
        "STOPSIGNAL" => Kind::Stopsignal(stopsignal(head)?),
        "USER" => Kind::User(User { user: one_text(head, "USER")? }),
        "VOLUME" => Kind::Volume(volume(head)?),
        "WORKDIR" => Kind::Workdir(Workdir { path: one_text(head, "WORKDIR")? }),
        _ => return Err(unknown(&head)),
    };
    Ok(Node::Part(part))
}

fn unknown(head: &Head<'_>) -> Diagnostic {
    let keyword = head.keyword();
    let error = Diagnostic::error(
        format!("unknown instruction: {keyword}"),
        head.joined.span(&head.keyword),
    );
    match suggest::nearest(keyword, &KEYWORDS) {
        Some(near) => error.with_hint(format!("did you mean {near}?")),
        None => error,
    }
}

fn from(head: Head<'_>) -> Result<From, Diagnostic> {
    let joined = head.joined;
    let words = head.plain_words();
    let word =
        |(text, range): &(String, Range<usize>)| Spanned::new(text.clone(), joined.span(range));
    let (base, name) = match words.as_slice() {
        [base] => (word(base), None),
        [base, keyword, name] if keyword.0.eq_ignore_ascii_case("as") => {
            let mut name = word(name);
            let lower = name.value.to_lowercase();
            if !is_stage_name(&lower) {
                let message = format!(
                    "invalid name for build stage: {}, name can't start with a number or contain \
                     symbols",
                    go_quoted(&name.value)
                );
                return Err(Diagnostic::error(message, name.span));
            }
            name.value = lower;
            (word(base), Some(name))
        }
        _ => return Err(head.error("FROM requires either one or three arguments")),
    };
    let mut flags = head.flags(&[("platform", Takes::Text)])?;
    Ok(From { base, name, platform: flags.text("platform") })
}

/// `[a-z][a-z0-9-_.]*`
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

/// The arguments as one text, which must not be empty.
fn one_text(head: Head<'_>, keyword: &str) -> Result<Spanned<String>, Diagnostic> {
    if head.args.is_empty() {
        return Err(head.error(format!("{keyword} requires exactly one argument")));
    }
    let text = head.joined.spanned(head.args.clone());
    head.no_flags()?;
    Ok(text)
}

fn plain_command(head: Head<'_>) -> Result<CommandForm, Diagnostic> {
    let command = head.command()?;
    head.no_flags()?;
    Ok(command)
}

fn arg(head: Head<'_>) -> Result<Arg, Diagnostic> {
    let words = head.quoted_words();
    if words.is_empty() {
        return Err(head.error("ARG requires at least one argument"));
    }
    // Flags are not looked at: BuildKit drops `--x` words of ARG without a word.
    let definition = |range: Range<usize>| {
        let Some(at) = head.joined.text[range.clone()].find('=') else {
            return Ok(ArgDefinition { name: head.joined.spanned(range), default: None });
        };
        let at = range.start + at;
        if at == range.start {
            return Err(Diagnostic::error("ARG names can not be blank", head.joined.span(&range)));
        }
        Ok(ArgDefinition {
            name: head.joined.spanned(range.start..at),
            default: Some(head.joined.spanned(at + 1..range.end)),
        })
    };
    Ok(Arg { args: words.into_iter().map(definition).collect::<Result<_, _>>()? })
}

/// `key=value …`, or the legacy `key value`.
fn key_values(head: Head<'_>, keyword: &str) -> Result<(Vec<KeyValue>, bool), Diagnostic> {
    let joined = head.joined;
    let words = head.quoted_words();
    let Some(first) = words.first() else {
        return Err(head.error(format!("{keyword} requires at least one argument")));
    };
    let legacy = !joined.text[first.clone()].contains('=');
    let pairs = if legacy {
        let text = head.args();
        let Some(end) = text.find(is_blank) else {
            let error = head.error(format!("{keyword} must have two arguments"));
            return Err(error.with_hint(format!("write {keyword} NAME=VALUE")));
        };
        let at = head.args.start + end;
        let value = at + (text[end..].len() - text[end..].trim_start_matches(is_blank).len());
        vec![KeyValue {
            key: joined.spanned(head.args.start..at),
            value: joined.spanned(value..head.args.end),
        }]
    } else {
        let pair = |range: Range<usize>| {
            let word = &joined.text[range.clone()];
            match word.find('=') {
                Some(0) => {
                    let message = format!("{keyword} names can not be blank");
                    Err(Diagnostic::error(message, joined.span(&range)))
                }
                Some(at) => Ok(KeyValue {
                    key: joined.spanned(range.start..range.start + at),
                    value: joined.spanned(range.start + at + 1..range.end),
                }),
                None => {
                    let message = format!(
                        "Syntax error - can't find = in {}. Must be of the form: name=value",
                        go_quoted(word)
                    );
                    let error = Diagnostic::error(message, joined.span(&range));
                    Err(error.with_hint("a value with blanks needs quotes: NAME=\"a value\""))
                }
            }
        };
        words.into_iter().map(pair).collect::<Result<_, _>>()?
    };
    head.no_flags()?;
    Ok((pairs, legacy))
}

fn expose(head: Head<'_>) -> Result<Expose, Diagnostic> {
    let words = head.plain_words();
    if words.is_empty() {
        return Err(head.error("EXPOSE requires at least one argument"));
    }
    let joined = head.joined;
    let mut ports = Vec::with_capacity(words.len());
    for (word, range) in words {
        ports.push(Spanned::new(word, joined.span(&range)));
    }
    head.no_flags()?;
    Ok(Expose { ports })
}

fn stopsignal(head: Head<'_>) -> Result<Stopsignal, Diagnostic> {
    if head.args.is_empty() {
        return Err(head.error("STOPSIGNAL requires exactly one argument"));
    }
    // As with ARG, flags are not looked at.
    Ok(Stopsignal { signal: head.joined.spanned(head.args.clone()) })
}

fn volume(head: Head<'_>) -> Result<Volume, Diagnostic> {
    let words = head.words_or_json()?.words;
    if words.is_empty() {
        return Err(head.error("VOLUME requires at least one argument"));
    }
    let mut paths = Vec::with_capacity(words.len());
    for (word, range) in words {
        let span = head.joined.span(&range);
        let path = word.trim();
        if path.is_empty() {
            let message = "VOLUME specified can not be an empty string";
            return Err(Diagnostic::error(message, span));
        }
        paths.push(Spanned::new(path.to_owned(), span));
    }
    head.no_flags()?;
    Ok(Volume { paths })
}

fn shell(head: Head<'_>) -> Result<Shell, Diagnostic> {
    let command = match head.command()? {
        CommandForm::Exec(command) if !command.is_empty() => command,
        CommandForm::Shell(text) if !text.is_empty() => {
            let error = head.error("SHELL requires the arguments to be in JSON form");
            return Err(error.with_hint("write SHELL [\"/bin/sh\", \"-c\"]"));
        }
        _ => return Err(head.error("SHELL requires at least one argument")),
    };
    head.no_flags()?;
    Ok(Shell { command })
}

fn healthcheck(head: Head<'_>) -> Result<Healthcheck, Diagnostic> {
    const FLAGS: &[(&str, Takes)] = &[
        ("interval", Takes::Text),
        ("timeout", Takes::Text),
        ("start-period", Takes::Text),
        ("start-interval", Takes::Text),
        ("retries", Takes::Text),
    ];
    let args = head.args();
    if args.is_empty() {
        return Err(head.error("HEALTHCHECK requires at least one argument"));
    }
    let end = args.find(char::is_whitespace).unwrap_or(args.len());
    let kind = args[..end].to_uppercase();
    let rest = crate::head::trim(head.joined.text, head.args.start + end..head.args.end);
    if kind == "NONE" {
        // Flags are not looked at here.
        if !rest.is_empty() {
            let span = head.joined.span(&rest);
            return Err(Diagnostic::error("HEALTHCHECK NONE takes no arguments", span));
        }
        return Ok(Healthcheck::None);
    }
    if kind != "CMD" {
        let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", go_quoted(&kind));
        let range = head.args.start..head.args.start + end;
        return Err(Diagnostic::error(message, head.joined.span(&range)));
    }
    let command = match head.command_in(rest)? {
        CommandForm::Shell(text) if text.is_empty() => None,
        CommandForm::Exec(words) if words.is_empty() => None,
        command => Some(command),
    };
    let command = command.ok_or_else(|| head.error("Missing command after HEALTHCHECK CMD"))?;
    let mut flags = head.flags(FLAGS)?;
    let mut duration = |name: &str| flags.text(name).map(|t| interval(name, &t)).transpose();
    Ok(Healthcheck::Test {
        command,
        interval: duration("interval")?,
        timeout: duration("timeout")?,
        start_period: duration("start-period")?,
        start_interval: duration("start-interval")?,
        retries: flags.text("retries").map(|text| retries(&text)).transpose()?,
    })
}

/// A duration that is zero or at least a millisecond.
fn interval(name: &str, text: &Spanned<String>) -> Result<Duration, Diagnostic> {
    let error = |message| Diagnostic::error(message, text.span);
    let too_short = || error(format!("Interval {} cannot be less than 1ms", go_quoted(name)));
    let duration = match text.value.strip_prefix('-') {
        Some(positive) => {
            let duration = value::parse_duration(positive).map_err(|error| error.at(text.span))?;
            if !duration.is_zero() {
                return Err(too_short());
            }
            duration
        }
        None => value::parse_duration(&text.value).map_err(|error| error.at(text.span))?,
    };
    if !duration.is_zero() && duration < Duration::from_millis(1) {
        return Err(too_short());
    }
    Ok(duration)
}

fn retries(text: &Spanned<String>) -> Result<u32, Diagnostic> {
    let error = |message| Diagnostic::error(message, text.span);
    match text.value.parse::<i32>() {
        Ok(retries) => u32::try_from(retries)
            .map_err(|_| error(format!("--retries cannot be negative ({retries})"))),
        Err(_) => Err(error(format!("invalid value for --retries: {}", go_quoted(&text.value)))),
    }
}

fn onbuild(head: Head<'_>, heredocs: Vec<PlacedHeredoc>) -> Result<Onbuild, Diagnostic> {
    if head.args.is_empty() {
        return Err(head.error("ONBUILD requires at least one argument"));
    }
    let joined = head.joined;
    let start = head.args.start;
    let (span, args) = (joined.span(&head.args), head.args.clone());
    head.no_flags()?;
    let inner = Head::read(joined, start);
    check_trigger(&inner)?;
    let mut trigger = joined.text[start..].to_owned();
    for (_, heredoc) in &heredocs {
        trigger.push('\n');
        trigger.push_str(&heredoc.content);
        trigger.push_str(&heredoc.name);
    }
    // What is wrong with a trigger is the error of the build that it fires in, but for what
    // BuildKit's first pass over the file finds: arrays with other things than strings, pairs
    // without `=`.
    let instruction = match parse(inner, heredocs) {
        Ok(Node::Part(kind)) => Some(Box::new(Instruction {
            kind,
            span,
            // The caller, who knows them, puts in the lines of the whole.
            lines: Default::default(),
            text: joined.text[args].to_owned(),
            comments: Vec::new(),
            skip: Default::default(),
        })),
        Err(error) if is_syntax(&error) => return Err(error),
        // `check_trigger` has refused FROM.
        Ok(Node::From(_)) | Err(_) => None,
    };
    Ok(Onbuild { trigger, instruction })
}

fn is_syntax(error: &Diagnostic) -> bool {
    error.message.starts_with("when using JSON array syntax")
        || error.message.ends_with(" must have two arguments")
        || error.message.starts_with("Syntax error - can't find =")
}

/// Fails for instructions that cannot be triggers.
pub(crate) fn check_trigger(head: &Head<'_>) -> Result<(), Diagnostic> {
    let error = |message: String| Diagnostic::error(message, head.joined.span(&head.keyword));
    match head.keyword().to_ascii_uppercase().as_str() {
        "ONBUILD" => Err(error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned())),
        keyword @ ("FROM" | "MAINTAINER") => {
            Err(error(format!("{keyword} isn't allowed as an ONBUILD trigger")))
        }
        _ => Ok(()),
    }
}

/// Whether expansion without any variable would change `word`.
pub(crate) fn expands(word: &str, escape: char) -> bool {
    let expanded = Expander { escape }.expand(word, &|_| None);
    expanded.map_or(true, |expanded| expanded.text != word)
}
