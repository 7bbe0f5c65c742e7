//! Archives that mean harm: lines 1 to 7 of what the engine must survive, under "Layers and
//! archives". The outside is a directory beside the store; every test looks at it afterwards.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cache::StoreError;
use cache::layer::{Compression, LayerError, UnpackLimits, compress, decompressor, unpack};
use cache::oci::{Descriptor, Digest, MediaType};
use std::io::{Read, Write};

use crate::privilege::in_both_worlds;
use crate::tape::Tape;
use crate::world::{World, committed, packed, paths};

/// A file that nothing may touch, and what it must look like.
struct Outside {
    dir: PathBuf,
}

impl Outside {
    fn beside(world: &World) -> Outside {
        let dir = world.dir.path().join("outside");
        fs_err::create_dir(&dir).unwrap();
        fs_err::write(dir.join("victim"), "whole").unwrap();
        Outside { dir }
    }

    fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs_err::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["victim"]);
        assert_eq!(fs_err::read_to_string(self.dir.join("victim")).unwrap(), "whole");
        assert_eq!(fs_err::metadata(self.dir.join("victim")).unwrap().nlink(), 1);
    }
}

fn refused(world: &World, tar: &[u8]) -> String {
    match world.try_unpack(None, tar, &UnpackLimits::default()) {
        Ok(_) => panic!("it was unpacked"),
        Err(error) => {
            assert!(
                matches!(error, LayerError::Malformed { .. } | LayerError::Entry { .. }),
                "{error:?}"
            );
            error.to_string()
        }
    }
}

#[test]
fn threat_1_nothing_goes_through_a_planted_link() {
    in_both_worlds("hostile::threat_1_nothing_goes_through_a_planted_link", || {
        let world = World::new();
        let outside = Outside::beside(&world);
        let base = Tape::new().symlink("below", outside.path()).dir("d/").end();
        let bottom = world.unpack(&[base]);
        let depth = "../".repeat(40);
        let climbing = format!("{depth}{}", outside.path());
        for link in [outside.path(), &climbing, "/proc/self/root", "/proc/self/cwd"] {
            let planted = || Tape::new().symlink("etc", link);
            for tape in [
                planted().file("etc/victim", b"broken"),
                planted().file("etc/new", b"broken"),
                planted().dir("etc/new/"),
                planted().symlink("etc/new", "x"),
                planted().device("etc/new", 1, 3),
                planted().whiteout("etc/.wh.victim"),
                planted().whiteout("etc/.wh..wh..opq"),
                planted().file("x", b"").hard_link("etc/new", "x"),
                planted().hard_link("new", "etc/victim"),
                planted().symlink("f", &format!("{link}/victim")).hard_link("new", "f"),
                planted().file("etc", b"broken"),
                Tape::new().file("below/victim", b"broken"),
                Tape::new().whiteout("below/.wh.victim"),
                Tape::new().hard_link("new", "below/victim"),
                Tape::new().symlink("a", "b").symlink("b", link).file("a/victim", b"broken"),
            ] {
                // Confined or refused; both are fine.
                let _ = world.try_unpack(Some(&bottom), &tape.end(), &UnpackLimits::default());
                outside.assert_untouched();
            }
        }
        // What went through the link landed inside.
        let confined = Tape::new().symlink("etc", outside.path()).file("etc/victim", b"in");
        let snapshot = world.unpack(&[confined.end()]);
        let inside = snapshot.upper().join(&outside.path()[1..]).join("victim");
        assert_eq!(fs_err::read_to_string(inside).unwrap(), "in");
    });
}

#[test]
fn threat_2_links_swapped_while_unpacking_lead_nowhere() {
    let world = World::new();
    let outside = Outside::beside(&world);
    let active = world.store.snapshots().prepare(None).unwrap();
    let mut tape = Tape::new();
    for number in 0..2_000 {
        tape = tape.file(&format!("a/b/victim{number}"), b"broken");
    }
    let tar = tape.end();
    let upper = active.upper().to_owned();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Faster than anybody who has no access to the store could be.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs_err::rename(upper.join("a/b"), upper.join("a/c"));
                let _ = std::os::unix::fs::symlink(&outside.dir, upper.join("a/b"));
                let _ = fs_err::remove_file(upper.join("a/b"));
                let _ = fs_err::rename(upper.join("a/c"), upper.join("a/b"));
            }
        });
        for _ in 0..5 {
            // It may succeed or fail, as the race wants.
            let _ = unpack(&mut &tar[..], &active, &UnpackLimits::default());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    outside.assert_untouched();
}

#[test]
fn threat_3_names_that_climb_or_make_no_sense_are_refused_or_confined() {
    in_both_worlds(
        "hostile::threat_3_names_that_climb_or_make_no_sense_are_refused_or_confined",
        || {
            let world = World::new();
            let outside = Outside::beside(&world);
            let target = format!("{}/victim", outside.path());
            for tape in [
                Tape::new().file("../x", b""),
                Tape::new().file("a/../../x", b""),
                Tape::new().file("a/..", b""),
                Tape::new().dir(".."),
                Tape::new().hard_link("x", "../../outside/victim"),
                Tape::new().hard_link("x", &target),
                Tape::new().hard_link("x", "x"),
                Tape::new().hard_link("x", "."),
                Tape::new().dir("d/").hard_link("x", "d"),
                Tape::new().file(".wh...", b""),
                Tape::new().file(".wh..", b""),
                Tape::new().file(".wh.", b""),
                Tape::new().file("d/.wh...", b""),
                Tape::new().file(".wh.d/x", b""),
                Tape::new().file("f", b"").file("f/x", b""),
                Tape::new().symlink("a", "b").symlink("b", "a").file("a/x", b""),
                Tape::new().pax(&[("path", b"a\0b")]).file("x", b""),
                Tape::new().pax(&[("linkpath", b"a\0b")]).symlink("x", "y"),
                Tape::new().pax(&[("path", "a/".repeat(4_000).as_bytes())]).dir("x/"),
                Tape::new().pax(&[("path", "a/".repeat(1_000).as_bytes())]).dir("x/"),
                Tape::new().symlink("x", ""),
                Tape::new().file("", b""),
                Tape::new().symlink(".", "x"),
                Tape::new()
                    .entry(b'0', b"x", b"", b"", |header| header.set_uid(u64::from(u32::MAX))),
                Tape::new().entry(b'Z', b"x", b"", b"", |_| {}),
            ] {
                refused(&world, &tape.end());
                outside.assert_untouched();
            }
            // Absolute names are names below the root, newlines are bytes like others, and a device
            // 0:0 does not become a deletion.
            let base = Tape::new().file("gone", b"").end();
            let snapshot = world.unpack(&[
                base,
                Tape::new()
                    .file("/abs", b"")
                    .file("./dot//x", b"")
                    .file("new\nline", b"")
                    .device("gone", 0, 0)
                    .end(),
            ]);
            assert_eq!(paths(&snapshot), ["abs", "dot", "dot/x", "gone", r"new\nline"]);
            let again = crate::world::names_in(&packed(&snapshot).1);
            assert!(again.contains(&"c gone".to_owned()), "{again:?}");
        },
    );
}

#[test]
fn threat_4_headers_that_disagree_or_break_the_format_are_refused() {
    let world = World::new();
    let inner = Tape::new().file("smuggled", b"").cut();
    let long = |content: &[u8]| Tape::new().entry(b'L', b"././@LongLink", b"", content, |_| {});
    let mut broken_checksum = Tape::new().file("x", b"").end();
    broken_checksum[0] = b'y';
    let cases = [
        // One reader sees a file of 512 bytes, the other an empty file and another entry.
        Tape::new()
            .pax(&[("size", b"512")])
            .entry(b'0', b"x", b"", b"", |header| header.set_size(0))
            .raw(&inner)
            .end(),
        Tape::new().pax(&[("size", b"0")]).file("x", &inner).end(),
        Tape::new().pax(&[("size", b"-1")]).file("x", b"").end(),
        Tape::new().pax(&[("size", b"0x10")]).file("x", b"").end(),
        Tape::new().pax(&[("size", b"99999999999999999999999")]).file("x", b"").end(),
        Tape::new().pax(&[("mtime", b"yesterday")]).file("x", b"").end(),
        Tape::new().entry(b'x', b"pax", b"", b"30 path=short\n", |_| {}).file("x", b"").end(),
        Tape::new().entry(b'x', b"pax", b"", b"path=y\n", |_| {}).file("x", b"").end(),
        Tape::new().entry(b'x', b"pax", b"", b"9 path=y", |_| {}).file("x", b"").end(),
        Tape::new().entry(b'g', b"pax", b"", b"nonsense", |_| {}).file("x", b"").end(),
        Tape::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", b"").end(),
        Tape::new().pax(&[("path", b"a")]).end(),
        Tape::new().pax(&[("path", b"a")]).cut(),
        Tape::new()
            .entry(b'x', b"pax", b"", b"", |header| header.set_size(1 << 40))
            .file("x", b"")
            .end(),
        long(b"name\0").end(),
        long(b"").file("x", b"").end(),
        long(b"na\0me").file("x", b"").end(),
        long(b"a\0").entry(b'L', b"l", b"", b"b\0", |_| {}).file("x", b"").end(),
        long(b"a\0").pax(&[("path", b"b")]).file("x", b"").end(),
        Tape::new().file("x", &[1; 600]).cut()[..700].to_vec(),
        Tape::new().file("x", b"").cut()[..300].to_vec(),
        Tape::new()
            .entry(b'0', b"x", b"", b"", |header| header.as_old_mut().size = *b"0000000000z\0")
            .end(),
        Tape::new().entry(b'0', b"d/", b"", b"content", |_| {}).end(),
        broken_checksum,
    ];
    for (number, tar) in cases.iter().enumerate() {
        let message = refused(&world, tar);
        assert!(message.starts_with("malformed archive at byte"), "{number}: {message}");
    }
    // What is only unusual is taken: a long name of GNU's, no mark of the end, no bytes at all.
    let name = format!("{}x", "long/".repeat(40));
    let snapshot = world.unpack(&[
        long(&[name.as_bytes(), b"\0"].concat()).file("x", b"gnu").cut(),
        Vec::new(),
        Tape::new().pax(&[("size", b"3")]).file("y", b"pax").end(),
    ]);
    assert_eq!(crate::world::content(&snapshot, &name), b"gnu");
    assert_eq!(crate::world::content(&snapshot, "y"), b"pax");
}

#[test]
fn threat_5_bombs_and_endless_archives_end_in_an_error() {
    let world = World::new();
    let small = UnpackLimits { bytes: 8 << 20, entries: 1_000, depth: 64 };
    // Gzip and zstd bombs: a thousand to one.
    let bomb = Tape::new()
        .entry(b'0', b"zeros", b"", b"", |header| header.set_size(64 << 20))
        .cut()
        .into_iter()
        .chain(std::iter::repeat_n(0, 64 << 20))
        .collect::<Vec<u8>>();
    for compression in [Compression::Gzip(6), Compression::Zstd(3)] {
        let mut blob = Vec::new();
        compress(compression, &mut &bomb[..], &mut blob).unwrap();
        assert!(blob.len() < 100_000);
        let mut tar = decompressor(None, std::io::Cursor::new(blob)).unwrap();
        let active = world.store.snapshots().prepare(None).unwrap();
        let error = unpack(&mut tar, &active, &small).unwrap_err();
        assert!(matches!(error, LayerError::TooBig { what: "bytes", .. }), "{error:?}");
    }
    // A million entries, then more, for ever.
    struct Endless(Vec<u8>, usize);
    impl Read for Endless {
        fn read(&mut self, target: &mut [u8]) -> std::io::Result<usize> {
            for byte in target.iter_mut() {
                *byte = self.0[self.1 % self.0.len()];
                self.1 += 1;
            }
            Ok(target.len())
        }
    }
    for tape in [
        Tape::new().file("x", b""),
        Tape::new().dir("d/"),
        Tape::new().entry(b'g', b"g", b"", b"", |_| {}),
        Tape::new().dir("d/").file("d", b""),
    ] {
        let active = world.store.snapshots().prepare(None).unwrap();
        let error = unpack(&mut Endless(tape.cut(), 0), &active, &small).unwrap_err();
        assert!(matches!(error, LayerError::TooBig { what: "entries", .. }), "{error:?}");
    }
    // An archive that ends, and zeros behind it that do not.
    let active = world.store.snapshots().prepare(None).unwrap();
    let error = unpack(&mut Endless(vec![0; 512], 0), &active, &small).unwrap_err();
    assert!(matches!(error, LayerError::TooBig { what: "bytes", .. }), "{error:?}");
    // Deep, but not as deep as a path can be written.
    let deep = Tape::new().pax(&[("path", "a/".repeat(100).as_bytes())]).dir("x/").end();
    assert!(world.try_unpack(None, &deep, &small).is_err());
    assert!(world.try_unpack(None, &deep, &UnpackLimits::default()).is_ok());
}

#[test]
fn threat_6_a_broken_layer_leaves_a_store_that_works() {
    let world = World::new();
    let store = &world.store;
    let good = Tape::new().file("x", b"good").end();
    let descriptor = |bytes: &[u8], size: u64| -> Descriptor {
        let digest: oci_spec::image::Digest = Digest::of(bytes).to_string().parse().unwrap();
        Descriptor::new(MediaType::ImageLayer, size, digest)
    };
    let write = |bytes: &[u8], expected: &Descriptor| {
        let mut writer = store.blobs().writer().unwrap();
        writer.write_all(bytes).unwrap();
        writer.commit_verified(expected)
    };
    let length = good.len() as u64;
    let truncated = write(&good[..700], &descriptor(&good, length)).unwrap_err();
    assert!(matches!(truncated, StoreError::WrongSize { .. }), "{truncated:?}");
    let mut other = good.clone();
    other[515] ^= 1;
    let wrong = write(&other, &descriptor(&good, length)).unwrap_err();
    assert!(matches!(wrong, StoreError::WrongDigest { .. }), "{wrong:?}");
    assert_eq!(store.blobs().list().unwrap(), []);
    // The same archive, cut at every block and a few bytes beside: an error or a layer, and the
    // store goes on.
    for end in (0..good.len()).step_by(100) {
        let _ = world.try_unpack(None, &good[..end], &UnpackLimits::default());
    }
    let before = store.snapshots().list().unwrap().len();
    let broken = world.try_unpack(None, &good[..700], &UnpackLimits::default());
    assert!(broken.is_err());
    assert_eq!(store.snapshots().list().unwrap().len(), before);
    write(&good, &descriptor(&good, length)).unwrap();
    let active = store.snapshots().prepare(None).unwrap();
    active.commit(committed()).unwrap();
    assert_eq!(store.snapshots().list().unwrap().len(), before + 1);
}

#[test]
fn threat_7_a_digest_is_never_a_path() {
    for text in ["sha256:../../x", "sha256:/etc/passwd", "../x", "sha256:", "sha512:00", ""] {
        assert!(text.parse::<Digest>().is_err());
        assert!(serde_json::from_str::<Digest>(&format!("{text:?}")).is_err());
    }
    // oci-spec's own type is looser, so a descriptor is held to ours before it names a file.
    let world = World::new();
    let digest: oci_spec::image::Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    let descriptor = Descriptor::new(MediaType::ImageLayer, 1, digest);
    let mut writer = world.store.blobs().writer().unwrap();
    writer.write_all(b"x").unwrap();
    let error = writer.commit_verified(&descriptor).unwrap_err();
    assert!(matches!(error, StoreError::BadDescriptor { .. }), "{error:?}");
}
