//! The op that changes a tree without running anything.

use serde::{Deserialize, Serialize};

/// Applies actions to input 0, in order, as one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOp {
    /// What is done.
    pub actions: Vec<FileAction>,
}

/// One change of a [`FileOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileAction {
    /// Copies from an input.
    Copy(CopyAction),
    /// Makes a directory.
    Mkdir(MkdirAction),
}

/// Copies from an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyAction {
    /// Position in [`super::Vertex::inputs`].
    pub input: usize,
    /// Paths or patterns from the root of the input, in order.
    pub sources: Vec<String>,
    /// `sources` may hold patterns.
    pub wildcard: bool,
    /// Where to, absolute; a slash at its end means that it is a directory.
    pub dest: String,
    /// The owner of what is made; the source's own where it is absent.
    pub owner: Option<Owner>,
    /// The mode of what is made; the source's own where it is absent.
    pub mode: Option<ChmodSpec>,
    /// Whether archives are unpacked.
    pub unpack: Unpack,
    /// The directories that lead to a source are made too (`--parents`).
    pub parents: bool,
    /// Patterns, relative to each source, for what is left out.
    pub exclude: Vec<String>,
    /// The source is a client's context: owners become `0:0`, `security.capability` is dropped.
    pub from_context: bool,
    /// A source that is not there fails the step; else it is skipped. Patterns may always match
    /// nothing.
    pub required: bool,
    /// The base is scratch and the result will be merged (`--link`): links in the destination are
    /// not followed.
    pub link: bool,
    /// The time of directories that are made, in seconds of the epoch, where the build fixes it.
    pub created: Option<i64>,
}

impl CopyAction {
    /// `source` of input 0, as it is, to `dest`; it has to be there.
    pub fn plain(source: impl Into<String>, dest: impl Into<String>) -> CopyAction {
        CopyAction {
            input: 0,
            sources: vec![source.into()],
            wildcard: false,
            dest: dest.into(),
            owner: None,
            mode: None,
            unpack: Unpack::No,
            parents: false,
            exclude: Vec::new(),
            from_context: false,
            required: true,
            link: false,
            created: None,
        }
    }
}

/// Makes a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MkdirAction {
    /// Which, absolute.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner; root where it is absent.
    pub owner: Option<Owner>,
    /// Missing parents are made, and an existing directory is left as it is.
    pub parents: bool,
    /// The time it gets, in seconds of the epoch, where the build fixes it.
    pub created: Option<i64>,
}

/// Who owns a file. Names are looked up in the base when the op runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub user: UserSpec,
    /// The group; absent it is the user's own by name, and the same number by number.
    pub group: Option<UserSpec>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserSpec {
    /// By number.
    Id(u32),
    /// By a name in `/etc/passwd` or `/etc/group`.
    Name(String),
}

/// A mode as `--chmod` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChmodSpec {
    /// All permission bits.
    Octal(u32),
    /// Changes to the source's own bits: `u=rwX,go=rX`.
    Symbolic(String),
}

/// Whether a copy unpacks archives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpack {
    /// Archives are files.
    #[default]
    No,
    /// Files that are archives are unpacked (`ADD`).
    Auto,
    /// Every file must be an archive (`ADD --unpack`).
    Always,
}
