//! Dockerfile text in, the names of the rules that it breaks out.

use cache::oci::Platform;
use executor::pattern::PatternMatcher;
use parser::Span;

use super::*;
use crate::dockerfile::plan::Settings;

fn settings() -> Settings {
    let platform: Platform = "linux/amd64".parse().unwrap();
    Settings::new("Dockerfile", &platform)
}

/// Rule and detail of everything that is reported.
fn findings(text: &str) -> Vec<(&'static str, String)> {
    let parsed = parser::parse(text.as_bytes());
    let found = check(&parsed.dockerfile, &settings());
    reported(&parsed.dockerfile, &parsed.diagnostics, found.iter().map(Finding::from))
        .into_iter()
        .map(|finding| (finding.rule, finding.detail))
        .collect()
}

#[test]
fn platforms_and_defaults_of_from_are_checked() {
    for (text, expected) in [
        ("FROM --platform=$TARGETPLATFORM a\n", Some("RedundantTargetPlatform")),
        ("FROM --platform=${BUILDPLATFORM} a\n", None),
        ("FROM --platform=linux/arm64 a\n", Some("FromPlatformFlagConstDisallowed")),
        ("FROM --platform=linux/arm64 a AS build-arm64\n", None),
        ("ARG TAG\nFROM a:$TAG\n", Some("InvalidDefaultArgInFrom")),
        ("ARG TAG=1\nFROM a:$TAG\n", None),
        ("FROM $BASE\n", Some("InvalidDefaultArgInFrom")),
    ] {
        let rules: Vec<_> = findings(text).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(rules, Vec::from_iter(expected), "{text}");
    }
}

#[test]
fn a_comment_above_skips_a_check_there_and_the_directive_everywhere() {
    let line = "FROM --platform=linux/arm64 a\n";
    assert_eq!(findings(line).len(), 1);
    let rule = "FromPlatformFlagConstDisallowed";
    assert!(findings(&format!("FROM b\n# check=skip={rule}\n{line}")).is_empty());
    assert!(findings(&format!("# check=skip={rule}\n{line}")).is_empty());
    assert!(findings(&format!("# check=skip=all\n{line}RUN a | b\n")).is_empty());
    assert!(findings("FROM a\n# check=skip=PipelineWithoutPipefail\nRUN a | b\n").is_empty());
}

#[test]
fn only_buildkits_rules_are_violations() {
    let violation_of = |text: &str| {
        let parsed = parser::parse(text.as_bytes());
        let found = check(&parsed.dockerfile, &settings());
        let findings =
            reported(&parsed.dockerfile, &parsed.diagnostics, found.iter().map(Finding::from));
        assert_eq!(findings.len(), 1, "{findings:?}");
        violation(&parsed.dockerfile.directives.check, &findings)
    };
    assert_eq!(violation_of("# check=error=true\nFROM a\nRUN a | b\n"), None);
    assert_eq!(
        violation_of("# check=error=true\nFROM a AS B\n").as_deref(),
        Some("lint violation found for rules: StageNameCasing")
    );
    assert_eq!(violation_of("FROM a AS B\n"), None);
}

#[test]
fn a_source_is_ignored_unless_something_in_it_is_not() {
    for (rules, source, is_reported) in [
        (&["secret"][..], "secret", true),
        (&["secret"], "./secret/key", true),
        (&["*.md"], "a.md", true),
        (&["*"], ".", false),
        (&["*", "!src/main"], "src", false),
        (&["*", "!src/main"], "doc", true),
        (&["a"], "b", false),
    ] {
        let ignore = PatternMatcher::new(rules).unwrap();
        let found = ignored_source(&ignore, "COPY", source, Span::default());
        assert_eq!(found.is_some(), is_reported, "{rules:?} {source}");
    }
}

#[test]
fn every_rule_of_ours_is_described() {
    for rule in OWN_RULES {
        let finding = Finding { rule: rule.name, detail: String::new(), span: None };
        assert!(!finding.is_warning() && !finding.description().is_empty(), "{}", rule.name);
    }
}

#[test]
fn an_image_that_is_not_of_the_platform_asked_for_is_foreign() {
    let request =
        ImageRequest { name: "a:1".parse().unwrap(), platform: "linux/amd64".parse().unwrap() };
    let image = |architecture: &str| cache::oci::ImageConfiguration {
        os: "linux".into(),
        architecture: architecture.into(),
        ..Default::default()
    };
    assert_eq!(foreign_base(&request, &image("amd64"), Span::default()), None);
    let (rule, fault) = foreign_base(&request, &image("arm64"), Span::default()).unwrap();
    assert_eq!(rule, "InvalidBaseImagePlatform");
    assert_eq!(
        fault.message,
        "Base image a:1 was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
    );
}
