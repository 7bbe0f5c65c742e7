//! Programs of another machine: what the kernel needs to run them, and what of it is missing.

use std::path::Path;

use cache::oci::Platform;
use rustix::io::Errno;

/// Where the kernel lists the interpreters that are registered.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// What is missing for a program of `platform` that could not be executed; `None` if that is not
/// why it could not.
pub(super) fn missing(platform: &Platform, errno: i32) -> Option<String> {
    missing_on(&Platform::host(), platform, Errno::from_raw_os_error(errno), Path::new(BINFMT))
}

fn missing_on(host: &Platform, platform: &Platform, errno: Errno, binfmt: &Path) -> Option<String> {
    if host.architecture == platform.architecture {
        return None;
    }
    let qemu = format!("qemu-{}", emulated(&platform.architecture));
    let entry = fs_err::read_to_string(binfmt.join(&qemu)).ok();
    let what = match (errno, entry) {
        (Errno::NOEXEC, None) if !binfmt.join("status").exists() => {
            format!("binfmt_misc is not mounted at {} and so has no `{qemu}`", binfmt.display())
        }
        (Errno::NOEXEC, None) => format!("binfmt_misc has no entry `{qemu}`"),
        (Errno::NOEXEC, Some(entry)) if entry.starts_with("disabled") => {
            format!("the binfmt_misc entry `{qemu}` is disabled")
        }
        // Without the flag F the interpreter is looked for inside of the container.
        (Errno::NOENT, Some(entry)) if !flags(&entry).contains('F') => {
            format!("the binfmt_misc entry `{qemu}` was registered without the flag F")
        }
        _ => return None,
    };
    Some(format!(
        "{host} runs programs of {platform} through an emulator, but {what}; install it (Debian: qemu-user-static or qemu-user-binfmt), or cross-compile in a stage FROM --platform=$BUILDPLATFORM"
    ))
}

fn flags(entry: &str) -> &str {
    entry.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default()
}

/// QEMU's name of an architecture.
fn emulated(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "i386",
        "mips64le" => "mips64el",
        "mipsle" => "mipsel",
        "loong64" => "loongarch64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = |platform: &str, errno| {
            let host = "linux/amd64".parse().unwrap();
            missing_on(&host, &platform.parse().unwrap(), errno, directory.path())
        };
        let check = |found: Option<String>, part: &str| {
            let found = found.unwrap();
            assert!(found.contains(part), "{found}");
        };
        assert_eq!(missing("linux/amd64", Errno::NOEXEC), None);
        check(missing("linux/arm64", Errno::NOEXEC), "is not mounted");
        fs_err::write(directory.path().join("status"), "enabled\n").unwrap();
        check(missing("linux/arm64", Errno::NOEXEC), "has no entry `qemu-aarch64`");
        assert_eq!(missing("linux/arm64", Errno::NOENT), None);
        let entry = directory.path().join("qemu-aarch64");
        fs_err::write(&entry, "disabled\ninterpreter /usr/bin/qemu\nflags: F\n").unwrap();
        check(missing("linux/arm64", Errno::NOEXEC), "is disabled");
        fs_err::write(&entry, "enabled\ninterpreter /usr/bin/qemu\nflags: OC\n").unwrap();
        check(missing("linux/arm64", Errno::NOENT), "without the flag F");
        fs_err::write(&entry, "enabled\ninterpreter /usr/bin/qemu\nflags: POCF\n").unwrap();
        assert_eq!(missing("linux/arm64", Errno::NOENT), None);
    }
}
