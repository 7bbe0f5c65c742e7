//! Disk blocks, with every inode counted once.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::state::{StoreError, file_error};

/// `st_blocks` counts in these, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;

/// Device and number.
type Inode = (u64, u64);

/// What one tree occupies.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// Bytes of what has one link only.
    own: u64,
    /// Inodes with several links, once per link that lies in the tree.
    linked: Vec<Inode>,
}

/// Inodes with several links.
#[derive(Debug, Default)]
pub(super) struct Links {
    inodes: HashMap<Inode, Linked>,
}

#[derive(Debug)]
struct Linked {
    bytes: u64,
    left: u64,
    counted: bool,
}

impl Usage {
    /// Walks the trees at `roots`; one that is not there occupies nothing.
    pub(super) fn of(roots: Vec<PathBuf>, links: &mut Links) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        let mut pending = roots;
        while let Some(path) = pending.pop() {
            let metadata = match fs_err::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                // Others may remove things beside us.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(file_error("read", &path)(source)),
            };
            let bytes = metadata.blocks() * BLOCK_BYTES;
            if metadata.is_dir() {
                usage.own += bytes;
                match fs_err::read_dir(&path) {
                    Ok(entries) => {
                        for entry in entries {
                            pending.push(entry.map_err(file_error("list", &path))?.path());
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(source) => return Err(file_error("list", &path)(source)),
                }
            } else if metadata.nlink() > 1 {
                let inode = (metadata.dev(), metadata.ino());
                let left = metadata.nlink();
                links.inodes.entry(inode).or_insert(Linked { bytes, left, counted: false });
                usage.linked.push(inode);
            } else {
                usage.own += bytes;
            }
        }
        Ok(usage)
    }
}

impl Links {
    /// The bytes of `usage` that nobody who was counted before has.
    pub(super) fn count(&mut self, usage: &Usage) -> u64 {
        let mut bytes = usage.own;
        for inode in &usage.linked {
            if let Some(linked) = self.inodes.get_mut(inode)
                && !std::mem::replace(&mut linked.counted, true)
            {
                bytes += linked.bytes;
            }
        }
        bytes
    }

    /// The bytes that removing the tree of `usage` gives back, after all that was taken before.
    pub(super) fn take(&mut self, usage: &Usage) -> u64 {
        let mut bytes = usage.own;
        for inode in &usage.linked {
            if let Some(linked) = self.inodes.get_mut(inode) {
                linked.left = linked.left.saturating_sub(1);
                if linked.left == 0 {
                    bytes += linked.bytes;
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_link_is_counted_once_and_freed_with_its_last() {
        let place = tempfile::tempdir().unwrap();
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        for dir in [&one, &two] {
            fs_err::create_dir(dir).unwrap();
        }
        fs_err::write(one.join("file"), vec![7; 1 << 20]).unwrap();
        fs_err::hard_link(one.join("file"), two.join("file")).unwrap();
        let mut links = Links::default();
        let uses = [&one, &two].map(|dir| Usage::of(vec![dir.clone()], &mut links).unwrap());
        let counted = uses.each_ref().map(|usage| links.count(usage));
        assert!(counted[0] >= 1 << 20 && counted[1] < 1 << 20, "{counted:?}");
        let taken = uses.each_ref().map(|usage| links.take(usage));
        assert!(taken[0] < 1 << 20 && taken[1] >= 1 << 20, "{taken:?}");
        assert_eq!(counted.iter().sum::<u64>(), taken.iter().sum::<u64>());
    }
}
