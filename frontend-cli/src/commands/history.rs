//! `strake history`: the last builds and what their steps printed.
//!
//! `docker history` shows an image and `docker buildx history` shows builds. Both have the word here:
//! with an image's name it is the one, with a subcommand or nothing the other.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::engine::{Engine, Needs};
use super::listing::{Field, Format};
use super::{ago, inspect, say, table};
use crate::args::{
    FormatArgs, HistoryArgs, HistoryCommand, HistoryInspectArgs, HistoryListArgs, HistoryLogsArgs,
    HistoryRemoveArgs, ImageHistoryArgs,
};
use crate::history::{Build, History, Status, Step, StepOutcome, log_file, unreadable};
use crate::progress::sanitize;
use crate::report::CliError;
use crate::template::Row;

/// Names of builds are printed up to this width.
const NAME_WIDTH: usize = 45;

/// A line of a log is never longer in memory.
const MAX_LINE: u64 = 1 << 20;

pub(crate) fn history(root: Option<PathBuf>, args: HistoryArgs) -> Result<ExitCode, CliError> {
    let HistoryArgs { command, no_trunc, quiet, image } = args;
    if let Some(image) = image {
        return inspect::history(root, &ImageHistoryArgs { no_trunc, quiet, image });
    }
    let command = command.unwrap_or_else(|| {
        let format = FormatArgs { format: "table".to_owned() };
        HistoryCommand::Ls(HistoryListArgs { filters: Vec::new(), no_trunc, quiet, format })
    });
    let engine = Engine::open(root, Needs::Documents)?;
    let history = History::of(&engine.store);
    match command {
        HistoryCommand::Ls(args) => list(&history, &args),
        HistoryCommand::Logs(args) => logs(&history, &args),
        HistoryCommand::Inspect(args) => show(&history, &args),
        HistoryCommand::Rm(args) => remove(&history, &args),
    }?;
    Ok(ExitCode::SUCCESS)
}

const FIELDS: &[Field] = &[
    ("ID", "BUILD ID"),
    ("Name", "NAME"),
    ("Status", "STATUS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("CompletedAt", "COMPLETED AT"),
    ("Duration", "DURATION"),
    ("Command", "COMMAND"),
    ("Context", "CONTEXT"),
    ("Dockerfile", "DOCKERFILE"),
    ("Target", "TARGET"),
    ("Tags", "TAGS"),
    ("Platforms", "PLATFORMS"),
    ("Error", "ERROR"),
];

fn listed(build: &Build) -> Row {
    Row::new()
        .with("ID", build.id.as_str())
        .with("Name", build.name.as_str())
        .with("Status", status(build.status))
        .with("CreatedAt", build.started.as_str())
        .with("CreatedSince", ago(Some(&build.started)))
        .with("CompletedAt", build.ended.clone())
        .with("Duration", duration(Some(&build.started), build.ended.as_deref()))
        .with("Command", build.command.join(" "))
        .with("Context", build.context.as_str())
        .with("Dockerfile", build.dockerfile.as_str())
        .with("Target", build.target.clone())
        .with("Tags", build.tags.clone())
        .with("Platforms", build.platforms.clone())
        .with("Error", build.error.clone())
}

fn list(history: &History, args: &HistoryListArgs) -> Result<(), CliError> {
    let format = Format::parse(&args.format.format, FIELDS)?;
    let filters =
        args.filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let builds = history.list().map_err(|error| unreadable(&error))?;
    let builds = builds.into_iter().map(|(build, _)| build);
    let builds: Vec<Build> =
        builds.filter(|build| filters.iter().all(|filter| filter.fits(build))).collect();
    if args.quiet {
        builds.iter().for_each(|build| say(&build.id));
        return Ok(());
    }
    if matches!(format, Format::Json) {
        for build in &builds {
            // The steps are for `inspect`.
            say(json(&Build { steps: Vec::new(), ..build.clone() })?);
        }
        return Ok(());
    }
    if format.print(builds.iter().map(listed))? {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = builds
        .iter()
        .map(|build| {
            let name = sanitize(&build.name, false);
            let name = match args.no_trunc {
                true => name,
                false => console::truncate_str(&name, NAME_WIDTH, "…").into_owned(),
            };
            vec![
                build.id.clone(),
                name,
                status(build.status).to_owned(),
                ago(Some(&build.started)),
                duration(Some(&build.started), build.ended.as_deref()),
            ]
        })
        .collect();
    table(&["BUILD ID", "NAME", "STATUS", "CREATED AT", "DURATION"], &rows);
    Ok(())
}

fn show(history: &History, args: &HistoryInspectArgs) -> Result<(), CliError> {
    let format = Format::parse(&args.format.format, FIELDS)?;
    let (build, _) = history.find(args.build.as_deref())?;
    if matches!(format, Format::Json) {
        say(json(&build)?);
        return Ok(());
    }
    if format.print(std::iter::once(listed(&build)))? {
        return Ok(());
    }
    let line = |name: &str, value: &str| {
        if !value.is_empty() {
            say(format!("{:<13}{}", format!("{name}:"), sanitize(value, false)));
        }
    };
    line("Build", &build.id);
    line("Name", &build.name);
    line("Command", &build.command.join(" "));
    line("Context", &build.context);
    line("Dockerfile", &build.dockerfile);
    line("Target", build.target.as_deref().unwrap_or_default());
    line("Tags", &build.tags.join(", "));
    line("Platforms", &build.platforms.join(", "));
    line("Started", &build.started);
    line("Duration", &duration(Some(&build.started), build.ended.as_deref()));
    line("Status", status(build.status));
    let cached = build.steps.iter().filter(|step| step.outcome == StepOutcome::Cached).count();
    line("Steps", &format!("{}, {cached} cached", build.steps.len()));
    say("");
    let rows: Vec<Vec<String>> = build
        .steps
        .iter()
        .map(|step| {
            let lines = match step.lines {
                None => String::new(),
                Some((first, last)) if first == last => first.to_string(),
                Some((first, last)) => format!("{first}-{last}"),
            };
            vec![
                format!("#{}", step.number),
                outcome(step.outcome).to_owned(),
                duration(step.started.as_deref(), step.ended.as_deref()),
                lines,
                sanitize(&step.name, false),
            ]
        })
        .collect();
    table(&["STEP", "RESULT", "DURATION", "LINES", "NAME"], &rows);
    for warning in &build.warnings {
        say(format!("\nWARN: {}", sanitize(warning, false)));
    }
    if let Some(error) = &build.error {
        say(format!(
            "\n{}",
            error.lines().map(|line| sanitize(line, false)).collect::<Vec<_>>().join("\n")
        ));
    }
    Ok(())
}

fn logs(history: &History, args: &HistoryLogsArgs) -> Result<(), CliError> {
    let (build, dir) = history.find(args.build.as_deref())?;
    if build.status == Status::Running || build.status == Status::Killed {
        return logs_so_far(&build, &dir, args.step.as_deref());
    }
    let wanted = |step: &&Step| match &args.step {
        None => true,
        Some(text) => match text.trim_start_matches('#').parse::<usize>() {
            Ok(number) => step.number == number,
            Err(_) => step.name.contains(text.as_str()),
        },
    };
    let steps: Vec<&Step> = build.steps.iter().filter(wanted).collect();
    if let (Some(text), []) = (&args.step, &steps[..]) {
        return Err(CliError::input(format!("the build {} has no step `{text}`", build.id))
            .hint(format!("`strake history inspect {}` lists its steps", build.id)));
    }
    for step in steps {
        print_step(&dir, step)
            .map_err(|error| CliError::caused("the log cannot be read", &error))?;
    }
    Ok(())
}

/// What the steps printed of a build that has not come to its end. What else is known of its steps is
/// written down at the end only.
fn logs_so_far(build: &Build, dir: &Path, step: Option<&str>) -> Result<(), CliError> {
    let unreadable = |error| CliError::caused("the logs cannot be read", &error);
    let wanted = match step.map(|text| text.trim_start_matches('#').parse::<usize>()) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => {
            return Err(CliError::input(
                "the names of the steps are known when the build has ended",
            )
            .hint("name a step by its number, or none"));
        }
    };
    let mut numbers = Vec::new();
    for entry in fs_err::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let number = name.to_string_lossy().strip_suffix(".log").map(str::parse::<usize>);
        numbers.extend(number.and_then(Result::ok));
    }
    numbers.retain(|number| wanted.is_none_or(|wanted| wanted == *number));
    numbers.sort_unstable();
    let state = match build.status {
        Status::Running => "still runs: this is what its steps have printed up to now",
        _ => "was killed: this is what its steps had printed until then",
    };
    say(format!("The build {} {state}.", build.id));
    for number in numbers {
        say(format!("\n#{number}"));
        print_log(dir, number).map_err(unreadable)?;
    }
    Ok(())
}

/// As the plain progress shows a step.
fn print_step(dir: &Path, step: &Step) -> std::io::Result<()> {
    let number = step.number;
    say(format!("#{number} {}", sanitize(&step.name, false)));
    if !print_log(dir, number)? {
        return Ok(());
    }
    let last = match step.outcome {
        StepOutcome::Done => {
            format!("DONE {}", duration(step.started.as_deref(), step.ended.as_deref()))
        }
        StepOutcome::Cached => "CACHED".to_owned(),
        StepOutcome::Failed => {
            format!("ERROR: {}", sanitize(step.error.as_deref().unwrap_or_default(), false))
        }
        StepOutcome::Canceled => "CANCELED".to_owned(),
    };
    say(format!("#{number} {last}\n"));
    Ok(())
}

/// What a step printed, if anything. `false` if nobody reads on.
fn print_log(dir: &Path, number: usize) -> std::io::Result<bool> {
    let file = match fs_err::File::open(log_file(dir, number)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    let mut out = std::io::stdout().lock();
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    while std::io::Read::take(&mut file, MAX_LINE).read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let text = sanitize(text.trim_end_matches(['\n', '\r']), false);
        // A closed pipe is the reader's choice, not an error.
        if writeln!(out, "#{number} {text}").is_err() {
            return Ok(false);
        }
        line.clear();
    }
    Ok(true)
}

fn remove(history: &History, args: &HistoryRemoveArgs) -> Result<(), CliError> {
    let doomed = match args.all {
        true => history.list().map_err(|error| unreadable(&error))?,
        false => args
            .builds
            .iter()
            .map(|text| history.find(Some(text)))
            .collect::<Result<Vec<_>, _>>()?,
    };
    for (build, dir) in doomed {
        History::remove(&dir)
            .map_err(|error| CliError::caused("the build cannot be forgotten", &error))?;
        say(build.id);
    }
    Ok(())
}

/// `status=error`, `tag~=app`.
struct Filter {
    field: String,
    value: String,
    /// `~=`
    part: bool,
    /// `!=`
    negated: bool,
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, CliError> {
        let (left, value) = text.split_once('=').ok_or_else(|| {
            CliError::input(format!("invalid filter `{text}`: expected FIELD=VALUE"))
        })?;
        let field = left.trim_end_matches(['!', '~']).to_owned();
        if !matches!(field.as_str(), "status" | "ref" | "tag" | "name") {
            return Err(CliError::input(format!("unknown filter `{field}`"))
                .hint("known are status, ref, tag, name"));
        }
        let (part, negated) = (left.ends_with('~'), left.ends_with('!'));
        Ok(Filter { field, value: value.to_lowercase(), part, negated })
    }

    fn fits(&self, build: &Build) -> bool {
        let equal = |text: &str| match self.part {
            true => text.to_lowercase().contains(&self.value),
            false => text.to_lowercase() == self.value,
        };
        let fits = match self.field.as_str() {
            "status" => equal(status(build.status)),
            "ref" => build.id.starts_with(&self.value),
            "tag" => build.tags.iter().any(|tag| equal(tag)),
            _ => equal(&build.name),
        };
        fits != self.negated
    }
}

fn json(build: &Build) -> Result<String, CliError> {
    serde_json::to_string(build)
        .map_err(|error| CliError::internal(format!("a build cannot be printed: {error}")))
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Running => "Running",
        Status::Completed => "Completed",
        Status::Error => "Error",
        Status::Canceled => "Canceled",
        Status::Killed => "Killed",
    }
}

fn outcome(outcome: StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Done => "done",
        StepOutcome::Cached => "cached",
        StepOutcome::Failed => "failed",
        StepOutcome::Canceled => "canceled",
    }
}

/// `0.3s`; nothing where one end is not known.
fn duration(from: Option<&str>, to: Option<&str>) -> String {
    let time = |text: Option<&str>| text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match (time(from), time(to)) {
        (Some(from), Some(to)) => format!("{:.1}s", to.duration_since(from).as_secs_f64().max(0.0)),
        _ => String::new(),
    }
}
