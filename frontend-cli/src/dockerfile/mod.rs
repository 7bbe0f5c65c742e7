//! The frontend in BuildKit's sense: a parsed Dockerfile becomes a graph of operations and an image
//! configuration.
//!
//! 1. [`plan`]: which stages the target needs, from which images they start.
//! 2. The caller resolves those images; nothing here opens a file or a socket.
//! 3. [`lower`]: instructions → vertices of a [`solver::llb::Definition`] and the configuration of
//!    the result. An ONBUILD trigger may name further images; then step 2 is repeated.
//!
//! Everything is a pure function of its arguments, which is why a test passes a map of images and
//! needs no mock.

mod change;
mod fault;
mod giturl;
pub(crate) mod lint;
mod lower;
mod plan;
mod variables;

pub(crate) use change::configuration_of;
pub(crate) use fault::{Fault, nearest};
pub(crate) use giturl::GitUrl;
pub(crate) use lower::{LowerError, Lowered, Warnings, git_source, lower, lower_or_warn};
pub(crate) use plan::{
    ImageRequest, NamedContext, Plan, RequestedImage, ResolvedImage, ResolvedImages, Settings,
    stage_names,
};

#[cfg(test)]
mod speed_tests;
