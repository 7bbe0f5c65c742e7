//! Mount targets inside a root filesystem that somebody else has filled.
//!
//! Nothing here ever follows a path the kernel could lead out of the root: each step is an
//! `openat2(RESOLVE_IN_ROOT)` from the root's descriptor, what is created is created by its bare
//! name in an open directory, and mounts go to descriptors, never to paths. So neither links in
//! the image nor a change while we look can make a mount land elsewhere (CVE-2021-30465).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::handshake::Stub;
use crate::confined::open_in_root;

/// More links than this in one path are taken for a loop, as the kernel does.
const MAX_LINKS: usize = 40;

/// A root filesystem in the making.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) fd: OwnedFd,
    /// What had to be created, in that order, and the directories it was created in.
    pub(super) stubs: Vec<Stub>,
    pub(super) parents: Vec<OwnedFd>,
}

impl Root {
    pub(super) fn new(fd: OwnedFd) -> Root {
        Root { fd, stubs: Vec::new(), parents: Vec::new() }
    }

    /// Opens the file or directory at `path`, creating it, and the directories before it, where
    /// they are missing.
    pub(super) fn target(&mut self, path: &str, directory: bool) -> io::Result<OwnedFd> {
        let mut links = 0;
        let mut path = path.to_owned();
        loop {
            match open_in_root(&self.fd, path.as_str(), OFlags::PATH) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => return result,
            }
            match self.create(&path, directory)? {
                None => return open_in_root(&self.fd, path.as_str(), OFlags::PATH),
                Some(_) if links == MAX_LINKS => {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                // A link to something that does not exist: that is then what must be created.
                Some(instead) => path = instead,
            }
            links += 1;
        }
    }

    /// Creates what is missing of `path`; stops at the first link that leads to nothing and
    /// returns the path with that link replaced by what it says.
    fn create(&mut self, path: &str, directory: bool) -> io::Result<Option<String>> {
        let components: Vec<&str> =
            path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let mut parent = open_in_root(&self.fd, "/", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut walked = String::new();
        for (index, name) in components.iter().enumerate() {
            let before = walked.clone();
            walked.push('/');
            walked.push_str(name);
            let last = index + 1 == components.len();
            let flags = if last { OFlags::PATH } else { OFlags::RDONLY | OFlags::DIRECTORY };
            match open_in_root(&self.fd, walked.as_str(), flags) {
                Ok(next) => {
                    parent = next;
                    continue;
                }
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                Err(_) => {}
            }
            if let Ok(link) = rustix::fs::readlinkat(&parent, *name, Vec::new()) {
                let link =
                    link.into_string().map_err(|_| io::Error::from_raw_os_error(libc::EILSEQ))?;
                let rest = components[index + 1..].join("/");
                let start = if link.starts_with('/') { "" } else { before.as_str() };
                return Ok(Some(format!("{start}/{link}/{rest}").trim_end_matches('/').to_owned()));
            }
            self.create_one(&parent, name, !last || directory, &walked)?;
            parent = open_in_root(&self.fd, walked.as_str(), flags)?;
        }
        Ok(None)
    }

    fn create_one(
        &mut self,
        parent: &OwnedFd,
        name: &str,
        directory: bool,
        path: &str,
    ) -> io::Result<()> {
        let before = rustix::fs::fstat(parent)?;
        if directory {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        } else {
            rustix::fs::openat(
                parent,
                name,
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o644),
            )?;
        }
        // As in BuildKit's layers, these stay, with the time of their making.
        if matches!(path, "/dev" | "/proc" | "/sys") {
            return Ok(());
        }
        set_modification_time(parent, &before)?;
        self.stubs.push(Stub { name: name.to_owned(), directory });
        self.parents.push(parent.try_clone()?);
        Ok(())
    }
}

/// Removes what [`Root::target`] created, unless something has come to be inside, and leaves the
/// modification times of the directories around it as they are found.
pub(crate) fn remove_stubs(stubs: &[Stub], parents: &[OwnedFd]) -> io::Result<()> {
    for (stub, parent) in stubs.iter().zip(parents).rev() {
        let before = rustix::fs::fstat(parent)?;
        let Ok(status) = rustix::fs::statat(parent, &stub.name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let removed = match (stub.directory, FileType::from_raw_mode(status.st_mode)) {
            (true, FileType::Directory) => {
                rustix::fs::unlinkat(parent, &stub.name, AtFlags::REMOVEDIR)
            }
            (false, FileType::RegularFile) if status.st_size == 0 => {
                rustix::fs::unlinkat(parent, &stub.name, AtFlags::empty())
            }
            _ => continue,
        };
        match removed {
            Ok(()) => set_modification_time(parent, &before)?,
            Err(
                rustix::io::Errno::NOTEMPTY
                | rustix::io::Errno::NOENT
                | rustix::io::Errno::ROFS
                | rustix::io::Errno::BUSY,
            ) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn set_modification_time(directory: impl AsFd, like: &rustix::fs::Stat) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec {
            tv_sec: like.st_mtime as _,
            tv_nsec: like.st_mtime_nsec as _,
        },
    };
    rustix::fs::futimens(directory, &times)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn root(directory: &tempfile::TempDir) -> Root {
        let fd = rustix::fs::open(
            directory.path(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        Root::new(fd)
    }

    #[test]
    fn a_missing_target_is_created_and_removed_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::create_dir(directory.path().join("etc")).unwrap();
        let before = fs_err::metadata(directory.path().join("etc")).unwrap();
        let mut root = root(&directory);
        root.target("/etc/deep/er/file", false).unwrap();
        assert!(directory.path().join("etc/deep/er/file").is_file());
        remove_stubs(&root.stubs, &root.parents).unwrap();
        let after = fs_err::metadata(directory.path().join("etc")).unwrap();
        assert!(!directory.path().join("etc/deep").exists());
        assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
    }

    #[test]
    fn a_link_to_nothing_is_followed_inside_the_root_only() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs_err::create_dir(directory.path().join("etc")).unwrap();
        let far = format!("../../../..{}/file", outside.path().display());
        fs_err::os::unix::fs::symlink(far, directory.path().join("etc/resolv.conf")).unwrap();
        let mut root = root(&directory);
        root.target("/etc/resolv.conf", false).unwrap();
        assert_eq!(fs_err::read_dir(outside.path()).unwrap().count(), 0);
        let inside = outside.path().strip_prefix("/").unwrap().join("file");
        assert!(directory.path().join(&inside).is_file());
        remove_stubs(&root.stubs, &root.parents).unwrap();
        assert!(!directory.path().join(inside.components().next().unwrap()).exists());
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::os::unix::fs::symlink("b", directory.path().join("a")).unwrap();
        fs_err::os::unix::fs::symlink("a", directory.path().join("b")).unwrap();
        let error = root(&directory).target("/a/file", false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_stub_that_was_filled_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mut root = root(&directory);
        root.target("/new", true).unwrap();
        fs_err::write(directory.path().join("new/file"), "x").unwrap();
        remove_stubs(&root.stubs, &root.parents).unwrap();
        assert!(directory.path().join("new/file").is_file());
    }

    #[test]
    fn dev_proc_and_sys_stay() {
        let directory = tempfile::tempdir().unwrap();
        let mut root = root(&directory);
        for name in ["/dev", "/proc", "/sys"] {
            root.target(name, true).unwrap();
        }
        assert!(root.stubs.is_empty());
    }
}
