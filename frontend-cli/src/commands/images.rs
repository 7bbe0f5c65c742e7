//! `strake images`, `rmi` and `tag`.

use std::path::PathBuf;
use std::process::ExitCode;

use cache::image::NamedImage;
use cache::oci::ImageName;

use super::engine::{Engine, Needs};
use super::listing::{Field, Format};
use super::{ago, human_size, say, table};
use crate::args::{ListArgs, RemoveArgs, TagArgs};
use crate::report::{CliError, ErrorKind, Problem};
use crate::template::Row;

const FIELDS: &[Field] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("Platform", "PLATFORM"),
];

pub(crate) fn list(root: Option<PathBuf>, args: &ListArgs) -> Result<ExitCode, CliError> {
    let format = Format::parse(&args.format.format, FIELDS)?;
    let engine = Engine::open(root, Needs::Documents)?;
    let mut rows = engine
        .store
        .images()
        .list()
        .map_err(|error| CliError::caused("cannot list the images", &error))?;
    if let Some(filter) = &args.name {
        rows.retain(|row| row.name.as_ref().is_some_and(|name| is_of(name, filter)));
    }
    if args.quiet {
        let mut seen = Vec::new();
        for row in &rows {
            if !seen.contains(&row.id) {
                say(id(row, args.no_trunc));
                seen.push(row.id);
            }
        }
    } else if format.print(rows.iter().map(|row| listed(row, args.no_trunc)))? {
    } else {
        let mut head = vec!["REPOSITORY", "TAG"];
        if args.digests {
            head.push("DIGEST");
        }
        head.extend(["IMAGE ID", "CREATED", "SIZE"]);
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let mut cells = vec![repository(row), tag_of(row)];
                if args.digests {
                    cells.push(row.manifest.to_string());
                }
                cells.extend([
                    id(row, args.no_trunc),
                    ago(row.created.as_deref()),
                    human_size(row.size),
                ]);
                cells
            })
            .collect();
        table(&head, &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(row: &NamedImage, no_trunc: bool) -> Row {
    let whole = row.id.to_string();
    Row::new()
        .shown("ID", whole, id(row, no_trunc))
        .with("Repository", repository(row))
        .with("Tag", tag_of(row))
        .with("Digest", row.manifest.to_string())
        .with("CreatedAt", row.created.clone())
        .with("CreatedSince", ago(row.created.as_deref()))
        .with("Size", human_size(row.size))
        .with("Platform", row.platform.to_string())
}

/// Whether an image has the name, or the repository, that was asked for.
fn is_of(name: &ImageName, filter: &str) -> bool {
    match filter.parse::<ImageName>() {
        Ok(wanted) => {
            let has_tag = filter.rsplit('/').next().is_some_and(|last| last.contains(':'));
            wanted.registry() == name.registry()
                && wanted.repository() == name.repository()
                && (!has_tag || wanted.tag() == name.tag())
        }
        Err(_) => false,
    }
}

fn repository(row: &NamedImage) -> String {
    row.name.as_ref().map_or_else(|| "<none>".into(), ImageName::familiar_repository)
}

fn tag_of(row: &NamedImage) -> String {
    row.name.as_ref().and_then(ImageName::tag).unwrap_or("<none>").to_owned()
}

fn id(row: &NamedImage, whole: bool) -> String {
    if whole { row.id.to_string() } else { row.id.short() }
}

pub(crate) fn tag(root: Option<PathBuf>, args: &TagArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Documents)?;
    let image = engine.find_image(&args.source)?;
    let name: ImageName = args.target.parse().map_err(|error| {
        CliError::input(format!("invalid image name `{}`: {error}", args.target))
    })?;
    engine
        .store
        .images()
        .tag(&image, &name)
        .map_err(|error| CliError::caused("cannot name the image", &error))?;
    Ok(ExitCode::SUCCESS)
}

/// Each image is tried, whatever became of the others.
pub(crate) fn remove(root: Option<PathBuf>, args: &RemoveArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Trees)?;
    let failed = args.images.iter().filter_map(|text| remove_one(&engine, text, args.force).err());
    let problems: Vec<Problem> = failed.map(|problem| *problem).collect();
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::new(ErrorKind::Input, problems))
}

fn remove_one(engine: &Engine, text: &str, force: bool) -> Result<(), Box<Problem>> {
    let images = engine.store.images();
    let failed = |error: cache::image::ImageError| {
        Box::new(Problem::new(format!("cannot remove {text}")).note(crate::report::chain(&error)))
    };
    let image = match engine.find_image(text) {
        Ok(image) => image,
        Err(_) => return Err(Box::new(Problem::new(format!("no such image: {text}")))),
    };
    let names: Vec<ImageName> = images
        .list()
        .map_err(failed)?
        .into_iter()
        .filter(|row| row.id == image.config_digest)
        .filter_map(|row| row.name)
        .collect();
    let own_name = text.parse::<ImageName>().ok().filter(|name| names.contains(name));
    match own_name {
        // A name is taken away; the image goes with its last one.
        Some(name) if names.len() > 1 => {
            images.untag(&name).map_err(failed)?;
            say(format!("Untagged: {}", name.familiar()));
            return Ok(());
        }
        None if names.len() > 1 && !force => {
            let names = names.iter().map(ImageName::familiar).collect::<Vec<_>>().join(", ");
            let id = image.config_digest.short();
            let problem = Problem::new(format!("image {id} has several names: {names}"));
            return Err(Box::new(problem.hint("remove it with all its names by --force")));
        }
        _ => {}
    }
    let removal = images.remove(&image).map_err(failed)?;
    for name in removal.untagged {
        say(format!("Untagged: {}", name.familiar()));
    }
    say(format!("Deleted: {}", image.config_digest));
    Ok(())
}
