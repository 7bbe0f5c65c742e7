//! Pruning: what goes, in which order, and what never does.

use std::time::{Duration, Instant};

use cache::gc::{self, Object, PruneOptions, check};
use cache::hash::Fingerprint;
use cache::index::{CacheKey, Output, Record};
use cache::snapshot::SnapshotId;
use cache::{Store, StoreError};

use crate::world::{World, committed};

/// Commits a tree with one file of `kib` KiB over `parent`, as the result of a step.
fn step(world: &World, name: &str, parent: Option<&SnapshotId>, kib: usize) -> SnapshotId {
    let active = world.store.snapshots().prepare(parent).unwrap();
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
    world.store.index().insert(&record).unwrap();
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
fn a_store_in_use_is_left_alone() {
    let world = World::new();
    let base = step(&world, "base", None, 10);
    let other = Store::open(world.store.root()).unwrap();
    let started = Instant::now();
    let error = gc::prune(&world.store, &PruneOptions::default()).unwrap_err();
    assert!(matches!(error, gc::GcError::Store(StoreError::Busy { .. })), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(other.snapshots().get(&base).unwrap().is_some());
}

#[test]
fn blobs_that_no_image_names_go() {
    let world = World::new();
    let digest = world.store.blobs().put(b"nobody's").unwrap();
    let pruned = gc::prune(&world.store, &PruneOptions::default()).unwrap();
    assert_eq!(pruned.removed[0].object, Object::Blob(digest));
    assert!(!world.store.blobs().contains(&digest));
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
