//! Writing tar headers: ustar, with a PAX header in front only where ustar cannot say it.
//!
//! The same entry always gives the same bytes: no names of users, no times but the file's own, in
//! whole seconds, records in order of their keys.

use crate::oci::Digest;
use crate::tree::{Device, Metadata};

const BLOCK: usize = 512;
/// Fields of ustar's header: offset and length.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE: usize = 156;
const LINK: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const MAJOR: (usize, usize) = (329, 8);
const MINOR: (usize, usize) = (337, 8);
const PREFIX: (usize, usize) = (345, 155);

/// What an entry of a layer is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    File {
        size: u64,
    },
    Directory,
    Symlink {
        target: &'a [u8],
    },
    HardLink {
        target: &'a [u8],
    },
    Device(Device),
    Fifo,
    /// A deletion: an empty file whose name says what is gone.
    Whiteout,
}

impl Kind<'_> {
    pub(super) fn flag(&self) -> u8 {
        match self {
            Kind::File { .. } | Kind::Whiteout => b'0',
            Kind::HardLink { .. } => b'1',
            Kind::Symlink { .. } => b'2',
            Kind::Device(Device { is_block: false, .. }) => b'3',
            Kind::Device(Device { is_block: true, .. }) => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }

    pub(super) fn link(&self) -> &[u8] {
        match self {
            Kind::Symlink { target } | Kind::HardLink { target } => target,
            _ => b"",
        }
    }
}

/// Appends the header of one entry. `path` is relative and, of a directory, ends with a slash.
pub(super) fn append(out: &mut Vec<u8>, path: &[u8], kind: Kind<'_>, metadata: &Metadata) {
    let mut records = Vec::new();
    let mut block = Block([0; BLOCK]);
    let size = match kind {
        Kind::File { size } => size,
        _ => 0,
    };
    match split_path(path) {
        Some((prefix, name)) => {
            block.bytes(NAME, name);
            block.bytes(PREFIX, prefix);
        }
        None => {
            records.push(record(b"path", path));
            block.bytes(NAME, &stand_in(path, NAME.1));
        }
    }
    let link = kind.link();
    if link.len() <= LINK.1 && link.is_ascii() {
        block.bytes(LINK, link);
    } else {
        records.push(record(b"linkpath", link));
        block.bytes(LINK, &stand_in(link, LINK.1));
    }
    let mut number = |field, key: &[u8], value: i64| {
        if !block.octal(field, value) {
            records.push(record(key, value.to_string().as_bytes()));
        }
    };
    number(UID, b"uid", i64::from(metadata.uid));
    number(GID, b"gid", i64::from(metadata.gid));
    number(SIZE, b"size", i64::try_from(size).unwrap_or(i64::MAX));
    number(MTIME, b"mtime", metadata.mtime);
    block.octal(MODE, i64::from(metadata.mode & 0o7777));
    if let Kind::Device(device) = kind {
        // The kernel's numbers have 12 and 20 bits, the fields 21.
        block.octal(MAJOR, i64::from(device.major));
        block.octal(MINOR, i64::from(device.minor));
    }
    for xattr in &metadata.xattrs {
        // A key with `=` in it has no form in PAX; Go's writer refuses the whole archive.
        if !xattr.name.contains(&b'=') {
            records.push(record(&[b"SCHILY.xattr.", &xattr.name[..]].concat(), &xattr.value));
        }
    }
    if !records.is_empty() {
        records.sort_unstable();
        append_pax(out, path, &records.concat());
    }
    block.finish(out, kind.flag());
}

/// Fills the last block of a file's content with zeros.
pub(super) fn pad(out: &mut Vec<u8>, size: u64) {
    let partial = (size % BLOCK as u64) as usize;
    if partial > 0 {
        out.resize(out.len() + BLOCK - partial, 0);
    }
}

/// The end of an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn append_pax(out: &mut Vec<u8>, path: &[u8], records: &[u8]) {
    let mut block = Block([0; BLOCK]);
    // Readers that know PAX ignore the name; for others it is a file that hurts nobody.
    let name = format!("PaxHeaders.0/{}", Digest::of(path).short());
    block.bytes(NAME, name.as_bytes());
    for field in [MODE, UID, GID, MTIME] {
        block.octal(field, 0);
    }
    block.octal(SIZE, i64::try_from(records.len()).unwrap_or(i64::MAX));
    block.finish(out, b'x');
    out.extend_from_slice(records);
    pad(out, records.len() as u64);
}

/// `<length> <key>=<value>\n`, the length counting its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// `path` as ustar's prefix and name, if it fits: split at a slash, the prefix as long as possible.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= NAME.1 {
        return Some((b"", path));
    }
    let latest = path.len().min(PREFIX.1 + 1);
    // Not the slash that ends a directory: something must be left for the name.
    let slash = path[..latest.min(path.len() - 1)].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && name.len() <= NAME.1).then_some((prefix, name))
}

/// What stands in the header where the PAX record has the real name.
fn stand_in(path: &[u8], length: usize) -> Vec<u8> {
    let ascii = path.iter().map(|byte| if byte.is_ascii() { *byte } else { b'_' });
    let mut name: Vec<u8> = ascii.take(length - 1).collect();
    if path.ends_with(b"/") && !name.ends_with(b"/") {
        name.push(b'/');
    }
    name
}

struct Block([u8; BLOCK]);

impl Block {
    fn bytes(&mut self, (offset, length): (usize, usize), bytes: &[u8]) {
        debug_assert!(bytes.len() <= length);
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes digits and a NUL; zeros and `false` if the number does not fit.
    fn octal(&mut self, (offset, length): (usize, usize), value: i64) -> bool {
        let digits = length - 1;
        let fits = value >= 0 && value < 1 << (3 * digits);
        let mut rest = if fits { value } else { 0 };
        for position in (offset..offset + digits).rev() {
            self.0[position] = b'0' + (rest & 7) as u8;
            rest >>= 3;
        }
        self.0[offset + digits] = 0;
        fits
    }

    fn finish(mut self, out: &mut Vec<u8>, flag: u8) {
        self.0[TYPE] = flag;
        self.bytes(MAGIC, b"ustar\x0000");
        self.0[CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1].fill(b' ');
        let sum: i64 = self.0.iter().map(|byte| i64::from(*byte)).sum();
        // Six digits, a NUL, and the blank that stands there already.
        self.octal((CHECKSUM.0, CHECKSUM.1 - 1), sum);
        out.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for value in [0, 1, 84, 85, 86, 87, 980, 990, 9_980, 9_990] {
            let record = record(b"path", &vec![b'x'; value]);
            let text = String::from_utf8(record).unwrap();
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn long_paths_are_split_where_ustar_can() {
        let name = "n".repeat(100);
        let path = format!("{}/{name}", "p".repeat(155));
        let (prefix, rest) = split_path(path.as_bytes()).unwrap();
        assert_eq!((prefix.len(), rest.len()), (155, 100));
        assert!(split_path(format!("p/{name}x").as_bytes()).is_none());
        assert!(split_path(format!("{}/{name}", "p".repeat(156)).as_bytes()).is_none());
        assert!(split_path(format!("{}/", "p".repeat(120)).as_bytes()).is_none());
        assert!(split_path("é".as_bytes()).is_none());
        assert!(split_path(format!("/{}", "p".repeat(100)).as_bytes()).is_none());
    }
}
