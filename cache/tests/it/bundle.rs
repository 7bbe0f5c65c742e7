//! Caches of others: what is asked for, and what is believed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::bundle::document::{Blob, DOCUMENT_TYPE, Document, Entry, Layer};
use cache::bundle::{BundleError, Imported, Place, RegistryPlace, manifest_of};
use cache::hash::Fingerprint;
use cache::image::document::descriptor;
use cache::index::CacheKey;
use cache::oci::{DiffId, Digest, MediaType};
use cache::remote::{CredentialFiles, Registries, RegistryConfig};

use crate::registry::{FakeRegistry, Reply};
use crate::world::World;

fn config() -> RegistryConfig {
    RegistryConfig {
        credentials: CredentialFiles::none(),
        backoff: Duration::from_millis(5),
        patience: Duration::from_millis(300),
        attempts: 2,
        longest_wait: Duration::from_secs(1),
        ..RegistryConfig::default()
    }
}

fn place(registry: &FakeRegistry) -> Arc<dyn Place> {
    Arc::new(RegistryPlace::new(registry.name("team/cache:1"), Registries::new(config())))
}

fn key(text: &str) -> CacheKey {
    CacheKey(Fingerprint::of(text.as_bytes()))
}

/// A bundle of two trees, one on the other; the second layer's DiffId is as it is told.
struct Bundle {
    layers: [Vec<u8>; 2],
    document: Vec<u8>,
    manifest: Vec<u8>,
}

impl Bundle {
    fn new(second: Option<DiffId>) -> Bundle {
        let layers = ["a", "b"].map(|name| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, name.as_bytes()).unwrap();
            tar.into_inner().unwrap()
        });
        let diff_ids = layers.each_ref().map(|layer| DiffId(Digest::of(layer)));
        let blob = |layer: &Vec<u8>| {
            let size = layer.len() as u64;
            Blob::of(&descriptor(MediaType::ImageLayer, size, &Digest::of(layer))).unwrap()
        };
        let layer = |number: usize, diff_id| Layer {
            parent: number.checked_sub(1),
            diff_id,
            content: Fingerprint::of(&[number as u8]),
            created: "2026-01-02T03:04:05Z".to_owned(),
            blob: Some(blob(&layers[number])),
        };
        let record = |name: &str, output| Entry {
            key: key(name),
            op: Fingerprint::of(b"op"),
            name: name.to_owned(),
            created: "2026-01-02T03:04:05Z".to_owned(),
            outputs: vec![Some(output)],
            ingredients: Vec::new(),
        };
        let mut document = Document::default();
        document.layers = vec![layer(0, diff_ids[0]), layer(1, second.unwrap_or(diff_ids[1]))];
        document.records = vec![record("first", 0), record("second", 1)];
        let blobs = document.blobs();
        let document = document.pack();
        let size = document.len() as u64;
        let config = descriptor(MediaType::from(DOCUMENT_TYPE), size, &Digest::of(&document));
        Bundle { layers, manifest: manifest_of(config, blobs), document }
    }

    fn serve(self) -> FakeRegistry {
        FakeRegistry::start(move |seen, _| {
            let path = seen.path.split('?').next().unwrap_or_default();
            let last = path.rsplit('/').next().unwrap_or_default();
            if path == "/v2/" {
                return Reply::body(b"{}");
            }
            if path.contains("/manifests/") {
                return Reply::body(&self.manifest)
                    .header("Content-Type", MediaType::ImageManifest);
            }
            let mut blobs = self.layers.iter().chain([&self.document]);
            match blobs.find(|blob| Digest::of(blob).to_string() == last) {
                Some(blob) => Reply::body(blob),
                None => Reply::new(404),
            }
        })
    }
}

fn blobs_asked_for(registry: &FakeRegistry) -> usize {
    let asked = registry.seen();
    asked.iter().filter(|seen| seen.method == "GET" && seen.path.contains("/blobs/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_fetched_when_its_files_are_wanted() {
    let registry = Bundle::new(None).serve();
    let (place, world) = (place(&registry), World::new());
    let document = place.read().await.unwrap();
    let imported = Imported::new(vec![(place, document)]);
    let names = ["first", "second"].map(|name| {
        let record = imported.lookup(&world.store, &key(name)).unwrap().unwrap();
        record.outputs[0].snapshot.unwrap()
    });
    assert!(names.iter().all(|name| imported.offers(name)));
    assert!(imported.lookup(&world.store, &key("third")).unwrap().is_none());
    // The document and nothing else.
    assert_eq!(blobs_asked_for(&registry), 1);
    let quiet = |_: &_, _| {};
    let first = imported.make(&world.store, &names[0], &quiet).await.unwrap();
    assert_eq!(blobs_asked_for(&registry), 2);
    let second = imported.make(&world.store, &names[1], &quiet).await.unwrap();
    imported.make(&world.store, &names[1], &quiet).await.unwrap();
    assert_eq!(blobs_asked_for(&registry), 3);
    let snapshot = world.store.snapshots().get(&second).unwrap().unwrap();
    assert_eq!(snapshot.parent().map(|parent| *parent.id()), Some(first));
    // The content is what it was at home, not a function of the digest.
    assert_eq!(snapshot.layer().unwrap().content, Fingerprint::of(&[1]));
    // Whoever comes later finds the trees under their chains.
    let record = imported.lookup(&world.store, &key("second")).unwrap().unwrap();
    assert_eq!(record.outputs[0].snapshot, Some(second));
    assert_eq!(record.outputs[0].content, Some(snapshot.chain_content().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_something_else_gives_the_cache_up() {
    let registry = Bundle::new(Some(DiffId(Digest::of(b"other")))).serve();
    let (place, world) = (place(&registry), World::new());
    let document = place.read().await.unwrap();
    let imported = Imported::new(vec![(place, document)]);
    let record = imported.lookup(&world.store, &key("second")).unwrap().unwrap();
    let name = record.outputs[0].snapshot.unwrap();
    imported.make(&world.store, &name, &|_, _| {}).await.unwrap_err();
    let failures = imported.failures();
    assert!(matches!(failures[..], [(_, BundleError::DiffId { .. })]), "{failures:?}");
    assert!(!imported.offers(&name));
    assert!(imported.lookup(&world.store, &key("first")).unwrap().is_none());
    assert!(!imported.has_op(&Fingerprint::of(b"op")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_misbehaves_is_an_error_soon() {
    type Case = (&'static str, fn() -> Reply);
    let replies: [Case; 6] = [
        ("500", || Reply::new(500)),
        ("429", || Reply::new(429).header("Retry-After", 3600)),
        ("403", || Reply::new(403)),
        ("silence", Reply::silent),
        ("no JSON", || Reply::body(b"<html>").header("Content-Type", "text/html")),
        ("hangs", || Reply::body(&[b'{'; 100]).cut(10).hang()),
    ];
    for (case, reply) in replies {
        let registry = FakeRegistry::start(move |seen, _| match seen.path.as_str() {
            "/v2/" => Reply::body(b"{}"),
            _ => reply(),
        });
        let started = Instant::now();
        let error = place(&registry).read().await.map(drop).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(10), "{case}: {error}");
    }
    let registry = FakeRegistry::start(|seen, _| match seen.path.as_str() {
        "/v2/" => Reply::body(b"{}"),
        _ => Reply::new(404),
    });
    let error = place(&registry).read().await.map(drop).unwrap_err();
    assert!(matches!(error, BundleError::Missing { .. }), "{error}");
}
