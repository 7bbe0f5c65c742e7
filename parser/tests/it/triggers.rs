//! ONBUILD triggers out of an image's configuration.

use parser::{Instruction, InstructionKind, parse, parse_trigger};

fn stored(dockerfile: &str) -> (String, Instruction) {
    let parsed = parse(dockerfile.as_bytes());
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    match parsed.dockerfile.stages[0].instructions[0].kind.clone() {
        InstructionKind::Onbuild(onbuild) => (onbuild.trigger, *onbuild.instruction.unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stored_trigger_parses_to_what_was_declared() {
    for dockerfile in [
        "FROM a\nONBUILD RUN make \\\n  all",
        "FROM a\nonbuild copy --from=x --chown=\"a b\" . /src",
        "FROM a\nONBUILD RUN <<EOF cat - <<-'X'\nfirst\nEOF\n\tsecond\n\tX\n",
        "FROM a\nONBUILD ADD <<file /x\n$HOME\nfile\nRUN next",
        "FROM a\nONBUILD ENV a=b c=\"d e\"",
    ] {
        let (trigger, declared) = stored(dockerfile);
        assert_eq!(parse_trigger(&trigger).unwrap(), declared, "{trigger}");
    }
}

#[test]
fn what_is_no_trigger_is_refused() {
    for (trigger, expected) in [
        ("", "onbuild trigger should be a single expression"),
        ("# only a comment", "onbuild trigger should be a single expression"),
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("MAINTAINER x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("NOSUCH x", "unknown instruction: NOSUCH"),
        ("RUN <<EOF\nbody", "unterminated heredoc"),
    ] {
        let errors = parse_trigger(trigger).unwrap_err();
        let messages: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(messages, [expected], "{trigger:?}");
    }
}
