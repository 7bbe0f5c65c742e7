//! Tests of the crate as its users see it, beside the tools its users have.

mod archives;
mod assembling;
mod hostile;
mod registry;
mod rootfs;
mod world;
