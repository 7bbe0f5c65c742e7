//! A root file system as one tar archive.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cache::snapshot::Snapshot;

use crate::merged::{Node, owner, walk, xattr, xattr_names};
use crate::{Destination, ExportError};

/// Writes the tree of a snapshot (nothing for `None`) as a tar, with the owners, modes, times,
/// extended attributes and hard links of the image. Deterministic.
///
/// With `source_date_epoch` (seconds) every file has that time. Sockets are left out, as a tar
/// cannot hold them.
pub fn write_tar(
    rootfs: Option<&Snapshot>,
    source_date_epoch: Option<i64>,
    destination: Destination<'_>,
) -> Result<(), ExportError> {
    destination.write(|out| {
        let mut tar = tar::Builder::new(out);
        if let Some(rootfs) = rootfs {
            let mut links = HashMap::new();
            walk(rootfs, &mut |node| append(&mut tar, node, &mut links, source_date_epoch))?;
        }
        tar.finish().map_err(|source| failed(Path::new("the archive"), source))
    })
}

fn failed(path: &Path, source: std::io::Error) -> ExportError {
    ExportError::Write { path: path.to_owned(), source }
}

fn append(
    tar: &mut tar::Builder<&mut dyn Write>,
    node: &Node,
    links: &mut HashMap<(u64, u64), PathBuf>,
    epoch: Option<i64>,
) -> Result<(), ExportError> {
    let metadata = &node.metadata;
    let kind = metadata.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    let mut header = tar::Header::new_gnu();
    let (uid, gid) = owner(node)?;
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(epoch.unwrap_or(metadata.mtime()).max(0) as u64);
    header.set_size(0);
    let write_failed = |source| failed(&node.path, source);
    if !metadata.is_dir() && metadata.nlink() > 1 {
        let inode = (metadata.dev(), metadata.ino());
        if let Some(first) = links.get(&inode) {
            header.set_entry_type(tar::EntryType::Link);
            return tar.append_link(&mut header, &node.path, first).map_err(write_failed);
        }
        links.insert(inode, node.path.clone());
    }
    let attributes = if kind.is_symlink() { Vec::new() } else { attributes(node)? };
    if !attributes.is_empty() {
        let extensions = attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        tar.append_pax_extensions(extensions).map_err(write_failed)?;
    }
    if kind.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        let mut name = node.path.as_os_str().to_owned();
        name.push("/");
        return tar.append_data(&mut header, name, std::io::empty()).map_err(write_failed);
    }
    if kind.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        let target = fs_err::read_link(&node.source)
            .map_err(|source| ExportError::Read { path: node.source.clone(), source })?;
        // Byte for byte: `append_link` would bring the target into a normal form.
        if target.as_os_str().len() <= 100 {
            header.set_link_name_literal(target.as_os_str().as_bytes()).map_err(write_failed)?;
            return tar
                .append_data(&mut header, &node.path, std::io::empty())
                .map_err(write_failed);
        }
        return tar.append_link(&mut header, &node.path, &target).map_err(write_failed);
    }
    if kind.is_file() {
        let file = fs_err::File::open(&node.source)
            .map_err(|source| ExportError::Read { path: node.source.clone(), source })?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(metadata.len());
        return tar.append_data(&mut header, &node.path, file).map_err(write_failed);
    }
    header.set_entry_type(match () {
        () if kind.is_fifo() => tar::EntryType::Fifo,
        () if kind.is_block_device() => tar::EntryType::Block,
        () => tar::EntryType::Char,
    });
    if !kind.is_fifo() {
        header.set_device_major(rustix::fs::major(metadata.rdev())).map_err(write_failed)?;
        header.set_device_minor(rustix::fs::minor(metadata.rdev())).map_err(write_failed)?;
    }
    tar.append_data(&mut header, &node.path, std::io::empty()).map_err(write_failed)
}

/// The extended attributes as PAX records.
fn attributes(node: &Node) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
    let mut records = Vec::new();
    for name in xattr_names(&node.source)? {
        if let Some(value) = xattr(&node.source, &name)? {
            records.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    Ok(records)
}
