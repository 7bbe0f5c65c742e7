//! Spans lead to the words that people wrote, also across joined lines.

use parser::{InstructionKind, LineColumn, Source, Span, Spanned, parse};

fn text(source: &str, span: Span) -> &str {
    &source[span.start..span.end]
}

#[test]
fn words_of_joined_lines_are_found_in_the_source() {
    let source =
        "\u{feff}FROM a\nCOPY --chown=me \\\n  # a comment\n\n  first \\\n  se\\\ncond \\\n  /to\n";
    let parsed = parse(source.as_bytes());
    let stage = &parsed.dockerfile.stages[0];
    assert_eq!(text(source, stage.base.span), "a");
    let InstructionKind::Copy(copy) = &stage.instructions[0].kind else { panic!("COPY") };
    let span = |word: &Spanned<String>| text(source, word.span).to_owned();
    assert_eq!(span(copy.chown.as_ref().unwrap()), "me");
    let path = |source: &Source| match source {
        Source::Path(path) => (path.value.clone(), span(path)),
        Source::Heredoc(_) => panic!("no heredoc"),
    };
    let paths: Vec<_> = copy.sources.iter().map(path).collect();
    assert_eq!(paths[0], ("first".to_owned(), "first".to_owned()));
    assert_eq!(paths[1], ("second".to_owned(), "se\\\ncond".to_owned()));
    assert_eq!(span(&copy.destination), "/to");
    let lines = stage.instructions[0].lines;
    assert_eq!((lines.first, lines.last), (2, 8));
    let position = parsed.lines.position(source.as_bytes(), copy.destination.span.start);
    assert_eq!(position, LineColumn { line: 8, column: 3 });
}

#[test]
fn heredocs_belong_to_the_lines_of_their_instruction() {
    let source = "FROM a\nRUN <<A cat <<B\none\nA\ntwo\nB\nRUN next\n";
    let parsed = parse(source.as_bytes());
    let stage = &parsed.dockerfile.stages[0];
    let [first, second] = stage.instructions.as_slice() else { panic!("two instructions") };
    assert_eq!((first.lines.first, first.lines.last), (2, 6));
    assert_eq!(text(source, first.span), "RUN <<A cat <<B\none\nA\ntwo\nB");
    let InstructionKind::Run(run) = &first.kind else { panic!("RUN") };
    assert_eq!(text(source, run.heredocs[1].word.span), "<<B");
    assert_eq!(text(source, run.heredocs[1].span), "two\n");
    assert_eq!((second.lines.first, second.lines.last), (7, 7));
    assert_eq!(stage.span, Span::new(0, source.len() - 1));
}

#[test]
fn columns_count_characters() {
    let source = "FROM a\nENV ä=ö x\n";
    let parsed = parse(source.as_bytes());
    let [error] = parsed.diagnostics.as_slice() else { panic!("{:?}", parsed.diagnostics) };
    let position = parsed.lines.position(source.as_bytes(), error.span.start);
    assert_eq!(position, LineColumn { line: 2, column: 9 });
    assert_eq!(position.to_string(), "2:9");
}

#[test]
fn an_option_of_a_mount_is_pointed_at() {
    let source = "FROM a\nRUN --mount=type=cache,targte=/x make\n";
    let parsed = parse(source.as_bytes());
    let InstructionKind::Run(run) = &parsed.dockerfile.stages[0].instructions[0].kind else {
        panic!("{parsed:?}")
    };
    let [mount] = run.mounts.as_slice() else { panic!("{run:?}") };
    let error = mount.resolve(&mut |value| Ok(value.to_owned())).unwrap_err();
    let error = error.diagnostic(mount.span);
    assert_eq!(text(source, error.span), "targte=/x");
    assert_eq!(error.hint.as_deref(), Some("did you mean target?"));
}
