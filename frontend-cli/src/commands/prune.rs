//! `strake prune`, `strake builder prune`, `strake image prune`: making room.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cache::gc::{PruneOptions, Pruned, prune, prune_images};
use executor::Containers;

use super::du::{filters, gc_error, in_full};
use super::engine::{Engine, Needs};
use super::space::CacheLimits;
use super::{human_size, say, table};
use crate::args::{ImagePruneArgs, PruneArgs};
use crate::progress::sanitize;
use crate::report::CliError;

pub(crate) fn builder(root: Option<PathBuf>, args: &PruneArgs) -> Result<ExitCode, CliError> {
    let limits = CacheLimits::of(&args.space)?;
    let filters = filters(&args.filters)?;
    let what = if args.all {
        "WARNING! This will remove all build cache. Are you sure you want to continue?"
    } else {
        "WARNING! This will remove all dangling build cache. Are you sure you want to continue?"
    };
    if !args.force && !confirmed(what)? {
        return Ok(ExitCode::SUCCESS);
    }
    let engine = Engine::open(root, Needs::Trees)?;
    runtime::remove_leftover_groups();
    let options = PruneOptions { all: args.all, filters, ..limits.options(&engine.store)? };
    let pruned = prune(&engine.store, &options).map_err(gc_error)?;
    print_pruned(&pruned, args.verbose);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn images(root: Option<PathBuf>, args: &ImagePruneArgs) -> Result<ExitCode, CliError> {
    let what = if args.all {
        "WARNING! This will remove all images without at least one container. Are you sure you want to continue?"
    } else {
        "WARNING! This will remove all dangling images. Are you sure you want to continue?"
    };
    if !args.force && !confirmed(what)? {
        return Ok(ExitCode::SUCCESS);
    }
    let engine = Engine::open(root, Needs::Trees)?;
    runtime::remove_leftover_groups();
    let used: Vec<String> = Containers::new(&engine.store)
        .list()
        .map_err(|error| CliError::caused("cannot list the containers", &error))?
        .into_iter()
        .map(|container| container.image)
        .collect();
    let gone = prune_images(&engine.store, args.all, &used).map_err(gc_error)?;
    if !gone.is_empty() {
        say("Deleted Images:");
        gone.iter().for_each(say);
        say("");
    }
    // Build results stay for the next build; what only the images needed goes.
    let options = PruneOptions { leftovers: true, ..PruneOptions::default() };
    let pruned = prune(&engine.store, &options).map_err(gc_error)?;
    say(format!("Total reclaimed space: {}", human_size(pruned.freed)));
    Ok(ExitCode::SUCCESS)
}

fn print_pruned(pruned: &Pruned, verbose: bool) {
    if verbose {
        pruned.removed.iter().for_each(|entry| say(in_full(entry)));
    } else if !pruned.removed.is_empty() {
        let rows: Vec<Vec<String>> = pruned
            .removed
            .iter()
            .map(|entry| {
                vec![
                    entry.object.id(),
                    entry.record_type.word().to_owned(),
                    human_size(entry.size),
                    sanitize(&entry.description, false),
                ]
            })
            .collect();
        table(&["ID", "TYPE", "SIZE", "DESCRIPTION"], &rows);
    }
    say(format!("Total reclaimed space: {}", human_size(pruned.freed)));
}

/// Asks, where somebody can answer. Without a terminal the answer must be on the command line.
fn confirmed(question: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::input("nobody can be asked whether to remove anything")
            .hint("say so with --force"));
    }
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| CliError::caused("cannot read the answer", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
