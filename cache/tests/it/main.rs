//! Tests of the crate as its users see it.

mod amend;
mod bundle;
mod checkpoints;
mod gc;
mod hostile;
mod images;
mod layers;
mod overlay;
mod privilege;
mod registry;
mod remote;
mod s3;
mod store;
mod tape;
mod world;
