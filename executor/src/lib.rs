//! executor

pub mod pattern;
