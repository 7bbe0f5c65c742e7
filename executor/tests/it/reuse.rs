//! A COPY that is done again takes from the last result what has not changed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use solver::Output;

use crate::Case;
use crate::scene::{Machine, Scene, copy, eventually, vertex};

pub(crate) const CASES: &[Case] = &[
    ("unchanged_files_of_a_copy_are_links_to_the_last_one", unchanged_files_are_links),
    ("what_differs_is_copied_and_not_linked", what_differs_is_copied),
    ("a_file_that_replaces_another_leaves_no_note", a_file_that_replaces_another_leaves_no_note),
];

/// The layer of a result on the disk.
fn tree(scene: &Scene, output: &Output) -> PathBuf {
    let snapshot = scene.store.snapshots().get(&output.snapshot.unwrap()).unwrap().unwrap();
    snapshot.upper().to_owned()
}

fn inode(scene: &Scene, output: &Output, path: &str) -> u64 {
    fs_err::symlink_metadata(tree(scene, output).join(path)).unwrap().ino()
}

/// Waits until nothing of the context is so young that it could change unseen.
pub(crate) fn settle(scene: &Scene) {
    let probe = scene.dir.path().join("probe");
    fs_err::write(&probe, "").unwrap();
    let written = fs_err::metadata(&probe).unwrap().modified().unwrap();
    eventually("the clock stands still", || {
        let now = std::time::SystemTime::now();
        now.duration_since(written).is_ok_and(|age| age.as_millis() > 50)
    });
}

fn copy_all(scene: &Scene) -> Output {
    settle(scene);
    scene.copy(copy(".", "/app/"), scene.context_input(&[])).output()
}

fn archive(scene: &Scene, output: &Output) -> Vec<u8> {
    let snapshot = scene.store.snapshots().get(&output.snapshot.unwrap()).unwrap().unwrap();
    let mut archive = Vec::new();
    cache::layer::pack(&snapshot, &mut archive).unwrap();
    archive
}

fn unchanged_files_are_links(machine: &Machine) {
    let scene = Scene::new(machine);
    for path in ["a", "sub/b", "sub/deep/c"] {
        scene.write(path, path);
    }
    let first = copy_all(&scene);
    scene.write("sub/b", "changed");
    let second = copy_all(&scene);
    for path in ["app/a", "app/sub/deep/c"] {
        assert_eq!(inode(&scene, &first, path), inode(&scene, &second, path), "{path}");
    }
    assert_ne!(inode(&scene, &first, "app/sub/b"), inode(&scene, &second, "app/sub/b"));
    assert_eq!(fs_err::read_to_string(tree(&scene, &first).join("app/sub/b")).unwrap(), "sub/b");

    // The layer is what it would be if everything had been copied, whoever else has its files.
    let mut fresh = vertex(solver::llb::Op::File(solver::llb::FileOp {
        actions: vec![solver::llb::FileAction::Copy(copy(".", "/app/"))],
    }));
    fresh.meta.no_cache = true;
    let fresh = scene.exec(fresh, vec![scene.base(), scene.context_input(&[])]).output();
    assert_ne!(inode(&scene, &second, "app/a"), inode(&scene, &fresh, "app/a"), "without cache");
    assert_eq!(archive(&scene, &second), archive(&scene, &fresh));

    // A container that writes to a shared file leaves the other results alone.
    let written = scene.run_on(
        solver::InputValue::Output(second.clone()),
        "echo more >>/app/a; cat /app/a; stat -c %h /app/a",
    );
    assert_eq!(written.log(), "amore\n1\n");
    scene.store.snapshots().remove(&second.snapshot.unwrap()).unwrap();
    assert_eq!(fs_err::read_to_string(tree(&scene, &first).join("app/a")).unwrap(), "a");
}

fn what_differs_is_copied(machine: &Machine) {
    let scene = Scene::new(machine);
    for path in ["same", "mode", "content", "twin"] {
        scene.write(path, path);
    }
    fs_err::hard_link(scene.context().join("twin"), scene.context().join("twin2")).unwrap();
    let first = copy_all(&scene);
    let of = |path: &str| scene.context().join(path);
    fs_err::set_permissions(of("mode"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The same size at the same mtime: only the change time tells.
    let old = fs_err::metadata(of("content")).unwrap().modified().unwrap();
    fs_err::write(of("content"), "CONTENT").unwrap();
    let times = std::fs::FileTimes::new().set_modified(old);
    std::fs::File::options().append(true).open(of("content")).unwrap().set_times(times).unwrap();
    let second = copy_all(&scene);
    let is_shared = |path: &str| inode(&scene, &first, path) == inode(&scene, &second, path);
    let shared = ["same", "mode", "content", "twin"].map(|path| is_shared(&format!("app/{path}")));
    assert_eq!(shared, [true, false, false, false]);
    let layer = tree(&scene, &second).join("app");
    assert_eq!(fs_err::read_to_string(layer.join("content")).unwrap(), "CONTENT");
    assert_eq!(fs_err::metadata(layer.join("mode")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(inode(&scene, &second, "app/twin"), inode(&scene, &second, "app/twin2"));
    // Another owner or mode is another step with another last result.
    let mut other = copy(".", "/app/");
    other.mode = Some(solver::llb::ChmodSpec::Octal(0o700));
    let other = scene.copy(other, scene.context_input(&[])).output();
    assert_ne!(inode(&scene, &other, "app/same"), inode(&scene, &second, "app/same"));
}

fn a_file_that_replaces_another_leaves_no_note(machine: &Machine) {
    let scene = Scene::new(machine);
    scene.write("one/f", "first");
    scene.write("two/f", "second");
    let mut action = copy("one/", "/app/");
    action.sources = vec!["one/".to_owned(), "two/".to_owned()];
    settle(&scene);
    let once = scene.copy(action.clone(), scene.context_input(&[])).output();
    let again = scene.copy(action, scene.context_input(&[])).output();
    assert_eq!(fs_err::read_to_string(tree(&scene, &again).join("app/f")).unwrap(), "second");
    assert_ne!(inode(&scene, &once, "app/f"), inode(&scene, &again, "app/f"));
}
