//! Tests of the crate as its users see it.

mod images;
mod registry;
mod remote;
