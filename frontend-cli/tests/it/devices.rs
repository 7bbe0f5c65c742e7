//! `RUN --device`: what specifications of the container device interface give to a step.

use std::path::Path;

use crate::sealed::{Identity, Outcome, Sealed};

const CARD: &str = "cdiVersion: \"0.6.0\"
kind: example.com/card
devices:
- name: zero
  containerEdits:
    env:
    - CARD=zero
    deviceNodes:
    - path: /dev/card0
      hostPath: /dev/zero
    mounts:
    - hostPath: PLACE/library
      containerPath: /usr/lib/card
      options: [ro, rbind]
- name: hooked
  containerEdits:
    hooks:
    - hookName: createContainer
      path: /usr/bin/true
";

fn build(sealed: &Sealed, arguments: &[&str], step: &str) -> Outcome {
    sealed.write("context/Dockerfile", format!("FROM busybox\nENV CARD=none\n{step}\n"));
    let [context, cdi] = ["context", "cdi"].map(|name| sealed.path().join(name));
    let words: Vec<&Path> =
        ["build", "--progress=plain", "-t=made", "--cdi-spec-dir"].map(Path::new).into();
    let words = [words, vec![&cdi], arguments.iter().map(Path::new).collect(), vec![&context]];
    sealed.strake(words.concat())
}

#[test]
fn a_device_is_there_for_its_step_alone() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        sealed.write("library/code", "code");
        let place = sealed.path().display().to_string();
        sealed.write("cdi/card.yaml", CARD.replace("PLACE", &place));
        let step = "RUN --device=example.com/card=zero,required test $CARD = zero && \
             test $(head -c 5 /dev/card0 | tr '\\0' x) = xxxxx && \
             test $(cat /usr/lib/card/code) = code && ! touch /usr/lib/card/new\n\
             RUN test $CARD = none && test ! -e /dev/card0 && test ! -e /usr/lib/card";
        build(&sealed, &["--allow=device"], step).success();
        let refused = build(&sealed, &["--no-cache"], step);
        let error = refused.failure(1);
        assert!(error.contains("device example.com/card=zero is requested"), "{refused}");
        assert!(error.contains("--allow device=example.com/card=zero"), "{refused}");
        assert!(error.contains("Dockerfile:3"), "{refused}");
        build(&sealed, &["--no-cache", "--allow=device=example.com/card=zero"], step).success();
    }
}

#[test]
fn a_device_that_is_not_there_is_missed_only_where_it_is_required() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("cdi/card.yaml", CARD.replace("PLACE", "/nowhere"));
    let outcome = build(&sealed, &[], "RUN --device=example.com/card=nine test $CARD = none");
    outcome.success();
    assert!(outcome.stderr.contains("example.com/card=nine is not registered"), "{outcome}");
    for (device, expected) in [
        ("example.com/card=zeroo,required", "did you mean `example.com/card=zero`?"),
        ("example.com/card=hooked", "wants hooks"),
        ("example.com/card=zero", "wants `/nowhere/library`, which is not there"),
    ] {
        let step = format!("RUN --device={device} true");
        let outcome = build(&sealed, &["--allow=device"], &step);
        assert!(outcome.failure(1).contains(expected), "{outcome}");
    }
}
