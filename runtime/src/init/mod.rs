//! skeleton

/// Becomes the init helper if this process was started as one, and then never returns. Call it
/// first thing in `main`.
pub fn run_if_requested() {
    todo!()
}
