//! Image names, after the grammar and normal form of distribution's `reference` package.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
/// What Docker Hub was once called; still written in old files.
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
/// distribution's `RepositoryNameTotalLengthMax`.
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A full image name: `registry/repository[:tag][@digest]`.
///
/// Parsing fills in what people leave out: `busybox` is `docker.io/library/busybox:latest`.
/// A name with a digest gets no tag of its own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why some text names no image.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an image name: {reason}")]
pub struct ImageNameError {
    text: String,
    reason: &'static str,
}

impl ImageName {
    /// Host and port: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Everything between the registry and the tag: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if the name has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// If `tag` is not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<ImageName, ImageNameError> {
        if !is_tag(tag) {
            return Err(ImageNameError::new(tag, "that is not a tag"));
        }
        Ok(ImageName { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name, tag included, pinned to `digest`.
    pub fn with_digest(&self, digest: Digest) -> ImageName {
        ImageName { digest: Some(digest), ..self.clone() }
    }

    /// The repository alone.
    pub fn without_reference(&self) -> ImageName {
        ImageName { tag: None, digest: None, ..self.clone() }
    }

    /// As people write it: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix(DEFAULT_REGISTRY).and_then(|rest| rest.strip_prefix('/')) {
            None => full,
            Some(rest) => match rest.strip_prefix(OFFICIAL) {
                Some(official) if !self.repository[OFFICIAL.len()..].contains('/') => {
                    official.to_owned()
                }
                _ => rest.to_owned(),
            },
        }
    }

    /// [`ImageName::familiar`] without tag and digest.
    pub fn familiar_repository(&self) -> String {
        self.without_reference().familiar()
    }
}

impl ImageNameError {
    fn new(text: &str, reason: &'static str) -> Self {
        ImageNameError { text: text.chars().take(512).collect(), reason }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let error = |reason| Err(ImageNameError::new(text, reason));
        if text.is_empty() {
            return error("it is empty");
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return error("64 hex digits are an image ID");
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => match digest.parse::<Digest>() {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => {
                    return error("behind `@` stands `sha256:` and 64 lower-case hex digits");
                }
            },
        };
        // A colon in the last path segment opens the tag; an earlier one belongs to the port.
        let last_segment = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last_segment..].find(':') {
            None => (rest, None),
            Some(colon) => {
                let (name, tag) = rest.split_at(last_segment + colon);
                (name, Some(&tag[1..]))
            }
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return error(
                "a tag is 1 to 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`",
            );
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == OLD_DEFAULT_REGISTRY { DEFAULT_REGISTRY } else { registry };
        if !is_host_and_port(registry) {
            return error("the part before the first `/` is not a host name");
        }
        let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
            true => format!("{OFFICIAL}{repository}"),
            false => repository.to_owned(),
        };
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return error("a repository is in lower case");
        }
        if !repository.split('/').all(is_path_component) {
            return error(
                "a repository is lower-case letters and digits, separated by `.`, `_`, `__`, `-` or `/`",
            );
        }
        if registry.len() + 1 + repository.len() > MAX_NAME_BYTES {
            return error("it is longer than 255 characters");
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(ImageName { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// Whether the first path segment names a host and not a part of a Docker Hub repository.
fn is_registry(segment: &str) -> bool {
    segment.contains(['.', ':'])
        || segment == "localhost"
        || segment.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let is_address = !address.is_empty()
                    && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                return is_address
                    && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    let separators = bytes.split(|b| is_word(*b)).filter(|run| !run.is_empty());
    separators
        .into_iter()
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG_BYTES
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

impl Serialize for ImageName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    fn check(text: &str, full: &str, familiar: &str) {
        let name: ImageName = text.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(name.to_string(), full, "{text}");
        assert_eq!(name.familiar(), familiar, "{text}");
        assert_eq!(full.parse::<ImageName>().unwrap(), name, "the full form names the same");
        assert_eq!(familiar.parse::<ImageName>().unwrap(), name, "the familiar form too");
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        check("busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36");
        check("me/app", "docker.io/me/app:latest", "me/app:latest");
        check("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest");
        check("localhost/x", "localhost/x:latest", "localhost/x:latest");
        check("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y");
        check("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest", "ghcr.io/a/b/c:latest");
        check("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest");
        check("e_f/a__b--c.d", "docker.io/e_f/a__b--c.d:latest", "e_f/a__b--c.d:latest");
    }

    #[test]
    fn a_digest_replaces_the_default_tag_but_not_a_written_one() {
        let full = format!("docker.io/library/busybox@{DIGEST}");
        check(&format!("busybox@{DIGEST}"), &full, &format!("busybox@{DIGEST}"));
        let full = format!("docker.io/library/busybox:1@{DIGEST}");
        check(&format!("busybox:1@{DIGEST}"), &full, &format!("busybox:1@{DIGEST}"));
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            "Busybox",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:123",
            "a@",
            "a b",
            "-a",
            "a_",
            "a___b",
            "a..b",
            "a.io:99999/b",
            "a.io:/b",
            "-a.io/b",
            "../x",
            "a/../b",
            "https://a.io/b",
            &long,
            &DIGEST[7..],
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
    }
}
