//! The image store, through its names.

use cache::Store;
use cache::image::{Image, ImageError};
use cache::oci::{Digest, ImageName, Platform};

use crate::registry::Fixture;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn put(store: &Store, layer: &[u8]) -> Image {
    let fixture = Fixture::new(layer, "amd64");
    store.blobs().put(&fixture.layer).unwrap();
    store.images().put(&fixture.manifest, &fixture.config).unwrap()
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

#[test]
fn an_image_is_found_by_every_name_and_by_its_id() {
    let (_directory, store) = store();
    let image = put(&store, b"one");
    for text in ["app", "app:2", "host.io/app"] {
        store.images().tag(&image, &name(text)).unwrap();
    }
    let id = image.config_digest;
    let digest = format!("docker.io/library/app@{}", image.manifest_digest);
    for text in
        ["app:latest", "app:2", "host.io/app", &digest, &id.short(), &id.hex(), &id.to_string()]
    {
        let found = store.images().find(text, &amd64()).unwrap();
        assert_eq!(found.map(|image| image.config_digest), Some(id), "{text}");
    }
    let arm = Platform::new("linux", "arm64", None);
    assert!(store.images().get(&name("app"), &arm).unwrap().is_none());
    for text in ["app:3", "other", "zz", "sha256:", "../../x"] {
        assert!(store.images().find(text, &amd64()).unwrap().is_none(), "{text}");
    }
}

#[test]
fn the_start_of_several_ids_is_ambiguous() {
    let (_directory, store) = store();
    // Seventeen ids cannot all start with different digits.
    let mut starts = std::collections::BTreeMap::new();
    for number in 0..17u8 {
        let id = put(&store, &[number]).config_digest;
        starts.entry(id.hex()[..1].to_owned()).or_insert_with(Vec::new).push(id);
    }
    let (start, mut ids) = starts.into_iter().find(|(_, ids)| ids.len() > 1).unwrap();
    ids.sort();
    match store.images().by_id(&start) {
        Err(ImageError::AmbiguousId { candidates, .. }) => assert_eq!(candidates, ids),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_that_moves_on_leaves_its_image_untagged() {
    let (_directory, store) = store();
    let (old, new) = (put(&store, b"old"), put(&store, b"new"));
    store.images().tag(&old, &name("app")).unwrap();
    store.images().tag(&new, &name("app")).unwrap();
    let found = store.images().get(&name("app"), &amd64()).unwrap().unwrap();
    assert_eq!(found.config_digest, new.config_digest);
    let list = store.images().list().unwrap();
    let rows: Vec<_> = list.iter().map(|row| (row.name.clone(), row.id)).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows.contains(&(None, old.config_digest)));
    assert!(rows.contains(&(Some(name("app")), new.config_digest)));
}

#[test]
fn an_image_keeps_one_row_when_its_last_name_goes() {
    let (_directory, store) = store();
    let image = put(&store, b"one");
    store.images().tag(&image, &name("a")).unwrap();
    store.images().tag(&image, &name("b")).unwrap();
    assert!(store.images().untag(&name("a")).unwrap());
    assert_eq!(store.images().names(&image).unwrap(), [name("b")]);
    assert!(store.images().untag(&name("b")).unwrap());
    assert!(!store.images().untag(&name("b")).unwrap());
    let list = store.images().list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].name.as_ref(), list[0].size), (None, 3));
}

/// As if nobody had used the blobs for a day.
#[test]
fn where_layers_lie_stays_with_the_image() {
    let (_directory, store) = store();
    let images = store.images();
    let image = put(&store, b"one");
    images.tag(&image, &name("host.io/base:1")).unwrap();
    let places = || {
        let places = images.places(&image.manifest_digest).unwrap();
        places.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // What it is called is all that is known.
    assert_eq!(places(), ["host.io/base"]);
    images.add_places(&image, &[name("a.io/one:3"), name("b.io:5000/two")]).unwrap();
    images.add_places(&image, &[name("a.io/one:4")]).unwrap();
    assert_eq!(places(), ["a.io/one", "b.io:5000/two"]);
    images.tag(&image, &name("other:1")).unwrap();
    images.untag(&name("host.io/base:1")).unwrap();
    images.untag(&name("other:1")).unwrap();
    images.tag(&image, &name("again:1")).unwrap();
    assert_eq!(places(), ["a.io/one", "b.io:5000/two"]);
    // Nothing is asked without end.
    let many: Vec<ImageName> = (0..20).map(|number| name(&format!("many.io/{number}"))).collect();
    images.add_places(&image, &many).unwrap();
    assert_eq!(places().len(), 8);
}

fn age(store: &Store) {
    let day_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    for digest in store.blobs().list().unwrap() {
        let file = fs_err::File::open(store.blobs().path(&digest)).unwrap();
        file.file().set_modified(day_ago).unwrap();
    }
}

#[test]
fn removing_an_image_removes_what_only_it_needed() {
    let (_directory, store) = store();
    let (one, two) = (put(&store, b"one"), put(&store, b"two"));
    store.images().tag(&one, &name("one")).unwrap();
    store.images().tag(&one, &name("uno")).unwrap();
    age(&store);
    let removal = store.images().remove(&one).unwrap();
    assert_eq!(removal.untagged, [name("one"), name("uno")]);
    assert_eq!(removal.blobs.len(), 3);
    assert!(!store.blobs().contains(&Digest::of(b"one")).unwrap());
    assert!(store.blobs().contains(&Digest::of(b"two")).unwrap());
    assert!(store.images().by_manifest(&two.manifest_digest).unwrap().is_some());
}

#[test]
fn a_shared_layer_and_a_fresh_blob_survive_a_removal() {
    let (_directory, store) = store();
    let shared = Fixture::new(b"shared", "amd64");
    let other = Fixture::new(b"shared", "arm64");
    store.blobs().put(&shared.layer).unwrap();
    let image = store.images().put(&shared.manifest, &shared.config).unwrap();
    store.images().put(&other.manifest, &other.config).unwrap();
    age(&store);
    assert!(store.images().hold(&image.config_digest).unwrap());
    let removal = store.images().remove(&image).unwrap();
    assert_eq!(removal.blobs, [image.manifest_digest]);
    assert!(store.blobs().contains(&Digest::of(b"shared")).unwrap());
    assert!(store.blobs().contains(&image.config_digest).unwrap(), "somebody holds it");
}

#[test]
fn a_damaged_image_hides_no_other_and_can_be_replaced() {
    let (_directory, store) = store();
    let (one, two) = (put(&store, b"one"), put(&store, b"two"));
    for (image, text) in [(&one, "one"), (&two, "two")] {
        store.images().tag(image, &name(text)).unwrap();
    }
    let path = store.blobs().path(&one.manifest_digest);
    let damaged = fs_err::read_to_string(&path).unwrap().replace("schemaVersion", "schemaversion");
    fs_err::write(&path, damaged).unwrap();
    let list = store.images().list().unwrap();
    assert_eq!(list.iter().map(|row| row.name.clone()).collect::<Vec<_>>(), [Some(name("two"))]);
    store.images().get(&name("one"), &amd64()).unwrap_err();
    store.images().remove(&two).unwrap();
    store.images().tag(&two, &name("one")).unwrap();
}

#[test]
fn many_writers_lose_no_name() {
    let (directory, store) = store();
    let image = put(&store, b"one");
    let root = directory.path().join("store");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (root, image) = (&root, &image);
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                for tag in 0..10 {
                    let name = name(&format!("app:{writer}-{tag}"));
                    store.images().tag(image, &name).unwrap();
                }
            });
        }
    });
    assert_eq!(store.images().names(&image).unwrap().len(), 80);
}

#[test]
fn a_manifest_and_a_foreign_configuration_are_no_image() {
    let (_directory, store) = store();
    let (one, two) = (Fixture::new(b"one", "amd64"), Fixture::new(b"two", "amd64"));
    let error = store.images().put(&one.manifest, &two.config).unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { .. }), "{error}");
    assert!(store.images().list().unwrap().is_empty());
}

#[test]
fn rows_of_other_tools_are_kept() {
    let (_directory, store) = store();
    let path = store.root().join("content/index.json");
    let foreign = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":7,"annotations":{{"x":"y"}}}}]}}"#,
        Digest::of(b"foreign")
    );
    fs_err::write(&path, foreign).unwrap();
    let image = put(&store, b"one");
    store.images().tag(&image, &name("app")).unwrap();
    let text = fs_err::read_to_string(&path).unwrap();
    assert!(text.contains(&Digest::of(b"foreign").to_string()), "{text}");
    assert_eq!(store.images().list().unwrap().len(), 1);
}

#[test]
fn finding_a_name_takes_well_under_a_millisecond() {
    let (_directory, store) = store();
    let image = put(&store, b"one");
    for number in 0..200 {
        store.images().tag(&image, &name(&format!("app:{number}"))).unwrap();
    }
    let wanted = name("app:100");
    store.images().get(&wanted, &amd64()).unwrap().unwrap();
    let fastest = (0..50)
        .map(|_| {
            let started = std::time::Instant::now();
            store.images().get(&wanted, &amd64()).unwrap().unwrap();
            started.elapsed()
        })
        .min()
        .unwrap();
    assert!(fastest < std::time::Duration::from_millis(1), "{fastest:?}");
}
