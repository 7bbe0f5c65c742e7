//! A build whose every step another machine did fetches what its outputs need, and nothing more.

use fs_err as fs;

use crate::images::Registry;
use crate::travel::{Machine, executed};

/// The trees in a store.
fn trees(machine: &Machine) -> usize {
    let snapshots = machine.0.path().join("store/snapshots-v1");
    fs::read_dir(snapshots).unwrap().count()
}

/// Requests that begin with a method and have a part.
fn count(requests: &[String], method: &str, part: &str) -> usize {
    requests.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
}

#[test]
fn a_full_hit_fetches_what_its_output_needs_and_nothing_more() {
    let here = Machine::new();
    let registry = Registry::start(&here.0);
    let cache = format!("{}/team/cache:1", registry.address);
    here.build(&["--cache-to", &format!("type=registry,ref={cache},mode=max")]);
    let image = format!("{}/team/image:1", registry.address);
    let archive = here.path("image.tar");
    // The result has three layers and that of its base, which was imported here as files: there is
    // no blob of it yet.
    for (output, layers, unpacked) in [
        ("type=cacheonly".to_owned(), 0, false),
        (format!("type=registry,name={image}"), 0, false),
        (format!("type=image,name={image}"), 4, false),
        (format!("type=oci,dest={archive},name={image}"), 4, false),
        (format!("type=local,dest={}", here.path("files")), 3, true),
    ] {
        let there = Machine::new();
        let (requests, before) = (registry.requests().len(), trees(&there));
        let outcome = there.build_to(&output, &["--cache-from", &cache]);
        assert_eq!(executed(&outcome), [""; 0], "{outcome}");
        let made = &registry.requests()[requests..];
        let fetched = count(made, "GET ", "/team/cache/blobs/") - 1;
        assert_eq!(fetched, layers, "{output}: {made:#?}");
        assert_eq!(trees(&there) > before, unpacked, "{output}");
        if output.starts_with("type=registry") {
            // One upload: the configuration. The layers were mounted.
            assert_eq!(count(made, "PUT ", "/blobs/uploads/"), 1, "{made:#?}");
            assert_eq!(count(made, "POST ", "?mount=sha256"), 4, "{made:#?}");
        }
        // What is in the store can be run, and has what it needs when it has to.
        if output.contains("registry,") || output.contains("image,") {
            let stamp = there.0.strake(["run", "--rm", &image, "cat", "/stamp"]);
            assert_eq!(stamp.success(), here.file("stamp"), "{output}");
        }
    }
    let fourth = Machine::new();
    fourth.0.strake(["load", "-i", &archive]).success();
    let stamp = fourth.0.strake(["run", "--rm", &image, "cat", "/stamp"]);
    assert_eq!(stamp.success(), here.file("stamp"));
}

#[test]
fn a_far_result_goes_to_any_registry() {
    let (here, there) = (Machine::new(), Machine::new());
    let registry = Registry::start(&here.0);
    let other = Registry::start(&there.0);
    let cache = format!("{}/team/cache:1", registry.address);
    here.build(&["--cache-to", &format!("type=registry,ref={cache},mode=max")]);
    // To the same registry nothing is sent; for another the layers are fetched.
    for (host, layers) in [(&registry.address, 0..=0), (&other.address, 3..=4)] {
        let before = registry.requests().len();
        let name = format!("{host}/other/image:1");
        let output = format!("type=registry,name={name}");
        let outcome = there.build_to(&output, &["--cache-from", &cache]);
        assert_eq!(executed(&outcome), [""; 0], "{outcome}");
        let made = &registry.requests()[before..];
        let fetched = count(made, "GET ", "/team/cache/blobs/") - 1;
        assert!(layers.contains(&fetched), "{made:#?}");
        let reader = Machine::new();
        let stamp = reader.0.strake(["run", "--rm", &name, "cat", "/stamp"]);
        assert_eq!(stamp.success(), here.file("stamp"), "{host}");
    }
}
