//! What can go wrong while a vertex is executed.

use std::io;
use std::path::PathBuf;

use cache::{LayerError, StoreError};
use runtime::RuntimeError;

use crate::pattern::PatternError;

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// A tree of an imported cache cannot be had.
    #[error("a result of an imported cache cannot be had")]
    Bundle(#[from] cache::bundle::BundleError),
    /// A path that is to be copied or mounted is not there.
    #[error("`{path}` is not in {tree}{}", excluded(.excluded_by))]
    NotFound {
        /// The path as the step names it.
        path: String,
        /// What was searched: `the build context`, `the context `x``, `the stage's files`.
        tree: String,
        /// Names in the same directory that look alike, best first.
        near: Vec<String>,
        /// The ignore rule that hides the path, if one does.
        excluded_by: Option<ExcludedBy>,
    },
    /// Something that is no directory stands in the middle of a path.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// The path within its tree, links resolved.
        path: PathBuf,
    },
    /// A path that goes through more links than anybody means.
    #[error("`{path}` leads through more than {limit} symbolic links", limit = crate::merged::MAX_LINKS)]
    TooManyLinks {
        /// The path as the step names it.
        path: String,
    },
    /// A file would replace a directory.
    #[error("cannot replace to directory {} with file", path.display())]
    FileOverDirectory {
        /// The directory, in the image.
        path: PathBuf,
    },
    /// A directory would replace a file or a link.
    #[error("cannot copy to non-directory: {}", path.display())]
    DirectoryOverFile {
        /// The file, in the image.
        path: PathBuf,
    },
    /// A pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A mode is neither octal nor symbolic.
    #[error("invalid chmod parameter: '{mode}'")]
    Mode {
        /// The mode as written.
        mode: String,
    },
    /// A name is not in the image's user or group file.
    #[error("unable to find {kind} {name}: no matching entries in {kind_file} file", kind_file = if *.kind == "user" { "passwd" } else { "group" })]
    UnknownOwner {
        /// `user` or `group`.
        kind: &'static str,
        /// The name as written.
        name: String,
        /// Names of that file that look alike, best first.
        near: Vec<String>,
    },
    /// A numeric user or group is not a valid id.
    #[error("`{text}` is not a user or group id: ids are numbers from 0 to {max}", max = crate::users::MAX_ID)]
    BadId {
        /// The id as written.
        text: String,
    },
    /// An archive is broken or wants out.
    #[error("cannot unpack `{archive}`: {reason}")]
    Archive {
        /// The archive as the step names it.
        archive: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that was to be unpacked is no archive.
    #[error("`{path}` is not an archive")]
    NotAnArchive {
        /// The path as the step names it.
        path: String,
    },
    /// A file operation failed.
    #[error("cannot {attempt} `{}`", path.display())]
    File {
        /// A verb.
        attempt: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No context of that name was given to the build.
    #[error("there is no build context named `{name}`")]
    NoContext {
        /// Its name.
        name: String,
    },
    /// A secret that a step requires was not given to the build.
    #[error("secret {id}: not found")]
    NoSecret {
        /// Its id.
        id: String,
    },
    /// A secret is too big to be one.
    #[error("secret {id} too big. max size {}KB", crate::secrets::MAX_SECRET / 1000)]
    SecretTooBig {
        /// Its id.
        id: String,
    },
    /// A secret cannot be a variable.
    #[error("secret {id} cannot be an environment variable: it has a NUL byte or is not UTF-8")]
    SecretNotText {
        /// Its id.
        id: String,
    },
    /// A secret cannot be what a server is told.
    #[error("secret {id} cannot be sent to a server: it is not one line of text")]
    SecretNotLine {
        /// Its id.
        id: String,
    },
    /// An ssh agent that a step requires was not given to the build.
    #[error("unset ssh forward key {id}")]
    NoAgent {
        /// Its id.
        id: String,
    },
    /// A step asks for something that the user has to allow.
    #[error("{entitlement} is not allowed")]
    NotAllowed {
        /// `security.insecure` or `network.host`.
        entitlement: &'static str,
    },
    /// A device that a step asks for cannot be given to it.
    #[error("{reason}")]
    Device {
        /// Which, and why.
        reason: String,
    },
    /// A process description that cannot be run.
    #[error("{reason}")]
    Process {
        /// What is wrong with it.
        reason: String,
    },
    /// A container of that name exists.
    #[error("the name `{name}` is in use by container {id}")]
    NameInUse {
        /// The name.
        name: String,
        /// The container that has it.
        id: String,
    },
    /// Text that cannot name a container.
    #[error("`{name}` cannot be a container name: use letters, digits, `_`, `.` and `-`")]
    BadName {
        /// The text.
        name: String,
    },
    /// A download failed.
    #[error("cannot download `{url}`: {reason}")]
    Download {
        /// Without credentials.
        url: String,
        /// Why.
        reason: String,
    },
    /// A downloaded file, or a commit, is not the one that was asked for.
    #[error("digest mismatch {found}: {expected}")]
    Checksum {
        /// What was asked for.
        expected: String,
        /// What came.
        found: String,
    },
    /// Something needs the network, which it may not have.
    #[error("{what} needs the network, and this is offline")]
    Offline {
        /// An address without credentials, or the words of the step.
        what: String,
    },
    /// A git command failed.
    #[error("cannot {attempt} git repository `{url}`: {reason}")]
    Git {
        /// A verb.
        attempt: &'static str,
        /// Without credentials.
        url: String,
        /// The last line that git wrote.
        reason: String,
    },
    /// An image's files could not be brought here.
    #[error("cannot get the files of image `{image}`")]
    Image {
        /// The image.
        image: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer could not be read or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The sandbox failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A worker thread died.
    #[error("a worker thread broke down: {message}")]
    Panic {
        /// What it said.
        message: String,
    },
}

/// The ignore rule that hides a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcludedBy {
    /// Which rule of the list, from 0.
    pub rule: usize,
    /// The rule.
    pub pattern: String,
}

fn excluded(by: &Option<ExcludedBy>) -> String {
    match by {
        Some(by) => format!(": ignore pattern `{}` excludes it", by.pattern),
        None => String::new(),
    }
}

impl ExecutorError {
    /// Names that the user may have meant, best first.
    pub fn near_names(&self) -> &[String] {
        match self {
            Self::NotFound { near, .. } | Self::UnknownOwner { near, .. } => near,
            _ => &[],
        }
    }

    pub(crate) fn file(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { attempt, path, source }
    }
}

/// The candidates that look most like `wanted`, at most five, best first.
pub(crate) fn near<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let length = wanted.chars().count();
    let limit = (length / 3).max(usize::from(length > 2));
    let mut scored: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = (wanted.to_lowercase(), candidate.to_lowercase());
            let distance = distance(&lower.0, &lower.1);
            let contained = !lower.0.is_empty() && lower.1.contains(&lower.0);
            (distance <= limit || contained).then_some((distance, candidate))
        })
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(5).map(|(_, name)| name.to_owned()).collect()
}

/// Levenshtein's distance in characters; names are at most 255 bytes. The parser has one too, for its
/// keywords, and this crate may not import it.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_sorted_by_distance() {
        let names = ["Makefile", "makefile.am", "main.c", "src"];
        assert_eq!(near("makefile", names), ["Makefile", "makefile.am"]);
        assert!(near("zzz", names).is_empty());
    }
}
