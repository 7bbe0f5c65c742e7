//! The store: versions, several processes, killed ones, power cuts.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Ingredient, Output, Record};
use cache::oci::{ChainId, Descriptor, DiffId, Digest, MediaType};
use cache::snapshot::CommitInfo;
use cache::{Store, StoreError};

use crate::tape::Tape;
use crate::world::{World, committed};

#[test]
fn the_tree_on_disk_is_the_one_that_is_drawn() {
    let world = World::new();
    let mut names: Vec<String> = fs_err::read_dir(world.store.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "cache-mounts",
            "chains-v1",
            "containers",
            "content",
            "context-v1",
            "index-v1",
            "ingest",
            "leases.lock",
            "lock",
            "snapshots-v1",
            "state.json",
            "trash",
            "unsynced",
            "volumes"
        ]
    );
    let source = include_str!("../../src/state.rs");
    let drawing = source.split("```").nth(1).unwrap();
    for name in names {
        assert!(drawing.contains(&name), "{name} is not drawn");
    }
    let layout = fs_err::read_to_string(world.store.root().join("content/oci-layout")).unwrap();
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn a_store_of_a_newer_strake_is_refused_and_left_alone() {
    let world = World::new();
    let root = world.store.root().to_owned();
    drop(world.store);
    let check = |text: &str, message: &str| {
        fs_err::write(root.join("state.json"), text).unwrap();
        let error = Store::open(&root).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(fs_err::read_to_string(root.join("state.json")).unwrap(), text);
    };
    check(
        r#"{"version":3,"features":[]}"#,
        "has layout version 3; this strake knows version 2 only",
    );
    check(r#"{"version":1,"features":["dedup"]}"#, "uses `dedup`");
    check("{", "does not describe a store");
}

#[test]
fn a_store_of_an_older_strake_is_taken_over_and_then_no_longer_its_own() {
    let world = World::new();
    let root = world.store.root().to_owned();
    let made = world.store.snapshots().prepare(None).unwrap().commit(committed()).unwrap();
    drop(world.store);
    fs_err::write(root.join("state.json"), r#"{"version":1,"features":[]}"#).unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.snapshots().get(made.id()).unwrap().is_some());
    let state = fs_err::read_to_string(root.join("state.json")).unwrap();
    assert_eq!(state, r#"{"version":2,"features":[]}"#);
}

#[test]
fn pruning_and_building_exclude_each_other() {
    let world = World::new();
    let other = Store::open(world.store.root()).unwrap();
    let error = world.store.exclusive().unwrap_err();
    assert!(matches!(error, StoreError::Busy { doing: "using", .. }), "{error:?}");
    drop(other);
    let guard = world.store.exclusive().unwrap();
    // Opening waits for the end of the prune.
    let root = world.store.root().to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    let opening = std::thread::spawn(move || {
        let store = Store::open(&root).unwrap();
        sender.send(()).unwrap();
        drop(store);
    });
    assert!(receiver.recv_timeout(std::time::Duration::from_millis(50)).is_err());
    drop(guard);
    receiver.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    opening.join().unwrap();
}

#[test]
fn a_blob_is_there_once_it_is_whole() {
    let world = World::new();
    let blobs = world.store.blobs();
    let mut writer = blobs.writer().unwrap();
    writer.write_all(&[1; 300_000]).unwrap();
    writer.write_all(&[2; 10]).unwrap();
    assert_eq!(blobs.list().unwrap(), []);
    let (digest, size) = writer.commit().unwrap();
    assert_eq!(size, 300_010);
    assert_eq!(blobs.size(&digest).unwrap(), Some(size));
    assert_eq!(Digest::of(&blobs.read(&digest, size).unwrap()), digest);
    let error = blobs.read(&digest, 100).unwrap_err();
    assert!(matches!(error, StoreError::BlobTooBig { .. }), "{error:?}");
    // Dropped ones leave nothing.
    drop(blobs.writer().unwrap());
    assert_eq!(blobs.list().unwrap(), [digest]);
    // Changed ones are found out.
    fs_err::write(blobs.path(&digest), "other").unwrap();
    let error = blobs.read(&digest, 1 << 20).unwrap_err();
    assert!(matches!(error, StoreError::WrongDigest { .. }), "{error:?}");
    blobs.remove(&digest).unwrap();
    assert!(!blobs.contains(&digest).unwrap());
    blobs.remove(&digest).unwrap();
}

/// A link to itself: whoever walks through it gets an error that is not `NotFound`.
fn break_directory(path: &std::path::Path) {
    fs_err::rename(path, path.with_extension("aside")).unwrap();
    std::os::unix::fs::symlink(path, path).unwrap();
}

#[test]
fn what_the_disk_does_not_tell_is_not_absent() {
    let world = World::new();
    let blobs = world.store.blobs();
    let digest = Digest::of(b"x");
    // A directory where the file should be.
    let path = blobs.path(&digest);
    fs_err::create_dir_all(&path).unwrap();
    let named = |error: &StoreError| error.to_string().contains(&digest.hex()[..]);
    assert!(named(&blobs.contains(&digest).unwrap_err()));
    assert!(named(&blobs.put(b"x").unwrap_err()));
    assert!(named(&blobs.read(&digest, 100).unwrap_err()));
    fs_err::remove_dir(&path).unwrap();
    assert!(!blobs.contains(&digest).unwrap());
    // A directory that cannot be walked through.
    break_directory(path.parent().unwrap());
    assert!(named(&blobs.contains(&digest).unwrap_err()));
    let snapshots = world.store.snapshots();
    let snapshot = snapshots.prepare(None).unwrap().commit(CommitInfo::default()).unwrap();
    break_directory(&world.store.root().join("snapshots-v1"));
    // Whether it was read before or not.
    let error = snapshots.get(snapshot.id()).unwrap_err();
    assert!(error.to_string().contains(&snapshot.id().to_string()), "{error}");
    assert!(Store::open(world.store.root()).unwrap().snapshots().get(snapshot.id()).is_err());
}

#[test]
fn a_snapshot_is_there_once_it_is_committed_and_as_long_as_its_parents_are() {
    let world = World::new();
    let snapshots = world.store.snapshots();
    let active = snapshots.prepare(None).unwrap();
    let id = *active.id();
    fs_err::write(active.upper().join("x"), "x").unwrap();
    assert!(snapshots.get(&id).unwrap().is_none());
    let bottom = active.commit(committed()).unwrap();
    assert_eq!(bottom.created(), "2026-01-02T03:04:05Z");
    let top = snapshots.prepare(Some(&id)).unwrap().commit(committed()).unwrap();
    let layers: Vec<_> = top.layers().map(|layer| *layer.id()).collect();
    assert_eq!(layers, [id, *top.id()]);
    // Another process sees the same.
    let other = Store::open(world.store.root()).unwrap();
    let seen = other.snapshots().get(top.id()).unwrap().unwrap();
    assert_eq!(seen.parent().unwrap().id(), &id);
    assert_eq!(seen.chain_content().unwrap(), top.chain_content().unwrap());
    // Removing the bottom makes the top a miss, in both.
    snapshots.remove(&id).unwrap();
    assert!(snapshots.get(top.id()).unwrap().is_none());
    assert!(other.snapshots().get(top.id()).unwrap().is_none());
    let error = snapshots.prepare(Some(top.id())).unwrap_err();
    assert!(matches!(error, StoreError::NoSnapshot { .. }), "{error:?}");
}

#[test]
fn an_image_layer_is_found_by_its_chain() {
    let world = World::new();
    let snapshots = world.store.snapshots();
    let tar = Tape::new().file("x", b"x").end();
    let diff_id = DiffId(Digest::of(&tar));
    let chain = ChainId::of(&[diff_id]);
    let active = snapshots.prepare(None).unwrap();
    cache::layer::unpack(&mut &tar[..], &active, &Default::default()).unwrap();
    let info = CommitInfo { chain, diff_id: Some(diff_id), ..CommitInfo::default() };
    let base = active.commit(info).unwrap();
    let found = snapshots.unpacked(&chain.unwrap()).unwrap().unwrap();
    assert_eq!(found.id(), base.id());
    let digests = found.layer().unwrap();
    assert_eq!((digests.diff_id, digests.size), (diff_id, tar.len() as u64));
    // A step on top of it, once its digest is known.
    let active = snapshots.prepare(Some(base.id())).unwrap();
    fs_err::write(active.upper().join("y"), "y").unwrap();
    let step = active.commit(committed()).unwrap();
    let diff_ids = step.diff_ids().unwrap();
    assert_eq!(diff_ids[0], diff_id);
    let chain = step.chain().unwrap();
    assert_eq!(Some(chain), ChainId::of(&diff_ids));
    assert_eq!(snapshots.unpacked(&chain).unwrap().unwrap().id(), step.id());
    // A step without changes is a layer all the same, of which the history tells.
    let idle = snapshots.prepare(Some(step.id())).unwrap().commit(committed()).unwrap();
    assert_ne!(idle.chain_content().unwrap(), step.chain_content().unwrap());
    assert_ne!(base.chain_content().unwrap(), step.chain_content().unwrap());
}

#[test]
fn a_kept_tree_outlives_its_process_and_comes_back() {
    let world = World::new();
    let root = world.store.root().to_owned();
    let base = world.store.snapshots().prepare(None).unwrap().commit(committed()).unwrap();
    let active = world.store.snapshots().prepare(Some(base.id())).unwrap();
    let id = *active.id();
    fs_err::write(active.upper().join("mine"), "data").unwrap();
    active.keep().unwrap();
    drop(world.store);
    let store = Store::open(&root).unwrap();
    assert!(store.snapshots().get(&id).unwrap().is_none());
    assert_eq!(store.snapshots().kept().unwrap(), [id]);
    let active = store.snapshots().reopen(&id).unwrap().unwrap();
    assert_eq!(fs_err::read_to_string(active.upper().join("mine")).unwrap(), "data");
    assert_eq!(active.parent().unwrap().id(), base.id());
    active.keep().unwrap();
    store.snapshots().remove(&id).unwrap();
    assert!(store.snapshots().reopen(&id).unwrap().is_none());
}

/// Marks everything as committed in a boot before this one.
fn reboot(root: &Path) {
    for entry in fs_err::read_dir(root.join("snapshots-v1")).unwrap() {
        let info = entry.unwrap().path().join("info");
        let text = fs_err::read_to_string(&info).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["boot"] = "another".into();
        fs_err::write(&info, value.to_string()).unwrap();
    }
    for entry in fs_err::read_dir(root.join("content/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let mut old = [0; 64];
        if rustix::fs::getxattr(&path, "user.strake.boot", &mut old[..]).is_ok() {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&path, "user.strake.boot", b"another", flags).unwrap();
        }
    }
}

#[test]
fn after_a_power_cut_only_what_was_synced_is_there() {
    let world = World::new();
    let root = world.store.root().to_owned();
    let commit = |store: &Store, name: &str| {
        let active = store.snapshots().prepare(None).unwrap();
        fs_err::write(active.upper().join(name), name).unwrap();
        let snapshot = active.commit(committed()).unwrap();
        (*snapshot.id(), store.blobs().put(name.as_bytes()).unwrap())
    };
    let (synced, synced_blob) = commit(&world.store, "synced");
    world.store.sync_in_background().wait().unwrap();
    assert_eq!(fs_err::read_dir(root.join("unsynced")).unwrap().count(), 0);
    let (lost, lost_blob) = commit(&world.store, "lost");
    drop(world.store);
    reboot(&root);
    let store = Store::open(&root).unwrap();
    assert!(store.snapshots().get(&synced).unwrap().is_some());
    assert!(store.snapshots().get(&lost).unwrap().is_none());
    assert!(store.blobs().contains(&synced_blob).unwrap());
    assert!(!store.blobs().contains(&lost_blob).unwrap());
    // Syncing now does not make them believable.
    store.sync_in_background().wait().unwrap();
    assert!(store.snapshots().get(&lost).unwrap().is_none());
    assert_eq!(store.snapshots().sweep_undurable().unwrap(), [lost]);
    assert_eq!(store.snapshots().list().unwrap(), [synced]);
    // And it can be made again.
    assert_eq!(store.blobs().put(b"lost").unwrap(), lost_blob);
    assert!(store.blobs().contains(&lost_blob).unwrap());
}

const CHILD_ROOT: &str = "STRAKE_TEST_CHILD_ROOT";

/// Starts this test binary as a process that holds a store with a half-written blob, an active
/// snapshot and one commit that lacks its last step; returns when it has them.
fn child(root: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::a_process_with_unfinished_business", "--nocapture"])
        .env(CHILD_ROOT, root)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")), "the child did not get ready");
    child
}

/// Not a test: what [`child`] runs. Started by the test runner itself, it has nothing to do.
#[test]
fn a_process_with_unfinished_business() {
    let Some(root) = std::env::var_os(CHILD_ROOT) else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    let mut writer = store.blobs().writer().unwrap();
    writer.write_all(&[1; 1 << 20]).unwrap();
    let active = store.snapshots().prepare(None).unwrap();
    fs_err::write(active.upper().join("half"), "half").unwrap();
    // Killed between writing `info` and renaming it into place.
    fs_err::write(active.upper().parent().unwrap().join("info.0123"), "{}").unwrap();
    let done = store.snapshots().prepare(None).unwrap().commit(committed()).unwrap();
    println!("ready {}", done.id());
    // Until it is killed, or its parent is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
    drop((writer, active));
}

#[test]
fn a_killed_process_leaves_nothing_visible_and_nothing_behind() {
    let world = World::new();
    let root = world.store.root().to_owned();
    let mut child = child(&root);
    // While it lives, its things are left alone, whoever opens the store.
    drop(Store::open(&root).unwrap());
    let dirs = || fs_err::read_dir(root.join("snapshots-v1")).unwrap().count();
    assert_eq!(dirs(), 2);
    assert_eq!(world.store.snapshots().list().unwrap().len(), 1);
    assert_eq!(world.store.blobs().list().unwrap(), []);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(world.store.snapshots().list().unwrap().len(), 1, "nothing half-done is visible");
    let store = Store::open(&root).unwrap();
    store.empty_trash(std::time::Duration::from_secs(30));
    assert_eq!(dirs(), 1);
    assert_eq!(store.snapshots().list().unwrap().len(), 1);
    // Only the living have a corner in `ingest`: these two stores.
    let corners = fs_err::read_dir(root.join("ingest")).unwrap();
    assert_eq!(corners.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 2);
    assert_eq!(fs_err::read_dir(root.join("trash")).unwrap().count(), 0);
}

#[test]
fn a_dropped_snapshot_goes_even_if_overlayfs_locked_its_work_directory() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let active = world.store.snapshots().prepare(None).unwrap();
    let dir = active.upper().parent().unwrap().to_owned();
    fs_err::create_dir(dir.join("work/work")).unwrap();
    fs_err::write(dir.join("work/work/x"), "").unwrap();
    fs_err::set_permissions(dir.join("work/work"), std::fs::Permissions::from_mode(0o000)).unwrap();
    drop(active);
    assert!(!dir.exists());
    world.store.empty_trash(std::time::Duration::from_secs(30));
    assert_eq!(fs_err::read_dir(world.store.root().join("trash")).unwrap().count(), 0);
}

fn record(number: u8) -> Record {
    Record {
        key: CacheKey(Fingerprint::of(&[number])),
        op: Fingerprint::of(&[number / 2]),
        name: format!("[{number}] RUN x"),
        outputs: vec![Output { snapshot: None, content: Some(Fingerprint::of(b"content")) }],
        created: "2026-01-02T03:04:05Z".to_owned(),
        ingredients: (0..50)
            .map(|part| Ingredient { part: format!("file:/{part}"), value: "x".to_owned() })
            .collect(),
    }
}

#[test]
fn the_index_remembers_what_it_was_told() {
    let world = World::new();
    let index = world.store.index();
    let (a, b) = (record(0), record(2));
    assert_eq!(index.lookup(&a.key).unwrap(), None);
    index.insert_many(&[a.clone(), b.clone()]).unwrap();
    assert_eq!(index.lookup(&a.key).unwrap(), Some(a.clone()));
    let bare = Record { ingredients: Vec::new(), ..a.clone() };
    assert_eq!(index.lookup_outputs(&a.key).unwrap(), Some(bare));
    assert!(index.has_op(&a.op).unwrap());
    assert!(!index.has_op(&Fingerprint::of(b"no")).unwrap());
    index.set_latest("app", &[("step".to_owned(), b.key)]).unwrap();
    assert_eq!(index.latest_for_name("app", "step").unwrap(), Some(b.clone()));
    assert_eq!(index.latest_for_name("other", "step").unwrap(), None);
    let keys = |records: Vec<Record>| records.iter().map(|record| record.key).collect::<Vec<_>>();
    assert_eq!(keys(index.records().unwrap()).len(), 2);
    assert!(index.last_used(&a.key).unwrap().is_some());
    index.remove(&[a.key]).unwrap();
    assert_eq!(keys(index.records().unwrap()), [b.key]);

    let digest: oci_spec::image::Digest = Digest::of(b"blob").to_string().parse().unwrap();
    let blob = Descriptor::new(MediaType::ImageLayerGzip, 7, digest);
    let diff_id = DiffId(Digest::of(b"tar"));
    assert_eq!(index.layer_blob(&diff_id, "gzip-6").unwrap(), None);
    index.put_layer_blob(&diff_id, "gzip-6", &blob).unwrap();
    assert_eq!(index.layer_blob(&diff_id, "gzip-6").unwrap(), Some(blob.clone()));
    assert_eq!(index.layer_blobs(&diff_id).unwrap(), [("gzip-6".to_owned(), blob)]);

    index.put_value("history", "2", b"two").unwrap();
    index.put_value("history", "1", b"one").unwrap();
    assert_eq!(index.value("history", "1").unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(index.values("history").unwrap().len(), 2);
    index.remove_value("history", "1").unwrap();
    assert_eq!(index.values("history").unwrap(), [("2".to_owned(), b"two".to_vec())]);
}

#[test]
fn two_stores_write_to_one_index_at_once() {
    let world = World::new();
    let root = world.store.root();
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                for number in 0..25 {
                    store.index().insert(&record(part * 25 + number)).unwrap();
                }
            });
        }
    });
    assert_eq!(world.store.index().records().unwrap().len(), 100);
}

#[test]
fn a_damaged_index_is_begun_anew() {
    let world = World::new();
    world.store.index().insert(&record(1)).unwrap();
    // Else the log would still have what is about to be lost.
    world.store.index().tidy().unwrap();
    let root = world.store.root().to_owned();
    drop(world.store);
    let path = root.join("index-v1/index.sqlite");
    fs_err::write(&path, "this is no database, whatever its name says".repeat(100)).unwrap();
    let store = Store::open(&root).unwrap();
    assert_eq!(store.index().lookup(&record(1).key).unwrap(), None);
    store.index().insert(&record(1)).unwrap();
    assert_eq!(store.index().lookup(&record(1).key).unwrap(), Some(record(1)));
    let aside = fs_err::read_dir(root.join("index-v1")).unwrap();
    assert!(
        aside
            .into_iter()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().contains("damaged") })
    );
}
