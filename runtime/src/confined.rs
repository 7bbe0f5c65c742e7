//! Opening paths of untrusted trees: neither `..` nor a link leads out of the root.
//!
//! The kernel does it in one call, `openat2(RESOLVE_IN_ROOT)`. Where a seccomp filter around us
//! does not know that call (older container engines), the path is walked by hand, component by
//! component, each opened without following links, and links are read and put in their place.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As many links in one path as the kernel follows.
const MAX_LINKS: usize = 40;

/// Opens `path` as if `root` were the root directory. "Magic" links of /proc are refused.
pub(crate) fn open_in_root(
    root: impl AsFd,
    path: impl rustix::path::Arg,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = path.into_c_str()?;
    let flags = flags | OFlags::CLOEXEC;
    loop {
        return match rustix::fs::openat2(&root, &*path, flags, Mode::empty(), resolve) {
            // The kernel could not exclude a race with a rename; it asks to try again.
            Err(Errno::AGAIN) => continue,
            Err(Errno::NOSYS | Errno::PERM) => Ok(walk(root.as_fd(), path.to_bytes(), flags)?),
            result => Ok(result?),
        };
    }
}

/// [`open_in_root`] without openat2.
///
/// The directories passed through stay open, so that `..` leads to where we came from, whatever is
/// renamed meanwhile.
fn walk(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut passed = vec![rustix::fs::openat(&root, c".", directory, Mode::empty())?];
    let mut rest = components(path);
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name.to_bytes() == b".." {
            if passed.len() > 1 {
                passed.pop();
            }
            continue;
        }
        let here = passed.last().expect("the root stays");
        let found = rustix::fs::openat(
            here,
            &name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let status = rustix::fs::statat(&found, c"", AtFlags::EMPTY_PATH)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Symlink => {
                links += 1;
                // A magic link has a size of 0, or 64 in /proc/<pid>; ordinary ones have that of
                // their text.
                let text = rustix::fs::readlinkat(&found, c"", Vec::new())?;
                if links > MAX_LINKS || is_magic(&found, status.st_size, text.to_bytes().len())? {
                    return Err(Errno::LOOP);
                }
                if text.to_bytes().starts_with(b"/") {
                    passed.truncate(1);
                }
                for component in components(text.to_bytes()).into_iter().rev() {
                    rest.push_front(component);
                }
            }
            FileType::Directory => passed.push(found),
            _ if rest.is_empty() => return reopen(here, &name, flags),
            _ => return Err(Errno::NOTDIR),
        }
    }
    reopen(passed.last().expect("the root stays"), c".", flags)
}

/// Opens the last component, which is no link, for what it is wanted for.
fn reopen(
    directory: &OwnedFd,
    name: &std::ffi::CStr,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// Whether a link is one of /proc's that lead to an open file, whatever their text says.
fn is_magic(link: &OwnedFd, size: i64, length: usize) -> rustix::io::Result<bool> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    if size == length as i64 {
        return Ok(false);
    }
    // /proc/self and its like are of size 0 as well, and lead nowhere else than they say.
    let text = rustix::fs::readlinkat(link, c"", Vec::new())?;
    let harmless = !text.to_bytes().starts_with(b"/") && !text.to_bytes().contains(&b':');
    Ok(rustix::fs::fstatfs(link)?.f_type as i64 == PROC_SUPER_MAGIC && !harmless)
}

fn components(path: &[u8]) -> VecDeque<CString> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        // There is no NUL in them: they come from C strings.
        .filter_map(|part| CString::new(part).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A tree with every kind of temptation, and the inode that each path must lead to.
    fn check(path: &str, expected: Result<&str, Errno>) {
        let directory = tempfile::tempdir().unwrap();
        let inside = |name: &str| directory.path().join(name);
        fs_err::create_dir_all(inside("a/b")).unwrap();
        fs_err::create_dir(inside("etc")).unwrap();
        fs_err::write(inside("etc/file"), "inside").unwrap();
        for (name, target) in [
            ("absolute", "/etc"),
            ("climb", "../../../../etc"),
            ("a/b/up", "../../etc"),
            ("loop", "loop"),
            ("dangling", "nowhere"),
            ("magic", "/proc/self/root"),
        ] {
            fs_err::os::unix::fs::symlink(target, inside(name)).unwrap();
        }
        let root = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).unwrap();
        let expected = expected.map(|name| fs_err::metadata(inside(name)).unwrap().ino());
        let inode = |fd: &OwnedFd| rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).unwrap().st_ino;
        let walked = walk(&root, path.as_bytes(), OFlags::PATH | OFlags::CLOEXEC);
        assert_eq!(walked.as_ref().map(inode).map_err(|errno| *errno), expected, "by hand");
        let opened = open_in_root(&root, path, OFlags::PATH)
            .map_err(|error| Errno::from_io_error(&error).unwrap());
        assert_eq!(opened.as_ref().map(inode).map_err(|errno| *errno), expected, "by the kernel");
    }

    #[test]
    fn paths_stay_inside_the_root() {
        check("/", Ok(""));
        check("a/b/../../..", Ok(""));
        check("/etc/file", Ok("etc/file"));
        check("absolute/file", Ok("etc/file"));
        check("../climb/file", Ok("etc/file"));
        check("a/b/up/./file", Ok("etc/file"));
        check("a/b/up/..", Ok(""));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        check("nothing", Err(Errno::NOENT));
        check("dangling", Err(Errno::NOENT));
        check("magic/etc", Err(Errno::NOENT));
        check("loop", Err(Errno::LOOP));
        check("etc/file/below", Err(Errno::NOTDIR));
    }

    #[test]
    fn magic_links_are_refused() {
        let root = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
        for path in
            ["/proc/self/root/etc", "/proc/self/cwd", "/proc/self/fd/0", "/proc/self/ns/mnt"]
        {
            assert_eq!(walk(&root, path.as_bytes(), OFlags::PATH).unwrap_err(), Errno::LOOP);
            let error = open_in_root(&root, path, OFlags::PATH).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{path}");
        }
        assert!(walk(&root, b"/proc/self/status", OFlags::PATH).is_ok());
    }
}
