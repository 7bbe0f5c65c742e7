//! Secrets that servers ask for, and that no secret is left anywhere.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;

use crate::contexts::{AUTHORITY, Server, repository};
use crate::sealed::{Identity, Outcome, Sealed};
use crate::ssh::assert_nowhere;

/// Base64 of `x-access-token:s3cr3t-value`.
const BASIC: &str = "Authorization: basic eC1hY2Nlc3MtdG9rZW46czNjcjN0LXZhbHVl";
const VALUE: &str = "s3cr3t-value";

fn build(sealed: &Sealed, secrets: &[(&str, &str)], dockerfile: &str) -> Outcome {
    sealed.write("context/Dockerfile", dockerfile);
    let context = sealed.path().join("context").display().to_string();
    build_context(sealed, secrets, &context)
}

fn build_context(sealed: &Sealed, secrets: &[(&str, &str)], context: &str) -> Outcome {
    let mut words = vec!["build".to_owned(), "--progress=plain".to_owned(), "-t=made".to_owned()];
    for (number, (id, value)) in secrets.iter().enumerate() {
        // A newline at the end, as editors leave it.
        let file = sealed.write(&format!("secrets/{number}"), format!("{value}\n"));
        words.push(format!("--secret=id={id},src={}", file.display()));
    }
    words.push(context.to_owned());
    sealed.strake(words)
}

/// Neither the log, nor the store, nor an image, nor its history has the value or what is sent.
#[track_caller]
fn assert_kept(sealed: &Sealed, outcome: &Outcome, values: &[&str]) {
    let out = sealed.path().join("out");
    fs::create_dir_all(&out).unwrap();
    let archive = out.join("image.tar").display().to_string();
    sealed.strake(["save", "-o", &archive, "made"]).success();
    let history = sealed.strake(["history", "--no-trunc", "made"]);
    for value in values {
        let said = [&outcome.stdout, &outcome.stderr, &history.stdout];
        assert!(!said.iter().any(|text| text.contains(value)), "{outcome}");
        for place in [sealed.path().join("store"), out.clone(), sealed.path().join("tmp")] {
            assert_nowhere(&place, value.as_bytes());
        }
    }
}

fn git_server(sealed: &Sealed, header: &str) -> Server {
    repository(sealed);
    Server::demanding(sealed.path(), BTreeMap::new(), Some(header.to_owned()))
}

fn host(server: &Server) -> String {
    server.url("").trim_start_matches("http://").trim_end_matches('/').to_owned()
}

#[test]
fn a_repository_opens_with_a_token_of_its_host() {
    let sealed = Sealed::new();
    let server = git_server(&sealed, BASIC);
    let token = format!("GIT_AUTH_TOKEN.{}", host(&server));
    let dockerfile = format!("FROM scratch\nADD {} /repo/\n", server.url("repo.git#main"));
    let refused = build(&sealed, &[], &dockerfile);
    assert!(refused.failure(1).contains("ADD"), "{refused}");
    let encoded = BASIC.rsplit(' ').next().unwrap();
    for id in [&token, "GIT_AUTH_TOKEN"] {
        let outcome = build(&sealed, &[(id, VALUE)], &dockerfile);
        outcome.success();
        assert_kept(&sealed, &outcome, &[VALUE, encoded]);
        let context = build_context(&sealed, &[(id, VALUE)], &server.url("repo.git"));
        context.success();
        assert_kept(&sealed, &context, &[VALUE, encoded]);
        sealed.strake(["prune", "--all", "--force"]).success();
    }
    // The host's own comes before the general one, whatever that says.
    let general = ("GIT_AUTH_HEADER", "basic bm9ib2R5");
    build(&sealed, &[general, (&token, VALUE)], &dockerfile).success();
}

#[test]
fn a_repository_opens_with_a_header() {
    let sealed = Sealed::new();
    let server = git_server(&sealed, "Authorization: digest s3cr3t-value");
    let dockerfile = format!("FROM scratch\nADD {} /repo/\n", server.url("repo.git#main"));
    let secret = ("GIT_AUTH_HEADER", "digest s3cr3t-value");
    let outcome = build(&sealed, &[secret], &dockerfile);
    outcome.success();
    assert_kept(&sealed, &outcome, &[VALUE]);
}

#[test]
fn files_open_with_a_token_or_a_header_of_their_host() {
    for (id, value, demanded) in [
        ("HTTP_AUTH_TOKEN_127.0.0.1", VALUE, "Authorization: Bearer s3cr3t-value"),
        ("HTTP_AUTH_HEADER_127.0.0.1", "own s3cr3t-value", "Authorization: own s3cr3t-value"),
    ] {
        let sealed = Sealed::new();
        let served = [("file".to_owned(), b"content".to_vec())];
        let demanded = Some(demanded.to_owned());
        let server = Server::demanding(Path::new("/nowhere"), served.into(), demanded);
        let dockerfile = format!("FROM scratch\nADD {} /\n", server.url("file"));
        let refused = build(&sealed, &[], &dockerfile);
        assert!(refused.failure(1).contains("401"), "{refused}");
        let other = build(&sealed, &[("HTTP_AUTH_TOKEN_localhost", VALUE)], &dockerfile);
        assert!(other.failure(1).contains("401"), "{other}");
        let outcome = build(&sealed, &[(id, value)], &dockerfile);
        outcome.success();
        assert_kept(&sealed, &outcome, &[VALUE]);
        let two_lines = build(&sealed, &[(id, "a\nb")], &dockerfile);
        assert!(two_lines.failure(1).contains("not one line of text"), "{two_lines}");
    }
}

#[test]
fn secrets_open_servers_behind_tls_whose_authority_is_known() {
    let mut sealed = Sealed::new();
    repository(&sealed);
    let served = BTreeMap::from([("file".to_owned(), b"content".to_vec())]);
    let git = Server::secure(sealed.path(), BTreeMap::new(), Some(BASIC.to_owned()));
    let demanded = "Authorization: Bearer s3cr3t-value".to_owned();
    let http = Server::secure(Path::new("/nowhere"), served, Some(demanded));
    let dockerfile = format!(
        "FROM scratch\nADD {} /\nADD {} /repo/\n",
        http.url("file"),
        git.url("repo.git#main")
    );
    let secrets = [("HTTP_AUTH_TOKEN_127.0.0.1", VALUE), ("GIT_AUTH_TOKEN", VALUE)];
    let unknown = build(&sealed, &secrets, &dockerfile);
    assert!(unknown.failure(1).to_lowercase().contains("certificate"), "{unknown}");

    let authority = sealed.write("authority.pem", AUTHORITY);
    sealed.set("SSL_CERT_FILE", &authority);
    let refused = build(&sealed, &[], &dockerfile);
    assert!(refused.failure(1).contains("401"), "{refused}");
    let outcome = build(&sealed, &secrets, &dockerfile);
    outcome.success();
    assert_kept(&sealed, &outcome, &[VALUE, BASIC.rsplit(' ').next().unwrap()]);
    // Git's own variable goes first.
    sealed.set("GIT_SSL_CAINFO", sealed.path().join("nowhere"));
    sealed.strake(["prune", "--all", "--force"]).success();
    let misled = build(&sealed, &secrets, &dockerfile);
    assert!(misled.failure(1).contains("CA cert"), "{misled}");
}

#[test]
fn what_a_step_is_told_in_secret_stays_in_the_step() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    // The length is that of the value and the newline behind it.
    let dockerfile = r#"FROM busybox
RUN --mount=type=secret,id=file --mount=type=secret,id=var,env=TOKEN \
    test $(wc -c < /run/secrets/file) = 13 && test $(echo -n "$TOKEN" | wc -c) = 13
RUN --mount=type=secret,id=file,target=/etc/there,mode=0444 wc -c /etc/there > /size
"#;
    let outcome = build(&sealed, &[("file", VALUE), ("var", VALUE)], dockerfile);
    outcome.success();
    assert_kept(&sealed, &outcome, &[VALUE]);
}
