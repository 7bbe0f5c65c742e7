//! A large COPY that is done again lies over its last result, and is what it would be alone.

use std::path::Path;

use cache::snapshot::Snapshot;
use solver::llb::{FileAction, FileOp, Op};
use solver::{InputValue, Output};

use crate::Case;
use crate::reuse::settle;
use crate::scene::{Machine, Scene, copy, vertex};

pub(crate) const CASES: &[Case] = &[
    ("a_large_copy_lies_over_its_last_result", lies_over_its_last_result),
    ("whatever_changes_the_result_is_that_of_a_whole_copy", whatever_changes),
    ("a_tree_that_hides_much_is_made_anew", a_tree_that_hides_much_is_made_anew),
];

const DIRECTORIES: usize = 12;
const FILES: usize = 60;

fn fill(scene: &Scene) {
    for directory in 0..DIRECTORIES {
        for number in 0..FILES {
            scene.write(&format!("d{directory}/sub/f{number}"), &format!("{directory} {number}"));
        }
        scene.write(&format!("d{directory}/top"), "top");
        let link = scene.context().join(format!("d{directory}/link"));
        std::os::unix::fs::symlink("top", link).unwrap();
    }
}

fn snapshot(scene: &Scene, output: &Output) -> Snapshot {
    scene.store.snapshots().get(&output.snapshot.unwrap()).unwrap().unwrap()
}

/// Busybox with something that a COPY to `/` meets.
fn base(scene: &Scene) -> InputValue {
    InputValue::Output(
        scene.run("mkdir -p /d1/sub /d2; echo base >/d1/sub/f1; echo base >/d2/own").output(),
    )
}

/// Copies the whole context, after the last result or without looking at it.
fn copy_to(scene: &Scene, base: &InputValue, dest: &str, is_alone: bool) -> Output {
    settle(scene);
    let mut action = copy(".", dest);
    // Another step, of which there is no last result.
    action.required = !is_alone;
    let mut vertex = vertex(Op::File(FileOp { actions: vec![FileAction::Copy(action)] }));
    vertex.meta.no_cache = is_alone;
    scene.exec(vertex, vec![base.clone(), scene.context_input(&[])]).output()
}

/// What a container sees of a tree.
fn seen(scene: &Scene, output: &Output) -> String {
    let script = "everything() { find / -xdev -path /proc -prune -o -path /sys -prune \
                  -o -path /dev -prune -o -path /etc -prune -o \"$@\" | sort; }; \
                  everything -type d -exec stat -c '%n %a %u %g' {} +; \
                  everything ! -type d -exec stat -c '%N %F %a %u %g %s %Y' {} +; \
                  everything -type f -exec md5sum {} +";
    scene.run_on(InputValue::Output(output.clone()), script).log()
}

/// The layer is that of a whole copy, which is returned.
fn assert_is_whole(
    scene: &Scene,
    base: &InputValue,
    dest: &str,
    made: &Output,
    what: &str,
) -> Output {
    let alone = copy_to(scene, base, dest, true);
    let (made_tree, alone_tree) = (snapshot(scene, made), snapshot(scene, &alone));
    assert!(alone_tree.amended().is_none(), "{what}");
    assert_eq!(made_tree.layer().unwrap(), alone_tree.layer().unwrap(), "{what}");
    assert_eq!(made_tree.parent().map(Snapshot::id), alone_tree.parent().map(Snapshot::id));
    alone
}

/// A container cannot tell the two.
fn assert_looks_like(scene: &Scene, made: &Output, alone: &Output, what: &str) {
    let (made, alone) = (seen(scene, made), seen(scene, alone));
    let different = made.lines().zip(alone.lines()).find(|(made, alone)| made != alone);
    assert_eq!(different, None, "{what}");
    assert_eq!(made.lines().count(), alone.lines().count(), "{what}");
}

fn lies_over_its_last_result(machine: &Machine) {
    let scene = Scene::new(machine);
    let base = base(&scene);
    fill(&scene);
    let first = copy_to(&scene, &base, "/app/", false);
    scene.write("d3/sub/f7", "changed");
    let second = copy_to(&scene, &base, "/app/", false);
    let (first, tree) = (snapshot(&scene, &first), snapshot(&scene, &second));
    assert_eq!(tree.amended().map(Snapshot::id), Some(first.id()));
    let own: Vec<_> = walk(tree.upper());
    assert_eq!(own, ["app", "app/d3", "app/d3/sub", "app/d3/sub/f7"]);
    let alone = assert_is_whole(&scene, &base, "/app/", &second, "one file changed");
    assert_looks_like(&scene, &second, &alone, "one file changed");

    // Without what it lies over there is nothing; a prune takes both or the upper one.
    scene.store.snapshots().remove(first.id()).unwrap();
    assert!(scene.store.snapshots().get(tree.id()).unwrap().is_none());
    let third = copy_to(&scene, &base, "/app/", false);
    assert!(snapshot(&scene, &third).amended().is_none());
}

/// Every path of a directory of changes, in order.
fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs_err::read_dir(&dir).unwrap().map(Result::unwrap) {
            found.push(entry.path().strip_prefix(root).unwrap().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Edits of a context, each with whether the next result can lie over the last one.
const EDITS: &[(&str, bool, &str)] = &[
    ("a file is changed", true, "echo changed >d4/sub/f9"),
    ("a file is new", true, "echo new >d5/new"),
    ("a file is gone", true, "rm d6/sub/f3"),
    ("it is there again", true, "echo again >d6/sub/f3"),
    ("a directory is gone", true, "rm -r d7/sub"),
    ("it is there again, with less", true, "mkdir d7/sub; echo x >d7/sub/f1"),
    ("a directory becomes a file", true, "rm -r d8/sub; echo x >d8/sub"),
    ("and a directory again", true, "rm d8/sub; mkdir d8/sub; echo y >d8/sub/f2"),
    // The eighth amendment was the last: the tree is made anew.
    ("a file becomes a directory", false, "rm d9/top; mkdir d9/top; echo z >d9/top/z"),
    ("a mode is changed", true, "chmod 4711 d9/sub/f4; chmod 700 d9/sub"),
    ("a link points elsewhere", true, "ln -sfn sub d10/link"),
    ("a link becomes a file", true, "rm d11/link; echo f >d11/link"),
    ("a file gets a second name", true, "ln d10/sub/f5 d10/twin"),
    ("and a third", true, "ln d10/sub/f5 d0/triplet"),
    ("names move", true, "mv d0/sub/f1 d0/moved; mv d3 d3moved"),
    ("nothing but a time", true, "touch -d @1234567890 d10/sub/f8"),
    ("a pipe", true, "mkfifo d10/pipe"),
    // And again.
    ("a file is empty", false, ": >d10/sub/f8"),
];

fn edit(scene: &Scene, script: &str) {
    let mut shell = std::process::Command::new("sh");
    let status = shell.args(["-ec", script]).current_dir(scene.context()).status().unwrap();
    assert!(status.success(), "{script}");
}

fn whatever_changes(machine: &Machine) {
    // Among the files of a base the first half shows what there is to see.
    for (dest, edits) in [("/app/", EDITS), ("/", &EDITS[..9])] {
        let scene = Scene::new(machine);
        let base = base(&scene);
        fill(&scene);
        copy_to(&scene, &base, dest, false);
        for (number, (what, amends, script)) in edits.iter().enumerate() {
            edit(&scene, script);
            let made = copy_to(&scene, &base, dest, false);
            let is_amendment = snapshot(&scene, &made).amended().is_some();
            assert_eq!(is_amendment, *amends, "{what}");
            let alone = assert_is_whole(&scene, &base, dest, &made, what);
            if number % 4 == 3 {
                assert_looks_like(&scene, &made, &alone, what);
            }
        }
        // The base has a file of that name, which a whiteout would hide.
        edit(&scene, "rm d1/sub/f1");
        let made = copy_to(&scene, &base, dest, false);
        assert_eq!(snapshot(&scene, &made).amended().is_some(), dest != "/");
        let what = "a file of the base shows again";
        let alone = assert_is_whole(&scene, &base, dest, &made, what);
        assert_looks_like(&scene, &made, &alone, what);
    }
}

fn a_tree_that_hides_much_is_made_anew(machine: &Machine) {
    let scene = Scene::new(machine);
    let base = base(&scene);
    fill(&scene);
    scene.write("large", &"1".repeat(100_000));
    copy_to(&scene, &base, "/app/", false);
    let mut amended = Vec::new();
    for content in ["2", "3", "4"] {
        scene.write("large", &content.repeat(100_000));
        let made = copy_to(&scene, &base, "/app/", false);
        amended.push(snapshot(&scene, &made).amended().is_some());
    }
    assert_eq!(amended, [true, false, true]);
}
