//! The fstab-style option list of an OCI mount, sorted into what it means.

use crate::RuntimeError;
use crate::spec::SUBPATH_OPTION;
use crate::sys::MountAttributes;

/// Sorted options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) attributes: MountAttributes,
    /// Device nodes may be opened, whatever holds for other mounts.
    pub(crate) devices: bool,
    /// A bind, whatever the type says.
    pub(crate) bind: bool,
    /// With the mounts below.
    pub(crate) recursive: bool,
    /// Value of [`SUBPATH_OPTION`].
    pub(crate) subpath: Option<String>,
    /// What is left for the file system.
    pub(crate) data: Vec<(String, Option<String>)>,
}

impl MountOptions {
    /// Sorts `options`; a later one wins over an earlier one.
    pub(crate) fn parse(options: &[String]) -> Result<MountOptions, RuntimeError> {
        let mut sorted = MountOptions::default();
        for option in options {
            sorted.take(option)?;
        }
        Ok(sorted)
    }

    fn take(&mut self, option: &str) -> Result<(), RuntimeError> {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "ro" => self.set(libc::MOUNT_ATTR_RDONLY),
            "rw" => self.unset(libc::MOUNT_ATTR_RDONLY),
            "nosuid" => self.set(libc::MOUNT_ATTR_NOSUID),
            "suid" => self.unset(libc::MOUNT_ATTR_NOSUID),
            "nodev" => {
                self.devices = false;
                self.set(libc::MOUNT_ATTR_NODEV);
            }
            "dev" => {
                self.devices = true;
                self.unset(libc::MOUNT_ATTR_NODEV);
            }
            "noexec" => self.set(libc::MOUNT_ATTR_NOEXEC),
            "exec" => self.unset(libc::MOUNT_ATTR_NOEXEC),
            "nosymfollow" => self.set(libc::MOUNT_ATTR_NOSYMFOLLOW),
            "noatime" => self.access_time(libc::MOUNT_ATTR_NOATIME),
            "strictatime" => self.access_time(libc::MOUNT_ATTR_STRICTATIME),
            "relatime" => self.access_time(libc::MOUNT_ATTR_RELATIME),
            "nodiratime" => self.set(libc::MOUNT_ATTR_NODIRATIME),
            "private" | "rprivate" => self.attributes.propagation = libc::MS_PRIVATE,
            "slave" | "rslave" => self.attributes.propagation = libc::MS_SLAVE,
            "shared" | "rshared" => self.attributes.propagation = libc::MS_SHARED,
            "unbindable" | "runbindable" => self.attributes.propagation = libc::MS_UNBINDABLE,
            // Said by default in many specs, and true of every mount.
            "defaults" | "async" | "diratime" => {}
            _ => match option.split_once('=') {
                Some((SUBPATH_OPTION, path)) => self.subpath = Some(path.to_owned()),
                Some((key, value)) if !key.is_empty() => {
                    self.data.push((key.to_owned(), Some(value.to_owned())));
                }
                None if !option.is_empty() => self.data.push((option.to_owned(), None)),
                _ => {
                    return Err(RuntimeError::InvalidRequest(format!(
                        "invalid mount option {option:?}"
                    )));
                }
            },
        }
        Ok(())
    }

    fn set(&mut self, attribute: u64) {
        self.attributes.set |= attribute;
    }

    /// Takes back what an earlier option said. What the source itself has (read-only, nosuid)
    /// stays: a user namespace may not lift it.
    fn unset(&mut self, attribute: u64) {
        self.attributes.set &= !attribute;
    }

    fn access_time(&mut self, mode: u64) {
        self.attributes.set = self.attributes.set & !libc::MOUNT_ATTR__ATIME | mode;
        // The modes are one number, which mount_setattr(2) wants cleared as a whole.
        self.attributes.clear |= libc::MOUNT_ATTR__ATIME;
    }

    /// Removes the option `key`; its value if it has one.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Option<String>> {
        let at = self.data.iter().position(|(name, _)| name == key)?;
        Some(self.data.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
        MountOptions::parse(&options).unwrap()
    }

    #[test]
    fn a_later_option_wins() {
        let sorted = parse(&["ro", "nosuid", "rw"]);
        assert_eq!(sorted.attributes.set, libc::MOUNT_ATTR_NOSUID);
    }

    #[test]
    fn file_system_options_keep_their_order_and_values() {
        let sorted = parse(&["size=64m", "nodev", "userxattr"]);
        assert_eq!(
            sorted.data,
            [("size".to_owned(), Some("64m".to_owned())), ("userxattr".to_owned(), None)]
        );
    }

    #[test]
    fn the_subpath_may_contain_an_equals_sign() {
        assert_eq!(parse(&["strake.subpath=a=b"]).subpath.as_deref(), Some("a=b"));
    }

    #[test]
    fn an_option_without_a_name_is_an_error() {
        assert!(matches!(
            MountOptions::parse(&["=x".to_owned()]),
            Err(RuntimeError::InvalidRequest(_))
        ));
    }
}
