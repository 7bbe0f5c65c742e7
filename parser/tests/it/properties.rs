//! What holds for any text: no panic, spans inside the text, and a printed tree is the same tree.
//!
//! The texts are the corpus, mutated by a small generator with a fixed seed, so that a failure
//! comes back on every run.

use parser::{
    Dockerfile, Expander, Instruction, InstructionKind, Parsed, Source, Span, parse, parse_ignore,
    parse_trigger,
};

use crate::corpus::cases;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Pieces that mean something to a Dockerfile.
const PIECES: &[&str] = &[
    "\n",
    "\r\n",
    "\\",
    "\\\n",
    "`",
    "\"",
    "'",
    "$",
    "${",
    "}",
    "${A:-",
    "#",
    "# escape=`\n",
    "<<",
    "<<EOF",
    "<<-EOF",
    "<<'EOF'",
    "EOF\n",
    "\nEOF\n",
    "[",
    "]",
    "[\"",
    "\"]",
    ",",
    "=",
    "--",
    " -- ",
    "--from=",
    "--mount=",
    "type=cache,",
    "FROM a\n",
    "\nRUN ",
    "\nCOPY ",
    "\nENV ",
    "\nONBUILD ",
    "\nHEALTHCHECK ",
    " AS ",
    "\t",
    " ",
    "\u{a0}",
    "ä",
    "\u{feff}",
    "\0",
    "\u{b}",
    ":",
    "/",
    "*",
    "!",
];

fn mutate(source: &[u8], others: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut text = source.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(12)).min(text.len());
        match random.below(6) {
            0 => drop(text.drain(at..end)),
            1 | 2 => {
                let piece = PIECES[random.below(PIECES.len())];
                drop(text.splice(at..at, piece.bytes()));
            }
            3 => {
                let piece = PIECES[random.below(PIECES.len())];
                drop(text.splice(at..end, piece.bytes()));
            }
            4 => {
                let other = &others[random.below(others.len())].1;
                let from = random.below(other.len() + 1);
                let to = (from + random.below(60)).min(other.len());
                drop(text.splice(at..at, other[from..to].iter().copied()));
            }
            _ => {
                if let Some(byte) = text.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
    text
}

/// Runs `check` on the corpus and on `count` mutants of it; `STRAKE_MUTANTS=n` makes it n times as
/// many.
fn for_any_text(seed: u64, count: usize, check: impl Fn(&[u8])) {
    let times = std::env::var("STRAKE_MUTANTS").ok().and_then(|n| n.parse::<usize>().ok());
    let count = count * times.unwrap_or(1);
    let cases = cases();
    cases.iter().for_each(|(_, source)| check(source));
    let mut random = Random(seed);
    for _ in 0..count {
        let source = &cases[random.below(cases.len())].1;
        check(&mutate(source, &cases, &mut random));
    }
}

fn shown(source: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(source))
}

/// All spans of a parsed file that a caller may slice the source with.
fn spans(parsed: &Parsed) -> Vec<Span> {
    let mut spans: Vec<Span> = parsed.diagnostics.iter().map(|d| d.span).collect();
    let Dockerfile { global_args, stages, directives } = &parsed.dockerfile;
    spans.extend(directives.syntax.iter().map(|syntax| syntax.span));
    for arg in global_args {
        spans.push(arg.span);
        spans.extend(arg.kind.args.iter().map(|arg| arg.name.span));
    }
    for stage in stages {
        spans.extend([stage.span, stage.from_span, stage.base.span]);
        spans.extend(stage.name.iter().chain(&stage.platform).map(|text| text.span));
        stage
            .instructions
            .iter()
            .for_each(|instruction| instruction_spans(instruction, &mut spans));
    }
    spans
}

fn instruction_spans(instruction: &Instruction, spans: &mut Vec<Span>) {
    spans.push(instruction.span);
    match &instruction.kind {
        InstructionKind::Copy(copy) => {
            spans.push(copy.destination.span);
            spans.extend(copy.from.iter().chain(&copy.chown).chain(&copy.excludes).map(|t| t.span));
            for source in &copy.sources {
                match source {
                    Source::Path(path) => spans.push(path.span),
                    Source::Heredoc(heredoc) => spans.extend([heredoc.word.span, heredoc.span]),
                }
            }
        }
        InstructionKind::Run(run) => {
            spans.extend(run.heredocs.iter().flat_map(|h| [h.word.span, h.span]));
            for mount in &run.mounts {
                spans.push(mount.span);
                spans.extend(mount.options.iter().map(|option| option.key.span));
            }
        }
        InstructionKind::Env(env) => {
            spans.extend(env.pairs.iter().flat_map(|pair| [pair.key.span, pair.value.span]));
        }
        InstructionKind::Expose(expose) => spans.extend(expose.ports.iter().map(|p| p.span)),
        InstructionKind::Workdir(workdir) => spans.push(workdir.path.span),
        InstructionKind::Onbuild(onbuild) => {
            onbuild.instruction.iter().for_each(|inner| instruction_spans(inner, spans));
        }
        _ => {}
    }
}

#[test]
fn every_span_lies_inside_the_text() {
    for_any_text(1, 4_000, |source| {
        let parsed = parse(source);
        for Span { start, end } in spans(&parsed) {
            assert!(start <= end && end <= source.len(), "{start}..{end} of {}", shown(source));
            // Where the text is text, a span never cuts a character.
            if let Ok(text) = std::str::from_utf8(source) {
                assert!(text.get(start..end).is_some(), "{start}..{end} of {}", shown(source));
            }
        }
    });
}

fn has_open_quotes(tree: &Dockerfile) -> bool {
    let expander = parser::Expander { escape: tree.directives.escape };
    let is_open = |word: &parser::Spanned<String>| {
        matches!(expander.expand(word.as_str(), &|_| None), Err(parser::ExpandError::Quote { .. }))
    };
    tree.stages.iter().flat_map(|stage| &stage.instructions).any(|instruction| {
        match &instruction.kind {
            InstructionKind::Env(parser::Env { pairs, .. })
            | InstructionKind::Label(parser::Label { pairs, .. }) => {
                pairs.iter().any(|pair| is_open(&pair.key) || is_open(&pair.value))
            }
            _ => false,
        }
    })
}

#[test]
fn a_printed_tree_parses_to_itself() {
    for_any_text(2, 4_000, |source| {
        let tree = parse(source).dockerfile;
        // A value with an open quote ends where the line ends, blanks and all; no printed line
        // says that again. Nothing builds from such a file either.
        if has_open_quotes(&tree) {
            return;
        }
        let printed = tree.to_string();
        let again = parse(printed.as_bytes());
        assert_eq!(again.dockerfile, tree, "{} printed as {printed:?}", shown(source));
    });
}

#[test]
fn a_file_without_stages_is_an_error() {
    for_any_text(3, 1_500, |source| {
        let parsed = parse(source);
        let empty = parsed.dockerfile.stages.is_empty();
        assert!(!empty || parsed.has_errors(), "{}", shown(source));
    });
}

#[test]
fn diagnostics_come_in_the_order_of_the_source() {
    for_any_text(4, 1_500, |source| {
        let starts: Vec<_> = parse(source).diagnostics.iter().map(|d| d.span.start).collect();
        assert!(starts.is_sorted(), "{starts:?} in {}", shown(source));
    });
}

#[test]
fn nothing_panics_on_any_text() {
    for_any_text(5, 1_500, |source| {
        let (lines, _) = parse_ignore(source);
        assert!(lines.iter().all(|line| !line.pattern.is_empty()), "{}", shown(source));
        let text = String::from_utf8_lossy(source);
        if let Ok(instruction) = parse_trigger(&text) {
            assert!(instruction.span.end <= text.len(), "{}", shown(source));
        }
        let lookup = |name: &str| name.starts_with('A').then(|| name.to_lowercase());
        for escape in ['\\', '`'] {
            let expander = Expander { escape };
            for line in text.lines() {
                let word = expander.expand(line, &lookup);
                let words = expander.expand_words(line, &lookup);
                assert_eq!(word.is_ok(), words.is_ok(), "{line:?}");
                let _ = expander.expand_heredoc(line, &lookup);
            }
        }
    });
}
