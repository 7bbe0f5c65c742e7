//! Archives that lie.

use cache::image::ImageError;
use cache::image::unpack::unpack_image;
use cache::oci::Digest;
use exporter::{ExportError, Loaded, load_archive};

use crate::world::World;

/// A tar of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An empty layer: the end of a tar.
const LAYER: &[u8] = &[0; 1024];

fn config(diff_id: &Digest) -> Vec<u8> {
    format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    )
    .into_bytes()
}

fn load(files: &[(&str, &[u8])]) -> (World, Result<Vec<Loaded>, ExportError>) {
    let world = World::new();
    let result = load_archive(&world.store, std::io::Cursor::new(archive(files)));
    if result.is_err() {
        assert!(world.store.images().list().unwrap().is_empty(), "no image is visible");
    }
    (world, result)
}

/// Expects the load to fail with these words, causes included.
fn check(files: &[(&str, &[u8])], words: &str) {
    let (_world, result) = load(files);
    let mut error: &dyn std::error::Error = &result.unwrap_err();
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text += &format!(": {source}");
        error = source;
    }
    assert!(text.contains(words), "{text}");
}

const MANIFEST: &[u8] = br#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["l/layer.tar"]}]"#;

#[test]
fn an_old_docker_archive_is_read_whatever_its_order() {
    let config = config(&Digest::of(LAYER));
    let files: [(&str, &[u8]); 3] =
        [("manifest.json", MANIFEST), ("c.json", &config), ("l/layer.tar", LAYER)];
    let (_world, result) = load(&files);
    assert_eq!(result.unwrap()[0].image.config_digest, Digest::of(&config));
    let (_world, result) = load(&[files[2], files[1], files[0]]);
    assert_eq!(result.unwrap()[0].image.config_digest, Digest::of(&config));
}

#[test]
fn a_layer_that_is_not_what_its_configuration_says_is_refused() {
    let config = config(&Digest::of(b"another layer"));
    check(
        &[("manifest.json", MANIFEST), ("c.json", &config), ("l/layer.tar", LAYER)],
        "turned out to be",
    );
}

#[test]
fn a_blob_that_is_not_what_its_name_says_is_refused() {
    let name = format!("blobs/sha256/{}", Digest::of(b"right").hex());
    check(&[(&name, b"wrong")], "has other content");
}

#[test]
fn missing_pieces_are_named() {
    let config = config(&Digest::of(LAYER));
    check(&[("manifest.json", MANIFEST)], "`c.json` is not in the archive");
    check(
        &[("manifest.json", MANIFEST), ("c.json", &config)],
        "`l/layer.tar` is not in the archive",
    );
    check(&[("readme", b"hello")], "neither a manifest.json nor an OCI layout");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":5}}]}}"#,
        Digest::of(b"gone!")
    );
    check(&[("oci-layout", b"{}"), ("index.json", index.as_bytes())], "is not in the archive");
    check(&[("manifest.json", b"[]")], "holds no image");
    check(&[("manifest.json", b"{")], "manifest.json cannot be used");
}

#[test]
fn a_configuration_under_a_foreign_digest_is_refused() {
    let config = config(&Digest::of(LAYER));
    let name = format!("{}.json", Digest::of(b"another configuration").hex());
    let manifest = format!(r#"[{{"Config":"{name}","Layers":["l/layer.tar"]}}]"#);
    check(
        &[("manifest.json", manifest.as_bytes()), (&name, &config), ("l/layer.tar", LAYER)],
        "another digest",
    );
}

#[test]
fn an_index_that_is_also_a_manifest_is_refused() {
    let index = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    check(&[("oci-layout", b"{}"), ("index.json", index)], "cannot be trusted");
}

#[test]
fn links_of_an_archive_lead_only_into_it() {
    let config = config(&Digest::of(LAYER));
    for (target, expected) in [
        ("../real/layer.tar", true),
        ("../../../../etc/passwd", false),
        ("layer.tar", false),
        ("/etc/passwd", false),
    ] {
        let mut tar = tar::Builder::new(Vec::new());
        let files: [(&str, &[u8]); 3] =
            [("manifest.json", MANIFEST), ("c.json", &config), ("real/layer.tar", LAYER)];
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "l/layer.tar", target).unwrap();
        let world = World::new();
        let bytes = std::io::Cursor::new(tar.into_inner().unwrap());
        let result = load_archive(&world.store, bytes);
        assert_eq!(result.is_ok(), expected, "{target}: {result:?}");
    }
}

#[test]
fn a_truncated_archive_makes_no_image() {
    let config = config(&Digest::of(LAYER));
    let bytes =
        archive(&[("manifest.json", MANIFEST), ("c.json", &config), ("l/layer.tar", LAYER)]);
    // Within the layer, the last file.
    let cut = bytes.len() - 1024 - 600;
    let world = World::new();
    let result = load_archive(&world.store, std::io::Cursor::new(bytes[..cut].to_vec()));
    assert!(result.is_err());
    assert!(world.store.images().list().unwrap().is_empty());
}

#[test]
fn a_pulled_layer_is_held_to_its_diff_id_before_it_is_a_tree() {
    let world = World::new();
    let promised = Digest::of(b"another layer");
    let config = config(&promised);
    let layer = world.store.blobs().put(LAYER).unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":1024}}]}}"#,
        Digest::of(&config),
        config.len()
    );
    let image = world.store.images().put(manifest.as_bytes(), &config).unwrap();
    let error = unpack_image(&world.store, &image).unwrap_err();
    assert!(matches!(error, ImageError::DiffId { found, .. } if found == layer), "{error}");
    assert!(world.store.snapshots().list().unwrap().is_empty());
    world.store.blobs().remove(&layer).unwrap();
    let error = unpack_image(&world.store, &image).unwrap_err();
    assert!(matches!(error, ImageError::LayerMissing { number: 1, .. }), "{error}");
}
