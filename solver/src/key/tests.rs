use cache::oci::{DiffId, Digest, Platform};

use super::*;
use crate::llb::{
    DeviceRequest, Edge, Environment, ExtraHost, ImageSource, InlineFile, Input, Owner, SecretEnv,
    SelectPath, Sharing, Ulimit, UserSpec, VertexId, VertexMeta,
};

fn platform() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

fn vertex(op: Op, inputs: Vec<Input>) -> Vertex {
    Vertex { op, inputs, meta: VertexMeta::named("a step") }
}

fn edge() -> Edge {
    Edge::from(VertexId(0))
}

fn exec() -> ExecOp {
    let args = ["/bin/sh", "-c", "make"].map(str::to_owned).to_vec();
    let env = Environment::from_iter([("PATH", "/bin"), ("A", "1")]);
    ExecOp { env, ..ExecOp::new(args, platform()) }
}

fn of_exec(exec: ExecOp) -> Fingerprint {
    op_digest(&vertex(Op::Exec(exec), vec![Input::rootfs(edge())]))
}

fn copy() -> CopyAction {
    CopyAction {
        input: 1,
        sources: vec!["/src/a.c".to_owned()],
        wildcard: true,
        dest: "/app/".to_owned(),
        owner: None,
        mode: None,
        unpack: Unpack::No,
        parents: false,
        exclude: Vec::new(),
        from_context: true,
        required: true,
        link: false,
        created: None,
    }
}

fn of_copy(copy: CopyAction) -> Fingerprint {
    let inputs = vec![Input::rootfs(edge()), Input::content(edge(), Selector::everything())];
    op_digest(&vertex(Op::File(FileOp { actions: vec![FileAction::Copy(copy)] }), inputs))
}

fn image(tag: &str, layer: u8) -> Op {
    Op::Source(SourceOp::Image(ImageSource {
        name: tag.parse().expect("an image name"),
        digest: Digest::of(tag.as_bytes()),
        config: Digest::of(b"config"),
        diff_ids: vec![DiffId(Digest::of(&[layer]))],
        platform: platform(),
    }))
}

fn git() -> GitSource {
    GitSource {
        url: "https://example.org/a.git".to_owned(),
        reference: Some("main".to_owned()),
        subdir: None,
        keep_git_dir: false,
        checksum: None,
        submodules: true,
        commit_time: false,
    }
}

fn mounted(kind: MountKind) -> ExecOp {
    ExecOp { mounts: vec![ExecMount { target: "/m".to_owned(), kind }], ..exec() }
}

fn cache_mount(id: &str, sharing: Sharing) -> ExecOp {
    let id = id.to_owned();
    let kind =
        MountKind::Cache { id, sharing, input: None, mode: 0o755, uid: 0, gid: 0, readonly: false };
    mounted(kind)
}

/// The format of keys: whoever changes a value here gives everybody a cold cache, and so gives the
/// domains a new version.
#[test]
fn golden_values() {
    let run = of_exec(exec());
    let key = CacheKey(Fingerprint::of(b"base"));
    let selector = Selector::path("/out");
    let chained = |selector| InputKey::Chained { key, output: 0, selector };
    let content = Content { fingerprint: Fingerprint::of(b"files"), ingredients: Vec::new() };
    let copied = of_copy(copy());
    let values = [
        ("exec op", run.to_string()),
        ("exec fast", fast(run, None, &[chained(None)]).to_string()),
        ("exec slow", slow(run, &[Fingerprint::of(b"base")]).to_string()),
        ("copy op", copied.to_string()),
        (
            "copy from context",
            fast(copied, None, &[chained(None), InputKey::Content(&content)]).to_string(),
        ),
        (
            "copy from stage",
            fast(copied, None, &[chained(None), chained(Some(&selector))]).to_string(),
        ),
        ("image", fast(op_digest(&vertex(image("busybox", 1), vec![])), None, &[]).to_string()),
        ("merge", op_digest(&vertex(Op::Merge(crate::llb::MergeOp), vec![])).to_string()),
    ];
    let found: Vec<_> =
        values.iter().map(|(name, value)| format!("{name} {}", &value[..16])).collect();
    assert_eq!(found, GOLDEN);
}

const GOLDEN: [&str; 8] = [
    "exec op 23d558dc5a207dcd",
    "exec fast 01af55121d7dd377",
    "exec slow 62a01404312b4f0f",
    "copy op ae9ba6dfdd9422bb",
    "copy from context 07e3f71836559709",
    "copy from stage fafe424dd4bdb6f4",
    "image 736487d9c05fc78b",
    "merge 552abd596a623288",
];

#[test]
fn everything_that_a_process_can_see_is_in_its_key() {
    let changes: Vec<(&str, ExecOp)> = vec![
        ("args", ExecOp { args: vec!["make".to_owned()], ..exec() }),
        ("env value", ExecOp { env: Environment::from_iter([("PATH", "/sbin")]), ..exec() }),
        ("env order", ExecOp { env: exec().env.iter().rev().collect(), ..exec() }),
        ("cwd", ExecOp { cwd: "/src".to_owned(), ..exec() }),
        ("user", ExecOp { user: "app".to_owned(), ..exec() }),
        ("hostname", ExecOp { hostname: Some("h".to_owned()), ..exec() }),
        ("network", ExecOp { network: NetworkMode::None, ..exec() }),
        ("host network", ExecOp { network: NetworkMode::Host, ..exec() }),
        ("security", ExecOp { security: SecurityMode::Insecure, ..exec() }),
        ("platform", ExecOp { platform: "linux/arm64".parse().expect("a platform"), ..exec() }),
        ("shm", ExecOp { shm_size: Some(1), ..exec() }),
        (
            "ulimit",
            ExecOp { ulimits: vec![Ulimit { name: "nofile".into(), soft: 1, hard: 2 }], ..exec() },
        ),
        (
            "host name",
            ExecOp {
                extra_hosts: vec![ExtraHost { name: "db".into(), address: "10.0.0.1".into() }],
                ..exec()
            },
        ),
        (
            "secret variable",
            ExecOp {
                secret_env: vec![SecretEnv { name: "T".into(), id: "t".into(), required: true }],
                ..exec()
            },
        ),
        (
            "device",
            ExecOp {
                devices: vec![DeviceRequest { name: "a/b=c".into(), required: true }],
                ..exec()
            },
        ),
        ("cache mount", cache_mount("id", Sharing::Shared)),
        ("tmpfs", mounted(MountKind::Tmpfs { size: None, readonly: false })),
        ("tmpfs ro", mounted(MountKind::Tmpfs { size: None, readonly: true })),
        ("bind", mounted(MountKind::Bind { input: 0, source: "/".into(), writable: false })),
        ("bind rw", mounted(MountKind::Bind { input: 0, source: "/".into(), writable: true })),
        ("bind rw /a", mounted(MountKind::Bind { input: 0, source: "/a".into(), writable: true })),
        (
            "secret",
            mounted(MountKind::Secret {
                id: "s".into(),
                required: false,
                mode: 0o400,
                uid: 0,
                gid: 0,
                env: None,
                file: true,
            }),
        ),
        (
            "ssh",
            mounted(MountKind::Ssh {
                id: "default".into(),
                required: false,
                mode: 0o600,
                uid: 0,
                gid: 0,
            }),
        ),
    ];
    let mut seen = vec![("nothing", of_exec(exec()))];
    for (what, changed) in changes {
        let digest = of_exec(changed);
        if let Some((same, _)) = seen.iter().find(|(_, other)| *other == digest) {
            panic!("`{what}` and `{same}` have one key");
        }
        seen.push((what, digest));
    }
}

#[test]
fn what_a_process_cannot_see_is_in_no_key() {
    let same: Vec<(&str, ExecOp, ExecOp)> = vec![
        (
            "proxy",
            exec(),
            ExecOp { proxy_env: vec![("http_proxy".into(), "http://p".into())], ..exec() },
        ),
        (
            "address of a host",
            ExecOp {
                extra_hosts: vec![ExtraHost { name: "db".into(), address: "10.0.0.1".into() }],
                ..exec()
            },
            ExecOp {
                extra_hosts: vec![ExtraHost { name: "db".into(), address: "10.0.0.2".into() }],
                ..exec()
            },
        ),
        ("cache id", cache_mount("a", Sharing::Shared), cache_mount("b", Sharing::Shared)),
        ("sharing", cache_mount("a", Sharing::Shared), cache_mount("a", Sharing::Locked)),
        (
            "tmpfs size",
            mounted(MountKind::Tmpfs { size: None, readonly: false }),
            mounted(MountKind::Tmpfs { size: Some(1 << 20), readonly: false }),
        ),
        (
            "source of a read-only bind, whose content is in the key",
            mounted(MountKind::Bind { input: 0, source: "/a".into(), writable: false }),
            mounted(MountKind::Bind { input: 0, source: "/b".into(), writable: false }),
        ),
    ];
    for (what, one, other) in same {
        assert_eq!(of_exec(one), of_exec(other), "{what}");
    }
    let named = |name: &str, no_cache| Vertex {
        op: Op::Exec(exec()),
        inputs: Vec::new(),
        meta: VertexMeta { no_cache, ..VertexMeta::named(name) },
    };
    assert_eq!(op_digest(&named("a", false)), op_digest(&named("b", true)), "meta");
}

#[test]
fn a_source_path_counts_only_where_it_shows() {
    let from = |source: &str| CopyAction { sources: vec![source.to_owned()], ..copy() };
    assert_eq!(of_copy(from("/a/x")), of_copy(from("/b/x")), "the directory does not show");
    assert_ne!(of_copy(from("/a/x")), of_copy(from("/a/y")), "the name does");
    assert_eq!(of_copy(from("/a*")), of_copy(from("/b*")), "the content names what matched");
    assert_ne!(
        of_copy(CopyAction { wildcard: false, ..from("/a*") }),
        of_copy(CopyAction { wildcard: false, ..from("/b*") }),
    );
    let parents = |source| CopyAction { parents: true, ..from(source) };
    assert_ne!(of_copy(parents("/a/x")), of_copy(parents("/b/x")), "with --parents all of it does");
}

#[test]
fn every_option_of_a_copy_is_in_its_key() {
    let owner = |user| Some(Owner { user, group: None });
    let changes: Vec<(&str, CopyAction)> = vec![
        ("dest", CopyAction { dest: "/app".to_owned(), ..copy() }),
        ("owner", CopyAction { owner: owner(UserSpec::Id(5)), ..copy() }),
        ("owner by name", CopyAction { owner: owner(UserSpec::Name("5".to_owned())), ..copy() }),
        ("mode", CopyAction { mode: Some(ChmodSpec::Octal(0o644)), ..copy() }),
        ("symbolic mode", CopyAction { mode: Some(ChmodSpec::Symbolic("u=r".into())), ..copy() }),
        ("unpack", CopyAction { unpack: Unpack::Auto, ..copy() }),
        ("unpack always", CopyAction { unpack: Unpack::Always, ..copy() }),
        ("exclude", CopyAction { exclude: vec!["*.o".to_owned()], ..copy() }),
        ("from stage", CopyAction { from_context: false, ..copy() }),
        ("optional", CopyAction { required: false, ..copy() }),
        ("link", CopyAction { link: true, ..copy() }),
        ("time", CopyAction { created: Some(0), ..copy() }),
        ("input", CopyAction { input: 0, ..copy() }),
    ];
    let mut seen = vec![("nothing", of_copy(copy()))];
    for (what, changed) in changes {
        let digest = of_copy(changed);
        if let Some((same, _)) = seen.iter().find(|(_, other)| *other == digest) {
            panic!("`{what}` and `{same}` have one key");
        }
        seen.push((what, digest));
    }
}

#[test]
fn an_image_is_its_layers() {
    let of = |op| op_digest(&vertex(op, Vec::new()));
    assert_eq!(of(image("busybox:1", 1)), of(image("example.org/other:2", 1)));
    assert_ne!(of(image("busybox", 1)), of(image("busybox", 2)));
}

#[test]
fn inline_files_are_their_bytes() {
    let of = |path: &str, content: &[u8], mode| {
        let file = InlineFile { path: path.to_owned(), content: content.to_vec(), mode };
        op_digest(&vertex(Op::Source(SourceOp::Inline { files: vec![file] }), Vec::new()))
    };
    assert_ne!(of("a", b"x", 0o644), of("a", b"y", 0o644));
    assert_ne!(of("a", b"x", 0o644), of("b", b"x", 0o644));
    assert_ne!(of("a", b"x", 0o644), of("a", b"x", 0o755));
}

#[test]
fn only_a_full_commit_pins_a_checkout() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let needs = |git| needs_identity(&Op::Source(SourceOp::Git(git)));
    assert!(needs(git()));
    assert!(needs(GitSource { reference: None, ..git() }));
    let pinned = GitSource { reference: Some(commit.to_owned()), ..git() };
    assert!(!needs(pinned.clone()));
    assert!(!needs(GitSource { checksum: Some("0123".to_owned()), ..pinned.clone() }));
    assert!(needs(GitSource { checksum: Some("ffff".to_owned()), ..pinned.clone() }));
    // The same commit from elsewhere is the same.
    let of = |git| op_digest(&vertex(Op::Source(SourceOp::Git(git)), Vec::new()));
    let moved = GitSource { url: "https://example.com/b.git".to_owned(), ..pinned.clone() };
    assert_eq!(of(pinned), of(moved));
}

#[test]
fn how_inputs_are_read_is_in_the_op() {
    let with = |inputs| op_digest(&vertex(Op::Exec(exec()), inputs));
    let one = with(vec![Input::rootfs(edge())]);
    let two = with(vec![Input::rootfs(edge()), Input::whole(edge())]);
    let part = Input::content(edge(), Selector::everything());
    let content = with(vec![Input::rootfs(edge()), part]);
    assert_ne!(one, two);
    assert_ne!(two, content);
}

#[test]
fn a_key_is_made_of_its_ingredients() {
    let input = CacheKey(Fingerprint::of(b"input"));
    let path =
        SelectPath { path: "/out".to_owned(), wildcard: false, follow: true, contents_only: false };
    let selector = Selector { paths: vec![path], ..Selector::default() };
    let inputs = [
        InputKey::Chained { key: input, output: 0, selector: None },
        InputKey::Chained { key: input, output: 1, selector: Some(&selector) },
    ];
    let this = vertex(Op::Exec(exec()), vec![Input::rootfs(edge()), Input::whole(edge())]);
    let parts = ingredients(&this, None, &inputs);
    let names: Vec<_> = parts.iter().map(|ingredient| ingredient.part.as_str()).collect();
    let op = ["op", "args", "env.PATH", "env.A", "cwd", "user", "platform", "inputs"];
    assert_eq!(names, [&op[..], &["input.0", "input.1", "input.1.selector"]].concat());
    let selector = &parts[10].value;
    assert_eq!(
        serde_json::from_str::<Selector>(selector).expect("a selector").paths[0].path,
        "/out"
    );
}

#[test]
fn the_parts_of_a_large_context_are_bounded() {
    let ingredients = (0..CONTENT_PARTS + 10)
        .map(|index| Ingredient { part: format!("file:/{index}"), value: String::new() });
    let content = Content { fingerprint: Fingerprint::of(b""), ingredients: ingredients.collect() };
    let parts = content_ingredients(None, &[InputKey::Content(&content)]);
    assert_eq!(parts.len(), CONTENT_PARTS + 1);
    assert_eq!(parts[0].part, "input.0.file:/0");
    let last = &parts[CONTENT_PARTS];
    assert_eq!((last.part.as_str(), last.value.as_str()), ("input.0.omitted", "10"));
}
