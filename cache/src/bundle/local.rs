//! A bundle in a directory, which is an OCI image layout: one entry of `index.json` for each tag.

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use oci_spec::image::{ImageIndex, ImageIndexBuilder};

use super::place::{Fetched, Place, digest};
use super::{BundleError, document};
use crate::blob::Blobs;
use crate::image::Document;
use crate::image::document::{CONFIG_LIMIT, DOCUMENT_LIMIT, descriptor, write_index};
use crate::oci::{Descriptor, Digest, ImageManifest, MediaType};

/// The annotation of an OCI layout that names an entry.
const TAG: &str = "org.opencontainers.image.ref.name";

/// See the module.
#[derive(Debug, Clone)]
pub struct LocalPlace {
    directory: PathBuf,
    tag: String,
    /// The manifest to be read, whatever the tag says.
    digest: Option<Digest>,
}

impl fmt::Display for LocalPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => write!(f, "local:{}@{digest}", self.directory.display()),
            None => write!(f, "local:{}:{}", self.directory.display(), self.tag),
        }
    }
}

impl LocalPlace {
    /// The bundle `tag` in `directory`; for reading, the one of a certain manifest.
    pub fn new(directory: PathBuf, tag: &str, digest: Option<Digest>) -> LocalPlace {
        LocalPlace { directory, tag: tag.to_owned(), digest }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs").join("sha256").join(digest.hex())
    }

    fn index(&self) -> Result<Option<ImageIndex>, BundleError> {
        let path = self.directory.join("index.json");
        let Some(bytes) = read(&path, DOCUMENT_LIMIT)? else { return Ok(None) };
        match Document::parse(&bytes, Some(MediaType::ImageIndex.as_ref())) {
            Ok(Document::Index(index)) => Ok(Some(index)),
            Ok(Document::Manifest(_)) => Err(not_a_cache(self)),
            Err(source) => Err(BundleError::Document { source: Box::new(source) }),
        }
    }

    fn read_documents(&self) -> Result<Fetched, BundleError> {
        let missing = || BundleError::Missing { place: self.to_string() };
        let found = match self.digest {
            Some(digest) => digest,
            None => {
                let index = self.index()?.ok_or_else(missing)?;
                let tagged = index.manifests().iter().find(|entry| is_tagged(entry, &self.tag));
                digest(tagged.ok_or_else(missing)?)?
            }
        };
        let bytes = self.small(&found, DOCUMENT_LIMIT)?.ok_or_else(missing)?;
        let manifest: ImageManifest = match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => manifest,
            Ok(Document::Index(_)) => return Err(not_a_cache(self)),
            Err(source) => return Err(BundleError::Document { source: Box::new(source) }),
        };
        let limit = match manifest.config().media_type().as_ref() {
            document::DOCUMENT_TYPE => document::PACKED_LIMIT,
            _ => CONFIG_LIMIT,
        };
        let config = self.small(&digest(manifest.config())?, limit)?.ok_or_else(missing)?;
        Ok(Fetched { manifest, config })
    }

    /// A verified blob of at most `limit` bytes.
    fn small(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, BundleError> {
        let Some(bytes) = read(&self.blob(digest), limit)? else { return Ok(None) };
        let found = Digest::of(&bytes);
        if found != *digest {
            let expected = *digest;
            return Err(crate::StoreError::WrongDigest { expected, found }.into());
        }
        Ok(Some(bytes))
    }

    fn copy_here(&self, blob: &Descriptor, into: &Blobs) -> Result<(), BundleError> {
        let path = self.blob(&digest(blob)?);
        let source = fs_err::File::open(&path).map_err(file("open", &path))?;
        let mut writer = into.writer()?;
        std::io::copy(&mut source.take(blob.size().saturating_add(1)), &mut writer)
            .map_err(file("copy", &path))?;
        writer.commit_verified(blob)?;
        Ok(())
    }

    fn copy_there(&self, blob: &Descriptor, from: &Blobs) -> Result<(), BundleError> {
        let digest = digest(blob)?;
        let path = self.blob(&digest);
        let mut source = from.open(&digest)?;
        let mut target = self.temporary(&path)?;
        std::io::copy(&mut source, target.as_file_mut()).map_err(file("write", &path))?;
        persist(target, &path)
    }

    fn write_manifest(&self, manifest: &[u8]) -> Result<(), BundleError> {
        let digest = Digest::of(manifest);
        self.write_file(&self.blob(&digest), manifest)?;
        let layout = self.directory.join("oci-layout");
        self.write_file(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut entry = descriptor(MediaType::ImageManifest, manifest.len() as u64, &digest);
        entry.set_annotations(Some([(TAG.to_owned(), self.tag.clone())].into()));
        let mut entries = self.index()?.map(|index| index.manifests().clone()).unwrap_or_default();
        entries.retain(|known| !is_tagged(known, &self.tag));
        entries.push(entry);
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(entries)
            .build()
            .expect("every required field is set");
        self.write_file(&self.directory.join("index.json"), &write_index(&index))
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
        let mut target = self.temporary(path)?;
        target.write_all(bytes).map_err(file("write", path))?;
        persist(target, path)
    }
}

impl LocalPlace {
    fn temporary(&self, path: &Path) -> Result<tempfile::NamedTempFile, BundleError> {
        let parent = path.parent().unwrap_or(&self.directory);
        fs_err::create_dir_all(parent).map_err(file("make", parent))?;
        tempfile::Builder::new()
            .prefix(".strake-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(parent)
            .map_err(file("make a file in", parent))
    }

    /// Files are not read on a thread that waits for others.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LocalPlace) -> Result<T, BundleError> + Send + 'static,
    ) -> Result<T, BundleError> {
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || work(&this));
        work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

impl Place for LocalPlace {
    fn documents(&self) -> BoxFuture<'_, Result<Fetched, BundleError>> {
        Box::pin(self.blocking(LocalPlace::read_documents))
    }

    fn fetch<'a>(
        &'a self,
        blob: &'a Descriptor,
        into: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>> {
        let (blob, into) = (blob.clone(), into.clone());
        Box::pin(self.blocking(move |this| this.copy_here(&blob, &into)))
    }

    fn has<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<bool, BundleError>> {
        let found = digest(blob).map(|digest| {
            let size = fs_err::metadata(self.blob(&digest)).map(|metadata| metadata.len());
            size.is_ok_and(|size| size == blob.size())
        });
        Box::pin(std::future::ready(found))
    }

    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        from: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>> {
        let (blob, from) = (blob.clone(), from.clone());
        Box::pin(self.blocking(move |this| this.copy_there(&blob, &from)))
    }

    fn put_manifest<'a>(&'a self, manifest: &'a [u8]) -> BoxFuture<'a, Result<(), BundleError>> {
        let manifest = manifest.to_vec();
        Box::pin(self.blocking(move |this| this.write_manifest(&manifest)))
    }
}

fn is_tagged(entry: &Descriptor, tag: &str) -> bool {
    let annotations = entry.annotations().as_ref();
    annotations.and_then(|annotations| annotations.get(TAG)).is_some_and(|found| found == tag)
}

fn persist(finished: tempfile::NamedTempFile, path: &Path) -> Result<(), BundleError> {
    finished.persist(path).map(drop).map_err(|error| file("make", path)(error.error))
}

/// A file of at most `limit` bytes, if it is there.
fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, BundleError> {
    let opened = match fs_err::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(file("open", path))?,
    };
    let mut bytes = Vec::new();
    opened.take(limit + 1).read_to_end(&mut bytes).map_err(file("read", path))?;
    if bytes.len() as u64 > limit {
        let reason = format!("`{}` has more than {limit} bytes", path.display());
        return Err(BundleError::Refused { reason });
    }
    Ok(Some(bytes))
}

fn file(attempt: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BundleError {
    let path = path.to_owned();
    move |source| BundleError::File { attempt, path, source }
}

fn not_a_cache(place: &LocalPlace) -> BundleError {
    BundleError::NotACache { place: place.to_string() }
}
