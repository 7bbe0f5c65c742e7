//! `strake build --check` and `--call`, warnings of a build, and `docs/` held to what there is.

use std::collections::BTreeSet;

use fs_err as fs;
use serde_json::{Value, json};

use crate::sealed::{Sealed, repository};

/// A place with this Dockerfile and a context of two files.
fn place(dockerfile: &str) -> (Sealed, String) {
    let sealed = Sealed::new();
    sealed.write("context/Dockerfile", dockerfile);
    sealed.write("context/file", "1");
    sealed.write("context/secret", "2");
    sealed.write("context/.dockerignore", "secret\n");
    let context = sealed.path().join("context").display().to_string();
    (sealed, context)
}

/// The rules that `--check` reports, warnings and hints, and its exit code.
fn rules(dockerfile: &str, more: &[&str]) -> (Vec<String>, i32) {
    let (sealed, context) = place(dockerfile);
    let mut arguments = vec!["build", "--call=check,format=json", &context];
    arguments.extend(more);
    let outcome = sealed.strake(arguments);
    let document: Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error} in {outcome}\n{dockerfile}"));
    let lists = ["warnings", "hints"].map(|list| document[list].as_array().cloned());
    let names = lists.into_iter().flatten().flatten();
    (names.map(|w| w["ruleName"].as_str().unwrap().to_owned()).collect(), outcome.code)
}

#[test]
fn every_rule_of_buildkit_is_found_and_nothing_else() {
    let mut seen = BTreeSet::new();
    for (rule, dockerfile) in [
        ("StageNameCasing", "FROM a AS B\n"),
        ("FromAsCasing", "FROM a as b\n"),
        ("NoEmptyContinuation", "FROM a\nRUN x \\\n\n  y\n"),
        ("ConsistentInstructionCasing", "FROM a\nrun x\nRUN y\n"),
        ("DuplicateStageName", "FROM a AS b\nFROM a AS b\n"),
        ("ReservedStageName", "FROM a AS scratch\n"),
        ("JSONArgsRecommended", "FROM a\nCMD x\n"),
        ("MaintainerDeprecated", "FROM a\nMAINTAINER me\n"),
        ("UndefinedArgInFrom", "FROM a:1${X}\n"),
        ("WorkdirRelativePath", "FROM a\nWORKDIR x\n"),
        ("UndefinedVar", "FROM scratch\nLABEL a=$FOO\n"),
        ("MultipleInstructionsDisallowed", "FROM a\nCMD [\"x\"]\nCMD [\"y\"]\n"),
        ("LegacyKeyValueFormat", "FROM a\nENV k v\n"),
        ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM a\n"),
        ("SecretsUsedInArgOrEnv", "FROM a\nARG PASSWORD\n"),
        ("InvalidDefaultArgInFrom", "ARG V=\nFROM a:$V\n"),
        ("FromPlatformFlagConstDisallowed", "FROM --platform=linux/amd64 a\n"),
        ("CopyIgnoredFile", "FROM a\nCOPY secret /\n"),
        (
            "InvalidDefinitionDescription",
            "# check=experimental=InvalidDefinitionDescription\n\n# odd\nFROM a AS b\n",
        ),
        ("ExposeProtoCasing", "FROM a\nEXPOSE 80/TCP\n"),
        ("ExposeInvalidFormat", "FROM a\nEXPOSE 127.0.0.1:80:80\n"),
    ] {
        // A default that is wrong needs a value that is right.
        let (found, code) = rules(dockerfile, &["--build-arg=V=1"]);
        let found: Vec<_> = found.into_iter().filter(|rule| rule != "UnusedBuildArg").collect();
        assert_eq!((found, code), (vec![rule.to_owned()], 1), "{dockerfile}");
        seen.insert(rule);
    }
    // The 22nd needs an image that lies about its platform: `dockerfile/lint_tests.rs`.
    assert_eq!(seen.len(), parser::RULES.len() - 1);
}

#[test]
fn hints_of_ours_are_reported_and_fail_nothing() {
    for (rule, dockerfile, more) in [
        ("UnusedBuildArg", "FROM a\n", &["--build-arg=X=1"][..]),
        ("WildcardWithoutMatch", "FROM a\nCOPY *.nothing /\n", &[]),
        ("WildcardWithoutMatch", "FROM a\nCOPY secre? /\n", &[]),
        ("MultipleSourcesToFile", "FROM a\nCOPY file Dockerfile /x\n", &[]),
        ("PipelineWithoutPipefail", "FROM a\nRUN curl x | sh\n", &[]),
        ("HeredocWithoutErrexit", "FROM a\nRUN <<EOF\nx\ny\nEOF\n", &[]),
    ] {
        let text = format!("# check=error=true\n{dockerfile}");
        assert_eq!(rules(&text, more), (vec![rule.to_owned()], 0), "{dockerfile}");
    }
    assert_eq!(rules("FROM a\nCOPY fil? /\n", &[]), (vec![], 0));
}

#[test]
fn skips_hold_for_checks_that_need_more_than_the_text() {
    let lines = "COPY secret /\nWORKDIR x\n";
    let skipped = format!("FROM a\n# check=skip=CopyIgnoredFile\n{lines}");
    assert_eq!(rules(&skipped, &[]).0, ["WorkdirRelativePath"]);
    let all = format!("# check=skip=all\nFROM a\n{lines}");
    assert_eq!(rules(&all, &[]), (vec![], 0));
    let build_arg = "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=CopyIgnoredFile";
    assert_eq!(rules(&format!("FROM a\n{lines}"), &[build_arg]).0, ["WorkdirRelativePath"]);
}

#[test]
fn every_stage_is_checked_unless_a_target_is_named() {
    let dockerfile = "FROM scratch AS one\nLABEL a=$A\nFROM scratch AS two\nLABEL b=$B\n";
    assert_eq!(rules(dockerfile, &[]).0, ["UndefinedVar", "UndefinedVar"]);
    assert_eq!(rules(dockerfile, &["--target=two"]).0, ["UndefinedVar"]);
}

#[test]
fn what_an_unknown_image_may_set_is_not_undefined() {
    let dockerfile = "FROM unknown.invalid/a AS b\nFROM b\nLABEL a=$A\n";
    assert_eq!(rules(dockerfile, &[]), (vec![], 0));
}

#[test]
fn the_text_of_a_check_is_that_of_buildx() {
    let (sealed, context) = place("FROM scratch\nENV a=b\nCMD x\n");
    let outcome = sealed.strake(["build", "--check", &context]);
    assert_eq!(outcome.code, 1, "{outcome}");
    assert_eq!(
        outcome.stdout,
        "Check complete, 1 warning has been found!\n\
         \n\
         WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n\
         JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\n\
         Dockerfile:3\n\
         --------------------\n\
         \x20  1 |     FROM scratch\n\
         \x20  2 |     ENV a=b\n\
         \x20  3 | >>> CMD x\n\
         \x20  4 |\n\
         --------------------\n"
    );
    let (sealed, context) = place("FROM scratch\n");
    let outcome = sealed.strake(["build", "--check", &context]);
    assert_eq!(outcome.success(), "Check complete, no warnings found.\n");
}

#[test]
fn a_file_that_cannot_be_built_fails_its_check() {
    let (sealed, context) = place("FROM scratch\nRUNN x\nCOPY\n");
    let outcome = sealed.strake(["build", "--check", &context]);
    let stderr = outcome.failure(1);
    assert!(stderr.contains("RUNN") && stderr.contains("COPY requires"), "{outcome}");
    let outcome = sealed.strake(["build", "--call=check,format=json", &context]);
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(outcome.code, 1);
    assert!(document["buildError"]["message"].as_str().unwrap().contains("RUNN"), "{outcome}");
    assert_eq!(document["buildError"]["location"]["ranges"][0]["start"], json!({"line": 2}));
    assert_eq!(document["sources"][0]["filename"], "Dockerfile");
}

#[test]
fn a_check_keeps_its_warnings_where_the_build_fails_and_asks_for_every_platform() {
    let dockerfile = "FROM scratch\nLABEL a=$FOO\nRUN --network=host x\n";
    let (found, code) = rules(dockerfile, &[]);
    assert_eq!((found, code), (vec!["UndefinedVar".to_owned()], 1));
    let dockerfile = "FROM scratch AS for-amd64\nFROM scratch AS for-arm64\nLABEL a=$FOO\n\
                      FROM for-${TARGETARCH} AS last\n";
    let of = |platforms: &str| rules(dockerfile, &[platforms, "--target=last"]);
    assert_eq!(of("--platform=linux/amd64"), (vec![], 0));
    let warned = (vec!["UndefinedVar".to_owned()], 1);
    assert_eq!(of("--platform=linux/amd64,linux/arm64"), warned);
    assert_eq!(of("--platform=linux/arm64,linux/amd64"), warned);
}

#[test]
fn an_outline_tells_what_a_target_takes() {
    let dockerfile = "# TAG is the version\nARG TAG=1\nARG OTHER=2\nFROM a:$TAG AS base\n\
                      RUN --mount=type=secret,id=token,required=true x\n\
                      # final is what runs\nFROM base AS final\nARG GREETING=hello\n\
                      RUN --mount=type=ssh --mount=type=cache,target=/c y\n\
                      FROM a AS unused\nARG UNUSED\n";
    let (sealed, context) = place(dockerfile);
    let target = ["--target=final", &context];
    let outcome = sealed.strake(
        ["build", "--call=outline,format=json", "--build-arg=GREETING=hi"]
            .into_iter()
            .chain(target),
    );
    let document: Value = serde_json::from_str(outcome.success()).unwrap();
    let args: Vec<_> = document["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| (arg["name"].clone(), arg["value"].clone(), arg["description"].clone()))
        .collect();
    assert_eq!(
        args,
        [
            (json!("TAG"), json!("1"), json!("is the version")),
            (json!("GREETING"), json!("hi"), Value::Null)
        ]
    );
    assert_eq!(document["name"], "final");
    assert_eq!(document["description"], "is what runs");
    assert_eq!(document["secrets"][0]["name"], "token");
    assert_eq!(document["secrets"][0]["required"], true);
    assert_eq!(document["ssh"][0]["name"], "default");
    assert_eq!(document["cache"][0]["ID"], "/c");
    let outcome = sealed.strake(["build", "--call=outline"].into_iter().chain(target));
    assert!(outcome.success().contains("BUILD ARG   VALUE   DESCRIPTION"), "{outcome}");
}

#[test]
fn targets_are_the_stages() {
    let (sealed, context) =
        place("# one makes it\nFROM a AS one\nFROM --platform=$BUILDPLATFORM one\n");
    let outcome = sealed.strake(["build", "--call=targets", &context]);
    assert_eq!(outcome.success(), "TARGET      DESCRIPTION\none         makes it\n(default)\n");
    let outcome = sealed.strake(["build", "--call=targets,format=json", &context]);
    let document: Value = serde_json::from_str(outcome.success()).unwrap();
    assert_eq!(document["targets"][0]["name"], "one");
    assert_eq!(document["targets"][0]["base"], "a");
    assert_eq!(document["targets"][1]["default"], true);
    assert_eq!(document["targets"][1]["platform"], "$BUILDPLATFORM");
}

#[test]
fn a_build_lists_its_warnings_at_the_end_and_error_true_fails_it() {
    let (sealed, context) = place("FROM scratch\nLABEL a=$FOO\nCMD x\n");
    let outcome = sealed.strake(["build", &context]);
    outcome.success();
    let (_, list) = outcome.stderr.split_once("\n 2 warnings found:\n").expect(&outcome.stderr);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{outcome}");
    assert_eq!(lines[0], " - UndefinedVar: Usage of undefined variable '$FOO' (line 2)");
    assert!(lines[1].starts_with(" - JSONArgsRecommended: "), "{outcome}");

    let dockerfile = "# check=error=true\nFROM scratch\nLABEL a=$FOO\nCMD x\n";
    sealed.write("context/Dockerfile", dockerfile);
    let outcome = sealed.strake(["build", &context]);
    let stderr = outcome.failure(1);
    let message = "lint violation found for rules: JSONArgsRecommended, UndefinedVar";
    assert!(stderr.contains(message) && stderr.contains("2 warnings found"), "{outcome}");
}

#[test]
fn an_image_that_is_nearly_a_stage_is_taken_for_it() {
    let (sealed, context) =
        place("FROM scratch AS builder\nFROM scratch\nCOPY --from=bulider /a /b\n");
    let outcome = sealed.strake(["build", &context]);
    let stderr = outcome.failure(1);
    assert!(stderr.contains("did you mean the stage `builder`?"), "{outcome}");
}

#[test]
fn a_call_that_is_none_is_refused_with_the_ones_there_are() {
    let (sealed, context) = place("FROM scratch\n");
    let outcome = sealed.strake(["build", "--call=chekc", &context]);
    assert!(outcome.failure(1).contains("build, check, outline or targets"), "{outcome}");
}

/// Every `build/NAME` and `parser/NAME` in the documentation of the language.
#[test]
fn the_proofs_named_in_the_documentation_exist() {
    let text = fs::read_to_string(repository().join("docs/dockerfile.md")).unwrap();
    let mut proofs = 0;
    for word in text.split(['`', '\n']) {
        let kind = word.split('/').next().unwrap_or_default();
        if word.contains(' ')
            || !matches!(kind, "build" | "parser")
            || !word.contains('/')
            || word.ends_with('…')
        {
            continue;
        }
        let path = repository().join("testdata").join(word);
        assert!(path.is_dir(), "docs/dockerfile.md names {word}, which is not in testdata");
        proofs += 1;
    }
    assert!(proofs > 150, "only {proofs} proofs were found");
}

#[test]
fn every_case_of_a_build_proves_something_in_the_documentation() {
    let text = fs::read_to_string(repository().join("docs/dockerfile.md")).unwrap();
    let missing: Vec<String> = fs::read_dir(repository().join("testdata/build"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("case.json").exists())
        .map(|path| format!("build/{}", path.file_name().unwrap().to_string_lossy()))
        .filter(|name| !text.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "docs/dockerfile.md does not name {missing:#?}");
}

/// Whether a Rust file below `directory` has a function of this name.
fn has_function(directory: &std::path::Path, name: &str) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return has_function(&path, name);
        }
        path.extension().is_some_and(|extension| extension == "rs")
            && fs::read_to_string(&path).unwrap().contains(&format!("fn {name}("))
    })
}

#[test]
fn every_rule_of_the_semantics_has_a_proof_or_a_reason() {
    let text = fs::read_to_string(repository().join("docs/semantics.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| S")).collect();
    assert_eq!(rows.len(), 100);
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, what, proofs, _] = cells.as_slice() else { panic!("{row}") };
        assert_eq!(*name, format!("S{}", index + 1));
        assert!(!what.is_empty() && !proofs.is_empty(), "{row}");
        for proof in proofs.split('`').skip(1).step_by(2) {
            let exists = match proof.split_once(": ") {
                Some((place, function)) => has_function(&repository().join(place), function),
                None if proof.starts_with("build/") => {
                    repository().join("testdata").join(proof).is_dir()
                }
                None => continue,
            };
            assert!(exists, "{name} is proved by {proof}, which is not there");
        }
    }
}

#[test]
fn every_rule_is_documented() {
    let text = fs::read_to_string(repository().join("docs/checks.md")).unwrap();
    for rule in parser::RULES {
        assert!(text.contains(&format!("`{}`", rule.name)), "docs/checks.md lacks {}", rule.name);
    }
}
