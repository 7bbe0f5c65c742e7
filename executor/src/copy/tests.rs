//! What COPY, ADD and WORKDIR do, as a table: base, source, action, resulting tree.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use solver::llb::{ChmodSpec, Owner, UserSpec};

use super::target::set_attributes;
use super::*;

/// Whoever runs the tests: root owns files as it likes, others write down what they would like.
fn owners() -> Owners {
    if rustix::process::geteuid().is_root() { Owners::Native } else { Owners::Attribute }
}

fn format() -> Format {
    Format::layers(owners())
}

/// Makes the files that `lines` describe: `path mode uid:gid what`, where `what` is `dir`,
/// `=content`, `->target` (a link), `&other` (a hard link), `fifo` or `socket`.
fn build(root: &Path, lines: &[&str]) {
    for line in lines {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let (path, mode, ids, what) = (root.join(word()), word(), word(), word());
        let (uid, gid) = ids.split_once(':').unwrap();
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        if let Some(target) = what.strip_prefix("->") {
            std::os::unix::fs::symlink(target, &path).unwrap();
            continue;
        }
        match what {
            "dir" => fs_err::create_dir_all(&path).unwrap(),
            "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            "fifo" => {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR,
                    0,
                )
                .unwrap();
            }
            _ => match what.split_at(1) {
                ("=", content) => fs_err::write(&path, content).unwrap(),
                ("&", other) => {
                    fs_err::hard_link(root.join(other), &path).unwrap();
                    continue;
                }
                _ => panic!("{line}"),
            },
        }
        if what == "socket" || what == "fifo" {
            continue;
        }
        let file = std::fs::File::from(
            rustix::fs::open(&path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap(),
        );
        let attributes = Attributes {
            uid: uid.parse().unwrap(),
            gid: gid.parse().unwrap(),
            mode: u32::from_str_radix(mode, 8).unwrap(),
            mtime: Some((1_000_000, 5)),
            xattrs: &Xattrs::new(),
        };
        set_attributes(file.as_fd(), &attributes, owners()).unwrap();
    }
}

/// The tree in the words of [`build`], with hard links told by the name that comes first.
fn listing(root: &Arc<Dir>) -> Vec<String> {
    fn walk(
        dir: &Dir,
        path: &str,
        seen: &mut HashMap<(u64, u64), String>,
        lines: &mut Vec<String>,
    ) {
        for name in dir.names().unwrap() {
            let entry = dir.lookup(&name).unwrap().unwrap();
            let meta = entry.meta;
            let path = format!("{path}{}", String::from_utf8_lossy(name.as_bytes()));
            let what = match meta.kind {
                Kind::Dir => "dir".to_owned(),
                Kind::Symlink => {
                    let target = dir.read_link(&name, &entry).unwrap();
                    lines.push(format!("{path} ->{}", target.to_string_lossy()));
                    continue;
                }
                Kind::File => {
                    if let Some(first) = seen.get(&(meta.device, meta.inode)) {
                        lines.push(format!("{path} &{first}"));
                        continue;
                    }
                    seen.insert((meta.device, meta.inode), path.clone());
                    let file = dir.open_file(&name, &entry).unwrap();
                    format!("={}", io::read_to_string(std::fs::File::from(file)).unwrap())
                }
                Kind::Fifo => "fifo".to_owned(),
                other => format!("{other:?}"),
            };
            lines.push(format!("{path} {:04o} {}:{} {what}", meta.mode, meta.uid, meta.gid));
            if meta.kind == Kind::Dir {
                walk(&dir.open_dir(&name).unwrap(), &format!("{path}/"), seen, lines);
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, "", &mut HashMap::new(), &mut lines);
    lines
}

use std::collections::HashMap;

fn copy_action(sources: &[&str], dest: &str) -> CopyAction {
    CopyAction {
        input: 1,
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        wildcard: true,
        dest: dest.to_owned(),
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

/// A base, a source and an empty layer.
struct Scene {
    dir: tempfile::TempDir,
    ignore: Vec<String>,
}

impl Scene {
    fn new(base: &[&str], source: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["base", "source", "upper"] {
            fs_err::create_dir(dir.path().join(name)).unwrap();
        }
        build(&dir.path().join("base"), base);
        build(&dir.path().join("source"), source);
        Self { dir, ignore: Vec::new() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn operation(&self) -> FileOperation {
        let base = || Dir::root([self.path("base")], format()).unwrap();
        let root = TargetDir::root(&self.path("upper"), base(), owners()).unwrap();
        FileOperation::over(root, Arc::new(base()))
    }

    fn copy(&self, action: &CopyAction) -> Result<Copied, ExecutorError> {
        let source = if action.from_context {
            let root = self.path("source");
            SourceTree::context(&root, "the build context".into(), &self.ignore, None).unwrap()
        } else {
            let root = Dir::root([self.path("source")], format()).unwrap();
            SourceTree::stage(Arc::new(root), "the source stage".into())
        };
        self.operation().copy(action, &source)
    }

    fn result(&self) -> Vec<String> {
        let layers = [self.path("upper"), self.path("base")];
        listing(&Arc::new(Dir::root(layers, format()).unwrap()))
    }
}

fn check(
    what: &str,
    base: &[&str],
    source: &[&str],
    change: impl FnOnce(&mut CopyAction),
    (sources, dest): (&[&str], &str),
    expected: &[&str],
) {
    let scene = Scene::new(base, source);
    let mut action = copy_action(sources, dest);
    change(&mut action);
    scene.copy(&action).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(scene.result(), expected, "{what}");
}

const TREE: &[&str] = &[
    "d/sub/b 0600 7:8 =b",
    "d/a 4755 7:8 =a",
    "d/sub 0700 7:8 dir",
    "d 0711 7:8 dir",
    "f 0640 7:8 =f",
];

#[test]
fn copies_land_where_buildkit_puts_them() {
    let plain = |_: &mut CopyAction| {};
    let contents: &[&str] =
        &["x 0755 0:0 dir", "x/a 4755 0:0 =a", "x/sub 0700 0:0 dir", "x/sub/b 0600 0:0 =b"];
    for dest in ["/x", "/x/", "x"] {
        for source in ["d", "d/", "/d/.", "./d"] {
            check("contents", &[], TREE, plain, (&[source], dest), contents);
        }
    }
    let file: &[&str] = &["x 0755 0:0 dir", "x/f 0640 0:0 =f"];
    check("file to dir/", &[], TREE, plain, (&["f"], "/x/"), file);
    check("file to name", &[], TREE, plain, (&["f"], "/x"), &["x 0640 0:0 =f"]);
    check(
        "file to existing directory, which stays as it is",
        &["x 0700 5:5 dir"],
        TREE,
        plain,
        (&["f"], "/x"),
        &["x 0700 5:5 dir", "x/f 0640 0:0 =f"],
    );
    check(
        "nested existing directories get what the source has",
        &["x/sub/old 0644 5:5 =o", "x/sub 0777 5:5 dir", "x 0750 5:5 dir"],
        TREE,
        plain,
        (&["d"], "/x"),
        &[
            "x 0750 5:5 dir",
            "x/a 4755 0:0 =a",
            "x/sub 0700 0:0 dir",
            "x/sub/b 0600 0:0 =b",
            "x/sub/old 0644 5:5 =o",
        ],
    );
    check(
        "a wildcard takes every match, directories by their contents",
        &[],
        TREE,
        plain,
        (&["*"], "/x/"),
        &[
            "x 0755 0:0 dir",
            "x/a 4755 0:0 =a",
            "x/f 0640 0:0 =f",
            "x/sub 0700 0:0 dir",
            "x/sub/b 0600 0:0 =b",
        ],
    );
    check("a wildcard without a match", &[], TREE, plain, (&["*.zip"], "/x/"), &[]);
    check("several files to one name", &[], TREE, plain, (&["f", "d/a"], "/x"), &["x 4755 0:0 =a"]);
    check(
        "a file over a file of the base",
        &["x 0644 5:5 =old"],
        TREE,
        plain,
        (&["f"], "/x"),
        &["x 0640 0:0 =f"],
    );
    check(
        "from a stage the owners stay",
        &[],
        TREE,
        |action| action.from_context = false,
        (&["d"], "/x"),
        &["x 0755 0:0 dir", "x/a 4755 7:8 =a", "x/sub 0700 7:8 dir", "x/sub/b 0600 7:8 =b"],
    );
}

#[test]
fn links_are_followed_inside_their_tree_only() {
    let plain = |_: &mut CopyAction| {};
    let source: &[&str] = &[
        "real/a 0644 0:0 =a",
        "lnk 0777 0:0 ->real",
        "abs 0777 0:0 ->/real/a",
        "up 0777 0:0 ->../../../../real/a",
        "t/in 0777 0:0 ->../real/a",
    ];
    check(
        "a linked directory",
        &[],
        source,
        plain,
        (&["lnk"], "/x/"),
        &["x 0755 0:0 dir", "x/a 0644 0:0 =a"],
    );
    check(
        "an absolute link",
        &[],
        source,
        plain,
        (&["abs"], "/x/"),
        &["x 0755 0:0 dir", "x/abs 0644 0:0 =a"],
    );
    check(
        "a link that climbs stays inside",
        &[],
        source,
        plain,
        (&["up"], "/x"),
        &["x 0644 0:0 =a"],
    );
    check(
        "matches are followed too",
        &[],
        source,
        plain,
        (&["a*"], "/x/"),
        &["x 0755 0:0 dir", "x/abs 0644 0:0 =a"],
    );
    check(
        "links inside a tree are copied",
        &[],
        source,
        plain,
        (&["t"], "/x"),
        &["x 0755 0:0 dir", "x/in ->../real/a"],
    );
    check(
        "a linked destination",
        &["real/k 0644 0:0 =k", "l 0777 0:0 ->/real", "f 0777 0:0 ->/real/new"],
        source,
        plain,
        (&["abs"], "/l/"),
        &[
            "f ->/real/new",
            "l ->/real",
            "real 0755 0:0 dir",
            "real/abs 0644 0:0 =a",
            "real/k 0644 0:0 =k",
        ],
    );
    check(
        "a destination link to nowhere",
        &["f 0777 0:0 ->/new/x"],
        source,
        plain,
        (&["abs"], "/f"),
        &["f ->/new/x", "new 0755 0:0 dir", "new/x 0644 0:0 =a"],
    );
}

#[test]
fn owners_and_modes_apply_to_what_is_made() {
    let owner = |action: &mut CopyAction| {
        let group = Some(UserSpec::Id(21));
        action.owner = Some(Owner { user: UserSpec::Id(20), group });
    };
    check(
        "chown",
        &["p 0700 5:5 dir"],
        TREE,
        owner,
        (&["f"], "/p/q/r/"),
        &["p 0700 5:5 dir", "p/q 0755 20:21 dir", "p/q/r 0755 20:21 dir", "p/q/r/f 0640 20:21 =f"],
    );
    let octal = |action: &mut CopyAction| action.mode = Some(ChmodSpec::Octal(0o770));
    check(
        "octal chmod",
        &[],
        TREE,
        octal,
        (&["d"], "/p/q"),
        &[
            "p 0770 0:0 dir",
            "p/q 0770 0:0 dir",
            "p/q/a 0770 0:0 =a",
            "p/q/sub 0770 0:0 dir",
            "p/q/sub/b 0770 0:0 =b",
        ],
    );
    let symbolic =
        |action: &mut CopyAction| action.mode = Some(ChmodSpec::Symbolic("u=rwX,go=rX".into()));
    check(
        "symbolic chmod",
        &[],
        TREE,
        symbolic,
        (&["d"], "/p"),
        &["p 0755 0:0 dir", "p/a 0755 0:0 =a", "p/sub 0755 0:0 dir", "p/sub/b 0644 0:0 =b"],
    );
    let named = |action: &mut CopyAction| {
        let user = UserSpec::Name("app".into());
        action.owner = Some(Owner { user, group: None });
    };
    let base: &[&str] = &["etc/passwd 0644 0:0 =app:x:30:31::/:"];
    let scene = Scene::new(base, TREE);
    let mut action = copy_action(&["f"], "/f");
    named(&mut action);
    scene.copy(&action).unwrap();
    assert_eq!(scene.result().last().unwrap(), "f 0640 30:31 =f");
    action.owner = Some(Owner { user: UserSpec::Name("ap".into()), group: None });
    let error = scene.copy(&action).unwrap_err();
    assert_eq!(error.near_names(), ["app"]);
}

#[test]
fn special_files_and_hard_links_are_kept() {
    let source: &[&str] = &[
        "d/one 0644 0:0 =x",
        "d/two 0644 0:0 &d/one",
        "d/pipe 0400 0:0 fifo",
        "d/sock 0755 0:0 socket",
        "d/link 0777 0:0 ->nowhere",
    ];
    let scene = Scene::new(&[], source);
    scene.copy(&copy_action(&["d"], "/x")).unwrap();
    let result = scene.result();
    assert_eq!(result[1], "x/link ->nowhere");
    assert_eq!(result[2], "x/one 0644 0:0 =x");
    assert!(result[3].starts_with("x/pipe 0400 0:0 fifo"), "{result:?}");
    assert!(result[4].starts_with("x/sock ") && result[4].ends_with(" 0:0 ="), "{result:?}");
    assert_eq!(result[5], "x/two &x/one");
}

#[test]
fn times_and_attributes_are_kept() {
    let scene = Scene::new(&[], TREE);
    let file = scene.path("source/d/a");
    let set = |path: &Path| {
        rustix::fs::setxattr(path, "user.note", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    };
    set(&file);
    set(&scene.path("source/d/sub"));
    scene.copy(&copy_action(&["d"], "/x")).unwrap();
    let root = Dir::root([scene.path("upper/x")], format()).unwrap();
    for name in ["a", "sub"] {
        let entry = root.lookup(OsStr::new(name)).unwrap().unwrap();
        assert_eq!(entry.meta.mtime, (1_000_000, 5), "{name}");
        let mut value = [0u8; 8];
        let path = scene.path("upper/x").join(name);
        assert_eq!(rustix::fs::getxattr(&path, "user.note", &mut value[..]), Ok(1), "{name}");
    }
    assert_eq!(root.meta().unwrap().unwrap().mtime, (1_000_000, 5), "the destination itself");
}

#[test]
fn patterns_leave_out_and_parents_stay() {
    let source: &[&str] = &[
        "a/b/c.txt 0644 0:0 =c",
        "a/b/d.md 0644 0:0 =d",
        "a/keep.md 0644 0:0 =k",
        "a/b 0700 3:3 dir",
    ];
    let exclude = |action: &mut CopyAction| {
        action.exclude = vec!["**/*.md".into(), "!keep.md".into()];
    };
    check(
        "exclude",
        &[],
        source,
        exclude,
        (&["a"], "/x"),
        &["x 0755 0:0 dir", "x/b 0700 0:0 dir", "x/b/c.txt 0644 0:0 =c", "x/keep.md 0644 0:0 =k"],
    );
    let parents = |action: &mut CopyAction| action.parents = true;
    for (path, expected) in [
        (
            "a/b/c.txt",
            &[
                "x 0755 0:0 dir",
                "x/a 0755 0:0 dir",
                "x/a/b 0700 0:0 dir",
                "x/a/b/c.txt 0644 0:0 =c",
            ][..],
        ),
        ("a/./b/c.txt", &["x 0755 0:0 dir", "x/b 0700 0:0 dir", "x/b/c.txt 0644 0:0 =c"]),
        (
            "**/*.txt",
            &[
                "x 0755 0:0 dir",
                "x/a 0755 0:0 dir",
                "x/a/b 0700 0:0 dir",
                "x/a/b/c.txt 0644 0:0 =c",
            ],
        ),
        ("**/*.zip", &["x 0755 0:0 dir"]),
    ] {
        check(path, &[], source, parents, (&[path], "/x/"), expected);
    }
    let scene = Scene::new(&[], source);
    let mut action = copy_action(&["a/b/e.txt"], "/x/");
    action.parents = true;
    let error = scene.copy(&action).unwrap_err();
    assert!(matches!(&error, ExecutorError::NotFound { path, .. } if path == "a/b/e.txt"));
}

#[test]
fn ignored_files_are_not_there() {
    let mut scene = Scene::new(&[], TREE);
    scene.ignore = vec!["d".into(), "!d/sub".into(), "f".into()];
    scene.copy(&copy_action(&["."], "/x")).unwrap();
    assert_eq!(
        scene.result(),
        ["x 0755 0:0 dir", "x/d 0711 0:0 dir", "x/d/sub 0700 0:0 dir", "x/d/sub/b 0600 0:0 =b"]
    );
    let error = scene.copy(&copy_action(&["f"], "/x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`f` is not in the build context: ignore pattern `f` excludes it"
    );
    let ExecutorError::NotFound { excluded_by, .. } = error else { panic!() };
    assert_eq!(excluded_by.unwrap().rule, 2);
}

#[test]
fn what_cannot_be_copied_is_an_error_that_says_so() {
    for (base, sources, dest, expected) in [
        (&[][..], &["F"][..], "/x", "`F` is not in the build context"),
        (&[], &["d*", "nope"], "/x/", "`nope` is not in the build context"),
        (&["x/f 0755 0:0 dir"], &["f"], "/x/", "cannot replace to directory /x/f with file"),
        (&["x/sub 0644 0:0 =file"], &["d"], "/x/", "cannot copy to non-directory: /x/sub"),
        (
            &["x/sub 0777 0:0 ->/real", "real 0755 0:0 dir"],
            &["d"],
            "/x/",
            "cannot copy to non-directory: /x/sub",
        ),
        (&["x 0644 0:0 =file"], &["d"], "/x", "cannot copy to non-directory: /x"),
        (&["x 0644 0:0 =file"], &["f"], "/x/y", "`/x/y` is not a directory"),
        (&[], &["f/x"], "/x", "`/f` is not a directory"),
        (&[], &["[a"], "/x", "syntax error in pattern `[a`"),
    ] {
        let scene = Scene::new(base, TREE);
        let error = scene.copy(&copy_action(sources, dest)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let scene = Scene::new(&[], TREE);
    let error = scene.copy(&copy_action(&["F"], "/x")).unwrap_err();
    assert_eq!(error.near_names(), ["f"]);
}

#[test]
fn working_directories_are_made_for_their_user() {
    let scene = Scene::new(&["a 0700 5:5 dir", "l 0777 0:0 ->/a"], &[]);
    let mkdir = MkdirAction {
        path: "/l/b/c".into(),
        mode: 0o755,
        owner: Some(Owner { user: UserSpec::Id(9), group: None }),
        parents: true,
        created: Some(77),
    };
    scene.operation().mkdir(&mkdir).unwrap();
    scene.operation().mkdir(&mkdir).unwrap();
    assert_eq!(
        scene.result(),
        ["a 0700 5:5 dir", "a/b 0755 9:9 dir", "a/b/c 0755 9:9 dir", "l ->/a"]
    );
    let made = Dir::root([scene.path("upper/a/b/c")], format()).unwrap();
    assert_eq!(made.meta().unwrap().unwrap().mtime, (77, 0));
}

#[test]
fn whiteouts_and_opaque_directories_hide_what_is_below() {
    if !rustix::process::geteuid().is_root() {
        println!("only root makes whiteouts without an overlay; tests/it has both");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for path in ["low/a", "low/o", "top/o", "top/a"] {
        fs_err::create_dir_all(at(path)).unwrap();
    }
    for path in ["low/a/gone", "low/a/stays", "low/o/hidden", "top/o/new"] {
        fs_err::write(at(path), "").unwrap();
    }
    let whiteout = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(rustix::fs::CWD, at("top/a/gone"), whiteout, mode, 0).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("top/o"), crate::merged::OPAQUE, b"y", flags).unwrap();
    let root = Arc::new(Dir::root([at("top"), at("low")], format()).unwrap());
    let names: Vec<String> =
        listing(&root).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["a", "a/stays", "o", "o/new"]);
}

mod archives {
    use super::*;
    use tar::{EntryType, Header};

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(3);
        header.set_gid(4);
        header.set_mtime(500);
        header
    }

    /// `name`, `dir/`, `name->target`, `name&target`; names are written as they are.
    fn tar(entries: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in entries {
            let (name, kind, target) = if let Some((name, target)) = entry.split_once("->") {
                (name, EntryType::Symlink, target)
            } else if let Some((name, target)) = entry.split_once('&') {
                (name, EntryType::Link, target)
            } else if entry.ends_with('/') {
                (*entry, EntryType::Directory, "")
            } else {
                (*entry, EntryType::Regular, "")
            };
            let content: &[u8] = if kind == EntryType::Regular { b"x" } else { b"" };
            let mode = if kind == EntryType::Directory { 0o750 } else { 0o640 };
            let mut header = header(kind, mode, content.len() as u64);
            let bytes = header.as_mut_bytes();
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            bytes[157..157 + target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn add(
        base: &[&str],
        name: &str,
        bytes: &[u8],
        dest: &str,
    ) -> (Scene, Result<Copied, ExecutorError>) {
        let scene = Scene::new(base, &[]);
        fs_err::write(scene.path("source").join(name), bytes).unwrap();
        let mut action = copy_action(&[name], dest);
        action.unpack = Unpack::Auto;
        let result = scene.copy(&action);
        (scene, result)
    }

    #[test]
    fn an_archive_is_told_by_its_content_and_unpacked() {
        let plain = tar(&["d/", "d/f", "g", "l->d/f", "h&g"]);
        let mut bzip = Vec::new();
        io::Read::read_to_end(
            &mut bzip2::read::BzEncoder::new(&plain[..], bzip2::Compression::fast()),
            &mut bzip,
        )
        .unwrap();
        let mut xz = Vec::new();
        io::Read::read_to_end(&mut liblzma::read::XzEncoder::new(&plain[..], 1), &mut xz).unwrap();
        for bytes in [plain, bzip, xz] {
            let (scene, result) = add(&[], "notes.txt", &bytes, "/x");
            result.unwrap();
            assert_eq!(
                scene.result(),
                [
                    "x 0755 0:0 dir",
                    "x/d 0750 3:4 dir",
                    "x/d/f 0640 3:4 =x",
                    "x/g 0640 3:4 =x",
                    "x/h &x/g",
                    "x/l ->d/f",
                ]
            );
        }
    }

    #[test]
    fn what_is_no_archive_is_copied() {
        for bytes in [&b"just text"[..], b"", &[0; 1024], b"\x1f\x8b broken gzip"] {
            let (scene, result) = add(&[], "x.tar.gz", bytes, "/y");
            result.unwrap();
            assert!(scene.path("upper/y").is_file());
        }
    }

    #[test]
    fn entries_replace_files_and_merge_directories() {
        let base =
            &["x/d/old 0644 5:5 =o", "x/f 0755 5:5 dir", "x/f/in 0644 0:0 =i", "x/g 0644 5:5 =g"];
        let (scene, result) = add(base, "a", &tar(&["d/", "f", "g/", "g/n", ".wh.z"]), "/x");
        result.unwrap();
        assert_eq!(
            scene.result(),
            [
                "x 0755 0:0 dir",
                "x/.wh.z 0640 3:4 =x",
                "x/d 0750 3:4 dir",
                "x/d/old 0644 5:5 =o",
                "x/f 0640 3:4 =x",
                "x/g 0750 3:4 dir",
                "x/g/n 0640 3:4 =x",
            ]
        );
    }

    #[test]
    fn a_replaced_directory_does_not_show_through_its_successor() {
        let base = &["x/f/in 0644 0:0 =i"];
        let (scene, result) = add(base, "a", &tar(&["f", "f/", "f/new"]), "/x");
        result.unwrap();
        assert_eq!(scene.result()[2..], ["x/f/new 0640 3:4 =x"]);
    }

    #[test]
    fn nothing_leaves_the_destination() {
        let (scene, result) = add(&[], "a", &tar(&["../../above", "/abs"]), "/x");
        result.unwrap();
        assert_eq!(scene.result(), ["x 0755 0:0 dir", "x/above 0640 3:4 =x", "x/abs 0640 3:4 =x"]);
        let base = &["etc/passwd 0644 0:0 =p"];
        for entries in [
            &["l->/etc", "l/passwd"][..],
            &["l->../etc", "l/passwd"],
            &["l->../../../../etc", "l/new/f"],
            &["h&/etc/passwd"],
            &["l->/etc", "h&l/passwd"],
            &["h&../etc/passwd"],
        ] {
            let (scene, result) = add(base, "a", &tar(entries), "/x");
            let error = result.unwrap_err();
            assert!(matches!(error, ExecutorError::Archive { .. }), "{entries:?}: {error}");
            let passwd = scene.result().into_iter().find(|line| line.starts_with("etc/passwd"));
            assert_eq!(passwd.unwrap(), "etc/passwd 0644 0:0 =p", "{entries:?}");
        }
    }

    #[test]
    fn links_inside_the_destination_are_followed() {
        let (scene, result) =
            add(&["run 0755 0:0 dir", "var/run 0777 0:0 ->/run"], "a", &tar(&["var/run/f"]), "/");
        result.unwrap();
        assert!(scene.result().contains(&"run/f 0640 3:4 =x".to_owned()));
    }
}
