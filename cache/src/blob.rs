//! Content-addressed files: `content/blobs/sha256/<hex>`.
//!
//! A blob is written into the process's own corner of `ingest/` while its sha256 is computed, and
//! renamed to its digest when it is whole. Nobody ever sees half a blob under its name.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::error::StoreError;
use crate::oci::{Descriptor, Digest};
use crate::state::{Lease, Process, Unsynced, file_error};

/// On blobs that are perhaps not on the disk yet: the id of the boot they were written in.
const BOOT_XATTR: &str = "user.strake.boot";

/// Small enough for the cache, large enough that the system calls do not show.
const BUFFER_BYTES: usize = 256 << 10;

/// The blobs of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Blobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    process: Arc<Process>,
    unsynced: Unsynced,
}

impl Blobs {
    pub(crate) fn new(content: &Path, process: Arc<Process>, unsynced: Unsynced) -> Blobs {
        Blobs { inner: Arc::new(Inner { dir: blobs_dir(content), process, unsynced }) }
    }

    /// Whether the blob is there.
    ///
    /// # Errors
    /// [`StoreError::File`] if the disk cannot say: that is not the same as a blob that is absent,
    /// for which others would be asked.
    pub fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.size(digest)?.is_some())
    }

    /// Whether the blob that is described is there. One whose digest is none of ours is not.
    ///
    /// # Errors
    /// As [`Blobs::contains`].
    pub fn holds(&self, blob: &Descriptor) -> Result<bool, StoreError> {
        match blob.digest().to_string().parse() {
            Ok(digest) => self.contains(&digest),
            Err(_) => Ok(false),
        }
    }

    /// Where the blob is, or would be. Ask [`Blobs::contains`] whether it can be relied on.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.dir.join(digest.hex())
    }

    /// Opens the blob for reading.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] if it is not there.
    pub fn open(&self, digest: &Digest) -> Result<fs_err::File, StoreError> {
        if !self.contains(digest)? {
            return Err(StoreError::NoBlob { digest: *digest });
        }
        let path = self.path(digest);
        match fs_err::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::NoBlob { digest: *digest })
            }
            result => result.map_err(file_error("open", &path)),
        }
    }

    /// Reads a blob of at most `limit` bytes and verifies it.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::BlobTooBig`], and [`StoreError::WrongDigest`] if the
    /// disk or somebody else changed it.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let size = self.size(digest)?.ok_or(StoreError::NoBlob { digest: *digest })?;
        if size > limit {
            return Err(StoreError::BlobTooBig { digest: *digest, size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        let file = self.open(digest)?;
        let path = self.path(digest);
        file.take(limit + 1).read_to_end(&mut bytes).map_err(file_error("read", &path))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(StoreError::WrongDigest { expected: *digest, found });
        }
        Ok(bytes)
    }

    /// Stores `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.contains(&digest)? {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        let path = writer.path.clone();
        writer.write_all(bytes).map_err(file_error("write", &path))?;
        writer.commit().map(|(digest, _)| digest)
    }

    /// Starts a blob whose digest is not known yet, or not trusted yet.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let path = self.inner.process.new_file();
        let file = fs_err::File::create_new(&path).map_err(file_error("make", &path))?;
        Ok(BlobWriter {
            blobs: self.clone(),
            path,
            file,
            buffer: Vec::new(),
            hasher: Sha256::new(),
            size: 0,
        })
    }

    /// The blob's length in bytes, if it is there. No prune removes it then, as long as this
    /// process lives.
    ///
    /// # Errors
    /// As [`Blobs::contains`].
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        self.inner.process.leases().take(Lease::Blob(*digest))?;
        let path = self.path(digest);
        let metadata = match fs_err::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => {
                let source = io::Error::new(io::ErrorKind::InvalidData, "not a regular file");
                return Err(file_error("use", &path)(source));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(file_error("look for", &path)(source)),
        };
        if is_stale(&path, self.inner.unsynced.boot())? {
            self.remove(digest)?;
            return Ok(None);
        }
        Ok(Some(metadata.len()))
    }

    /// Removes the blob; one that is not there is fine.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Every blob's digest, in order.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let dir = &self.inner.dir;
        let mut digests = Vec::new();
        for entry in fs_err::read_dir(dir).map_err(file_error("list", dir))? {
            let name = entry.map_err(file_error("list", dir))?.file_name();
            if let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse() {
                digests.push(digest);
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }
}

fn blobs_dir(content: &Path) -> PathBuf {
    content.join("blobs").join("sha256")
}

/// Whether a blob was written in another boot and never synced.
fn is_stale(path: &Path, boot: &str) -> Result<bool, StoreError> {
    let mut value = [0; 64];
    match rustix::fs::lgetxattr(path, BOOT_XATTR, &mut value[..]) {
        Ok(length) => Ok(&value[..length] != boot.as_bytes()),
        // More than any of our marks has.
        Err(Errno::RANGE) => Ok(true),
        // No mark, a file system that cannot have one, or no blob.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Ok(false),
        Err(errno) => Err(file_error("read the mark of", path)(errno.into())),
    }
}

/// Takes the mark off a blob of this boot.
pub(crate) fn mark_durable(content: &Path, digest: &Digest, boot: &str) -> Result<(), StoreError> {
    let path = blobs_dir(content).join(digest.hex());
    if is_stale(&path, boot)? {
        return Ok(());
    }
    match rustix::fs::lremovexattr(&path, BOOT_XATTR) {
        Ok(()) | Err(Errno::NODATA | Errno::NOENT | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(file_error("mark", &path)(errno.into())),
    }
}

/// A blob in the making; dropped before a commit, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    path: PathBuf,
    file: fs_err::File,
    buffer: Vec<u8>,
    hasher: Sha256,
    size: u64,
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.size
    }

    /// Moves the finished blob into the store if it is exactly what `expected` promised.
    ///
    /// Until this returns nothing is visible to readers; on error the partial file is gone.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] and [`StoreError::WrongDigest`].
    pub fn commit_verified(self, expected: &Descriptor) -> Result<Digest, StoreError> {
        let text = expected.digest().to_string();
        let digest: Digest = text
            .parse()
            .map_err(|source| StoreError::BadDescriptor { digest: text.clone(), source })?;
        if self.size != expected.size() {
            return Err(StoreError::WrongSize {
                digest,
                expected: expected.size(),
                found: self.size,
            });
        }
        self.finish(Some(digest)).map(|(digest, _)| digest)
    }

    /// Moves the finished blob into the store under whatever digest it has; says that and the size
    /// in bytes.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        self.finish(None)
    }

    fn finish(mut self, expected: Option<Digest>) -> Result<(Digest, u64), StoreError> {
        self.flush().map_err(file_error("write", &self.path))?;
        let found = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(StoreError::WrongDigest { expected, found });
        }
        if self.blobs.contains(&found)? {
            return Ok((found, self.size));
        }
        let unsynced = &self.blobs.inner.unsynced;
        let boot = unsynced.boot().as_bytes();
        match rustix::fs::fsetxattr(&self.file, BOOT_XATTR, boot, XattrFlags::empty()) {
            Ok(()) => {}
            // Without a mark there is no way to doubt it later.
            Err(_) => self.file.sync_all().map_err(file_error("sync", &self.path))?,
        }
        let target = self.blobs.path(&found);
        unsynced.add_blob(&found)?;
        fs_err::rename(&self.path, &target).map_err(file_error("make", &target))?;
        Ok((found, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.file.write_all(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After a commit it is not there any more.
        let _ = fs_err::remove_file(&self.path);
    }
}
