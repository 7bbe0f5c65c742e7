//! `strake inspect` and `strake image history`.

use std::path::PathBuf;
use std::process::ExitCode;

use cache::image::Image;
use cache::oci::ImageName;
use serde_json::{Value, json};

use super::engine::{Engine, Needs};
use super::listing::print_documents;
use super::{ago, human_size, say, table};
use crate::args::{ImageHistoryArgs, InspectArgs};
use crate::report::CliError;

/// Docker prints texts of its history table up to this width.
const CREATED_BY_WIDTH: usize = 45;

pub(crate) fn inspect(root: Option<PathBuf>, args: &InspectArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Documents)?;
    let images =
        args.images.iter().map(|text| engine.find_image(text)).collect::<Result<Vec<_>, _>>()?;
    let documents =
        images.iter().map(|image| document(&engine, image)).collect::<Result<Vec<_>, _>>()?;
    print_documents(args.format.as_deref(), documents, with_all_fields)?;
    Ok(ExitCode::SUCCESS)
}

/// The image in the shape that `docker image inspect` has.
fn document(engine: &Engine, image: &Image) -> Result<Value, CliError> {
    let rows = engine
        .store
        .images()
        .list()
        .map_err(|error| CliError::caused("cannot list the images", &error))?;
    let own: Vec<_> = rows.iter().filter(|row| row.id == image.config_digest).collect();
    let names: Vec<String> =
        own.iter().filter_map(|row| row.name.as_ref()).map(ImageName::familiar).collect();
    let digests: Vec<String> = own
        .iter()
        .filter_map(|row| row.name.as_ref())
        .map(|name| format!("{}@{}", name.familiar_repository(), image.manifest_digest))
        .collect();
    let config = serde_json::to_value(&image.config.config).map_err(|error| {
        CliError::internal(format!("the image's configuration cannot be printed: {error}"))
    })?;
    Ok(json!({
        "Id": image.config_digest,
        "RepoTags": names,
        "RepoDigests": digests,
        "Created": image.config.created,
        "Author": image.config.author.clone().unwrap_or_default(),
        "Architecture": image.config.architecture,
        "Variant": image.config.variant,
        "Os": image.config.os,
        "Size": own.first().map_or(0, |row| row.size),
        "Config": config,
        "RootFS": { "Type": "layers", "Layers": image.config.rootfs.diff_ids },
    }))
}

/// What a configuration need not have, and docker's templates may name all the same.
const CONFIG_FIELDS: [&str; 12] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// The document for a template, which is not to fail for what is empty.
fn with_all_fields(mut document: Value) -> Value {
    if let Some(Value::Object(config)) = document.get_mut("Config") {
        for field in CONFIG_FIELDS {
            config.entry(field).or_insert(Value::Null);
        }
    }
    document
}

pub(crate) fn history(
    root: Option<PathBuf>,
    args: &ImageHistoryArgs,
) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Documents)?;
    let image = engine.find_image(&args.image)?;
    let mut sizes = image.manifest.layers().iter().map(|layer| layer.size());
    let mut rows = Vec::new();
    for entry in &image.config.history {
        let size = match entry.empty_layer {
            Some(true) => 0,
            _ => sizes.next().unwrap_or(0),
        };
        let created_by = entry.created_by.clone().unwrap_or_default().replace(['\n', '\t'], " ");
        let created_by = match args.no_trunc {
            true => created_by,
            false => console::truncate_str(&created_by, CREATED_BY_WIDTH, "…").into_owned(),
        };
        rows.push(vec![
            "<missing>".to_owned(),
            ago(entry.created.as_deref()),
            created_by,
            human_size(size),
            entry.comment.clone().unwrap_or_default(),
        ]);
    }
    rows.reverse();
    if let Some(first) = rows.first_mut() {
        let id = image.config_digest;
        first[0] = if args.no_trunc { id.to_string() } else { id.short() };
    }
    if args.quiet {
        for row in &rows {
            say(&row[0]);
        }
    } else {
        table(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}
