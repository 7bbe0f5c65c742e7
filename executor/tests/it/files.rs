//! COPY and contents, through the worker.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use solver::llb::{
    FileAction, FileOp, InlineFile, MergeOp, MkdirAction, Op, SelectPath, Selector, SourceOp,
};
use solver::{Content, ContentRequest, InputValue, Output, Worker};

use crate::Case;
use crate::scene::{Machine, Scene, copy, vertex};

pub(crate) const CASES: &[Case] = &[
    ("a_copy_a_run_and_a_copy_back", a_copy_a_run_and_a_copy_back),
    ("only_what_counts_changes_a_fingerprint", only_what_counts_changes_a_fingerprint),
    ("names_count_below_a_path_and_for_patterns", names_count_below_a_path_and_for_patterns),
    ("the_fingerprint_of_a_stage_counts_owners", the_fingerprint_of_a_stage_counts_owners),
    ("what_was_read_is_remembered", what_was_read_is_remembered),
    ("a_link_in_the_context_does_not_lead_out", a_link_in_the_context_does_not_lead_out),
    ("files_of_the_dockerfile_are_copied", files_of_the_dockerfile_are_copied),
    ("a_linked_layer_is_laid_over_its_base", a_linked_layer_is_laid_over_its_base),
    (
        "a_result_whose_snapshot_is_gone_does_not_exist",
        a_result_whose_snapshot_is_gone_does_not_exist,
    ),
];

fn a_copy_a_run_and_a_copy_back(machine: &Machine) {
    let scene = Scene::new(machine);
    scene.write("src/main.c", "int main;");
    scene.write("src/skip.o", "object");
    let context = scene.context_input(&["**/*.o"]);
    let copied = scene.copy(copy("src", "/app/"), context).input();
    let built = scene.run_on(copied, "cat /app/main.c >/app/out; ls /app; chmod 4755 /app/out");
    assert_eq!(built.log, "main.c\nout\n");
    let mut from_stage = copy("/app/out", "/usr/bin/tool");
    from_stage.from_context = false;
    let last = scene.copy(from_stage, built.input()).input();
    let log = scene.run_on(last, "stat -c '%a %u' /usr/bin/tool; cat /usr/bin/tool; ls /app 2>&1");
    assert!(log.log.starts_with("4755 0\nint main;"), "{}", log.log);
    assert!(log.log.contains("No such file"), "{}", log.log);
}

fn content(scene: &Scene, input: InputValue, selector: Selector) -> Content {
    let worker = scene.worker();
    let (vertex, output) = match input {
        InputValue::Direct(vertex) => (vertex, None),
        InputValue::Output(output) => {
            (Arc::new(vertex(Op::Source(SourceOp::Scratch))), Some(output))
        }
    };
    scene.runtime.block_on(async {
        let content = worker.content(ContentRequest { vertex, output, selector }).await;
        worker.finish().await;
        content.unwrap()
    })
}

fn selector(path: &str, wildcard: bool) -> Selector {
    let path = SelectPath { path: path.into(), wildcard, follow: true, contents_only: true };
    Selector { paths: vec![path], ..Selector::default() }
}

fn only_what_counts_changes_a_fingerprint(machine: &Machine) {
    let scene = Scene::new(machine);
    scene.write("d/a", "a");
    scene.write("d/sub/b", "b");
    scene.write("other", "x");
    let of = || content(&scene, scene.context_input(&["*.log", "d/ignored"]), selector("d", false));
    let at = |path: &str| scene.context().join(path);
    let first = of();
    let touch = |path: &str| {
        let times = std::fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        std::fs::File::options().append(true).open(at(path)).unwrap().set_times(times).unwrap();
    };
    let set_mode = |path: &str, mode: u32| {
        fs_err::set_permissions(at(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    // What does not count: times, inodes, files that are not selected or ignored.
    touch("d/a");
    assert_eq!(of(), first, "mtime");
    fs_err::rename(at("d/a"), at("moved")).unwrap();
    scene.write("d/a", "a");
    assert_eq!(of(), first, "inode");
    scene.write("other", "y");
    scene.write("d/ignored", "z");
    assert_eq!(of(), first, "other files");
    // What counts. Each change is taken back.
    let changed = |what: &str, change: &dyn Fn(), back: &dyn Fn()| {
        change();
        assert_ne!(of().fingerprint, first.fingerprint, "{what}");
        back();
        assert_eq!(of().fingerprint, first.fingerprint, "{what} taken back");
    };
    changed("bytes", &|| scene.write("d/a", "A"), &|| scene.write("d/a", "a"));
    changed("mode", &|| set_mode("d/a", 0o600), &|| set_mode("d/a", 0o644));
    changed("mode of a directory", &|| set_mode("d/sub", 0o700), &|| set_mode("d/sub", 0o755));
    changed("a new file", &|| scene.write("d/n", ""), &|| fs_err::remove_file(at("d/n")).unwrap());
    changed("a link", &|| std::os::unix::fs::symlink("a", at("d/l")).unwrap(), &|| {
        fs_err::remove_file(at("d/l")).unwrap()
    });
    changed(
        "an attribute",
        &|| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(at("d/a"), "user.x", b"1", flags).unwrap();
        },
        &|| rustix::fs::removexattr(at("d/a"), "user.x").unwrap(),
    );
    changed(
        "a directory in place of a file",
        &|| {
            fs_err::remove_file(at("d/a")).unwrap();
            fs_err::create_dir(at("d/a")).unwrap();
        },
        &|| {
            fs_err::remove_dir(at("d/a")).unwrap();
            scene.write("d/a", "a");
        },
    );
    let parts: Vec<_> = first.ingredients.iter().map(|i| i.part.as_str()).collect();
    assert_eq!(parts, ["file:/d/a", "file:/d/sub", "file:/d/sub/b"]);
    assert!(first.ingredients[0].value.starts_with("mode=100644 size=1 content="));
}

fn names_count_below_a_path_and_for_patterns(machine: &Machine) {
    let scene = Scene::new(machine);
    scene.write("one.txt", "same");
    scene.write("two.txt", "same");
    scene.write("d1/x", "same");
    scene.write("d2/y", "same");
    let of = |path: &str, wildcard| {
        content(&scene, scene.context_input(&[]), selector(path, wildcard)).fingerprint
    };
    assert_eq!(of("one.txt", false), of("two.txt", false), "the name of a literal file");
    assert_ne!(of("d1", false), of("d2", false), "names in a directory");
    assert_ne!(of("one*", true), of("two*", true), "names of matches");
    assert_ne!(of("*.zip", true), of("one*", true));
}

fn the_fingerprint_of_a_stage_counts_owners(machine: &Machine) {
    let scene = Scene::new(machine);
    let mkdir = |uid| {
        let user = solver::llb::UserSpec::Id(uid);
        let action = FileAction::Mkdir(MkdirAction {
            path: "/d/e".into(),
            mode: 0o755,
            owner: Some(solver::llb::Owner { user, group: None }),
            parents: true,
            created: None,
        });
        scene.exec(vertex(Op::File(FileOp { actions: vec![action] })), vec![scene.base()]).input()
    };
    let of = |input| content(&scene, input, selector("/d", false)).fingerprint;
    assert_eq!(of(mkdir(0)), of(mkdir(0)));
    assert_ne!(of(mkdir(0)), of(mkdir(5)));
}

fn what_was_read_is_remembered(machine: &Machine) {
    let scene = Scene::new(machine);
    scene.write("f", "first");
    let path = scene.context().join("f");
    let old = fs_err::metadata(&path).unwrap();
    // Older than the clock's tick, so that it may be remembered.
    let settled = || {
        let now = std::time::SystemTime::now();
        now.duration_since(old.modified().unwrap()).is_ok_and(|age| age.as_millis() > 50)
    };
    crate::scene::eventually("the clock stands still", settled);
    let of = || content(&scene, scene.context_input(&[]), selector("f", false)).fingerprint;
    let first = of();
    let memory = fs_err::read_dir(scene.store.contexts_dir()).unwrap().count();
    assert_eq!(memory, 1, "nothing was remembered");
    assert_eq!(of(), first);
    // The same size at the same mtime: only the change time tells.
    fs_err::write(&path, "other").unwrap();
    let times = std::fs::FileTimes::new().set_modified(old.modified().unwrap());
    std::fs::File::options().append(true).open(&path).unwrap().set_times(times).unwrap();
    assert_eq!(fs_err::metadata(&path).unwrap().mtime(), old.mtime());
    assert_ne!(of(), first);
}

fn a_link_in_the_context_does_not_lead_out(machine: &Machine) {
    let scene = Scene::new(machine);
    fs_err::write(scene.dir.path().join("outside"), "outside").unwrap();
    for (name, target) in [
        ("up", "../outside"),
        ("abs", scene.dir.path().join("outside").to_str().unwrap()),
        ("environ", "/proc/self/environ"),
    ] {
        std::os::unix::fs::symlink(target, scene.context().join(name)).unwrap();
        let error = scene.copy(copy(name, "/x"), scene.context_input(&[])).error();
        assert!(error.contains(&format!("`{name}` is not in the build context")), "{error}");
    }
}

fn files_of_the_dockerfile_are_copied(machine: &Machine) {
    let scene = Scene::new(machine);
    let file = InlineFile { path: "greeting".into(), content: b"hello\n".into(), mode: 0o644 };
    let inline = Op::Source(SourceOp::Inline { files: vec![file] });
    let inline = InputValue::Direct(Arc::new(vertex(inline)));
    let copied = scene.copy(copy("greeting", "/etc/motd"), inline).input();
    let log = scene.run_on(copied, "cat /etc/motd; stat -c '%a %u:%g' /etc/motd").log();
    assert_eq!(log, "hello\n644 0:0\n");
}

fn a_linked_layer_is_laid_over_its_base(machine: &Machine) {
    let scene = Scene::new(machine);
    scene.write("f", "linked");
    let nothing = InputValue::Output(Output { snapshot: None, content: None });
    let mut action = copy("f", "/lnk/sub/");
    action.link = true;
    let op = Op::File(FileOp { actions: vec![FileAction::Copy(action)] });
    let layer = scene.exec(vertex(op), vec![nothing, scene.context_input(&[])]).input();
    let base = scene.run("ln -s /etc /lnk; chmod 700 /tmp").input();
    let merged = scene.exec(vertex(Op::Merge(MergeOp)), vec![base, layer]).input();
    let log = scene.run_on(merged, "cat /lnk/sub/f; readlink /lnk; ls /etc; stat -c %a /tmp /lnk");
    assert_eq!(log.log(), "linkedgroup\nhosts\npasswd\nresolv.conf\n700\n755\n");
}

fn a_result_whose_snapshot_is_gone_does_not_exist(machine: &Machine) {
    let scene = Scene::new(machine);
    let output = scene.run("true").output();
    assert!(scene.worker().exists(&output).unwrap());
    scene.store.snapshots().remove(&output.snapshot.unwrap()).unwrap();
    assert!(!scene.worker().exists(&output).unwrap());
}
