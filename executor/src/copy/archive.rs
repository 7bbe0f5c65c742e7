//! Archives that ADD unpacks, told by their content and kept inside their destination.
//!
//! A file is an archive if, decompressed (gzip, bzip2, xz, zstd) or as it is, it begins with a
//! valid tar header; its name means nothing. Entry names never climb above the destination, and an
//! entry below a link that leads out of it fails. Unlike in layers, `.wh.` names are just names.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use tar::EntryType;

use super::file::{
    Place, copy_regular, is_name, link, make_special, make_symlink, set_mode, write_file,
};
use super::pax_sparse::SparseRecords;
use super::target::{Attributes, TargetDir, resolve_below};
use crate::ExecutorError;
use crate::merged::{Kind, Meta, Xattrs};

/// Files, directories and links one archive may have.
const MAX_ENTRIES: u64 = 4_000_000;
/// Bytes all its files may have together.
const MAX_BYTES: u64 = 256 << 30;
/// Directories above a file.
const MAX_DEPTH: usize = 1024;
/// What xz may use to decompress, as the tool's own default for foreign input.
const XZ_MEMORY: u64 = 256 << 20;

/// An archive that can be unpacked.
pub(crate) struct Archive(Box<dyn Read + Send>);

/// The archive that `file` is, if it is one. `shown` names it in errors.
pub(crate) fn open(file: std::fs::File, shown: &str) -> Result<Option<Archive>, ExecutorError> {
    let failed = |source| ExecutorError::File { attempt: "read", path: shown.into(), source };
    let mut file = file;
    let mut start = [0u8; 512];
    let length = fill(&mut file, &mut start).map_err(failed)?;
    let rewound = |file: &std::fs::File| -> io::Result<std::fs::File> {
        let mut again = file.try_clone()?;
        again.seek(SeekFrom::Start(0))?;
        Ok(again)
    };
    let probe = rewound(&file).map_err(failed)?;
    let Ok(mut probe) = decompress(probe, &start[..length]) else { return Ok(None) };
    let mut block = [0u8; 512];
    if !matches!(fill(&mut *probe, &mut block), Ok(512)) || !is_tar_header(&block) {
        return Ok(None);
    }
    drop(probe);
    let again = rewound(&file).map_err(failed)?;
    let reader = decompress(again, &start[..length]).map_err(failed)?;
    Ok(Some(Archive(reader)))
}

/// The archive that a stream is, decompressed by its first bytes.
pub(crate) fn from_stream(
    stream: impl Read + Send + 'static,
    shown: &str,
) -> Result<Archive, ExecutorError> {
    let failed = |source| ExecutorError::File { attempt: "read", path: shown.into(), source };
    let mut stream = stream;
    let mut start = vec![0u8; 512];
    let length = fill(&mut stream, &mut start).map_err(failed)?;
    start.truncate(length);
    let whole = io::Cursor::new(start.clone()).chain(stream);
    Ok(Archive(decompress(whole, &start).map_err(failed)?))
}

/// See [`crate::context::without_foreign_compression`].
pub(crate) fn without_foreign_compression(
    mut stream: impl Read + Send + 'static,
) -> io::Result<Box<dyn Read + Send>> {
    let mut start = vec![0u8; 8];
    let length = fill(&mut stream, &mut start)?;
    start.truncate(length);
    let whole = io::Cursor::new(start.clone()).chain(stream);
    match compression(&start) {
        Compression::Bzip2 | Compression::Xz => decompress(whole, &start),
        Compression::None | Compression::AsLayers => Ok(Box::new(whole)),
    }
}

/// Whether a file that begins so could be an archive: compressed, or a tar.
pub(crate) fn looks_like_archive(start: &[u8]) -> bool {
    compression(start) != Compression::None || start.first_chunk::<512>().is_some_and(is_tar_header)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Bzip2,
    Xz,
    /// Gzip or zstd, which layers have too.
    AsLayers,
}

fn compression(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::AsLayers,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        _ => Compression::None,
    }
}

fn decompress(
    stream: impl Read + Send + 'static,
    start: &[u8],
) -> io::Result<Box<dyn Read + Send>> {
    let stream = io::BufReader::with_capacity(128 * 1024, stream);
    Ok(match compression(start) {
        Compression::None => Box::new(stream),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(stream)),
        Compression::Xz => {
            let decoder = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )?;
            Box::new(liblzma::read::XzDecoder::new_stream(stream, decoder))
        }
        Compression::AsLayers => {
            cache::layer::decompressor(None, stream).map_err(io::Error::other)?
        }
    })
}

fn is_tar_header(block: &[u8; 512]) -> bool {
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(i, &byte)| if (148..156).contains(&i) { 32 } else { u32::from(byte) })
        .sum();
    block[0] != 0 && header.cksum().is_ok_and(|expected| expected == sum)
}

fn fill(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Unpacks into the directory `target`; `owner` is that of every entry, or each has its own.
pub(crate) fn unpack(
    archive: Archive,
    shown: &str,
    target: &Arc<TargetDir>,
    owner: Option<(u32, u32)>,
) -> Result<(), ExecutorError> {
    let broken = |reason: String| ExecutorError::Archive { archive: shown.to_owned(), reason };
    let mut unpacking =
        Unpacking { target, owner, parent: None, directories: Vec::new(), holes: 0 };
    let mut tar = tar::Archive::new(archive.0);
    let entries = tar.entries().map_err(|error| broken(error.to_string()))?;
    let (mut count, mut bytes) = (0, 0);
    for entry in entries {
        let entry = entry.map_err(|error| broken(error.to_string()))?;
        count += 1;
        bytes += entry.size();
        if count > MAX_ENTRIES || bytes > MAX_BYTES {
            return Err(broken(format!("more than {MAX_ENTRIES} entries or {MAX_BYTES} bytes")));
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        unpacking.entry(entry).map_err(|error| broken(format!("`{name}`: {error}")))?;
    }
    unpacking.finish().map_err(|error| broken(error.to_string()))
}

struct Unpacking<'a> {
    target: &'a Arc<TargetDir>,
    owner: Option<(u32, u32)>,
    /// Where the entry before was put: most entries follow one of the same directory.
    parent: Option<(Vec<OsString>, Arc<TargetDir>)>,
    /// Directories whose times are set at the end, because entries change them.
    directories: Vec<(Arc<TargetDir>, (i64, u32))>,
    /// Bytes of sparse files so far, holes too.
    holes: u64,
}

impl Unpacking<'_> {
    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let mut meta = metadata(&entry)?;
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        let Extensions { mtime, xattrs, sparse } = extensions(&mut entry, meta.mtime)?;
        meta.mtime = mtime;
        let path = match sparse.name() {
            Some(name) => names(name)?,
            None => names(&entry.path_bytes())?,
        };
        self.holes = self.holes.saturating_add(sparse.size().unwrap_or_default());
        if self.holes > MAX_BYTES {
            return Err(io::Error::other(format!("sparse files of more than {MAX_BYTES} bytes")));
        }
        let attributes = Attributes {
            uid: meta.uid,
            gid: meta.gid,
            mode: meta.mode,
            mtime: Some(meta.mtime),
            xattrs: &xattrs,
        };
        let Some((name, parents)) = path.split_last() else {
            // The destination itself: only its attributes.
            if kind == EntryType::Directory {
                self.target.set_attributes(&attributes)?;
                self.directories.push((self.target.clone(), meta.mtime));
            }
            return Ok(());
        };
        let parent = self.parent(parents)?;
        let place = Place { dir: &parent, name };
        let existing = parent.lookup(name)?.map(|existing| existing.meta.kind);
        match kind {
            EntryType::Directory => {
                let dir = if existing == Some(Kind::Dir) {
                    parent.open_dir(name)?
                } else {
                    self.parent = None;
                    parent.clear(name)?;
                    parent.make_dir(name)?
                };
                dir.set_attributes(&attributes)?;
                self.directories.push((dir, meta.mtime));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.forget_below(existing);
                write_file(&mut *sparse.expand(&mut entry)?, &place, &attributes)
            }
            EntryType::Symlink => {
                self.forget_below(existing);
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                make_symlink(&OsString::from_vec(target), &place, &attributes)
            }
            EntryType::Link => {
                self.forget_below(existing);
                let target = names(&entry.link_name_bytes().unwrap_or_default())?;
                self.hard_link(&target, &place, &attributes)
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                self.forget_below(existing);
                match make_special(&meta, &place, &attributes) {
                    // Nobody may make devices in a user namespace; Docker leaves them out too.
                    Err(error)
                        if error.kind() == io::ErrorKind::PermissionDenied
                            && kind != EntryType::Fifo =>
                    {
                        Ok(())
                    }
                    other => other,
                }
            }
            other => {
                let text = format!("entries of type {:?} are not supported", other.as_byte());
                Err(io::Error::other(text))
            }
        }
    }

    /// A directory that is replaced may be the one that is remembered.
    fn forget_below(&mut self, existing: Option<Kind>) {
        if existing == Some(Kind::Dir) {
            self.parent = None;
        }
    }

    /// The directory `path`, with what is missing of it made.
    fn parent(&mut self, path: &[OsString]) -> io::Result<Arc<TargetDir>> {
        if let Some((known, dir)) = &self.parent
            && known == path
        {
            return Ok(dir.clone());
        }
        let destination = resolve_below(self.target, path.to_vec())?;
        if destination.is_file {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let xattrs = Xattrs::new();
        let attributes = Attributes { uid, gid, mode: 0o755, mtime: None, xattrs: &xattrs };
        let mut dir = destination.dir;
        for name in &destination.rest {
            dir = dir.make_dir(name)?;
            dir.set_attributes(&attributes)?;
        }
        self.parent = Some((path.to_vec(), dir.clone()));
        Ok(dir)
    }

    /// Links to a file of the destination. The mode of the entry becomes that of the file: Docker
    /// and BuildKit set it through the link.
    fn hard_link(
        &self,
        target: &[OsString],
        place: &Place<'_>,
        entry: &Attributes<'_>,
    ) -> io::Result<()> {
        let missing = || {
            let text = "the file that it links to is not in the destination";
            io::Error::new(io::ErrorKind::NotFound, text)
        };
        let (name, parents) = target.split_last().ok_or_else(missing)?;
        let destination = resolve_below(self.target, parents.to_vec())?;
        if destination.is_file || !destination.rest.is_empty() {
            return Err(missing());
        }
        let dir = destination.dir;
        match dir.lookup(name)? {
            None => return Err(missing()),
            Some(existing) if existing.meta.kind == Kind::Dir => return Err(missing()),
            Some(existing) => dir.copy_up(name, &existing, |source, meta, xattrs| {
                let attributes = Attributes {
                    uid: meta.uid,
                    gid: meta.gid,
                    mode: meta.mode,
                    mtime: Some(meta.mtime),
                    xattrs,
                };
                copy_regular(source, meta, &Place { dir: &dir, name }, &attributes).map(drop)
            })?,
        }
        if std::ptr::eq(&*dir, &**place.dir) && name == place.name {
            return Ok(());
        }
        link(&Place { dir: &dir, name }, place)?;
        set_mode(place, entry.mode)
    }

    fn finish(self) -> io::Result<()> {
        for (dir, mtime) in self.directories.iter().rev() {
            // It may have been replaced by a later entry.
            match dir.set_mtime(*mtime) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The components of an entry's name; `..` never climbs above the first.
fn names(path: &[u8]) -> io::Result<Vec<OsString>> {
    let mut names: Vec<OsString> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name if is_name(name) => names.push(OsStr::from_bytes(name).to_owned()),
            _ => return Err(io::Error::other("a name that no file can have")),
        }
    }
    if names.len() > MAX_DEPTH {
        return Err(io::Error::other(format!("more than {MAX_DEPTH} directories deep")));
    }
    Ok(names)
}

fn metadata(entry: &tar::Entry<'_, impl Read>) -> io::Result<Meta> {
    let header = entry.header();
    // Fields that nobody filled in are zero.
    let filled = |field: &[u8]| field.iter().any(|&b| b != 0 && b != b' ');
    let old = header.as_old();
    let id = |field: &[u8], id: io::Result<u64>| -> io::Result<u32> {
        let id = if filled(field) { id? } else { 0 };
        u32::try_from(id).map_err(|_| io::Error::other("an owner that no file can have"))
    };
    let mode = if filled(&old.mode) { header.mode()? } else { 0 };
    let mtime = if filled(&old.mtime) { header.mtime()? } else { 0 };
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Dir,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        _ => Kind::File,
    };
    let rdev = match kind {
        Kind::CharDevice | Kind::BlockDevice => rustix::fs::makedev(
            header.device_major()?.unwrap_or_default(),
            header.device_minor()?.unwrap_or_default(),
        ),
        _ => 0,
    };
    Ok(Meta {
        kind,
        mode: mode & 0o7777,
        uid: id(&old.uid, header.uid())?,
        gid: id(&old.gid, header.gid())?,
        size: entry.size(),
        rdev,
        links: 1,
        device: 0,
        inode: 0,
        mtime: (i64::try_from(mtime).unwrap_or_default(), 0),
        ctime: (0, 0),
    })
}

/// What PAX records say beyond the header.
struct Extensions {
    /// The time in full.
    mtime: (i64, u32),
    xattrs: Xattrs,
    sparse: SparseRecords,
}

fn extensions(entry: &mut tar::Entry<'_, impl Read>, mtime: (i64, u32)) -> io::Result<Extensions> {
    let (xattrs, sparse) = (Xattrs::new(), SparseRecords::default());
    let mut found = Extensions { mtime, xattrs, sparse };
    let Some(records) = entry.pax_extensions()? else { return Ok(found) };
    for record in records {
        let record = record?;
        if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            let ours = name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.");
            if !ours {
                found.xattrs.insert(name.to_vec(), record.value_bytes().to_vec());
            }
        } else if record.key_bytes() == b"mtime" {
            let text = record.value().map_err(io::Error::other)?;
            found.mtime = pax_time(text).ok_or_else(|| io::Error::other("a malformed time"))?;
        } else {
            found.sparse.take(record.key_bytes(), record.value_bytes())?;
        }
    }
    Ok(found)
}

/// `1700000000.25` as seconds and nanoseconds.
fn pax_time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = format!("{:0<9.9}", fraction).parse().ok()?;
    Some((seconds.parse().ok()?, nanos))
}
