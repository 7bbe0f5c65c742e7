//! `strake ps` and `strake rm`: containers that were run without `--rm`.

use std::path::PathBuf;
use std::process::ExitCode;

use executor::{ContainerStatus, Containers};

use super::engine::{Engine, Needs};
use super::{ago, say, table};
use crate::args::{PsArgs, RmArgs};
use crate::report::{CliError, ErrorKind, Problem, chain};

pub(crate) fn list(root: Option<PathBuf>, args: &PsArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Documents)?;
    let mut containers = Containers::new(&engine.store)
        .list()
        .map_err(|error| CliError::caused("cannot list the containers", &error))?;
    if !args.all {
        containers.retain(|container| matches!(container.status, ContainerStatus::Running { .. }));
    }
    if args.quiet {
        for container in &containers {
            say(container.id.chars().take(12).collect::<String>());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = containers
        .iter()
        .map(|container| {
            vec![
                container.id.chars().take(12).collect(),
                container.image.clone(),
                container.command.join(" "),
                ago(Some(&container.created)),
                match container.status {
                    ContainerStatus::Created => "Created".to_owned(),
                    ContainerStatus::Running { .. } => "Up".to_owned(),
                    ContainerStatus::Exited { code } => format!("Exited ({code})"),
                },
                container.name.clone(),
            ]
        })
        .collect();
    table(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"], &rows);
    Ok(ExitCode::SUCCESS)
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
