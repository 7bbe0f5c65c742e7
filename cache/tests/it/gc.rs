//! Pruning: what goes, in which order, and what never does.

use cache::Store;
use cache::gc::{self, Object, PruneOptions, check};
use cache::hash::Fingerprint;
use cache::index::{CacheKey, Output, Record};
use cache::snapshot::SnapshotId;

use crate::world::{World, committed};

/// Commits a tree with one file of `kib` KiB over `parent`, as the result of a step.
fn step(world: &World, name: &str, parent: Option<&SnapshotId>, kib: usize) -> SnapshotId {
    step_in(&world.store, name, parent, kib)
}

fn step_in(store: &Store, name: &str, parent: Option<&SnapshotId>, kib: usize) -> SnapshotId {
    let active = store.snapshots().prepare(parent).unwrap();
    fs_err::write(active.upper().join(name), vec![7; kib << 10]).unwrap();
    let id = *active.commit(committed()).unwrap().id();
    let record = Record {
        key: CacheKey(Fingerprint::of(name.as_bytes())),
        op: Fingerprint::of(name.as_bytes()),
        name: name.to_owned(),
        outputs: vec![Output { snapshot: Some(id), content: None }],
        created: "2026-01-02T03:04:05Z".to_owned(),
        ingredients: Vec::new(),
    };
    store.index().insert(&record).unwrap();
    id
}

fn names(pruned: &gc::Pruned) -> Vec<&str> {
    pruned.removed.iter().map(|entry| entry.description.as_str()).collect()
}

#[test]
fn children_go_before_what_they_stand_on_and_their_records_with_them() {
    let world = World::new();
    let base = step(&world, "base", None, 100);
    step(&world, "top", Some(&base), 100);
    let pruned = gc::prune(&world.store, &PruneOptions::default()).unwrap();
    assert_eq!(names(&pruned), ["top", "base"]);
    assert!(pruned.freed >= 200 << 10, "{pruned:?}");
    assert_eq!(pruned.left, 0);
    assert!(world.store.index().records().unwrap().is_empty());
    assert!(world.store.snapshots().list().unwrap().is_empty());
}

#[test]
fn a_limit_stops_where_it_is_reached() {
    let world = World::new();
    let base = step(&world, "base", None, 1000);
    step(&world, "top", Some(&base), 1000);
    let options = PruneOptions { max_used_space: 1500 << 10, ..PruneOptions::default() };
    let pruned = gc::prune(&world.store, &options).unwrap();
    assert_eq!(names(&pruned), ["top"]);
    assert!(pruned.left <= 1500 << 10, "{pruned:?}");
    let pruned = gc::prune(&world.store, &options).unwrap();
    assert!(pruned.removed.is_empty(), "{pruned:?}");
}

#[test]
fn filters_choose_and_what_stands_on_a_tree_keeps_it() {
    let world = World::new();
    let base = step(&world, "base", None, 10);
    step(&world, "top", Some(&base), 10);
    step(&world, "other", None, 10);
    let with = |filter: &str| PruneOptions {
        filters: vec![filter.parse().unwrap()],
        ..PruneOptions::default()
    };
    for (filter, gone) in
        [("until=24h", vec![]), ("description=base", vec![]), ("description~=oth", vec!["other"])]
    {
        let pruned = gc::prune(&world.store, &with(filter)).unwrap();
        assert_eq!(names(&pruned), gone, "{filter}");
    }
}

#[test]
fn the_tree_below_a_kept_container_stays() {
    let world = World::new();
    let base = step(&world, "base", None, 10);
    world.store.snapshots().prepare(Some(&base)).unwrap().keep().unwrap();
    let pruned = gc::prune(&world.store, &PruneOptions { all: true, ..PruneOptions::default() });
    assert!(pruned.unwrap().removed.is_empty());
    assert!(world.store.snapshots().get(&base).unwrap().is_some());
}

#[test]
fn volumes_are_never_touched() {
    let world = World::new();
    let file = world.store.volumes_dir().join("precious");
    fs_err::write(&file, "data").unwrap();
    gc::prune(&world.store, &PruneOptions { all: true, ..PruneOptions::default() }).unwrap();
    assert_eq!(fs_err::read_to_string(file).unwrap(), "data");
}

#[test]
fn what_another_process_relies_on_stays_until_it_ends() {
    let world = World::new();
    let base = step(&world, "base", None, 10);
    let used = step(&world, "used", Some(&base), 10);
    step(&world, "unused", Some(&base), 10);
    let (blob, unread) = (world.store.blobs().put(b"read"), world.store.blobs().put(b"unread"));
    let (blob, unread) = (blob.unwrap(), unread.unwrap());
    for name in ["mounted", "idle"] {
        fs_err::create_dir(world.store.cache_mounts_dir().join(name)).unwrap();
    }
    // The maker of it all ends.
    let world = world.reopened();
    let other = Store::open(world.store.root()).unwrap();
    assert!(other.snapshots().get(&used).unwrap().is_some());
    assert!(other.blobs().contains(&blob).unwrap());
    other.lease_cache_mount("mounted").unwrap();
    let made = step_in(&other, "made", Some(&used), 10);

    let survey = gc::survey(&world.store).unwrap();
    let in_use: Vec<_> = survey.entries.iter().filter(|entry| entry.in_use).collect();
    assert_eq!(in_use.len(), 5, "{in_use:?}");
    let pruned = gc::prune(&world.store, &PruneOptions::default()).unwrap();
    let mut gone = names(&pruned);
    gone.sort_unstable();
    assert_eq!(gone, ["a blob that no image names", "cache mount idle", "unused"]);
    assert!(!world.store.blobs().contains(&unread).unwrap());
    assert!(pruned.left > 0);
    for id in [&base, &used, &made] {
        assert!(other.snapshots().get(id).unwrap().is_some());
    }
    assert!(other.blobs().open(&blob).is_ok());

    drop(other);
    let pruned = gc::prune(&world.store, &PruneOptions::default()).unwrap();
    assert_eq!(pruned.removed.len(), 5, "{pruned:?}");
    assert_eq!(pruned.left, 0);
}

#[test]
fn a_use_is_noted_on_the_tree() {
    let world = World::new();
    let one = step(&world, "one", None, 10);
    let two = step(&world, "two", None, 10);
    for id in [&one, &two] {
        let info = world.store.snapshots().get(id).unwrap().unwrap().upper().with_file_name("info");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs_err::File::options().write(true).open(info).unwrap().file().set_modified(old).unwrap();
    }
    // What the records say of their storing is as new as the test.
    let keys: Vec<_> = world.store.index().records().unwrap().iter().map(|r| r.key).collect();
    world.store.index().remove(&keys).unwrap();
    world.store.snapshots().mark_used(&one);
    let survey = gc::survey(&world.store).unwrap();
    let used = |id: &SnapshotId| {
        let entry = survey.entries.iter().find(|entry| entry.object == Object::Snapshot(*id));
        entry.unwrap().last_used
    };
    assert!(used(&one) > used(&two) && used(&two) == 1_000_000 * 1_000_000_000);
}

#[test]
fn what_this_process_uses_goes_last() {
    let world = World::new();
    let old = step(&world, "old", None, 1000);
    let world = world.reopened();
    step(&world, "new", None, 1000);
    let options = PruneOptions { max_used_space: 1500 << 10, ..PruneOptions::default() };
    assert_eq!(names(&gc::prune(&world.store, &options).unwrap()), ["old"]);
    assert!(world.store.snapshots().get(&old).unwrap().is_none());
}

#[test]
fn blobs_that_no_image_names_go() {
    let world = World::new();
    let digest = world.store.blobs().put(b"nobody's").unwrap();
    let pruned = gc::prune(&world.store, &PruneOptions::default()).unwrap();
    assert_eq!(pruned.removed[0].object, Object::Blob(digest));
    assert!(!world.store.blobs().contains(&digest).unwrap());
}

#[test]
fn a_changed_layer_takes_what_stands_on_it_along() {
    let world = World::new();
    let base = step(&world, "base", None, 10);
    let top = step(&world, "top", Some(&base), 10);
    let snapshot = world.store.snapshots().get(&base).unwrap().unwrap();
    snapshot.layer().unwrap();
    assert_eq!(check::check(&world.store).unwrap(), []);
    fs_err::write(snapshot.upper().join("base"), "flipped").unwrap();
    let found = check::repair(&world.store).unwrap();
    assert!(found.contains(&check::Damage::Layer(base)), "{found:?}");
    assert!(found.contains(&check::Damage::Orphan(top)), "{found:?}");
    assert!(world.store.index().records().unwrap().is_empty());
    assert_eq!(check::check(&world.store).unwrap(), []);
}
