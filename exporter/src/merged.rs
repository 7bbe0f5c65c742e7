//! The file tree of a snapshot, put together from its layers without a mount.
//!
//! Of every name the highest layer that has it decides; directories are joined with those below
//! until one is opaque or something else stands there. The rules are overlayfs' own: a whiteout is
//! a character device 0:0, an opaque directory has `user.overlay.opaque` set to `y`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cache::snapshot::Snapshot;

use crate::ExportError;

/// One file, directory, link or device of the tree.
#[derive(Debug)]
pub(crate) struct Node {
    /// Relative to the tree's root.
    pub(crate) path: PathBuf,
    /// Where it really is.
    pub(crate) source: PathBuf,
    /// Of the thing itself, not of what it may point to.
    pub(crate) metadata: Metadata,
}

/// A name during the merge of a directory.
enum Merging {
    Hidden,
    Leaf(Metadata, PathBuf),
    Directory { metadata: Metadata, layers: Vec<PathBuf>, closed: bool },
}

/// Visits every node, parents before children, siblings in byte order; not the root itself.
pub(crate) fn walk(
    snapshot: &Snapshot,
    visit: &mut dyn FnMut(&Node) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut roots: Vec<PathBuf> = snapshot.layers().map(|layer| layer.upper().to_owned()).collect();
    roots.reverse();
    // Depth first, without recursion: a tree may be deeper than a thread's stack.
    let mut waiting = vec![(PathBuf::new(), roots)];
    let mut pending: Vec<Vec<(Node, Vec<PathBuf>)>> = Vec::new();
    loop {
        if let Some((path, layers)) = waiting.pop() {
            let mut children = merge(&path, &layers)?;
            children.reverse();
            pending.push(children);
        }
        let Some(siblings) = pending.last_mut() else { return Ok(()) };
        match siblings.pop() {
            None => drop(pending.pop()),
            Some((node, layers)) => {
                visit(&node)?;
                if !layers.is_empty() {
                    waiting.push((node.path, layers));
                }
            }
        }
    }
}

/// The nodes of one directory, and for those that are directories the layers that have them,
/// highest first.
fn merge(path: &Path, layers: &[PathBuf]) -> Result<Vec<(Node, Vec<PathBuf>)>, ExportError> {
    let mut names: BTreeMap<OsString, Merging> = BTreeMap::new();
    for layer in layers {
        let failed = |source| ExportError::Read { path: layer.clone(), source };
        for entry in fs_err::read_dir(layer).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let source = entry.path();
            let metadata = fs_err::symlink_metadata(&source)
                .map_err(|error| ExportError::Read { path: source.clone(), source: error })?;
            match names.entry(entry.file_name()) {
                MapEntry::Vacant(vacant) => {
                    vacant.insert(first(metadata, source)?);
                }
                MapEntry::Occupied(mut occupied) => {
                    if let Merging::Directory { layers, closed, .. } = occupied.get_mut()
                        && !*closed
                    {
                        *closed = !metadata.is_dir() || is_opaque(&source)?;
                        if metadata.is_dir() {
                            layers.push(source);
                        }
                    }
                }
            }
        }
    }
    let nodes = names.into_iter().filter_map(|(name, merging)| {
        let path = path.join(name);
        match merging {
            Merging::Hidden => None,
            Merging::Leaf(metadata, source) => Some((Node { path, source, metadata }, Vec::new())),
            Merging::Directory { metadata, layers, .. } => {
                Some((Node { path, source: layers[0].clone(), metadata }, layers))
            }
        }
    });
    Ok(nodes.collect())
}

fn first(metadata: Metadata, source: PathBuf) -> Result<Merging, ExportError> {
    if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
        return Ok(Merging::Hidden);
    }
    if !metadata.is_dir() {
        return Ok(Merging::Leaf(metadata, source));
    }
    let closed = is_opaque(&source)?;
    Ok(Merging::Directory { metadata, layers: vec![source], closed })
}

fn is_opaque(directory: &Path) -> Result<bool, ExportError> {
    Ok(xattr(directory, "user.overlay.opaque")?.as_deref() == Some(b"y"))
}

/// An extended attribute of the thing itself; `None` if it has none, or cannot have any.
pub(crate) fn xattr(path: &Path, name: &str) -> Result<Option<Vec<u8>>, ExportError> {
    let mut value = vec![0; 64 << 10];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {
            Ok(None)
        }
        Err(errno) => Err(ExportError::Read { path: path.to_owned(), source: errno.into() }),
    }
}

/// The names of the extended attributes that belong to the tree and not to its storage.
pub(crate) fn xattr_names(path: &Path) -> Result<Vec<String>, ExportError> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => 0,
        Err(errno) => {
            return Err(ExportError::Read { path: path.to_owned(), source: errno.into() });
        }
    };
    let names =
        list[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let ours = |name: &str| name.starts_with("user.overlay.") || name.starts_with("user.strake.");
    let mut names: Vec<String> = names
        .filter(|name| *name == "security.capability" || (name.starts_with("user.") && !ours(name)))
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

/// Who owns a node: what the file system says, unless the ids could not be mapped and are noted
/// beside it.
pub(crate) fn owner(node: &Node) -> Result<(u32, u32), ExportError> {
    let own = (node.metadata.uid(), node.metadata.gid());
    if !node.metadata.is_file() && !node.metadata.is_dir() {
        return Ok(own);
    }
    let Some(noted) = xattr(&node.source, "user.strake.owner")? else { return Ok(own) };
    let parsed = std::str::from_utf8(&noted)
        .ok()
        .and_then(|text| text.split_once(':'))
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    Ok(parsed.unwrap_or(own))
}
