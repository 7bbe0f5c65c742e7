//! Build contexts that do not come as directories.

use std::io::Read;
use std::path::{Path, PathBuf};

use cache::Store;
use solver::llb::GitSource;

use crate::copy::{FileOperation, archive};
use crate::{ExecutorError, SecretStore, SshAgents};

/// A directory that stands for a context that came as an archive; removed when dropped.
#[derive(Debug)]
pub struct UnpackedContext {
    root: PathBuf,
    store: Store,
}

impl UnpackedContext {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }
}

impl Drop for UnpackedContext {
    fn drop(&mut self) {
        if let Err(error) = self.store.trash(&self.root) {
            tracing::warn!(%error, "a temporary context stays behind");
        }
    }
}

/// Whether something that begins so (its first 512 bytes, or all of it) is an archive rather than
/// the text of a Dockerfile.
pub fn is_archive(start: &[u8]) -> bool {
    archive::looks_like_archive(start)
}

/// Unpacks a context that is a tar archive, plain or compressed (gzip, bzip2, xz, zstd), into a
/// directory of the store. Owners are not kept: those of a context do not count.
///
/// # Errors
///
/// [`ExecutorError::Archive`] if it is broken or wants out of its directory.
pub fn from_tar(
    reader: impl Read + Send + 'static,
    store: &Store,
) -> Result<UnpackedContext, ExecutorError> {
    let context = new_directory(store)?;
    let operation = FileOperation::plain(context.path())?;
    let archive = archive::from_stream(reader, "the build context")?;
    operation.unpack(archive, "the build context", Some((0, 0)))?;
    Ok(context)
}

/// Checks a git repository out as a context: the source's subdirectory alone, and `.git` only if the
/// source asks for it. Credentials come from the secrets `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER`, a
/// key from the agent `default`, as for ADD.
///
/// # Errors
///
/// [`ExecutorError::Git`] with git's own words.
pub async fn from_git(
    source: &GitSource,
    secrets: &SecretStore,
    ssh: &SshAgents,
    store: &Store,
) -> Result<UnpackedContext, ExecutorError> {
    crate::worker::check_out_context(source, secrets, ssh, store).await
}

/// Downloads a file of at most `limit` bytes, which has no name and is gone when it is closed.
/// Credentials come from the secrets, as for ADD.
///
/// # Errors
///
/// [`ExecutorError::Download`] if the server does not give it.
pub async fn download(
    url: &str,
    secrets: &SecretStore,
    limit: u64,
) -> Result<std::fs::File, ExecutorError> {
    crate::worker::download_context(url, secrets, limit).await
}

/// A stream without the compressions that layers do not have (bzip2, xz); another one as it is.
///
/// # Errors
///
/// Those of the stream.
pub fn without_foreign_compression(
    stream: impl Read + Send + 'static,
) -> std::io::Result<Box<dyn Read + Send>> {
    archive::without_foreign_compression(stream)
}

fn base(store: &Store) -> PathBuf {
    store.contexts_dir().join("unpacked")
}

/// Whether a directory, canonical, is one of those that [`new_directory`] makes.
pub(crate) fn is_unpacked(root: &Path, store: &Store) -> bool {
    fs_err::canonicalize(base(store)).is_ok_and(|base| root.starts_with(base))
}

/// A new directory of the store for a context that comes from elsewhere.
pub fn new_directory(store: &Store) -> Result<UnpackedContext, ExecutorError> {
    let base = base(store);
    fs_err::create_dir_all(&base).map_err(ExecutorError::file("make the directory", &base))?;
    sweep(&base, store)?;
    let dir = tempfile::Builder::new()
        .prefix(&format!("{}-", std::process::id()))
        .tempdir_in(&base)
        .map_err(ExecutorError::file("make a directory in", &base))?;
    Ok(UnpackedContext { root: dir.keep(), store: store.clone() })
}

/// Takes away what processes that were killed have left: names begin with the process id.
fn sweep(base: &Path, store: &Store) -> Result<(), ExecutorError> {
    for entry in fs_err::read_dir(base).map_err(ExecutorError::file("list", base))?.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split_once('-')).map(|(id, _)| id);
        let is_left = process
            .is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists());
        if is_left {
            store.trash(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(1234);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_context_comes_out_of_an_archive_and_goes_away() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let tar = archive(&[("Dockerfile", b"FROM scratch"), ("src/a", b"a")]);
        assert!(is_archive(&tar) && !is_archive(b"FROM scratch\n"));
        let mut bz2 = Vec::new();
        bzip2::read::BzEncoder::new(&tar[..], bzip2::Compression::fast())
            .read_to_end(&mut bz2)
            .unwrap();
        assert!(is_archive(&bz2));
        for bytes in [tar, bz2] {
            let context = from_tar(std::io::Cursor::new(bytes), &store).unwrap();
            let path = context.path().to_owned();
            assert_eq!(fs_err::read_to_string(path.join("src/a")).unwrap(), "a");
            drop(context);
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let base = store.contexts_dir().join("unpacked");
        // No process has an id above the kernel's limit of 2^22.
        let (left, ours) = (base.join("9999999-x"), base.join(format!("{}-x", std::process::id())));
        fs_err::create_dir_all(&left).unwrap();
        fs_err::create_dir_all(&ours).unwrap();
        new_directory(&store).unwrap();
        assert!(!left.exists() && ours.exists());
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let tar = archive(&[("a", &[7; 2000])]);
        let cut = std::io::Cursor::new(tar[..1000].to_vec());
        let error = from_tar(cut, &store).unwrap_err();
        assert!(matches!(error, ExecutorError::Archive { .. }), "{error}");
    }
}
