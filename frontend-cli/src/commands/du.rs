//! `strake du`: what the build cache occupies.

use std::path::PathBuf;
use std::process::ExitCode;

use cache::gc::{Entry, Filter, GcError, survey};

use super::engine::{Engine, Needs, store_error};
use super::listing::{Field, Format};
use super::{ago, human_size, say, table};
use crate::args::DuArgs;
use crate::progress::sanitize;
use crate::report::CliError;
use crate::template::Row;

pub(crate) fn du(root: Option<PathBuf>, args: &DuArgs) -> Result<ExitCode, CliError> {
    let format = match args.verbose {
        true => Format::Pretty,
        false => Format::parse_or_pretty(&args.format, FIELDS)?,
    };
    let filters = filters(&args.filters)?;
    let engine = Engine::open(root, Needs::Trees)?;
    let survey = survey(&engine.store).map_err(gc_error)?;
    let mut entries: Vec<&Entry> = survey
        .entries
        .iter()
        .filter(|entry| filters.iter().all(|filter| filter.fits(entry)))
        .collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.size));
    if format.print(entries.iter().map(|entry| listed(entry)))? {
        return Ok(ExitCode::SUCCESS);
    }
    if matches!(format, Format::Pretty) {
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

const FIELDS: &[Field] = &[
    ("ID", "ID"),
    ("Parents", "PARENTS"),
    ("CreatedAt", "CREATED AT"),
    ("LastUsedAt", "LAST ACCESSED"),
    ("UsageCount", "USAGE COUNT"),
    ("Mutable", "MUTABLE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("InUse", "IN USE"),
    ("Shared", "SHARED"),
    ("Size", "SIZE"),
    ("Description", "DESCRIPTION"),
    ("Type", "TYPE"),
];

/// Sizes are bytes and times times in JSON; people read them as in the table.
pub(super) fn listed(entry: &Entry) -> Row {
    let used = time(entry.last_used);
    let ago = ago(Some(&used));
    Row::new()
        .with("ID", entry.object.id())
        .with("Parents", entry.parent.iter().map(ToString::to_string).collect::<Vec<_>>())
        .with("CreatedAt", entry.created.clone())
        .shown("LastUsedAt", used, ago)
        .with("UsageCount", entry.usage_count)
        .with("Mutable", entry.is_mutable())
        .with("Reclaimable", entry.is_removable())
        .with("InUse", entry.in_use)
        .with("Shared", entry.shared)
        .shown("Size", entry.size, human_size(entry.size))
        .with("Description", entry.description.as_str())
        .with("Type", entry.record_type.word())
}

/// Everything that is known of an entry, in the lines that buildx prints.
pub(super) fn in_full(entry: &Entry) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        text += &format!("{:<14}{value}\n", format!("{name}:"));
    };
    line("ID", &entry.object.id());
    if let Some(parent) = &entry.parent {
        line("Parents", &format!("\n - {parent}"));
    }
    if let Some(created) = &entry.created {
        line("Created at", created);
    }
    line("Mutable", &entry.is_mutable().to_string());
    line("Reclaimable", &entry.is_removable().to_string());
    line("Shared", &entry.shared.to_string());
    line("Size", &human_size(entry.size));
    if !entry.description.is_empty() {
        line("Description", &sanitize(&entry.description, false));
    }
    if let Some(count) = entry.usage_count {
        line("Usage count", &count.to_string());
    }
    if entry.last_used > 0 {
        line("Last used", &ago(Some(&time(entry.last_used))));
    }
    line("Type", entry.record_type.word());
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
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

pub(super) fn time(nanoseconds: i64) -> String {
    let second = nanoseconds.div_euclid(1_000_000_000);
    jiff::Timestamp::from_second(second).unwrap_or_default().to_string()
}
