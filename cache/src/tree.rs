//! Confined access to a directory tree that somebody else filled.
