//! Layers: what is packed, what is unpacked, and that they are inverse.

use std::io::Read;
use std::os::unix::fs::symlink;

use cache::layer::{Compression, UnpackLimits, compress, decompressor};
use cache::oci::{DiffId, Digest, MediaType};

use crate::privilege::in_both_worlds;
use crate::tape::Tape;
use crate::world::{World, committed, content, listed, names_in, packed, paths};

/// A generator with a period of 2^64, good enough for test data.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 >> 33) ^ self.0;
        mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A layer over `existing` paths (of directories, of others): new files of every kind, changes and
/// deletions.
fn generated_layer(
    random: &mut Random,
    first_number: u32,
    dirs: &mut Vec<String>,
    others: &mut Vec<String>,
) -> Vec<u8> {
    let mut tape = Tape::new();
    let mut own_files: Vec<String> = Vec::new();
    let deletes_until = others.len();
    for number in first_number..first_number + 40 {
        let parent = dirs[random.below(dirs.len() as u64) as usize].clone();
        let name = match random.below(6) {
            0 => format!("{parent}n{number} with blank\nand newline"),
            1 => format!("{parent}ü{number}"),
            2 => format!("{parent}{}{number}", "long".repeat(20 + random.below(30) as usize)),
            _ => format!("{parent}f{number}"),
        };
        let mode = [0o644, 0o755, 0o4755, 0o2711, 0o000, 0o1777][random.below(6) as usize];
        let uid = [0, 1000, 65_534, 3_000_000][random.below(4) as usize];
        let mtime = random.below(1 << 31);
        let owner = uid.to_string();
        let mut pax: Vec<(&str, &[u8])> = vec![("path", name.as_bytes())];
        if uid > 2_097_151 {
            pax.push(("uid", owner.as_bytes()));
        }
        if random.below(5) == 0 {
            pax.push(("SCHILY.xattr.user.note", b"a\n=\0b"));
        }
        let mut content = Vec::new();
        let mut link = Vec::new();
        let flag = match random.below(10) {
            0 | 1 => b'5',
            2 => {
                link = b"../some/where".to_vec();
                b'2'
            }
            3 if !own_files.is_empty() => {
                let target = random.below(own_files.len() as u64) as usize;
                pax.push(("linkpath", own_files[target].as_bytes()));
                link = b"x".to_vec();
                b'1'
            }
            4 => b'6',
            5 => b'3',
            _ => {
                content.resize(random.below(3_000) as usize, random.below(256) as u8);
                b'0'
            }
        };
        let path = match flag {
            b'5' => format!("{name}/"),
            _ => name.clone(),
        };
        pax[0].1 = path.as_bytes();
        tape = tape.pax(&pax).entry(flag, b"x", &link, &content, |header| {
            header.set_mode(mode);
            header.set_mtime(mtime);
            header.set_uid(if uid > 2_097_151 { 0 } else { uid });
            header.set_gid(7);
            header.set_device_major(5).unwrap();
            header.set_device_minor(number).unwrap();
        });
        match flag {
            b'5' => dirs.push(path),
            b'0' => {
                own_files.push(name.clone());
                others.push(name);
            }
            _ => others.push(name),
        }
    }
    for _ in 0..8.min(deletes_until) {
        let gone = others[random.below(deletes_until as u64) as usize].clone();
        let (parent, name) = match gone.rfind('/') {
            Some(slash) => gone.split_at(slash + 1),
            None => ("", &gone[..]),
        };
        tape = tape.pax(&[("path", format!("{parent}.wh.{name}").as_bytes())]).whiteout("x");
    }
    tape.end()
}

#[test]
fn unpacking_what_was_packed_gives_the_same_tree_and_the_same_bytes() {
    in_both_worlds(
        "layers::unpacking_what_was_packed_gives_the_same_tree_and_the_same_bytes",
        || {
            for seed in 1..=6 {
                let world = World::new();
                let mut random = Random(seed);
                let (mut dirs, mut others) = (vec![String::new()], Vec::new());
                let mut original = None;
                let mut copy = None;
                for layer in 0..4 {
                    let tar = generated_layer(&mut random, layer * 100, &mut dirs, &mut others);
                    let unpack = |parent: &Option<cache::snapshot::Snapshot>, tar: &[u8]| {
                        let limits = UnpackLimits::default();
                        let unpacked = world.try_unpack(parent.as_ref(), tar, &limits);
                        unpacked.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"))
                    };
                    let (snapshot, diff_id) = unpack(&original, &tar);
                    assert_eq!(diff_id, DiffId(Digest::of(&tar)));
                    let (first, packed_tar) = packed(&snapshot);
                    assert_eq!(first.diff_id.0, Digest::of(&packed_tar));
                    assert_eq!(first.size, packed_tar.len() as u64);
                    let (again, _) = unpack(&copy, &packed_tar);
                    assert_eq!(listed(&again), listed(&snapshot), "seed {seed}");
                    let (second, _) = packed(&again);
                    assert_eq!(second, first, "seed {seed}");
                    original = Some(snapshot);
                    copy = Some(again);
                }
            }
        },
    );
}

#[test]
fn a_layer_without_entries_is_a_kibibyte_of_zeros() {
    let world = World::new();
    let snapshot = world.store.snapshots().prepare(None).unwrap().commit(committed()).unwrap();
    let (packed, tar) = packed(&snapshot);
    assert_eq!(tar, [0; 1024]);
    assert_eq!(
        packed.diff_id.to_string(),
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
    assert_eq!(snapshot.layer().unwrap().diff_id, DiffId::empty());
}

/// One entry of every kind.
fn zoo() -> Vec<u8> {
    Tape::new()
        .dir("etc/")
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        .hard_link("etc/passwd-", "etc/passwd")
        .symlink("lib", "usr/lib")
        .dir("usr/")
        .dir("usr/lib/")
        .entry(b'0', b"usr/su", b"", b"#!", |header| {
            header.set_mode(0o4755);
            header.set_uid(12);
            header.set_gid(34);
        })
        .device("usr/null", 1, 3)
        .entry(b'6', b"usr/fifo", b"", b"", |_| {})
        .pax(&[("SCHILY.xattr.user.note", b"\0\n")])
        .file("usr/zz", &[7; 5_000])
        .end()
}

#[test]
fn the_digest_of_a_packed_layer_never_changes() {
    in_both_worlds("layers::the_digest_of_a_packed_layer_never_changes", || {
        let world = World::new();
        let snapshot = world.unpack(&[zoo()]);
        let (packed, tar) = packed(&snapshot);
        assert_eq!(
            names_in(&tar),
            [
                "d etc/",
                "f etc/passwd",
                "h etc/passwd-",
                "l lib",
                "d usr/",
                "p usr/fifo",
                "d usr/lib/",
                "c usr/null",
                "f usr/su",
                "f usr/zz"
            ]
        );
        // Somebody's cache holds layers of these names: a change here rebuilds the world.
        assert_eq!(packed.diff_id.to_string(), GOLDEN_DIFF_ID);
        assert_eq!(packed.content.to_string(), GOLDEN_CONTENT);
    });
}

const GOLDEN_DIFF_ID: &str =
    "sha256:80dc101f0e2ef59365ccae701fcd723ac4a891aa9b62a959003b04e93f4a9ad8";
const GOLDEN_CONTENT: &str = "4be1bdcaaca2e11c2c8bd0d3997170439ace6576e602a3143d34f3ff3dc2b70c";

#[test]
fn a_time_changes_the_digest_but_not_the_content() {
    let world = World::new();
    let of = |mtime, body: &[u8]| {
        let tar = Tape::new().entry(b'0', b"x", b"", body, |header| header.set_mtime(mtime)).end();
        packed(&world.unpack(&[tar])).0
    };
    let (early, late, other) = (of(1, b"a"), of(2, b"a"), of(1, b"b"));
    assert_ne!(early.diff_id, late.diff_id);
    assert_eq!(early.content, late.content);
    assert_ne!(early.content, other.content);
}

#[test]
fn deletions_in_an_archive_mean_the_layers_below_alone() {
    in_both_worlds("layers::deletions_in_an_archive_mean_the_layers_below_alone", || {
        let world = World::new();
        let base = Tape::new().dir("d/").file("d/a", b"").file("d/b", b"").file("e", b"").end();
        let check = |change: Tape, expected: &[&str]| {
            let snapshot = world.unpack(&[base.clone(), change.end()]);
            assert_eq!(paths(&snapshot), expected);
            // And so it stays when it is packed and unpacked again.
            let again = world.unpack(&[base.clone(), packed(&snapshot).1]);
            assert_eq!(paths(&again), expected);
        };
        check(Tape::new().whiteout("d/.wh.a"), &["d", "d/b", "e"]);
        check(Tape::new().whiteout(".wh.d"), &["e"]);
        check(Tape::new().whiteout(".wh.absent"), &["d", "d/a", "d/b", "e"]);
        // The mark of an opaque directory, before and behind what is new in it.
        check(Tape::new().whiteout("d/.wh..wh..opq").file("d/c", b""), &["d", "d/c", "e"]);
        check(Tape::new().file("d/c", b"").whiteout("d/.wh..wh..opq"), &["d", "d/c", "e"]);
        check(Tape::new().dir("d/").file("d/c", b"").whiteout(".wh.d"), &["d", "d/c", "e"]);
        check(Tape::new().whiteout(".wh.d").file("d/c", b""), &["d", "d/c", "e"]);
        check(Tape::new().whiteout(".wh.d").dir("d/").file("d/b", b""), &["d", "d/b", "e"]);
        check(Tape::new().whiteout(".wh.e").file("e", b"new"), &["d", "d/a", "d/b", "e"]);
        check(Tape::new().file("e", b"new").whiteout(".wh.e"), &["d", "d/a", "d/b", "e"]);
        // AUFS' own files mean nothing.
        check(
            Tape::new()
                .dir(".wh..wh.plnk/")
                .file(".wh..wh.plnk/1.2", b"")
                .file(".wh..wh.aufs", b""),
            &["d", "d/a", "d/b", "e"],
        );
    });
}

#[test]
fn kinds_of_files_replace_each_other_across_layers() {
    in_both_worlds("layers::kinds_of_files_replace_each_other_across_layers", || {
        let world = World::new();
        let base = Tape::new()
            .dir("dir/")
            .file("dir/old", b"")
            .file("file", b"")
            .symlink("link", "dir")
            .end();
        let change = Tape::new()
            .file("dir", b"now a file")
            .dir("file/")
            .file("file/in", b"")
            .dir("link/")
            .file("link/in", b"")
            .end();
        let snapshot = world.unpack(&[base.clone(), change]);
        let expected = ["dir", "file", "file/in", "link", "link/in"];
        assert_eq!(paths(&snapshot), expected);
        let again = world.unpack(&[base, packed(&snapshot).1]);
        assert_eq!(listed(&again), listed(&snapshot));
    });
}

#[test]
fn an_archive_may_rely_on_the_layers_below() {
    in_both_worlds("layers::an_archive_may_rely_on_the_layers_below", || {
        let world = World::new();
        let base = Tape::new()
            .dir("usr/")
            .entry(b'5', b"usr/lib/", b"", b"", |header| {
                header.set_mode(0o2750);
                header.set_gid(50);
            })
            .file("usr/lib/a", b"content of a")
            .symlink("lib", "usr/lib")
            .end();
        let change = Tape::new()
            // The parent is a link below; its target looks as it did.
            .file("lib/b", b"b")
            // The target of the link is a file below.
            .hard_link("usr/c", "usr/lib/a")
            .end();
        let snapshot = world.unpack(&[base, change]);
        assert_eq!(paths(&snapshot), ["lib", "usr", "usr/c", "usr/lib", "usr/lib/a", "usr/lib/b"]);
        assert_eq!(content(&snapshot, "usr/c"), b"content of a");
        let lines = listed(&snapshot);
        assert!(
            lines.iter().any(|line| line.starts_with("usr/lib | directory 2750 0:50 1000000000"))
        );
        let same: Vec<_> = lines.iter().filter(|line| line.contains("same as usr/c")).collect();
        assert_eq!(same.len(), 2, "{lines:?}");
    });
}

#[test]
fn what_is_the_same_as_below_is_not_packed() {
    in_both_worlds("layers::what_is_the_same_as_below_is_not_packed", || {
        let world = World::new();
        let base = Tape::new().dir("d/").file("d/same", b"x").file("d/other", b"x").end();
        let bottom = world.unpack(&[base]);
        let top = |change: Tape| {
            let limits = UnpackLimits::default();
            let (snapshot, _) = world.try_unpack(Some(&bottom), &change.end(), &limits).unwrap();
            names_in(&packed(&snapshot).1)
        };
        // A copied-up file without a change, in its directory.
        assert!(top(Tape::new().dir("d/").file("d/same", b"x")).is_empty());
        // A change brings its unchanged parent along; what is the same beside it still goes.
        assert_eq!(
            top(Tape::new().dir("d/").file("d/other", b"y").file("d/same", b"x")),
            ["d d/", "f d/other"]
        );
        // Only the mode, only the time.
        let chmod = Tape::new().entry(b'0', b"d/same", b"", b"x", |header| header.set_mode(0o600));
        assert_eq!(top(chmod), ["d d/", "f d/same"]);
        let touch = Tape::new().entry(b'0', b"d/same", b"", b"x", |header| header.set_mtime(5));
        assert_eq!(top(touch), ["d d/", "f d/same"]);
        // A link to a file of below is a file of its own.
        assert_eq!(top(Tape::new().hard_link("new", "d/same")), ["f new"]);
    });
}

#[test]
fn sockets_are_left_out_and_reserved_names_are_refused() {
    let world = World::new();
    let active = world.store.snapshots().prepare(None).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(active.upper().join("s")).unwrap();
    symlink("x", active.upper().join("l")).unwrap();
    let snapshot = active.commit(committed()).unwrap();
    assert_eq!(names_in(&packed(&snapshot).1), ["l l"]);

    let active = world.store.snapshots().prepare(None).unwrap();
    fs_err::write(active.upper().join(".wh.x"), "").unwrap();
    let snapshot = active.commit(committed()).unwrap();
    let error = cache::layer::pack(&snapshot, &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("`.wh.x`"), "{error}");
}

#[test]
fn foreign_attributes_never_speak_to_overlayfs_or_to_us() {
    in_both_worlds("layers::foreign_attributes_never_speak_to_overlayfs_or_to_us", || {
        let world = World::new();
        let base = Tape::new().dir("d/").file("d/a", b"").end();
        let change = Tape::new()
            .pax(&[
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.user.strake.owner", b"1:1"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.user.mine", b"kept"),
            ])
            .dir("d/")
            .end();
        let snapshot = world.unpack(&[base, change]);
        assert_eq!(paths(&snapshot), ["d", "d/a"]);
        let line = &listed(&snapshot)[0];
        assert!(
            line.ends_with(r#" 0:0 1000000000 ["user.mine=kept", "user.overlay.opaque=y"]"#),
            "{line}"
        );
        let (_, tar) = packed(&snapshot);
        let text = String::from_utf8_lossy(&tar);
        assert!(text.contains("SCHILY.xattr.user.overlay.opaque=y"));
        assert!(!text.contains("strake"));
    });
}

#[test]
fn capabilities_survive() {
    in_both_worlds("layers::capabilities_survive", || {
        // cap_net_bind_service, permitted and effective, revision 2.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let world = World::new();
        let tar = Tape::new()
            .pax(&[("SCHILY.xattr.security.capability", &capability)])
            .entry(b'0', b"ping", b"", b"x", |header| {
                header.set_mode(0o755);
                header.set_uid(9);
            })
            .end();
        let (_, tar) = packed(&world.unpack(&[tar]));
        let record = [&b"SCHILY.xattr.security.capability="[..], &capability, b"\n"].concat();
        assert!(tar.windows(record.len()).any(|window| window == record));
    });
}

#[test]
fn a_sparse_file_of_gnu_tar_has_its_holes_and_its_length() {
    // Written out by hand: `tar -S` may not be there.
    let mut header = tar::Header::new_gnu();
    header.set_path("s").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(512);
    header.set_entry_type(tar::EntryType::GNUSparse);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize = *b"00010000000\0";
    gnu.sparse[0].set_offset(1 << 20);
    gnu.sparse[0].set_length(512);
    header.set_cksum();
    let tar = [&header.as_bytes()[..], &[7; 512], &[0; 1024]].concat();
    let world = World::new();
    let snapshot = world.unpack(&[tar]);
    let bytes = content(&snapshot, "s");
    assert_eq!(bytes.len(), 0o10_000_000);
    assert!(bytes[..1 << 20].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[1 << 20..][..512], [7; 512]);
}

#[test]
fn compressed_layers_come_back_and_do_not_depend_on_threads() {
    let mut random = Random(1);
    let mut data = Vec::new();
    while data.len() < (5 << 20) + 123 {
        data.extend_from_slice(format!("line {}\n", random.below(5_000)).as_bytes());
    }
    let compressed = |compression, data: &[u8]| {
        let mut out = Vec::new();
        compress(compression, &mut &data[..], &mut out).unwrap();
        out
    };
    let cases = [
        (Compression::None, MediaType::ImageLayer),
        (Compression::Gzip(6), MediaType::ImageLayerGzip),
        (Compression::Gzip(1), MediaType::ImageLayerGzip),
        (Compression::Zstd(3), MediaType::ImageLayerZstd),
    ];
    for (compression, media_type) in cases {
        for data in [&data[..], b"", b"x"] {
            let out = compressed(compression, data);
            for media_type in [Some(&media_type), None] {
                let mut back = Vec::new();
                decompressor(media_type, std::io::Cursor::new(out.clone()))
                    .unwrap()
                    .read_to_end(&mut back)
                    .unwrap();
                assert!(back == data, "{compression:?} {media_type:?}");
            }
        }
        let out = compressed(compression, &data);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| compressed(compression, &data)) == out, "{compression:?}");
        }
    }
    let foreign = MediaType::from("application/x-bzip2");
    assert!(decompressor(Some(&foreign), std::io::empty()).is_err());
}
