//! Ops that bring something into the build.

use cache::oci::{DiffId, Digest, ImageName, Platform};

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceOp {
    /// The file system of an image.
    Image(ImageSource),
    /// A directory of the client. It is read where it lies, never executed, and has no outputs:
    /// its consumers get the vertex itself ([`crate::InputValue::Direct`]).
    Context(LocalContext),
    /// One file over HTTP.
    Http(HttpSource),
    /// A git checkout.
    Git(GitSource),
    /// Files that stand in the Dockerfile itself (heredocs). Like a context they are read where
    /// they are.
    Inline {
        /// The files, in the order of the Dockerfile.
        files: Vec<InlineFile>,
    },
    /// Nothing: an empty tree.
    Scratch,
}

/// A resolved image. Only `diff_ids` enter keys: two tags, or two compressions, of the same layers
/// share everything built upon them.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSource {
    /// The name it was resolved from.
    pub name: ImageName,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of its configuration.
    pub config: Digest,
    /// Its layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// The platform that was asked for.
    pub platform: Platform,
}

/// A directory of the client, under the name that the build gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalContext {
    /// `context`, or the name of `--build-context`.
    pub name: String,
    /// The lines of the ignore file, in order, cleaned. Not part of any key: what they leave out is
    /// not in the content, what they let in is.
    pub excludes: Vec<String>,
}

/// One file over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// Where it is.
    pub url: String,
    /// What it must be; with this the file need not be asked for to know its key.
    pub checksum: Option<Digest>,
    /// The name the file gets.
    pub filename: String,
    /// The mode of the file.
    pub mode: u32,
    /// The owner of the file.
    pub uid: u32,
    /// The group of the file.
    pub gid: u32,
}

/// A git checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// The repository.
    pub url: String,
    /// Branch, tag or commit; the default branch where it is absent.
    pub reference: Option<String>,
    /// The directory of the checkout that becomes the root.
    pub subdir: Option<String>,
    /// `.git` stays.
    pub keep_git_dir: bool,
    /// The commit it must be, in full or as a prefix.
    pub checksum: Option<String>,
    /// Submodules are checked out too.
    pub submodules: bool,
    /// Files get the time of the commit instead of that of the checkout.
    pub commit_time: bool,
}

/// A file that stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// The path, relative to the root of the tree.
    pub path: String,
    /// The bytes.
    pub content: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
}
