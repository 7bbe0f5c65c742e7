//! Containers on the real kernel.
//!
//! Every case runs up to three times, each time in a process of its own kind: as whoever started
//! the tests, and, if that is root, as an ordinary user with and without ranges of ids.

#![allow(unsafe_code)]

mod cases;
mod harness;
mod sandbox;

fn main() -> std::process::ExitCode {
    runtime::init::run_if_requested();
    harness::main(cases::ALL)
}
