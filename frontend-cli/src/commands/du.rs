//! `strake du` and `strake system df`: what the store holds.

use std::path::PathBuf;
use std::process::ExitCode;

use cache::gc::{Entry, Filter, GcError, survey};
use executor::Containers;
use serde_json::json;

use super::engine::{Engine, Needs, store_error};
use super::{ago, human_size, say, table};
use crate::args::{DuArgs, SystemDfArgs};
use crate::report::CliError;

pub(crate) fn du(root: Option<PathBuf>, args: &DuArgs) -> Result<ExitCode, CliError> {
    let filters = filters(&args.filters)?;
    let engine = Engine::open(root, Needs::Trees)?;
    let survey = survey(&engine.store).map_err(gc_error)?;
    let mut entries: Vec<&Entry> = survey
        .entries
        .iter()
        .filter(|entry| filters.iter().all(|filter| filter.fits(entry)))
        .collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.size));
    if args.format == "json" {
        entries.iter().for_each(|entry| say(as_json(entry)));
        return Ok(ExitCode::SUCCESS);
    }
    if args.verbose {
        entries.iter().for_each(|entry| say(in_full(entry)));
    } else {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| {
                let mutable = if entry.is_mutable() { "*" } else { "" };
                vec![
                    format!("{}{mutable}", entry.object.id()),
                    entry.is_removable().to_string(),
                    human_size(entry.size),
                    ago(Some(&time(entry.last_used))),
                ]
            })
            .collect();
        table(&["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"], &rows);
    }
    let sum = |wanted: &dyn Fn(&Entry) -> bool| -> String {
        human_size(entries.iter().filter(|entry| wanted(entry)).map(|entry| entry.size).sum())
    };
    say(format!("Shared:\t\t{}", sum(&|entry| entry.shared)));
    say(format!("Private:\t{}", sum(&|entry| !entry.shared)));
    say(format!("Reclaimable:\t{}", sum(&Entry::is_removable)));
    say(format!("Total:\t\t{}", sum(&|_| true)));
    Ok(ExitCode::SUCCESS)
}

fn as_json(entry: &Entry) -> serde_json::Value {
    json!({
        "ID": entry.object.id(),
        "Parents": entry.parent.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "CreatedAt": entry.created,
        "LastUsedAt": time(entry.last_used),
        "Mutable": entry.is_mutable(),
        "Reclaimable": entry.is_removable(),
        "InUse": entry.in_use,
        "Shared": entry.shared,
        "Size": entry.size,
        "Description": entry.description,
        "Type": entry.record_type.word(),
    })
}

fn in_full(entry: &Entry) -> String {
    let mut text = format!("ID:\t\t{}\n", entry.object.id());
    if let Some(parent) = &entry.parent {
        text += &format!("Parent:\t\t{parent}\n");
    }
    if let Some(created) = &entry.created {
        text += &format!("Created at:\t{created}\n");
    }
    text += &format!("Mutable:\t{}\n", entry.is_mutable());
    text += &format!("Reclaimable:\t{}\n", entry.is_removable());
    text += &format!("Shared:\t\t{}\n", entry.shared);
    text += &format!("Size:\t\t{}\n", human_size(entry.size));
    text += &format!("Description:\t{}\n", entry.description);
    text += &format!("Last used:\t{}\n", ago(Some(&time(entry.last_used))));
    text + &format!("Type:\t\t{}\n", entry.record_type.word())
}

pub(crate) fn system_df(root: Option<PathBuf>, args: &SystemDfArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Trees)?;
    let survey = survey(&engine.store).map_err(gc_error)?;
    let images = engine
        .store
        .images()
        .list()
        .map_err(|error| CliError::caused("cannot list the images", &error))?;
    let mut ids: Vec<_> = images.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let containers = Containers::new(&engine.store)
        .list()
        .map_err(|error| CliError::caused("cannot list the containers", &error))?;
    let running = containers.iter().filter(|container| container.is_running()).count();
    let cache = survey.entries.iter().filter(|entry| entry.is_removable()).count();
    let needed = survey.total_size() - survey.cache_size();
    let rows = [
        ("Images", ids.len().to_string(), String::new(), needed, None),
        ("Containers", containers.len().to_string(), running.to_string(), 0, None),
        (
            "Build Cache",
            cache.to_string(),
            "0".to_owned(),
            survey.cache_size(),
            Some(survey.cache_size()),
        ),
    ];
    if args.format == "json" {
        for (name, total, active, size, free) in rows {
            say(json!({
                "Type": name,
                "TotalCount": total,
                "Active": active,
                "Size": size,
                "Reclaimable": free.unwrap_or_default(),
            }));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, total, active, size, free)| {
            let free = free.map(human_size).unwrap_or_default();
            vec![name.to_owned(), total, active, human_size(size), free]
        })
        .collect();
    table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn filters(texts: &[String]) -> Result<Vec<Filter>, CliError> {
    texts
        .iter()
        .map(|text| {
            text.parse::<Filter>()
                .map_err(|error| CliError::input(format!("invalid filter `{text}`: {error}")))
        })
        .collect()
}

/// What the user reads when the store cannot be surveyed or pruned.
pub(super) fn gc_error(error: GcError) -> CliError {
    match error {
        GcError::Store(error @ cache::StoreError::Busy { .. }) => {
            store_error(error).hint("builds and containers hold what they use; try when they ended")
        }
        GcError::Store(error) => store_error(error),
        error => CliError::caused("cannot look through the images", &error),
    }
}

fn time(nanoseconds: i64) -> String {
    let second = nanoseconds.div_euclid(1_000_000_000);
    jiff::Timestamp::from_second(second).unwrap_or_default().to_string()
}
