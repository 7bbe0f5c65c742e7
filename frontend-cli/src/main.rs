//! strake builds images from Dockerfiles, runs and publishes them.
//!
//! `main` decides nothing: it gives the process its role, reads the command line, and prints an
//! error once, where there is one.

mod args;
mod commands;
mod config;
mod dockerfile;
mod history;
mod progress;
mod report;
mod template;

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::args::Cli;

fn main() -> ExitCode {
    // The processes that become containers are this same binary, started under another name.
    runtime::init::run_if_requested();

    let words: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::read(&words) {
        Ok(cli) => cli,
        Err(error) => return commands::usage_error(&error),
    };
    match commands::execute(cli) {
        Ok(code) => code,
        Err(error) => error.report(wants_colour()),
    }
}

fn wants_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
