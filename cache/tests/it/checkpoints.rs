//! Layers that begin like an earlier one: what was hashed then is not read again.

use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use cache::layer::{PackedLayer, pack};
use cache::snapshot::{CommitInfo, LayerDigests, Snapshot};

use crate::world::{World, committed};

/// More than a chunk has in each directory, so that there are some checkpoints.
const FILES: usize = 700;
const DIRECTORIES: usize = 4;

fn seed_content(number: usize) -> Vec<u8> {
    vec![number as u8; number % 97]
}

/// Makes a layer on `parent` that has the files of `earlier`, as further names of them, but for
/// what `change` does before it is committed.
fn after(world: &World, earlier: &Snapshot, change: impl FnOnce(&Path)) -> Snapshot {
    let active = world.store.snapshots().prepare(earlier.parent().map(Snapshot::id)).unwrap();
    link_all(earlier.upper(), active.upper());
    change(active.upper());
    let info = CommitInfo { resembles: Some(earlier.clone()), ..committed() };
    active.commit(info).unwrap()
}

fn link_all(from: &Path, to: &Path) {
    for entry in fs_err::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs_err::create_dir(&target).unwrap();
            link_all(&entry.path(), &target);
        } else {
            std::fs::hard_link(entry.path(), &target).unwrap();
        }
    }
    let metadata = fs_err::metadata(from).unwrap();
    fs_err::set_permissions(to, metadata.permissions()).unwrap();
    fs_err::File::open(to).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
}

/// A layer of some thousand files, and the odd link.
fn many(world: &World) -> Snapshot {
    let active = world.store.snapshots().prepare(None).unwrap();
    for directory in 0..DIRECTORIES {
        let dir = active.upper().join(format!("d{directory}"));
        fs_err::create_dir(&dir).unwrap();
        for number in 0..FILES {
            fs_err::write(dir.join(format!("f{number:04}")), seed_content(number)).unwrap();
        }
        std::fs::hard_link(dir.join("f0003"), dir.join("g")).unwrap();
        symlink("f0001", dir.join("link")).unwrap();
    }
    active.commit(committed()).unwrap()
}

fn checkpoints(snapshot: &Snapshot) -> std::path::PathBuf {
    snapshot.upper().with_file_name("checkpoints")
}

#[test]
fn what_was_hashed_is_not_read_again() {
    let world = World::new();
    let first = many(&world);
    let hashed = first.layer().unwrap();
    let second = after(&world, &first, |_| {});
    // Nobody writes to a snapshot, size and time as they were: whoever reads it finds out.
    let early = second.upper().join("d0/f0050");
    let time = fs_err::metadata(&early).unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&early).unwrap();
    file.write_at(b"?", 0).unwrap();
    file.set_modified(time).unwrap();
    assert_ne!(pack(&second, &mut std::io::sink()).unwrap().diff_id, hashed.diff_id);
    assert_eq!(second.layer().unwrap(), hashed);
}

#[test]
fn every_change_gives_the_digests_that_packing_gives() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 12] = [
        ("nothing", |_| {}),
        ("the first file", |root| replace(&root.join("d0/f0000"), b"other")),
        ("one in the middle", |root| replace(&root.join("d2/f0350"), b"other")),
        ("the last", |root| replace(&root.join("d3/f0699"), b"other")),
        ("one more", |root| fs_err::write(root.join("d3/f0100a"), b"new").unwrap()),
        ("one less", |root| fs_err::remove_file(root.join("d1/f0400")).unwrap()),
        ("a directory less", |root| fs_err::remove_dir_all(root.join("d2")).unwrap()),
        ("an empty directory more", |root| fs_err::create_dir(root.join("d2a")).unwrap()),
        ("another link", |root| {
            fs_err::remove_file(root.join("d2/link")).unwrap();
            symlink("f0002", root.join("d2/link")).unwrap();
        }),
        ("a first name of a link gone", |root| {
            fs_err::remove_file(root.join("d3/f0003")).unwrap();
        }),
        ("the mode of a directory", |root| {
            use std::os::unix::fs::PermissionsExt;
            fs_err::set_permissions(root.join("d3"), std::fs::Permissions::from_mode(0o700))
                .unwrap();
        }),
        ("a link to what was passed over", |root| {
            std::fs::hard_link(root.join("d0/f0010"), root.join("d3/z")).unwrap();
        }),
    ];
    let world = World::new();
    let first = many(&world);
    first.layer().unwrap();
    assert!(checkpoints(&first).exists());
    for (what, change) in changes {
        let second = after(&world, &first, change);
        let packed = pack(&second, &mut std::io::sink()).unwrap();
        assert_eq!(second.layer().unwrap(), digests(&packed), "{what}");
        if what != "one in the middle" {
            continue;
        }
        // And once more on what that left.
        let third = after(&world, &second, |root| replace(&root.join("d3/f0001"), b"third"));
        let packed = pack(&third, &mut std::io::sink()).unwrap();
        assert_eq!(third.layer().unwrap(), digests(&packed), "after {what}");
    }
}

#[test]
fn broken_checkpoints_and_those_on_another_parent_are_none() {
    let world = World::new();
    let first = many(&world);
    first.layer().unwrap();
    let mut bytes = fs_err::read(checkpoints(&first)).unwrap();
    bytes[70] ^= 1;
    fs_err::write(checkpoints(&first), bytes).unwrap();
    let second = after(&world, &first, |root| fs_err::create_dir(root.join("d0a")).unwrap());
    let hashed = second.layer().unwrap();
    assert_eq!(hashed, digests(&pack(&second, &mut std::io::sink()).unwrap()));

    // On a parent that has the empty directory too, the archive is one without it.
    let below = world.store.snapshots().prepare(None).unwrap();
    fs_err::create_dir(below.upper().join("d0a")).unwrap();
    let below = below.commit(committed()).unwrap();
    let active = world.store.snapshots().prepare(Some(below.id())).unwrap();
    link_all(second.upper(), active.upper());
    let info = CommitInfo { resembles: Some(second), ..committed() };
    let elsewhere = active.commit(info).unwrap();
    let packed = pack(&elsewhere, &mut std::io::sink()).unwrap();
    assert_eq!(elsewhere.layer().unwrap(), digests(&packed));
    assert_ne!(packed.diff_id, hashed.diff_id);
}

fn digests(packed: &PackedLayer) -> LayerDigests {
    LayerDigests { diff_id: packed.diff_id, size: packed.size, content: packed.content }
}

fn replace(path: &Path, content: &[u8]) {
    fs_err::remove_file(path).unwrap();
    fs_err::write(path, content).unwrap();
}
