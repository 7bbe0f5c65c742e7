//! skeleton
use oci_spec::runtime::{Capability, Spec};

/// Option of a mount: `strake.subpath=<path>` mounts that path inside the source instead of the
/// source itself. Links in it are resolved inside the source and never lead out.
pub const SUBPATH_OPTION: &str = "strake.subpath";

/// Option of an overlay mount without `upperdir`: writes go to a tmpfs of the container and are
/// gone with it.
pub const SCRATCH_OPTION: &str = "strake.scratch";

/// Every capability, for `--security=insecure`.
pub const INSECURE_CAPABILITIES: &[Capability] = &[];

/// Docker's defaults.
pub fn default_spec() -> Spec {
    todo!()
}

/// The defaults of `--security=insecure`: every capability the engine has, no seccomp filter,
/// nothing masked, /sys writable.
pub fn insecure_spec() -> Spec {
    todo!()
}
