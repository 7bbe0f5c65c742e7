//! Capabilities by number.
