//! What one header, with the extended headers before it, says about an entry.

use tar::Header;

use super::number::number;
use super::{Entry, EntryKind, malformed, pax};
use crate::error::LayerError;
use crate::tree::{Device, Metadata};

/// Larger than any octal size field: such sizes may stand in a PAX record alone.
const OCTAL_SIZES: u64 = 1 << 33;

/// Names that extension headers give to the entry behind them.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) pax: Option<pax::Records>,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
}

impl Extensions {
    /// Whether anything waits for an entry.
    pub(super) fn is_some(&self) -> bool {
        self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }
}

/// The entry that a header and the extended headers before it describe; of a sparse file, `size` is
/// what is stored.
pub(super) fn interpret(
    at: u64,
    header: &Header,
    size: u64,
    extensions: Extensions,
) -> Result<Entry, LayerError> {
    let flag = header.as_old().linkflag[0];
    let records = extensions.pax.unwrap_or_default();
    let field = |name: &str, bytes: &[u8]| {
        number(bytes).ok_or_else(|| malformed(at, format!("its {name} is not a number")))
    };
    let id = |name: &str, bytes: &[u8], record: Option<u64>| {
        let id = match record {
            Some(id) => i64::try_from(id).unwrap_or(i64::MAX),
            None => field(name, bytes)?,
        };
        // The highest id means "leave it" to the kernel.
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| malformed(at, format!("its {name} is no id")))
    };
    if extensions.long_name.is_some() && records.path.is_some()
        || extensions.long_link.is_some() && records.link.is_some()
    {
        return Err(malformed(at, "it is named by a PAX and by a GNU header"));
    }
    let path = records.path.or(extensions.long_name).unwrap_or_else(|| header_path(header));
    let link = records
        .link
        .or(extensions.long_link)
        .unwrap_or_else(|| until_nul(&header.as_old().linkname).to_vec());
    if path.is_empty() {
        return Err(malformed(at, "it has no name"));
    }
    if path.contains(&0) || link.contains(&0) {
        return Err(malformed(at, "a name contains a NUL byte"));
    }
    let kind = match flag {
        b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") => EntryKind::Directory,
        b'0' | 0 | b'7' | b'S' => EntryKind::File,
        b'5' => EntryKind::Directory,
        b'1' | b'2' if link.is_empty() => {
            return Err(malformed(at, "it is a link to nothing"));
        }
        b'1' => EntryKind::HardLink(link),
        b'2' => EntryKind::Symlink(link),
        b'3' | b'4' => EntryKind::Device(device(at, header, flag == b'4')?),
        b'6' => EntryKind::Fifo,
        _ => {
            let flag = char::from(flag).escape_default();
            return Err(malformed(at, format!("it is of an unknown type `{flag}`")));
        }
    };
    let size = match records.size {
        Some(wide) if wide != size && wide < OCTAL_SIZES => {
            return Err(malformed(at, "it has two different sizes"));
        }
        Some(wide) => wide,
        None => size,
    };
    let is_plain = matches!(flag, b'0' | 0 | b'7' | b'S');
    if is_plain && kind == EntryKind::Directory && size > 0 {
        return Err(malformed(at, "it is a directory with content"));
    }
    // Whatever else has a size has no content, as for Go's reader.
    let size = if kind == EntryKind::File { size } else { 0 };
    let old = header.as_old();
    let (mtime, mtime_nanoseconds) = match records.mtime {
        Some(mtime) => mtime,
        None => (field("time", &old.mtime)?, 0),
    };
    let metadata = Metadata {
        mode: (field("mode", &old.mode)? & 0o7777) as u32,
        uid: id("uid", &old.uid, records.uid)?,
        gid: id("gid", &old.gid, records.gid)?,
        mtime,
        mtime_nanoseconds,
        xattrs: records.xattrs,
    };
    Ok(Entry { path, kind, size, metadata })
}

fn header_path(header: &Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

fn device(at: u64, header: &Header, is_block: bool) -> Result<Device, LayerError> {
    // The two formats that have devices have them at the same place.
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Err(malformed(at, "it is a device in a format that has none")),
    };
    let part = |bytes: &[u8]| number(bytes).and_then(|part| u32::try_from(part).ok());
    match (part(major), part(minor)) {
        (Some(major), Some(minor)) => Ok(Device { is_block, major, minor }),
        _ => Err(malformed(at, "its device number is not a number")),
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
