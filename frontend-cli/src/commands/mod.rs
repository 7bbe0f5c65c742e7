//! What each subcommand does, one file a command.
//!
//! A command turns what was typed into what is meant, opens the [`engine`] as far as it needs it,
//! and answers with an exit code. Nothing below this crate prints.

mod archive;
pub(crate) mod build;
mod cache;
mod containers;
mod df;
mod du;
mod engine;
mod far;
mod fsck;
mod history;
mod images;
mod inspect;
mod limits;
mod listing;
mod prune;
mod registry;
mod run;
pub(crate) mod space;
mod why;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::args::{BuilderCommand, CacheCommand, Cli, Command, ImageCommand, SystemCommand};
use crate::config::Config;
use crate::report::CliError;

/// Carries out a command.
pub(crate) fn execute(cli: Cli) -> Result<ExitCode, CliError> {
    if let Command::Completion(args) = cli.command {
        let mut command = Cli::command();
        clap_complete::generate(args.shell, &mut command, "strake", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = Config::load(cli.global.config.as_deref())?;
    let root = cli.global.root.or_else(|| config.root.take());
    perform(root, cli.command, &config)
}

fn perform(root: Option<PathBuf>, command: Command, config: &Config) -> Result<ExitCode, CliError> {
    match command {
        Command::Build(args) => build::build(root, *args, config),
        Command::Run(args) => run::run(root, *args),
        Command::Images(args) => images::list(root, &args),
        Command::Image(command) => image(root, command, config),
        Command::Rmi(args) => images::remove(root, &args),
        Command::Tag(args) => images::tag(root, &args),
        Command::Save(args) => archive::save(root, &args),
        Command::Load(args) => archive::load(root, &args),
        Command::Import(args) => archive::import(root, &args),
        Command::Pull(args) => registry::pull(root, &args),
        Command::Push(args) => registry::push(root, &args),
        Command::History(args) => history::history(root, args),
        Command::Inspect(args) => inspect::inspect(root, &args),
        Command::Why(args) => why::why(root, &args),
        Command::Ps(args) => containers::list(root, &args),
        Command::Rm(args) => containers::remove(root, &args),
        Command::SyncStore => engine::sync_store(root),
        Command::Du(args) => du::du(root, &args),
        Command::Prune(args) => prune::builder(root, &args),
        Command::Builder(BuilderCommand::Prune(args)) => prune::builder(root, &args),
        Command::Builder(BuilderCommand::Du(args)) => du::du(root, &args),
        Command::Builder(BuilderCommand::Build(args)) => build::build(root, *args, config),
        Command::Cache(CacheCommand::Export(args)) => cache::export(root, &args),
        Command::Cache(CacheCommand::Import(args)) => cache::import(root, &args),
        Command::System(SystemCommand::Df(args)) => df::system_df(root, &args),
        Command::Fsck(args) => fsck::fsck(root, &args),
        // Needs no store.
        Command::Completion(_) => Ok(ExitCode::SUCCESS),
    }
}

fn image(
    root: Option<PathBuf>,
    command: ImageCommand,
    config: &Config,
) -> Result<ExitCode, CliError> {
    let command = match command {
        ImageCommand::Ls(args) => Command::Images(args),
        ImageCommand::Inspect(args) => Command::Inspect(args),
        ImageCommand::Rm(args) => Command::Rmi(args),
        ImageCommand::Tag(args) => Command::Tag(args),
        ImageCommand::Save(args) => Command::Save(args),
        ImageCommand::Load(args) => Command::Load(args),
        ImageCommand::Import(args) => Command::Import(args),
        ImageCommand::Pull(args) => Command::Pull(args),
        ImageCommand::Push(args) => Command::Push(args),
        ImageCommand::History(args) => return inspect::history(root, &args),
        ImageCommand::Build(args) => Command::Build(args),
        ImageCommand::Prune(args) => return prune::images(root, &args),
    };
    perform(root, command, config)
}

/// Prints a usage error, or the help that was asked for.
///
/// `strake run` keeps docker's 125 for mistakes of the engine's user, so that a script can tell
/// them from the container's own exit codes.
pub(crate) fn usage_error(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the stream is closed.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if std::env::args().nth(1).is_some_and(|command| command == "run") => ExitCode::from(125),
        _ => ExitCode::from(1),
    }
}

/// Writes a line to standard output; a closed pipe is the reader's choice, not an error.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints rows in columns, as docker does: three blanks between them.
fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(console::measure_text_width(cell));
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            let pad = width.saturating_sub(console::measure_text_width(cell)) + 3;
            text.push_str(&" ".repeat(pad));
        }
        text.trim_end().to_owned()
    };
    say(line(&mut head.iter().copied()));
    for row in rows {
        say(line(&mut row.iter().map(String::as_str)));
    }
}

/// A size as docker prints it: `1.24MB`, powers of ten, three digits.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{}", UNITS[unit])
}

/// How long ago an RFC 3339 time was, in docker's words: `3 hours ago`.
fn ago(created: Option<&str>) -> String {
    let Some(created) = created.and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return "N/A".into();
    };
    let seconds = jiff::Timestamp::now().as_second().saturating_sub(created.as_second()).max(0);
    let (count, unit) = match seconds {
        0 => return "Less than a second ago".into(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// Whether binary data may be written to standard output.
fn stdout_takes_data() -> Result<(), CliError> {
    if std::io::stdout().is_terminal() {
        return Err(CliError::input("refusing to write an archive to the terminal")
            .hint("name a file, or redirect standard output"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_234_567, "1.23MB"),
            (45_600_000, "45.6MB"),
            (789_000, "789kB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn times_are_told_in_dockers_words() {
        let now = jiff::Timestamp::now();
        let earlier = |seconds| (now - jiff::SignedDuration::from_secs(seconds)).to_string();
        assert_eq!(ago(Some(&earlier(7200))), "2 hours ago");
        assert_eq!(ago(Some(&earlier(61))), "1 minute ago");
        assert_eq!(ago(None), "N/A");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
