//! A store in a temporary directory, and trees as text.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsFd;

use cache::layer::{LayerError, UnpackLimits, pack, unpack};
use cache::oci::DiffId;
use cache::snapshot::{CommitInfo, Snapshot};
use cache::tree::{self, MergedDir};
use cache::{Store, layer::PackedLayer};
use rustix::fs::{FileType, readlinkat};

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn committed() -> CommitInfo {
    CommitInfo { created: "2026-01-02T03:04:05Z".to_owned(), ..CommitInfo::default() }
}

impl World {
    pub(crate) fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        World { store: Store::open(&dir.path().join("root")).unwrap(), dir }
    }

    /// The same store, as another process finds it when this one has ended.
    pub(crate) fn reopened(self) -> World {
        let World { store, dir } = self;
        let root = store.root().to_owned();
        drop(store);
        World { store: Store::open(&root).unwrap(), dir }
    }

    pub(crate) fn try_unpack(
        &self,
        parent: Option<&Snapshot>,
        tar: &[u8],
        limits: &UnpackLimits,
    ) -> Result<(Snapshot, DiffId), LayerError> {
        let active = self.store.snapshots().prepare(parent.map(Snapshot::id))?;
        let diff_id = unpack(&mut &tar[..], &active, limits)?;
        Ok((active.commit(committed())?, diff_id))
    }

    /// Unpacks layers on top of each other.
    pub(crate) fn unpack(&self, layers: &[Vec<u8>]) -> Snapshot {
        let mut snapshot = None;
        for tar in layers {
            let unpacked = self.try_unpack(snapshot.as_ref(), tar, &UnpackLimits::default());
            snapshot = Some(unpacked.unwrap_or_else(|error| panic!("{error:?}")).0);
        }
        snapshot.unwrap()
    }
}

pub(crate) fn packed(snapshot: &Snapshot) -> (PackedLayer, Vec<u8>) {
    let mut tar = Vec::new();
    let packed = pack(snapshot, &mut tar).unwrap_or_else(|error| panic!("{error:?}"));
    (packed, tar)
}

/// The names in an archive, with the type in front: `f`, `d`, `l`, `h`, `c`, `b`, `p`.
pub(crate) fn names_in(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let kind = match entry.header().as_old().linkflag[0] {
                b'0' => 'f',
                b'1' => 'h',
                b'2' => 'l',
                b'3' => 'c',
                b'4' => 'b',
                b'5' => 'd',
                b'6' => 'p',
                flag => panic!("flag {flag}"),
            };
            format!("{kind} {}", entry.path_bytes().escape_ascii())
        })
        .collect()
}

/// The merged tree, one line per file: everything that a container would see.
pub(crate) fn listed(snapshot: &Snapshot) -> Vec<String> {
    let root = MergedDir::open(snapshot.layers().map(|layer| layer.upper())).unwrap();
    let mut lines = Vec::new();
    let mut inodes = BTreeMap::new();
    list(&root, "", &mut lines, &mut inodes);
    lines
}

/// Only the paths of [`listed`].
pub(crate) fn paths(snapshot: &Snapshot) -> Vec<String> {
    listed(snapshot).iter().map(|line| line.split_once(" |").unwrap().0.to_owned()).collect()
}

pub(crate) fn content(snapshot: &Snapshot, path: &str) -> Vec<u8> {
    let mut dir = MergedDir::open(snapshot.layers().map(|layer| layer.upper())).unwrap();
    let mut components: Vec<&str> = path.split('/').collect();
    let name = CString::new(components.pop().unwrap()).unwrap();
    for component in components {
        dir = dir.dir(&CString::new(component).unwrap()).unwrap();
    }
    let entry = dir.entry(&name).unwrap().unwrap_or_else(|| panic!("no {path}"));
    let mut bytes = Vec::new();
    let file = tree::open_file(entry.dir(), &name).unwrap();
    std::fs::File::from(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn list(
    dir: &MergedDir,
    prefix: &str,
    lines: &mut Vec<String>,
    inodes: &mut BTreeMap<(u64, u64), String>,
) {
    for name in dir.names().unwrap() {
        let entry = dir.entry(&name).unwrap().unwrap();
        let path = format!("{prefix}{}", name.to_bytes().escape_ascii());
        let (mut what, file) = match entry.file_type() {
            FileType::Directory => {
                ("directory".to_owned(), Some(tree::open_dir(entry.dir(), &name).unwrap()))
            }
            FileType::RegularFile => {
                let file = tree::open_file(entry.dir(), &name).unwrap();
                let mut bytes = Vec::new();
                std::fs::File::from(file.try_clone().unwrap()).read_to_end(&mut bytes).unwrap();
                let what = match tree::read_device(&file).unwrap() {
                    Some(device) => format!("{device:?}"),
                    None => {
                        format!("file {} {}", bytes.len(), cache::hash::Fingerprint::of(&bytes))
                    }
                };
                (what, Some(file))
            }
            FileType::Symlink => {
                let target = readlinkat(entry.dir(), &name, Vec::new()).unwrap();
                (format!("link to {target:?}"), None)
            }
            FileType::Fifo => ("fifo".to_owned(), None),
            _ => {
                let number = entry.stat.st_rdev;
                let device = tree::Device {
                    is_block: entry.file_type() == FileType::BlockDevice,
                    major: rustix::fs::major(number),
                    minor: rustix::fs::minor(number),
                };
                (format!("{device:?}"), None)
            }
        };
        if entry.file_type() != FileType::Directory && entry.stat.st_nlink > 1 {
            let inode = (entry.stat.st_dev, entry.stat.st_ino);
            let first = inodes.entry(inode).or_insert_with(|| path.clone());
            what.push_str(&format!(" same as {first}"));
        }
        let metadata =
            tree::read_metadata(&entry.stat, file.as_ref().map(|file| file.as_fd())).unwrap();
        let xattrs: Vec<String> = metadata
            .xattrs
            .iter()
            .map(|xattr| format!("{}={}", xattr.name.escape_ascii(), xattr.value.escape_ascii()))
            .collect();
        // Owners of links and FIFOs cannot be recorded by the unprivileged, and overlayfs marks
        // are not the tree's.
        let owner = match file {
            Some(_) => format!("{}:{}", metadata.uid, metadata.gid),
            None => String::new(),
        };
        lines.push(format!(
            "{path} | {what} {:o} {owner} {} {xattrs:?}",
            metadata.mode, metadata.mtime
        ));
        if entry.file_type() == FileType::Directory {
            list(&dir.dir(&name).unwrap(), &format!("{path}/"), lines, inodes);
        }
    }
}
