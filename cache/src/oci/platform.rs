//! Operating system and processor of an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on. Always in the normal form of containerd's `platforms` package
/// (`x86_64` → `amd64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`), so equality means sameness.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, `windows`, …
    pub os: String,
    /// In Go's words: `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7` of `arm/v7`; absent where the architecture has only one that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Windows only: the build of the host that the image needs.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

/// Text that names no platform.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a platform (`os/architecture` or `os/architecture/variant`)")]
pub struct PlatformError {
    text: String,
}

impl Platform {
    /// A platform from its three words, brought into normal form.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant.map(str::to_ascii_lowercase).unwrap_or_default();
        let (architecture, variant) =
            match (architecture.to_ascii_lowercase().as_str(), variant.as_str()) {
                ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386".to_owned(), ""),
                ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64".to_owned(), ""),
                ("x86_64" | "x86-64" | "amd64", variant) => ("amd64".to_owned(), variant),
                ("aarch64" | "arm64", "8" | "v8") => ("arm64".to_owned(), ""),
                ("aarch64" | "arm64", variant) => ("arm64".to_owned(), variant),
                ("armhf", _) => ("arm".to_owned(), "v7"),
                ("armel", _) => ("arm".to_owned(), "v6"),
                ("arm", "" | "7") => ("arm".to_owned(), "v7"),
                ("arm", "5") => ("arm".to_owned(), "v5"),
                ("arm", "6") => ("arm".to_owned(), "v6"),
                ("arm", "8") => ("arm".to_owned(), "v8"),
                ("powerpc64" | "ppc64", variant) if cfg!(target_endian = "big") => {
                    ("ppc64".to_owned(), variant)
                }
                ("powerpc64le" | "ppc64le" | "powerpc64", variant) => {
                    ("ppc64le".to_owned(), variant)
                }
                (other, variant) => (other.to_owned(), variant),
            };
        let variant = (!variant.is_empty()).then(|| variant.to_owned());
        Platform { os, architecture, variant, os_version: None }
    }

    /// The platform of this machine. Containers are always Linux.
    pub fn host() -> Platform {
        Platform::new("linux", std::env::consts::ARCH, None)
    }

    /// Whether an image for `offered` serves somebody who asked for `self`.
    ///
    /// An image that names no variant serves every variant of its architecture, and an `arm`
    /// processor runs the images of older ones.
    pub fn matches(&self, offered: &Platform) -> bool {
        let variant = match (&self.variant, &offered.variant) {
            (_, None) => true,
            (Some(wanted), Some(offered)) if self.architecture == "arm" => offered <= wanted,
            (wanted, offered) => wanted == offered,
        };
        let os_version = self.os_version.is_none() || self.os_version == offered.os_version;
        self.os == offered.os && self.architecture == offered.architecture && variant && os_version
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `os/architecture[/variant]`; one word is an operating system or an architecture, the other
    /// being this machine's.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        const SYSTEMS: [&str; 10] = [
            "linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "solaris",
            "wasip1", "js",
        ];
        const ARCHITECTURES: [&str; 23] = [
            "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle",
            "ppc64", "ppc64le", "riscv64", "s390x", "wasm", "x86_64", "x86-64", "i386", "i686",
            "aarch64", "armhf", "armel", "x86", "riscv",
        ];
        let error = || PlatformError { text: text.chars().take(128).collect() };
        let word = |part: &str| {
            let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            part.len() <= 64
                && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
                && part.bytes().all(is_inner)
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| word(part)) {
            return Err(error());
        }
        match parts[..] {
            [one] => {
                let host = Platform::host();
                let lower = one.to_ascii_lowercase();
                if SYSTEMS.contains(&lower.as_str()) {
                    let variant = host.variant.as_deref();
                    Ok(Platform::new(one, &host.architecture, variant))
                } else if ARCHITECTURES.contains(&lower.as_str()) {
                    Ok(Platform::new(&host.os, one, None))
                } else {
                    Err(error())
                }
            }
            [os, architecture] => Ok(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, Some(variant))),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_brought_into_normal_form() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal, "{text}");
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux/", "/amd64", "a/b/c/d", "linux/a b", "nonsense", "linux/../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_newer_arm_runs_an_older_ones_images() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/arm/v7").matches(&platform("linux/arm/v6")));
        assert!(!platform("linux/arm/v6").matches(&platform("linux/arm/v7")));
        assert!(!platform("linux/amd64").matches(&platform("linux/arm64")));
        assert!(!platform("linux/amd64").matches(&platform("linux/amd64/v3")));
    }
}
