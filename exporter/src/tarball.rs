//! A root file system as one tar archive.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cache::snapshot::Snapshot;

use crate::walk::{Node, NodeKind, walk};
use crate::{Destination, ExportError};

/// The longest target of a link that fits into a header, in bytes.
const LINK_NAME: usize = 100;

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
    write_tars(&[("", rootfs)], source_date_epoch, destination)
}

/// As [`write_tar`], for several trees, each in a directory of its own of that name.
pub fn write_tars(
    trees: &[(&str, Option<&Snapshot>)],
    source_date_epoch: Option<i64>,
    destination: Destination<'_>,
) -> Result<(), ExportError> {
    destination.write(|out| {
        let mut tar = tar::Builder::new(out);
        for (prefix, rootfs) in trees {
            if !prefix.is_empty() {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_mtime(source_date_epoch.unwrap_or_default().max(0) as u64);
                header.set_size(0);
                tar.append_data(&mut header, format!("{prefix}/"), std::io::empty())
                    .map_err(|source| ExportError::Write { path: (*prefix).into(), source })?;
            }
            let Some(rootfs) = rootfs else { continue };
            walk(rootfs, &mut |mut node| {
                if !prefix.is_empty() {
                    node.path = Path::new(prefix).join(&node.path);
                    if let NodeKind::HardLink(first) = &mut node.kind {
                        *first = Path::new(prefix).join(&*first);
                    }
                }
                let path = node.path.clone();
                append(&mut tar, node, source_date_epoch)
                    .map_err(|source| ExportError::Write { path, source })
            })?;
        }
        tar.finish().map_err(|source| ExportError::Write { path: "the archive".into(), source })
    })
}

fn append(
    tar: &mut tar::Builder<&mut dyn Write>,
    node: Node,
    epoch: Option<i64>,
) -> std::io::Result<()> {
    let Node { path, kind, metadata } = node;
    let mut header = tar::Header::new_gnu();
    header.set_uid(metadata.uid.into());
    header.set_gid(metadata.gid.into());
    header.set_mode(metadata.mode);
    header.set_mtime(epoch.unwrap_or(metadata.mtime).max(0) as u64);
    header.set_size(0);
    let is_link = matches!(kind, NodeKind::HardLink(_));
    if !metadata.xattrs.is_empty() && !is_link {
        let records: Vec<(String, &[u8])> = metadata
            .xattrs
            .iter()
            .filter_map(|xattr| {
                let name = std::str::from_utf8(&xattr.name).ok()?;
                Some((format!("SCHILY.xattr.{name}"), xattr.value.as_slice()))
            })
            .collect();
        tar.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value)))?;
    }
    match kind {
        NodeKind::Socket => Ok(()),
        NodeKind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            let mut name = path.into_os_string();
            name.push("/");
            tar.append_data(&mut header, name, std::io::empty())
        }
        NodeKind::HardLink(first) => {
            header.set_entry_type(tar::EntryType::Link);
            tar.append_link(&mut header, path, first)
        }
        NodeKind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            // Byte for byte: `append_link` brings what it can into a normal form.
            if target.len() <= LINK_NAME {
                header.set_link_name_literal(target.as_bytes())?;
                return tar.append_data(&mut header, path, std::io::empty());
            }
            tar.append_link(&mut header, path, Path::new(&target))
        }
        NodeKind::File(file, size) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(size);
            tar.append_data(&mut header, path, file)
        }
        NodeKind::Fifo => {
            header.set_entry_type(tar::EntryType::Fifo);
            tar.append_data(&mut header, path, std::io::empty())
        }
        NodeKind::Device(device) => {
            let kind = if device.is_block { tar::EntryType::Block } else { tar::EntryType::Char };
            header.set_entry_type(kind);
            header.set_device_major(device.major)?;
            header.set_device_minor(device.minor)?;
            tar.append_data(&mut header, path, std::io::empty())
        }
    }
}
