//! Root file systems as tar archives and as directories.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use exporter::{Destination, ExportError, LocalMode, LocalOptions, write_local, write_tar};

use crate::world::{FIRST, TREE, World, listing, run};

#[test]
fn a_directory_gets_the_merged_tree() {
    let world = World::new();
    let directory = world.path("out");
    write_local(Some(&world.tree()), LocalOptions::default(), &directory).unwrap();
    assert_eq!(listing(&directory), TREE);
    let inode = |name| fs_err::metadata(directory.join(name)).unwrap().ino();
    assert_eq!(inode("bin/tool"), inode("bin/tool2"), "still one file");
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_mirrored() {
    let world = World::new();
    let (tree, directory) = (world.tree(), world.path("out"));
    let prepare = || {
        fs_err::create_dir_all(directory.join("etc/mine/deep")).unwrap();
        fs_err::write(directory.join("etc/mine/deep/file"), "x").unwrap();
        fs_err::write(directory.join("mine"), "x").unwrap();
        fs_err::write(directory.join("bin"), "a file where a directory belongs").unwrap();
    };
    prepare();
    write_local(Some(&tree), LocalOptions::default(), &directory).unwrap();
    let merged = listing(&directory);
    assert!(merged.contains(&"mine 644 x".to_owned()), "{merged:?}");
    assert_eq!(merged.len(), TREE.len() + 4);
    let options = LocalOptions { mode: LocalMode::Delete, ..LocalOptions::default() };
    write_local(Some(&tree), options, &directory).unwrap();
    assert_eq!(listing(&directory), TREE);
    write_local(None, options, &directory).unwrap();
    assert!(listing(&directory).is_empty());
}

#[test]
fn links_in_the_directory_lead_nowhere() {
    let world = World::new();
    let (directory, outside) = (world.path("out"), world.path("outside"));
    fs_err::create_dir(&directory).unwrap();
    fs_err::create_dir(&outside).unwrap();
    fs_err::write(outside.join("motd"), "precious").unwrap();
    symlink(&outside, directory.join("etc")).unwrap();
    fs_err::create_dir(directory.join("bin")).unwrap();
    symlink(outside.join("motd"), directory.join("bin/tool")).unwrap();
    for mode in [LocalMode::Merge, LocalMode::Delete] {
        let options = LocalOptions { mode, ..LocalOptions::default() };
        write_local(Some(&world.tree()), options, &directory).unwrap();
    }
    assert_eq!(listing(&outside), ["motd 644 precious"]);
    assert_eq!(listing(&directory), TREE);
}

#[test]
fn a_system_directory_is_not_mirrored() {
    let options = LocalOptions { mode: LocalMode::Delete, ..LocalOptions::default() };
    for directory in ["/", "/tmp"] {
        let result = write_local(None, options, directory.as_ref());
        assert!(matches!(result, Err(ExportError::Protected { .. })), "{directory}: {result:?}");
    }
}

#[test]
fn a_directory_without_write_permission_is_filled_all_the_same() {
    let world = World::new();
    let tree = world.snapshot(None, FIRST, |root| {
        fs_err::create_dir(root.join("locked")).unwrap();
        fs_err::write(root.join("locked/file"), "x").unwrap();
        fs_err::set_permissions(root.join("locked"), PermissionsExt::from_mode(0o555)).unwrap();
    });
    let directory = world.path("out");
    for _ in 0..2 {
        write_local(Some(&tree), LocalOptions::default(), &directory).unwrap();
        assert_eq!(listing(&directory), ["locked/ 555", "locked/file 644 x"]);
    }
    fs_err::set_permissions(directory.join("locked"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn source_date_epoch_is_the_time_of_every_file() {
    let world = World::new();
    let directory = world.path("out");
    let options =
        LocalOptions { source_date_epoch: Some(1_000_000_000), ..LocalOptions::default() };
    write_local(Some(&world.tree()), options, &directory).unwrap();
    for name in ["bin", "bin/tool", "etc", "etc/motd", "etc/link"] {
        let metadata = fs_err::symlink_metadata(directory.join(name)).unwrap();
        assert_eq!(metadata.mtime(), 1_000_000_000, "{name}");
    }
}

#[test]
fn a_tar_is_what_tar_itself_unpacks_to_the_same_tree() {
    let world = World::new();
    let tree = world.tree();
    let (archive, directory) = (world.path("rootfs.tar"), world.path("out"));
    write_tar(Some(&tree), None, Destination::File(&archive)).unwrap();
    fs_err::create_dir(&directory).unwrap();
    let (archive_path, directory_path) = (archive.to_str().unwrap(), directory.to_str().unwrap());
    run("tar", &["-xpf", archive_path, "-C", directory_path]);
    assert_eq!(listing(&directory), TREE);
    let mut streamed = Vec::new();
    write_tar(Some(&tree), None, Destination::Writer(&mut streamed)).unwrap();
    assert!(streamed == fs_err::read(&archive).unwrap(), "a stream gets the same bytes");
}

#[test]
fn an_archive_that_fails_leaves_the_old_one() {
    let world = World::new();
    let archive = world.path("rootfs.tar");
    fs_err::write(&archive, "old").unwrap();
    let tree = world.tree();
    // The tree is gone before it could be read.
    fs_err::remove_dir_all(tree.upper()).unwrap();
    write_tar(Some(&tree), None, Destination::File(&archive)).unwrap_err();
    assert_eq!(fs_err::read_to_string(&archive).unwrap(), "old");
    let names = fs_err::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let leftovers: Vec<_> = names.filter(|name| name.to_string_lossy().contains(".part")).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn long_names_and_attributes_survive_a_tar() {
    let world = World::new();
    let long = "n".repeat(200);
    let tree = world.snapshot(None, FIRST, |root| {
        fs_err::write(root.join(&long), "x").unwrap();
        symlink("t".repeat(150), root.join("link")).unwrap();
        rustix::fs::setxattr(
            root.join(&long),
            "user.note",
            b"kept",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    });
    let mut bytes = Vec::new();
    write_tar(Some(&tree), None, Destination::Writer(&mut bytes)).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let target = entry.link_name().unwrap().map(|target| target.display().to_string().len());
        let note = entry.pax_extensions().unwrap().and_then(|mut records| {
            records.find_map(|record| {
                let record = record.unwrap();
                (record.key() == Ok("SCHILY.xattr.user.note"))
                    .then(|| record.value_bytes().to_vec())
            })
        });
        seen.push((path, target, note));
    }
    assert_eq!(seen, [("link".to_owned(), Some(150), None), (long, None, Some(b"kept".to_vec()))]);
}
