//! Overlay mounts of any number of layers.
//!
//! Since Linux 6.5 layers are given one by one (`lowerdir+`), so their paths may be as long as
//! they like. Before that they share one page of mount(2) options.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Mode};
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::{
    BuildError, MountOptions, Workspace, clone_tree, create, open_context, open_path, set_option,
};
use crate::RuntimeError;
use crate::spec::SCRATCH_OPTION;
use crate::sys::{self, MountAttributes};

/// An overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// Directories of the read-only layers, topmost first.
    lower: Vec<String>,
    writable: Writable,
    /// Further options.
    options: Vec<(String, Option<String>)>,
}

/// Where changes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Writable {
    Nowhere,
    /// Into a directory, through a work directory beside it.
    Directory {
        upper: String,
        work: String,
    },
    /// Into memory, and away with the container.
    Scratch,
}

impl Overlay {
    /// Takes the overlay's own options out of `options`.
    pub(super) fn from_options(options: &mut MountOptions) -> Result<Overlay, RuntimeError> {
        let invalid = |what: &str| RuntimeError::InvalidRequest(format!("overlay {what}"));
        let lower = options
            .remove("lowerdir")
            .flatten()
            .map(|list| split_layers(&list))
            .ok_or_else(|| invalid("without lowerdir"))?;
        let upper = options.remove("upperdir").flatten();
        let work = options.remove("workdir").flatten();
        let scratch = options.remove(SCRATCH_OPTION).is_some();
        let writable = match (upper, work, scratch) {
            (None, None, false) => Writable::Nowhere,
            (None, None, true) => Writable::Scratch,
            (Some(upper), Some(work), false) => Writable::Directory { upper, work },
            _ => return Err(invalid("with only one of upperdir and workdir, or with scratch too")),
        };
        // Ours always, said or not; `volatile` has no meaning without a writable layer.
        options.remove("userxattr");
        options.remove("volatile");
        Ok(Overlay { lower, writable, options: std::mem::take(&mut options.data) })
    }

    /// The only layer, if there is but one and nothing is written.
    pub(super) fn single_layer(&self) -> Option<String> {
        match (self.lower.as_slice(), &self.writable) {
            ([layer], Writable::Nowhere) => Some(layer.clone()),
            _ => None,
        }
    }

    pub(super) fn build(
        &self,
        attributes: u64,
        workspace: &Workspace<'_>,
    ) -> Result<OwnedFd, BuildError> {
        let mut options = vec![("userxattr", None)];
        let directories = self.writable_directories(workspace)?;
        if let Some((upper, work)) = &directories {
            options.push(("upperdir", Some(upper.as_str())));
            options.push(("workdir", Some(work.as_str())));
            // No syncfs at unmount: it would sync the whole file system behind the upper layer
            // (46 ms instead of 18 with 64 MB of changes).
            options.push(("volatile", None));
        }
        options.extend(self.options.iter().map(|(key, value)| (key.as_str(), value.as_deref())));

        let context = open_context("overlay")?;
        for layer in &self.lower {
            match set_option(&context, "lowerdir+", Some(layer)) {
                Err(BuildError { errno: libc::EINVAL, .. }) => {
                    return self.build_with_one_page(&options, attributes, workspace);
                }
                result => result?,
            }
        }
        for (key, value) in options {
            set_option(&context, key, value)?;
        }
        create(&context, attributes)
    }

    /// Upper and work directory.
    fn writable_directories(
        &self,
        workspace: &Workspace<'_>,
    ) -> Result<Option<(String, String)>, BuildError> {
        match &self.writable {
            Writable::Nowhere => Ok(None),
            Writable::Directory { upper, work } => {
                forget_volatile(work);
                Ok(Some((upper.clone(), work.clone())))
            }
            Writable::Scratch => {
                let refused = BuildError { errno: libc::EINVAL, log: None };
                let scratch = workspace.scratch.ok_or(refused)?;
                scratch_directories(scratch, &self.lower).map(Some)
            }
        }
    }

    /// The way of kernels before 6.5.
    fn build_with_one_page(
        &self,
        options: &[(&str, Option<&str>)],
        attributes: u64,
        workspace: &Workspace<'_>,
    ) -> Result<OwnedFd, BuildError> {
        let escaped: Vec<String> = self
            .lower
            .iter()
            .map(|layer| layer.replace('\\', "\\\\").replace(':', "\\:"))
            .collect();
        let mut data = format!("lowerdir={}", escaped.join(":"));
        for (key, value) in options {
            data.push(',');
            data.push_str(key);
            if let Some(value) = value {
                data.push('=');
                data.push_str(&value.replace('\\', "\\\\").replace(',', "\\,"));
            }
        }
        let data = CString::new(data).map_err(|_| BuildError { errno: libc::EINVAL, log: None })?;
        rustix::mount::mount(
            "overlay",
            workspace.spot,
            "overlay",
            MountFlags::empty(),
            Some(data.as_c_str()),
        )?;
        let tree = open_path(workspace.spot).and_then(|place| clone_tree(&place, false));
        rustix::mount::unmount(workspace.spot, UnmountFlags::DETACH)?;
        let tree = tree?;
        sys::mount_setattr(&tree, MountAttributes { set: attributes, ..Default::default() })?;
        Ok(tree)
    }
}

/// Takes away the mark by which the kernel refuses a work directory that a `volatile` overlay has
/// used: it speaks of changes lost in a crash, and what a crash may have spoilt is not used again
/// anyway.
fn forget_volatile(work: &str) {
    let mark = format!("{work}/work/incompat/volatile");
    // Mostly it is not there; if it cannot be removed, mounting says so.
    let _ = rustix::fs::unlinkat(CWD, format!("{mark}/dirty"), AtFlags::empty());
    let _ = rustix::fs::unlinkat(CWD, mark, AtFlags::REMOVEDIR);
}

/// Makes a fresh upper directory that looks like the root of the topmost layer, and its work
/// directory.
fn scratch_directories(scratch: &str, lower: &[String]) -> Result<(String, String), BuildError> {
    let mode = Mode::from_raw_mode(0o755);
    for number in 0..10_000 {
        let home = format!("{scratch}/{number}");
        match rustix::fs::mkdirat(CWD, &home, mode) {
            Err(rustix::io::Errno::EXIST) => continue,
            result => result?,
        }
        let (upper, work) = (format!("{home}/upper"), format!("{home}/work"));
        rustix::fs::mkdirat(CWD, &upper, mode)?;
        rustix::fs::mkdirat(CWD, &work, mode)?;
        if let Some(top) = lower.first() {
            let like = rustix::fs::stat(top)?;
            rustix::fs::chownat(
                CWD,
                &upper,
                Some(rustix::fs::Uid::from_raw(like.st_uid)),
                Some(rustix::fs::Gid::from_raw(like.st_gid)),
                AtFlags::empty(),
            )?;
            rustix::fs::chmodat(
                CWD,
                &upper,
                Mode::from_raw_mode(like.st_mode & 0o7777),
                AtFlags::empty(),
            )?;
        }
        return Ok((upper, work));
    }
    Err(BuildError { errno: libc::EMFILE, log: None })
}

/// Splits at colons that no backslash precedes, and takes the backslashes away.
fn split_layers(list: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => layers.push(String::new()),
            '\\' => layers.last_mut().expect("one is there").extend(characters.next()),
            other => layers.last_mut().expect("one is there").push(other),
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Result<Overlay, RuntimeError> {
        let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
        Overlay::from_options(&mut MountOptions::parse(&options)?)
    }

    #[test]
    fn layers_are_split_at_bare_colons() {
        assert_eq!(split_layers("/top:/a\\:b:/c\\\\d"), ["/top", "/a:b", "/c\\d"]);
    }

    #[test]
    fn an_upper_directory_needs_a_work_directory() {
        assert!(matches!(
            overlay(&["lowerdir=/a", "upperdir=/b"]),
            Err(RuntimeError::InvalidRequest(_))
        ));
    }

    #[test]
    fn one_layer_without_writes_is_no_overlay() {
        assert_eq!(overlay(&["lowerdir=/a"]).unwrap().single_layer().as_deref(), Some("/a"));
        assert_eq!(overlay(&["lowerdir=/a:/b"]).unwrap().single_layer(), None);
        assert_eq!(overlay(&["lowerdir=/a", SCRATCH_OPTION]).unwrap().single_layer(), None);
    }

    /// The way of old kernels, in a process of its own that has entered namespaces.
    #[test]
    fn layers_can_share_one_page_of_options() {
        use std::os::unix::process::CommandExt;
        const INSIDE: &str = "STRAKE_TEST_ONE_PAGE";
        if std::env::var_os(INSIDE).is_some() {
            return mount_with_one_page();
        }
        let uid = rustix::process::geteuid().as_raw();
        let map = format!("0 {uid} 1");
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["layers_can_share_one_page_of_options", "--nocapture"]).env(INSIDE, "1");
        // SAFETY: between fork and exec the closure makes system calls on data made before.
        unsafe {
            command.pre_exec(move || {
                let flags =
                    rustix::thread::UnshareFlags::NEWUSER | rustix::thread::UnshareFlags::NEWNS;
                rustix::thread::unshare_unsafe(flags)?;
                let file = rustix::fs::open(
                    c"/proc/self/uid_map",
                    rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                rustix::io::write(&file, map.as_bytes())?;
                Ok(())
            });
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    fn mount_with_one_page() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        for name in ["a:b", "upper", "spot"] {
            fs_err::create_dir(path(name)).unwrap();
        }
        fs_err::write(path("a:b/top"), "top").unwrap();
        let overlay = Overlay {
            lower: vec![path("a:b"), path("upper")],
            writable: Writable::Nowhere,
            options: Vec::new(),
        };
        fs_err::write(path("upper/second"), "second").unwrap();
        let spot = path("spot");
        let workspace = Workspace { spot: &spot, scratch: None };
        let options = [("userxattr", None)];
        let tree =
            overlay.build_with_one_page(&options, libc::MOUNT_ATTR_RDONLY, &workspace).unwrap();
        for (name, content) in [("top", "top"), ("second", "second")] {
            let file = rustix::fs::openat(&tree, name, rustix::fs::OFlags::RDONLY, Mode::empty());
            let mut buffer = [0; 16];
            let length = rustix::io::read(file.unwrap(), &mut buffer).unwrap();
            assert_eq!(&buffer[..length], content.as_bytes());
        }
        let refused = rustix::fs::mkdirat(&tree, "new", Mode::RWXU).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::ROFS);
        assert_eq!(fs_err::read_dir(&spot).unwrap().count(), 0);
    }
}
