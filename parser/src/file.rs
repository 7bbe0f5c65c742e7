//! A whole file: instructions in order → stages.

use crate::ast::*;
use crate::diagnostic::Diagnostic;
use crate::directive::{self, Top};
use crate::head::{Head, Joined};
use crate::heredoc::{self, HeredocWord};
use crate::instruction::{self, Node};
use crate::lexer::{Lexer, Logical};
use crate::lint::{self, Checks, Skip};
use crate::span::{LineIndex, Span};
use crate::{ParseOptions, Parsed};

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Parses `source`; see [`crate::parse_with`].
pub(crate) fn parse(source: &[u8], options: &ParseOptions) -> Parsed {
    let lines = LineIndex::new(source);
    let mut diagnostics = Vec::new();
    let text = match std::str::from_utf8(source) {
        Ok(text) => std::borrow::Cow::Borrowed(text),
        Err(_) if source.contains(&0) => {
            let error = Diagnostic::error("the file is not text", Span::default());
            return Parsed { diagnostics: vec![error], lines, ..Parsed::default() };
        }
        Err(_) => std::borrow::Cow::Owned(only_utf8(source, &mut diagnostics)),
    };
    let start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let check = options.check.as_ref();
    let Top { directives, end, lines: read } =
        directive::read(&text, start, check, &mut diagnostics);
    let file = File {
        lexer: Lexer::new(&text, end, read, directives.escape as u8),
        dockerfile: Dockerfile { directives, ..Dockerfile::default() },
        diagnostics,
        state: State::Start,
        any: false,
    };
    let (dockerfile, mut diagnostics) = file.run(text.len());
    diagnostics.extend(lint::check(&dockerfile));
    // In the order of the source; errors of one place before its warnings.
    diagnostics.sort_by_key(|d| (d.span.start, !d.is_error()));
    Parsed { dockerfile, diagnostics, lines }
}

/// `source` with every byte that is no UTF-8 replaced, so that offsets stay what they are. Each
/// line with such bytes is an error, unless it is a comment.
fn only_utf8(source: &[u8], diagnostics: &mut Vec<Diagnostic>) -> String {
    let mut text = String::with_capacity(source.len());
    let mut start = 0;
    for line in source.split_inclusive(|b| *b == b'\n') {
        let is_comment = line.trim_ascii_start().starts_with(b"#");
        let mut reported = is_comment;
        for chunk in line.utf8_chunks() {
            text.push_str(chunk.valid());
            let bad = chunk.invalid();
            if !bad.is_empty() && !reported {
                reported = true;
                let at = text.len();
                let message = format!("invalid UTF-8: byte 0x{:02x}", bad[0]);
                let hint = "save the file as UTF-8";
                let span = Span::new(at, at + bad.len());
                diagnostics.push(Diagnostic::error(message, span).with_hint(hint));
            }
            text.extend(std::iter::repeat_n('?', bad.len()));
        }
        start += line.len();
        debug_assert_eq!(text.len(), start);
    }
    text
}

/// What the instructions so far have come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No `FROM` yet.
    Start,
    /// No `FROM` yet, and an instruction that needed one was reported.
    Complained,
    /// In the last stage of the tree.
    Stage,
    /// Behind a `FROM` with an error: what follows is checked and dropped.
    Lost,
}

struct File<'a> {
    lexer: Lexer<'a>,
    dockerfile: Dockerfile,
    diagnostics: Vec<Diagnostic>,
    state: State,
    any: bool,
}

impl<'a> File<'a> {
    fn run(mut self, length: usize) -> (Dockerfile, Vec<Diagnostic>) {
        while let Some(logical) = self.lexer.next(&mut self.diagnostics) {
            self.any = true;
            self.instruction(logical);
        }
        let span = Span::new(length, length);
        if !self.any {
            self.diagnostics.push(Diagnostic::error("file with no instructions", span));
        } else if self.state == State::Start && !self.diagnostics.iter().any(Diagnostic::is_error) {
            let error = Diagnostic::error("dockerfile contains no stages to build", span);
            self.diagnostics.push(error.with_hint("every build starts with a FROM"));
        }
        (self.dockerfile, self.diagnostics)
    }

    fn instruction(&mut self, mut logical: Logical<'a>) {
        let escape = self.dockerfile.directives.escape;
        let skip = skip_of(&logical.comments);
        if let Some(span) = logical.empty_line
            && self.dockerfile.directives.check.reports("NoEmptyContinuation", &skip)
        {
            let message = "Empty continuation line";
            self.diagnostics.push(Diagnostic::warning("NoEmptyContinuation", message, span));
        }
        match read(&mut self.lexer, &mut logical, escape, &mut self.diagnostics) {
            Ok(Node::From(from)) => {
                self.state = State::Stage;
                self.dockerfile.stages.push(stage(from, logical, skip));
            }
            Ok(Node::Part(kind)) => self.part(kind, logical, skip),
            Err(error) => {
                self.diagnostics.push(error);
                let text = logical.text.trim_start();
                if text.get(..4).is_some_and(|keyword| keyword.eq_ignore_ascii_case("from")) {
                    self.state = State::Lost;
                }
            }
        }
    }

    fn part(&mut self, kind: InstructionKind, logical: Logical<'_>, skip: Skip) {
        let span = logical.span;
        match (self.state, kind) {
            (State::Stage, kind) => {
                if let Some(stage) = self.dockerfile.stages.last_mut() {
                    stage.span.end = span.end;
                    stage.instructions.push(placed(kind, logical, skip));
                }
            }
            (State::Start | State::Complained, InstructionKind::Arg(arg)) => {
                self.dockerfile.global_args.push(placed(arg, logical, skip));
            }
            (State::Start, _) => {
                self.state = State::Complained;
                let error = Diagnostic::error("no build stage in current context", span);
                let hint = "only ARG may stand before the first FROM";
                self.diagnostics.push(error.with_hint(hint));
            }
            (State::Complained | State::Lost, _) => {}
        }
    }
}

fn stage(from: instruction::From, logical: Logical<'_>, skip: Skip) -> Stage {
    Stage {
        name: from.name,
        base: from.base,
        platform: from.platform,
        instructions: Vec::new(),
        span: logical.span,
        from_span: logical.span,
        from_lines: logical.lines,
        text: logical.text.trim().to_owned(),
        comments: owned(&logical.comments),
        skip,
    }
}

fn placed<K>(kind: K, logical: Logical<'_>, skip: Skip) -> Instruction<K> {
    Instruction {
        kind,
        span: logical.span,
        lines: logical.lines,
        text: logical.text.trim().to_owned(),
        comments: owned(&logical.comments),
        skip,
    }
}

fn owned(comments: &[&str]) -> Vec<String> {
    comments.iter().map(|comment| (*comment).to_owned()).collect()
}

/// The checks that `# check=skip=…` comments directly above an instruction switch off.
fn skip_of(comments: &[&str]) -> Skip {
    let mut skip = Skip::default();
    for comment in comments {
        if let Some((key, value)) = directive::split(comment)
            && key.eq_ignore_ascii_case("check")
            && let Ok(check) = Checks::parse(value.split(' ').next().unwrap_or(value))
        {
            skip.all |= check.skip.all;
            skip.names.extend(check.skip.names);
        }
    }
    skip
}

/// Parses one instruction, taking the heredocs that follow it out of `lexer`. `logical` grows by
/// them.
fn read<'a>(
    lexer: &mut Lexer<'a>,
    logical: &mut Logical<'a>,
    escape: char,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Node, Diagnostic> {
    let joined = Joined { text: &logical.text, map: &logical.map, escape };
    let head = Head::read(joined, 0);
    let mut heredocs = Vec::new();
    let mut end = None;
    for word in words_that_open(&head, lexer) {
        let HeredocWord { range, fd, strip_tabs, name, expand } = word;
        let opened = joined.spanned(range.clone());
        let Some(body) = lexer.heredoc_body(&name, strip_tabs, diagnostics) else {
            let error = Diagnostic::error("unterminated heredoc", opened.span);
            return Err(error.with_hint(format!("no line is exactly `{name}`")));
        };
        end = Some((body.end, body.last_line));
        let content = body.content.to_owned();
        let span = body.span;
        let heredoc = Heredoc { name, fd, strip_tabs, expand, content, word: opened, span };
        heredocs.push((range, heredoc));
    }
    let node = instruction::parse(head, heredocs);
    if let Some((end, last)) = end {
        logical.span.end = end;
        logical.lines.last = last;
    }
    let mut node = node?;
    if let Node::Part(InstructionKind::Onbuild(onbuild)) = &mut node
        && let Some(instruction) = &mut onbuild.instruction
    {
        instruction.lines = logical.lines;
        instruction.span.end = logical.span.end;
    }
    Ok(node)
}

/// The words of the instruction that open heredocs: of `RUN`, `COPY`, `ADD`, of those behind
/// `ONBUILD`, and of keywords that look like a mistyped one of them if the bodies are there.
fn words_that_open(head: &Head<'_>, lexer: &Lexer<'_>) -> Vec<HeredocWord> {
    let text = head.joined.text;
    if !text.contains("<<") {
        return Vec::new();
    }
    let inner;
    let command = if head.keyword().eq_ignore_ascii_case("ONBUILD") {
        inner = Head::read(head.joined, head.args.start);
        &inner
    } else {
        head
    };
    let known = instruction::takes_heredocs(command.keyword());
    if !known && !instruction::is_unknown(command.keyword()) {
        return Vec::new();
    }
    if matches!(crate::grammar::json_array(command.args()), crate::grammar::Json::Strings(_)) {
        return Vec::new();
    }
    let words = heredoc::heredoc_words(text);
    // A guess is not worth more than a look at the lines nearby.
    let terminated = |word: &HeredocWord| {
        let mut lines = lexer.rest().lines().take(1000);
        lines.any(|line| line.trim_start_matches('\t') == word.name)
    };
    if !known && !words.iter().all(terminated) {
        return Vec::new();
    }
    words
}

/// Parses one trigger; see [`crate::parse_trigger`].
pub(crate) fn parse_trigger(trigger: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    let mut lexer = Lexer::new(trigger, 0, 0, b'\\');
    let whole = Span::new(0, trigger.len());
    let Some(mut logical) = lexer.next(&mut diagnostics) else {
        diagnostics.push(Diagnostic::error("onbuild trigger should be a single expression", whole));
        return Err(diagnostics);
    };
    let refused = {
        let joined = Joined { text: &logical.text, map: &logical.map, escape: '\\' };
        instruction::check_trigger(&Head::read(joined, 0))
    };
    let node = match refused {
        Ok(()) => read(&mut lexer, &mut logical, '\\', &mut diagnostics),
        Err(error) => Err(error),
    };
    match node {
        Ok(Node::Part(kind)) => {
            if lexer.next(&mut diagnostics).is_some() {
                let message = "onbuild trigger should be a single expression";
                diagnostics.push(Diagnostic::error(message, whole));
            }
            if diagnostics.is_empty() {
                return Ok(placed(kind, logical, Skip::default()));
            }
        }
        Ok(Node::From(_)) => {
            let message = "FROM isn't allowed as an ONBUILD trigger";
            diagnostics.push(Diagnostic::error(message, whole));
        }
        Err(error) => diagnostics.push(error),
    }
    Err(diagnostics)
}
