//! `strake ps` and `strake rm`: containers that were run without `--rm`.

use std::path::PathBuf;
use std::process::ExitCode;

use executor::{Container, ContainerStatus, Containers};

use super::engine::{Engine, Needs};
use super::listing::{Field, Format};
use super::{ago, say, table};
use crate::args::{PsArgs, RmArgs};
use crate::progress::sanitize;
use crate::report::{CliError, ErrorKind, Problem, chain};
use crate::template::Row;

/// Docker prints commands of its table up to this width.
const COMMAND_WIDTH: usize = 40;

const FIELDS: &[Field] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
];

pub(crate) fn list(root: Option<PathBuf>, args: &PsArgs) -> Result<ExitCode, CliError> {
    let format = Format::parse(&args.format.format, FIELDS)?;
    let engine = Engine::open(root, Needs::Documents)?;
    let mut containers = Containers::new(&engine.store)
        .list()
        .map_err(|error| CliError::caused("cannot list the containers", &error))?;
    if !args.all {
        containers.retain(|container| matches!(container.status, ContainerStatus::Running { .. }));
    }
    if args.quiet {
        for container in &containers {
            say(id(container, args.no_trunc));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if format.print(containers.iter().map(|container| listed(container, args.no_trunc)))? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = containers
        .iter()
        .map(|container| {
            vec![
                id(container, args.no_trunc),
                container.image.clone(),
                command(container, args.no_trunc),
                ago(Some(&container.created)),
                status(container).0,
                container.name.clone(),
            ]
        })
        .collect();
    table(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn listed(container: &Container, no_trunc: bool) -> Row {
    let (status, state) = status(container);
    Row::new()
        .shown("ID", container.id.as_str(), id(container, no_trunc))
        .with("Image", container.image.as_str())
        .with("Command", command(container, no_trunc))
        .with("CreatedAt", container.created.as_str())
        .with("RunningFor", ago(Some(&container.created)))
        .with("State", state)
        .with("Status", status)
        .with("Names", container.name.as_str())
}

fn id(container: &Container, whole: bool) -> String {
    match whole {
        true => container.id.clone(),
        false => container.id.chars().take(12).collect(),
    }
}

pub(super) fn command(container: &Container, whole: bool) -> String {
    let command = sanitize(&container.command.join(" "), false);
    match whole {
        true => command,
        false => console::truncate_str(&command, COMMAND_WIDTH, "…").into_owned(),
    }
}

/// As docker tells it, and in one word.
pub(super) fn status(container: &Container) -> (String, &'static str) {
    match container.status {
        ContainerStatus::Created => ("Created".to_owned(), "created"),
        ContainerStatus::Running { .. } => ("Up".to_owned(), "running"),
        ContainerStatus::Exited { code } => (format!("Exited ({code})"), "exited"),
    }
}

/// Each container is tried, whatever became of the others.
pub(crate) fn remove(root: Option<PathBuf>, args: &RmArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Trees)?;
    let containers = Containers::new(&engine.store);
    let mut problems = Vec::new();
    for text in &args.containers {
        let removed = match containers.find(text) {
            Ok(Some(container)) => containers.remove(&container.id),
            Ok(None) => {
                problems.push(
                    Problem::new(format!("no such container: {text}"))
                        .hint("`strake ps -a` lists them"),
                );
                continue;
            }
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => say(text),
            Err(error) => {
                problems.push(Problem::new(format!("cannot remove {text}")).note(chain(&error)))
            }
        }
    }
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::new(ErrorKind::Input, problems))
}
