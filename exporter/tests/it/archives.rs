//! Archives of images, written for and by other tools.

use std::collections::BTreeMap;

use cache::image::Image;
use cache::image::unpack::unpack_image;
use cache::layer::Compression;
use cache::oci::Platform;
use exporter::{
    ArchiveFormat, ArchiveOptions, Destination, LayerForm, LocalOptions, SaveImage, load_path,
    save, save_directory, write_local,
};

use crate::world::{TREE, World, listing, name, podman, run};

/// What podman trusts. Debian's packages bring such a file; a podman that is only unpacked has none.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/peers/policy.json");

fn options(format: ArchiveFormat, compression: Compression) -> ArchiveOptions {
    let form = LayerForm { compression, force: false };
    ArchiveOptions { format, form, annotations: BTreeMap::new(), index: false }
}

/// Saves an image as `app:1` to a file of the world.
fn save_to(world: &World, image: &Image, file: &str, options: &ArchiveOptions) -> String {
    let path = world.path(file);
    let names = [name("app:1")];
    let images = [SaveImage { image, names: &names }];
    save(&world.store, &images, options, Destination::File(&path)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn check_tree(world: &World, image: &Image) {
    let tree = unpack_image(&world.store, image).unwrap().unwrap();
    let directory = world.path("checked");
    write_local(Some(&tree), LocalOptions::default(), &directory).unwrap();
    assert_eq!(listing(&directory), TREE);
}

/// Loads an archive into a new store and holds the image to the one it was.
fn check_load(original: &Image, path: &str) {
    let image = check_content(original, path);
    assert_eq!(image.config_digest, original.config_digest, "{path}");
}

/// As [`check_load`], for an archive of a tool that writes a configuration of its own (skopeo's
/// conversion to OCI loses ONBUILD).
fn check_content(original: &Image, path: &str) -> Image {
    let other = World::new();
    let loaded = load_path(&other.store, path.as_ref()).unwrap();
    assert_eq!(loaded.len(), 1, "{path}");
    assert_eq!(loaded[0].names, [name("app:1")], "{path}");
    let image = other.store.images().get(&name("app:1"), &Platform::host()).unwrap().unwrap();
    assert_eq!(image.config.rootfs, original.config.rootfs, "{path}");
    check_tree(&other, &image);
    image
}

#[test]
fn what_we_save_we_load_in_every_form() {
    let world = World::new();
    let image = world.image();
    for format in [ArchiveFormat::Oci, ArchiveFormat::Docker] {
        for compression in [Compression::None, Compression::Gzip(1), Compression::Zstd(3)] {
            let path = save_to(&world, &image, "a.tar", &options(format, compression));
            check_load(&image, &path);
        }
    }
    let path = save_to(&world, &image, "b.tar", &options(ArchiveFormat::Oci, Compression::None));
    run("gzip", &[&path]);
    check_load(&image, &format!("{path}.gz"));
}

#[test]
fn archives_are_deterministic() {
    let world = World::new();
    let image = world.image();
    let save = |file| {
        let options = options(ArchiveFormat::Docker, Compression::Gzip(6));
        fs_err::read(save_to(&world, &image, file, &options)).unwrap()
    };
    assert!(save("one.tar") == save("two.tar"));
}

#[test]
fn skopeo_reads_our_oci_archive_and_our_docker_archive() {
    let world = World::new();
    let image = world.image();
    let diff_ids: Vec<_> =
        image.config.rootfs.diff_ids.iter().map(|diff_id| diff_id.to_string()).collect();
    for (format, transport, compression) in [
        (ArchiveFormat::Oci, "oci-archive", Compression::Gzip(6)),
        (ArchiveFormat::Oci, "oci-archive", Compression::Zstd(3)),
        (ArchiveFormat::Docker, "docker-archive", Compression::None),
        (ArchiveFormat::Docker, "docker-archive", Compression::Gzip(6)),
    ] {
        let path = save_to(&world, &image, "a.tar", &options(format, compression));
        let source = format!("{transport}:{path}");
        let config = run("skopeo", &["inspect", "--config", "--raw", &source]);
        assert!(diff_ids.iter().all(|diff_id| config.contains(diff_id)), "{source}: {config}");
        let copy = format!("dir:{}", world.path("copy").display());
        run("skopeo", &["copy", "--insecure-policy", &source, &copy]);
    }
}

#[test]
fn podman_loads_our_archives() {
    let world = World::new();
    let image = world.image();
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let path = save_to(&world, &image, "a.tar", &options(format, Compression::Gzip(6)));
        podman(&world, &["load", "--signature-policy", POLICY, "-q", "-i", &path]);
        let template = "{{.Id}} {{.Config.Cmd}}";
        let inspected = podman(&world, &["image", "inspect", "--format", template, "app:1"]);
        assert_eq!(inspected.trim(), format!("{} [/bin/tool]", image.config_digest.hex()));
        podman(&world, &["rmi", "-a", "-f"]);
    }
}

#[test]
fn umoci_unpacks_our_layout() {
    let world = World::new();
    let image = world.image();
    let layout = world.path("layout");
    let names = [name("app:1")];
    let images = [SaveImage { image: &image, names: &names }];
    let options = options(ArchiveFormat::Oci, Compression::Gzip(6));
    // Twice: a layout that is there is added to.
    for _ in 0..2 {
        save_directory(&world.store, &images, &options, &layout).unwrap();
    }
    let bundle = world.path("bundle");
    let source = format!("{}:1", layout.display());
    let mut arguments = vec!["unpack", "--image", &source, bundle.to_str().unwrap()];
    if !rustix::process::geteuid().is_root() {
        arguments.insert(1, "--rootless");
    }
    run("umoci", &arguments);
    assert_eq!(listing(&bundle.join("rootfs")), TREE);
}

#[test]
fn skopeo_reads_the_store_itself() {
    let world = World::new();
    let image = world.image();
    world.store.images().tag(&image, &name("app:1")).unwrap();
    let content = world.store.root().join("content");
    let source = format!("oci:{}:docker.io/library/app:1", content.display());
    let config = run("skopeo", &["inspect", "--config", "--raw", &source]);
    assert!(config.contains("/bin/tool"), "{config}");
}

#[test]
fn we_load_what_skopeo_and_podman_save() {
    let world = World::new();
    let image = world.image();
    let options = options(ArchiveFormat::Docker, Compression::Gzip(6));
    let ours = save_to(&world, &image, "a.tar", &options);
    let source = format!("docker-archive:{ours}");
    let directory = world.path("skopeo-oci");
    for target in [
        format!("docker-archive:{}:app:1", world.path("skopeo.tar").display()),
        format!("oci-archive:{}:app:1", world.path("skopeo-oci.tar").display()),
        format!("oci:{}:app:1", directory.display()),
    ] {
        run("skopeo", &["copy", "--insecure-policy", &source, &target]);
        check_content(&image, target.split(':').nth(1).unwrap());
    }
    podman(&world, &["load", "--signature-policy", POLICY, "-q", "-i", &ours]);
    for format in ["docker-archive", "oci-archive"] {
        let path = world.path(&format!("podman-{format}.tar"));
        let path = path.to_str().unwrap();
        podman(
            &world,
            &[
                "save",
                "--signature-policy",
                POLICY,
                "-q",
                "--format",
                format,
                "-o",
                path,
                "docker.io/library/app:1",
            ],
        );
        check_content(&image, path);
    }
}

#[test]
fn a_loaded_image_is_saved_with_its_own_digest() {
    let world = World::new();
    let image = world.image();
    let options = options(ArchiveFormat::Oci, Compression::Gzip(6));
    let path = save_to(&world, &image, "a.tar", &options);
    let other = World::new();
    let loaded = load_path(&other.store, path.as_ref()).unwrap().remove(0).image;
    let names = [name("app:1")];
    let images = [SaveImage { image: &loaded, names: &names }];
    let mut bytes = Vec::new();
    let saved = save(&other.store, &images, &options, Destination::Writer(&mut bytes)).unwrap();
    assert_eq!(saved.manifests[0].digest().to_string(), loaded.manifest_digest.to_string());
    assert!(bytes == fs_err::read(path).unwrap());
}

#[test]
fn force_compresses_anew_what_came_compressed() {
    let world = World::new();
    let image = world.image();
    let gzip = options(ArchiveFormat::Oci, Compression::Gzip(6));
    let path = save_to(&world, &image, "a.tar", &gzip);
    let other = World::new();
    let loaded = load_path(&other.store, path.as_ref()).unwrap().remove(0).image;
    for (force, expected) in [(false, "tar+gzip"), (true, "tar+zstd")] {
        let mut options = options(ArchiveFormat::Oci, Compression::Zstd(3));
        options.form.force = force;
        let layout = other.path(expected);
        let images = [SaveImage { image: &loaded, names: &[] }];
        let saved = save_directory(&other.store, &images, &options, &layout).unwrap();
        let manifest = layout.join("blobs/sha256").join(saved.manifests[0].digest().digest());
        let manifest = fs_err::read_to_string(manifest).unwrap();
        assert_eq!(manifest.matches(expected).count(), 2, "{manifest}");
    }
}
