use serde_json::json;

use super::*;

fn row() -> Row {
    Row::new()
        .with("ID", "abcdef")
        .with("Tag", "Latest")
        .shown("Size", 7_200_000, "7.2MB".to_owned())
        .with("Shared", false)
        .with("Parents", json!(["one", "two"]))
        .with("Labels", json!({"a.b": "c"}))
        .with("Empty", json!([]))
}

const FIELDS: &[&str] = &["ID", "Tag", "Size", "Shared", "Parents", "Labels", "Empty"];

fn render(text: &str) -> Result<String, TemplateError> {
    Template::parse(text, FIELDS)?.render(&row())
}

#[test]
fn templates_are_those_of_docker() {
    for (template, expected) in [
        (r"{{.ID}}\t{{.Size}}", "abcdef\t7.2MB"),
        (r"{{ .ID }}\n", "abcdef\n"),
        ("{{json .ID}}", "\"abcdef\""),
        ("{{json .Size}} {{.Size}}", "7200000 7.2MB"),
        ("{{upper .Tag}} {{lower .Tag}} {{title .ID}}", "LATEST latest Abcdef"),
        ("{{.Tag | upper | json}}", "\"LATEST\""),
        ("{{truncate .ID 3}}", "abc"),
        ("{{pad .ID 1 2}}|", " abcdef  |"),
        (r#"{{join .Parents ", "}}"#, "one, two"),
        (r#"{{split "a:b" ":"}}"#, "[a b]"),
        (r#"{{index (split "a:b" ":") 1}}"#, "b"),
        (r#"{{index .Labels "a.b"}}{{index .Labels "x"}}"#, "c"),
        ("{{.Parents}} {{len .Parents}}", "[one two] 2"),
        ("{{range .Parents}}<{{.}} {{$.ID}}>{{end}}", "<one abcdef><two abcdef>"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Parents}}{{println .}}{{end}}", "one\ntwo\n"),
        ("{{if .Shared}}yes{{else}}no{{end}}", "no"),
        (r#"{{if eq .Tag "Latest"}}new{{end}}"#, "new"),
        (r#"{{if and (not .Shared) (ne .ID "x")}}both{{end}}"#, "both"),
        ("a  {{- .ID -}}  b", "aabcdefb"),
        (r#"{{println "a" 1}}"#, "a 1\n"),
        (r#"{{print "}}"}}{{/* nothing */}}"#, "}}"),
        ("{{json .Labels}}", r#"{"a.b":"c"}"#),
        ("no action", "no action"),
    ] {
        assert_eq!(render(template).unwrap(), expected, "{template}");
    }
    assert!(render("{{json .}}").unwrap().contains(r#""Size":7200000"#));
}

#[test]
fn what_is_not_known_is_an_error_that_names_what_is() {
    for (template, message, hint) in [
        ("{{.Sise}}", "unknown field `.Sise`", "did you mean `.Size`?"),
        ("{{.Colour}}", "unknown field `.Colour`", "possible are .ID, .Tag, .Size"),
        ("{{if .ID}}{{.Colour}}{{end}}", "unknown field `.Colour`", "possible are"),
        ("{{range .Parents}}{{$.Colour}}{{end}}", "unknown field `.Colour`", "possible are"),
        ("{{uper .ID}}", "unknown function `uper`", "did you mean `upper`?"),
        ("{{printf .ID}}", "unknown function `printf`", "did you mean `print`?"),
        ("{{now}}", "unknown function `now`", ""),
        ("{{with .ID}}{{end}}", "`{{with}}` is not understood", "{{if}} and {{range}}"),
        ("{{.ID", "has no `}}`", ""),
        ("{{if .ID}}", "`{{if}}` has no `{{end}}`", ""),
        ("{{end}}", "`{{end}}` without", ""),
        ("{{.ID .Tag}}", "side by side", ""),
        ("{{}}", "is missing", ""),
        ("{{ID .}}", "unknown function `ID`", ""),
        ("{{upper}}", "`upper` takes 1 arguments, not 0", ""),
        ("{{upper .ID .Tag}}", "`upper` takes 1 arguments, not 2", ""),
        ("{{join .ID \",\"}}", "`join` takes a list, not a text", ""),
        ("{{(.ID}}", "a `(` has no `)`", ""),
        ("{{.ID)}}", "a `)` too many", ""),
        ("{{\"a}}", "has no `}}`", ""),
        ("{{index .Parents 7}}", "a list of 2", ""),
        ("{{.ID.Name}}", "`.Name` is wanted of a text", ""),
        ("{{range .ID}}{{end}}", "goes over a list, not a text", ""),
        ("{{$x}}", "`$x` is not understood", ""),
    ] {
        let error = render(template).unwrap_err();
        assert!(error.message.contains(message), "{template}: {error}");
        let given = error.hint.unwrap_or_default();
        assert!(given.contains(hint), "{template}: {given}");
    }
}

#[test]
fn absurd_templates_are_refused() {
    let nested = "{{if true}}".repeat(1000);
    assert!(render(&nested).unwrap_err().message.contains("too many blocks"));
    let nested = format!("{{{{{}", "(".repeat(1000) + "}}");
    assert!(render(&nested).unwrap_err().message.contains("too many brackets"));
}

#[test]
fn heads_are_the_fields_own() {
    let heads = [("ID", "IMAGE ID"), ("Tag", "TAG"), ("Parents", "PARENTS")];
    let head = |text: &str| Template::parse(text, &["ID", "Tag", "Parents"]).unwrap().head(&heads);
    assert_eq!(head(r"{{.ID}}\t{{lower .Tag}}"), "IMAGE ID\tTAG");
    assert_eq!(head(r#"{{truncate .ID 3}}\t{{join .Parents ","}}"#), "IMAGE ID\tPARENTS");
    assert_eq!(head(r"{{range .Parents}}{{.}}{{end}}\t{{json .ID}}"), "PARENTS\tIMAGE ID");
}

#[test]
fn foreign_text_does_not_drive_the_terminal() {
    let row = Row::new().with("ID", "a\u{1b}[31mb\tc");
    let text = Template::parse("{{.ID}}", &["ID"]).unwrap().render(&row).unwrap();
    assert!(!text.contains(['\u{1b}', '\t']), "{text:?}");
}
