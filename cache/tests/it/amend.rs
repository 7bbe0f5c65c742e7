//! Snapshots that lie over another and are one layer with it.

use std::path::Path;

use cache::gc::check::{Damage, check};
use cache::gc::{self, PruneOptions};
use cache::layer::{pack, unpack};
use cache::snapshot::Snapshot;
use cache::tree::make_whiteout;

use crate::world::{World, committed};

fn fill(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }
}

/// Directories and files of one time, so that trees made at different ones pack to the same.
fn settle(root: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for entry in fs_err::read_dir(root).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            settle(&entry.path());
        } else if !entry.file_type().unwrap().is_file() {
            continue;
        }
        fs_err::File::open(entry.path()).unwrap().set_modified(time).unwrap();
    }
}

fn packed(snapshot: &Snapshot) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(snapshot, &mut archive).unwrap();
    archive
}

/// A base, a tree of four files on it, and two that amend that, each the one before.
fn amended(world: &World) -> [Snapshot; 4] {
    let snapshots = world.store.snapshots();
    let base = snapshots.prepare(None).unwrap();
    fill(base.upper(), &[("etc/base", "base")]);
    let base = base.commit(committed()).unwrap();
    let first = snapshots.prepare(Some(base.id())).unwrap();
    fill(first.upper(), &[("app/a", "1"), ("app/b", "1"), ("app/d/c", "1"), ("app/d/d", "1")]);
    settle(first.upper());
    let first = first.commit(committed()).unwrap();
    let second = snapshots.amend(first.id()).unwrap();
    fill(second.upper(), &[("app/b", "2"), ("app/e", "2")]);
    make_whiteout(fs_err::File::open(second.upper().join("app")).unwrap(), c"d").unwrap();
    settle(second.upper());
    let second = second.commit(committed()).unwrap();
    let third = snapshots.amend(second.id()).unwrap();
    fill(third.upper(), &[("app/d/f", "3")]);
    make_whiteout(fs_err::File::open(third.upper().join("app")).unwrap(), c"a").unwrap();
    settle(third.upper());
    [base, first, second, third.commit(committed()).unwrap()]
}

#[test]
fn an_amended_tree_is_the_layer_of_all_its_directories() {
    let world = World::new();
    let [base, first, second, third] = amended(&world);
    let whole = world.store.snapshots().prepare(Some(base.id())).unwrap();
    fill(whole.upper(), &[("app/b", "2"), ("app/d/f", "3"), ("app/e", "2")]);
    settle(whole.upper());
    let whole = whole.commit(committed()).unwrap();
    assert_eq!(packed(&third), packed(&whole));
    assert_eq!(third.layer().unwrap(), whole.layer().unwrap());
    assert_eq!(third.chain().unwrap(), whole.chain().unwrap());
    assert_eq!(third.diff_ids().unwrap().len(), 2);
    let parents = [&first, &second, &third].map(|one| one.parent().map(|parent| *parent.id()));
    assert_eq!(parents, [Some(*base.id()); 3]);
    let own: Vec<_> = third.own_layers().map(|layer| *layer.id()).collect();
    assert_eq!(own, [*first.id(), *second.id(), *third.id()]);
    assert_eq!(third.layers().count(), 4);

    // What was there before is as it was, and what is unpacked of it too.
    assert_ne!(packed(&first), packed(&second));
    let again = world.store.snapshots().prepare(Some(base.id())).unwrap();
    unpack(&mut &packed(&third)[..], &again, &cache::layer::UnpackLimits::default()).unwrap();
    assert!(!again.upper().join("app/a").exists() && again.upper().join("app/d/f").exists());

    // Another process reads the same from the disk.
    let other = cache::Store::open(world.store.root()).unwrap();
    let read = other.snapshots().get(third.id()).unwrap().unwrap();
    assert_eq!(read.amended().map(Snapshot::id), Some(second.id()));
    assert_eq!(packed(&read), packed(&whole));
}

#[test]
fn what_is_amended_stays_and_goes_with_what_amends_it() {
    let world = World::new();
    let [_, first, _, third] = amended(&world);
    third.layer().unwrap();
    assert_eq!(check(&world.store).unwrap(), []);
    fs_err::write(first.upper().join("app/b"), "!").unwrap();
    assert_eq!(check(&world.store).unwrap(), [], "hidden");
    fs_err::remove_file(first.upper().join("app/a")).unwrap();
    assert_eq!(check(&world.store).unwrap(), [], "taken out");
    fs_err::write(third.upper().join("app/d/f"), "!").unwrap();
    assert_eq!(check(&world.store).unwrap(), [Damage::Layer(*third.id())]);

    let pruned = gc::prune(&world.store, &PruneOptions::default()).unwrap();
    assert_eq!(pruned.removed.len(), 4);
    let order: Vec<_> = pruned.removed.iter().filter_map(|entry| entry.parent).collect();
    assert_eq!(order[0], *third.amended().unwrap().id(), "the topmost goes first");
    assert_eq!(pruned.left, 0);
}

#[test]
fn without_what_it_amends_a_tree_is_a_miss() {
    let world = World::new();
    let [_, _, second, third] = amended(&world);
    world.store.snapshots().remove(second.id()).unwrap();
    assert!(world.store.snapshots().get(third.id()).unwrap().is_none());
    assert!(world.store.snapshots().amend(third.id()).is_err());
}
