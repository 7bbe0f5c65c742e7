//! The seccomp filter of containers.

/// The filter for a process with these permitted capabilities, as the kernel's instructions.
pub(crate) fn default_filter(capabilities: u64) -> Vec<u8> {
    let _ = capabilities;
    Vec::new()
}
