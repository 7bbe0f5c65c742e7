//! How a snapshot is mounted: one overlay (or a bind, where there is nothing to stack).
//!
//! Always `userxattr`: it is the only form that an unprivileged overlay can delete in, and one
//! form on the disk is simpler than two. The kernel then never redirects directories or leaves data
//! out of copied-up files, so a directory of changes is always complete. `index` and `xino` are
//! switched off because kernels differ in their defaults.

use std::path::Path;

use oci_spec::runtime::Mount;

/// Where a rootfs is mounted, seen from its own mounts.
const ROOT: &str = "/";

/// The overlay of `lowers` (bottom first) under `upper`. `volatile`: nobody needs `upper` after a
/// power cut, so the kernel may skip every sync.
pub(super) fn writable<'a>(
    lowers: impl DoubleEndedIterator<Item = &'a Path>,
    upper: &Path,
    work: &Path,
) -> Mount {
    let mut options = common(lowers);
    options.push(option("upperdir", upper));
    options.push(option("workdir", work));
    options.push("volatile".to_owned());
    mount("overlay", Path::new("overlay"), options)
}

/// The read-only overlay of at least two directories, bottom first.
pub(super) fn read_only<'a>(lowers: impl DoubleEndedIterator<Item = &'a Path>) -> Mount {
    let mut options = common(lowers);
    options.push("ro".to_owned());
    mount("overlay", Path::new("overlay"), options)
}

/// A directory as it is.
pub(super) fn bind(source: &Path, writable: bool) -> Mount {
    let access = if writable { "rw" } else { "ro" };
    mount("bind", source, vec!["bind".to_owned(), access.to_owned()])
}

fn common<'a>(lowers: impl DoubleEndedIterator<Item = &'a Path>) -> Vec<String> {
    // overlayfs wants the topmost directory first.
    let lowers: Vec<String> = lowers.rev().map(escaped).collect();
    vec![
        format!("lowerdir={}", lowers.join(":")),
        "userxattr".to_owned(),
        "index=off".to_owned(),
        "xino=off".to_owned(),
    ]
}

/// Upper and work directory are one path each, so nothing in them needs an escape.
fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// A path in a list of paths: `:` and `\` get a backslash.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('\\', r"\\").replace(':', r"\:")
}

fn mount(kind: &str, source: &Path, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(ROOT.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_directory_comes_first_and_separators_are_escaped() {
        let lowers = [Path::new("/a:b"), Path::new(r"/c\d")];
        let mount = read_only(lowers.into_iter());
        assert_eq!(mount.options().as_ref().unwrap()[0], r"lowerdir=/c\\d:/a\:b");
    }
}
