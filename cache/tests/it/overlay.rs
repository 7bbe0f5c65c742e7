//! The described mounts, performed: what the kernel's overlayfs leaves in a directory of changes,
//! and which layer that becomes. Needs to mount, so it always runs in a user namespace of its own
//! (uid 0 there, as strake is).

use std::process::Command;

use cache::layer::UnpackLimits;
use cache::snapshot::Snapshot;
use oci_spec::runtime::Mount;

use crate::privilege::in_namespace;
use crate::tape::Tape;
use crate::world::{World, committed, names_in, packed, paths};

/// Runs a shell script in the mounted tree.
fn run_in(world: &World, mounts: &[Mount], script: &str) -> String {
    let target = world.dir.path().join("merged");
    fs_err::create_dir_all(&target).unwrap();
    let [mount] = mounts else { panic!("one mount makes the tree") };
    let kind = mount.typ().as_deref().unwrap();
    let options = mount.options().as_ref().unwrap().join(",");
    let mut command = Command::new("mount");
    if kind == "overlay" {
        command.args(["-t", "overlay", "-o", &options, "overlay"]);
    } else {
        command.args(["-o", &options]).arg(mount.source().as_ref().unwrap());
    }
    let output = command.arg(&target).output().unwrap();
    assert!(output.status.success(), "{options}: {}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new("sh").args(["-euc", script]).current_dir(&target).output().unwrap();
    let unmounted = Command::new("umount").arg(&target).status().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(unmounted.success());
    String::from_utf8(output.stdout).unwrap()
}

fn step(world: &World, parent: &Snapshot, script: &str) -> Snapshot {
    let active = world.store.snapshots().prepare(Some(parent.id())).unwrap();
    run_in(world, &active.mounts(), script);
    active.commit(committed()).unwrap()
}

fn base(world: &World) -> Snapshot {
    world.unpack(&[Tape::new()
        .dir("d/")
        .file("d/a", b"a")
        .file("d/b", b"b")
        .dir("d/sub/")
        .file("d/sub/c", b"c")
        .symlink("l", "d")
        .file("x", b"x")
        .end()])
}

#[test]
fn what_a_step_did_is_what_its_layer_says() {
    in_namespace("overlay::what_a_step_did_is_what_its_layer_says", || {
        let world = World::new();
        let base = base(&world);
        let check = |script: &str, expected: &[&str]| {
            let snapshot = step(&world, &base, script);
            let (layer, tar) = packed(&snapshot);
            assert_eq!(names_in(&tar), expected, "{script}");
            // Unpacked over the same base it is the same tree, in our eyes and in the kernel's.
            let limits = UnpackLimits::default();
            let (again, _) = world.try_unpack(Some(&base), &tar, &limits).unwrap();
            assert_eq!(paths(&again), paths(&snapshot), "{script}");
            assert_eq!(packed(&again).0.content, layer.content, "{script}");
            let list = "find . | sort; find . -type f | sort | xargs cat";
            assert_eq!(
                run_in(&world, &again.mounts(), list),
                run_in(&world, &snapshot.mounts(), list),
                "{script}"
            );
        };
        // S1
        check("rm x", &["f .wh.x"]);
        check("touch new && rm new", &[]);
        // S2
        check(
            "rm -rf d && mkdir d && touch d/b d/x",
            &["d d/", "f d/.wh.a", "f d/b", "f d/.wh.sub", "f d/x"],
        );
        check(
            "rm -rf d && mkdir -p d/sub && touch d/sub/n",
            &["d d/", "f d/.wh.a", "f d/.wh.b", "d d/sub/", "f d/sub/.wh.c", "f d/sub/n"],
        );
        // S3
        check("rm -rf d && echo f >d", &["f d"]);
        check("rm l && mkdir l && echo f >l/f", &["d l/", "f l/f"]);
        check("rm x && ln -s d x", &["l x"]);
        // S4, and what was seen of BuildKit
        check("echo n >n && ln n m", &["f m", "h n"]);
        check("ln x new", &["f new"]);
        // S5
        check("chmod 600 d/sub/c", &["d d/", "d d/sub/", "f d/sub/c"]);
        // S6
        check("touch -d @5 d/sub/c", &["d d/", "d d/sub/", "f d/sub/c"]);
        check("echo n >d/n", &["d d/", "f d/n"]);
        // A file that was opened for writing and is as it was.
        check("exec 3>>x; exec 3>&-", &[]);
        check("chmod 644 d/a", &[]);
        check("mv x t && mv t x", &[]);
        check("mv d e", &["f .wh.d", "d e/", "f e/a", "f e/b", "d e/sub/", "f e/sub/c"]);
        check("mkfifo p; mkdir -m 1777 t", &["p p", "d t/"]);
    });
}

#[test]
fn many_layers_with_awkward_paths_are_one_tree() {
    in_namespace("overlay::many_layers_with_awkward_paths_are_one_tree", || {
        let dir = tempfile::tempdir().unwrap();
        let awkward = dir.path().join("a:b c");
        fs_err::create_dir(&awkward).unwrap();
        let store = cache::Store::open(&awkward).unwrap();
        let world = World { store, dir };
        let mut snapshot = base(&world);
        for number in 0..6 {
            snapshot = step(&world, &snapshot, &format!("echo {number} >n{number}; rm -f x"));
        }
        let listed = run_in(&world, &snapshot.mounts(), "ls -d * | xargs");
        assert_eq!(listed.trim(), "d l n0 n1 n2 n3 n4 n5");
        let target = world.dir.path().join("merged");
        assert!(target.exists());
        // Read-only means it.
        let written = run_in(&world, &snapshot.mounts(), "touch y 2>/dev/null || echo refused");
        assert_eq!(written.trim(), "refused");
    });
}

#[test]
fn attributes_that_a_container_sets_are_its_own() {
    in_namespace("overlay::attributes_that_a_container_sets_are_its_own", || {
        let world = World::new();
        let base = base(&world);
        let active = world.store.snapshots().prepare(Some(base.id())).unwrap();
        let target = world.dir.path().join("merged");
        // Without setfattr: the test sets it from the inside.
        let options = active.mounts()[0].options().as_ref().unwrap().join(",");
        fs_err::create_dir_all(&target).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "overlay", "-o", &options, "overlay"])
            .arg(&target)
            .status()
            .unwrap();
        assert!(mounted.success());
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(target.join("x"), "user.mine", b"1", flags).unwrap();
        let overlay = rustix::fs::setxattr(target.join("d"), "user.overlay.opaque", b"y", flags);
        assert!(Command::new("umount").arg(&target).status().unwrap().success());
        let snapshot = active.commit(committed()).unwrap();
        let (_, tar) = packed(&snapshot);
        let text = String::from_utf8_lossy(&tar);
        assert!(text.contains("SCHILY.xattr.user.mine=1\n"));
        // Kernels that let it through escape it; either way nothing is hidden.
        assert_eq!(text.contains("SCHILY.xattr.user.overlay.opaque=y\n"), overlay.is_ok());
        assert_eq!(paths(&snapshot).len(), 7);
    });
}
