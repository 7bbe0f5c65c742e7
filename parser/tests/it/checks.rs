//! Build checks as a caller meets them: chosen from outside, asked about, failing the build.

use parser::{Checks, ParseOptions, Skip, parse, parse_with};

const DOCKERFILE: &[u8] = b"# check=skip=StageNameCasing\nFROM a AS Upper\nMAINTAINER me\n";

fn rules(check: Option<&str>) -> Vec<&'static str> {
    let check = check.map(|text| Checks::parse(text).expect(text));
    let parsed = parse_with(DOCKERFILE, &ParseOptions { check });
    parsed.diagnostics.iter().filter_map(|diagnostic| diagnostic.rule).collect()
}

#[test]
fn checks_from_outside_replace_those_of_the_file() {
    assert_eq!(rules(None), ["MaintainerDeprecated"]);
    assert_eq!(rules(Some("")), ["StageNameCasing", "MaintainerDeprecated"]);
    assert_eq!(rules(Some("skip=MaintainerDeprecated")), ["StageNameCasing"]);
    assert_eq!(rules(Some("skip=all")), [""; 0]);
}

#[test]
fn a_wrong_check_in_the_file_does_not_matter_then() {
    let source = b"# check=nonsense\nFROM a\n";
    assert!(parse(source).has_errors());
    let options = ParseOptions { check: Some(Checks::default()) };
    assert!(!parse_with(source, &options).has_errors());
}

#[test]
fn callers_ask_before_they_report() {
    let checks = Checks::parse("skip=UndefinedVar").unwrap();
    let inline = Skip { all: false, names: ["WorkdirRelativePath".to_owned()].into() };
    let none = Skip::default();
    assert!(!checks.reports("UndefinedVar", &none));
    assert!(!checks.reports("WorkdirRelativePath", &inline));
    assert!(checks.reports("WorkdirRelativePath", &none));
    // Experimental checks are off unless asked for, and nothing inline changes that.
    assert!(!checks.reports("InvalidDefinitionDescription", &none));
    let all = Checks::parse("experimental=all").unwrap();
    assert!(all.reports("InvalidDefinitionDescription", &none));
}

#[test]
fn warnings_fail_the_build_when_the_file_says_so() {
    let parsed = parse(b"# check=error=true\nFROM a AS Upper\nMAINTAINER me\nMAINTAINER you\n");
    assert_eq!(
        parsed.dockerfile.directives.check.violation(&parsed.diagnostics).as_deref(),
        Some("lint violation found for rules: MaintainerDeprecated, StageNameCasing")
    );
}
