//! From snapshots and a configuration to an image.

use std::collections::BTreeMap;

use cache::image::unpack::{layers_needed, unpack_image};
use cache::oci::{ImageConfiguration, MediaType, Platform};
use exporter::{AssembleOptions, assemble, import};

use crate::world::{FIRST, SECOND, World, configuration, name};

#[test]
fn an_image_lists_its_layers_by_diff_id_and_needs_no_blob_of_them() {
    let world = World::new();
    let image = world.image();
    let layers = image.manifest.layers();
    assert_eq!(layers.len(), 2);
    for (layer, diff_id) in layers.iter().zip(&image.config.rootfs.diff_ids) {
        assert_eq!(layer.media_type(), &MediaType::ImageLayer);
        assert_eq!(layer.digest().to_string(), diff_id.to_string());
        assert!(!world.store.blobs().contains(&diff_id.0).unwrap());
    }
    assert!(layers_needed(&world.store, &image).unwrap().is_empty());
    let tree = unpack_image(&world.store, &image).unwrap().unwrap();
    assert_eq!(tree.layer().unwrap().diff_id, image.config.rootfs.diff_ids[1]);
}

#[test]
fn history_and_image_are_dated_by_their_layers() {
    let world = World::new();
    let image = world.image();
    let times: Vec<_> =
        image.config.history.iter().map(|entry| entry.created.as_deref().unwrap()).collect();
    assert_eq!(times, [FIRST, FIRST, SECOND]);
    assert_eq!(image.config.created.as_deref(), Some(SECOND));
}

#[test]
fn the_configuration_has_the_field_order_of_the_go_tools() {
    let world = World::new();
    let image = world.image();
    let bytes = world.store.blobs().read(&image.config_digest, 1 << 20).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let positions: Vec<_> =
        ["\"created\"", "\"architecture\"", "\"os\"", "\"config\"", "\"rootfs\"", "\"history\""]
            .iter()
            .map(|field| text.find(field).unwrap_or_else(|| panic!("{field}: {text}")))
            .collect();
    assert!(positions.is_sorted(), "{text}");
    assert!(text.contains(r#""OnBuild":["RUN true"]"#), "{text}");
}

#[test]
fn the_same_build_is_the_same_image() {
    let (one, two) = (World::new(), World::new());
    assert_eq!(one.image().config.rootfs.diff_ids.len(), 2);
    let times = filetime(&one);
    // Modification times are the build's own; everything else must not differ.
    assert_eq!(times, filetime(&two));
}

fn filetime(world: &World) -> Vec<String> {
    let epoch = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let tree = world.snapshot(None, FIRST, |root| {
        fs_err::write(root.join("file"), "content").unwrap();
        let file = fs_err::File::open(root.join("file")).unwrap();
        file.file().set_modified(epoch).unwrap();
    });
    let annotations = ["c", "a", "b"].map(|key| (key.to_owned(), "x".to_owned()));
    let options =
        AssembleOptions { annotations: BTreeMap::from(annotations), ..AssembleOptions::default() };
    let image = assemble(&world.store, Some(&tree), None, configuration(), &options).unwrap();
    vec![image.manifest_digest.to_string(), image.config_digest.to_string()]
}

#[test]
fn an_image_from_scratch_has_no_layers() {
    let world = World::new();
    let mut config = configuration();
    config.history.retain(|entry| entry.empty_layer == Some(true));
    let image = assemble(&world.store, None, None, config, &AssembleOptions::default()).unwrap();
    assert!(image.manifest.layers().is_empty());
    assert!(unpack_image(&world.store, &image).unwrap().is_none());
}

#[test]
fn layers_of_the_base_keep_their_blobs() {
    let world = World::new();
    let base = imported(&world);
    let below = unpack_image(&world.store, &base).unwrap().unwrap();
    let tree = world.snapshot(Some(&below), SECOND, |root| {
        fs_err::write(root.join("new"), "new").unwrap();
    });
    let config = base.config.clone();
    let image =
        assemble(&world.store, Some(&tree), Some(&base), config, &AssembleOptions::default())
            .unwrap();
    let layers = image.manifest.layers();
    assert_eq!(layers[0], base.manifest.layers()[0]);
    assert_eq!(layers[0].media_type(), &MediaType::ImageLayerGzip);
    assert_eq!(layers[1].media_type(), &MediaType::ImageLayer);
    let comments: Vec<_> =
        image.config.history.iter().map(|entry| entry.comment.as_deref().unwrap()).collect();
    assert_eq!(comments, ["by hand", "buildkit.exporter.image.v0"]);
}

/// An image of one gzip layer.
fn imported(world: &World) -> cache::image::Image {
    let tar = world.path("rootfs.tar");
    exporter::write_tar(Some(&world.tree()), None, exporter::Destination::File(&tar)).unwrap();
    crate::world::run("gzip", &["-n", tar.to_str().unwrap()]);
    let platform = Platform::host();
    let config = ImageConfiguration {
        os: platform.os,
        architecture: platform.architecture,
        created: Some(FIRST.to_owned()),
        ..ImageConfiguration::default()
    };
    let archive = fs_err::File::open(world.path("rootfs.tar.gz")).unwrap();
    import(&world.store, archive, config, Some("by hand")).unwrap()
}

#[test]
fn an_imported_root_file_system_is_the_tree_it_came_from() {
    let world = World::new();
    let image = imported(&world);
    world.store.images().tag(&image, &name("imported")).unwrap();
    let tree = unpack_image(&world.store, &image).unwrap().unwrap();
    let directory = world.path("out");
    exporter::write_local(Some(&tree), exporter::LocalOptions::default(), &directory).unwrap();
    assert_eq!(crate::world::listing(&directory), crate::world::TREE);
    let row = &world.store.images().list().unwrap()[0];
    assert_eq!(row.created.as_deref(), Some(FIRST));
}

#[test]
fn rubbish_is_not_imported() {
    let world = World::new();
    let rubbish = std::io::Cursor::new(vec![7; 4096]);
    let result = import(&world.store, rubbish, configuration(), None);
    assert!(matches!(result, Err(exporter::ExportError::Image(_))), "{result:?}");
    assert!(world.store.images().list().unwrap().is_empty());
}
