//! `strake system df`: what images, containers, volumes and the build cache occupy.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use cache::gc::{
    Entry, ImageUsage, Survey, VolumeUsage, image_usage, images_size, kept_size, survey, volumes,
};
use cache::oci::{Digest, ImageName, Platform};
use executor::{Container, Containers};
use serde_json::{Value, json};

use super::du::{gc_error, time};
use super::engine::{Engine, Needs};
use super::listing::{Field, Format};
use super::{ago, containers, human_size, say, table};
use crate::args::SystemDfArgs;
use crate::progress::sanitize;
use crate::report::CliError;
use crate::template::Row;

const FIELDS: &[Field] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// With `--verbose`, a template is given all of it at once, as with docker.
const VERBOSE_FIELDS: &[Field] = &[
    ("Images", "IMAGES"),
    ("Containers", "CONTAINERS"),
    ("Volumes", "VOLUMES"),
    ("BuildCache", "BUILD CACHE"),
];

/// Docker prints descriptions up to this width.
const DESCRIPTION_WIDTH: usize = 45;

/// Everything in the store. Sizes are bytes of disk.
struct Usage {
    survey: Survey,
    /// A row for each name.
    images: Vec<ImageUsage>,
    containers: Vec<(Container, u64)>,
    volumes: Vec<VolumeUsage>,
    /// The images of containers.
    active: Vec<Digest>,
}

pub(crate) fn system_df(root: Option<PathBuf>, args: &SystemDfArgs) -> Result<ExitCode, CliError> {
    let fields = if args.verbose { VERBOSE_FIELDS } else { FIELDS };
    let format = Format::parse(&args.format.format, fields)?;
    let engine = Engine::open(root, Needs::Trees)?;
    let usage = Usage::of(&engine)?;
    match args.verbose {
        false => {
            let rows = usage.summary();
            if !format.print(rows.iter().cloned())? {
                let cells = |row: &Row| FIELDS.iter().map(|(name, _)| row.text(name)).collect();
                let head: Vec<&str> = FIELDS.iter().map(|(_, head)| *head).collect();
                table(&head, &rows.iter().map(cells).collect::<Vec<_>>());
            }
        }
        true => {
            if !format.print(std::iter::once(usage.in_full()))? {
                usage.print_in_full();
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Usage {
    fn of(engine: &Engine) -> Result<Usage, CliError> {
        let store = &engine.store;
        let survey = survey(store).map_err(gc_error)?;
        let images = image_usage(store, &survey).map_err(gc_error)?;
        let listed = Containers::new(store)
            .list()
            .map_err(|error| CliError::caused("cannot list the containers", &error))?;
        let mut containers = Vec::new();
        let mut active = Vec::new();
        for container in listed {
            let size = match &container.snapshot {
                Some(id) => kept_size(store, id).map_err(gc_error)?,
                None => 0,
            };
            let found = store.images().find(&container.image, &Platform::host());
            let found =
                found.map_err(|error| CliError::caused("cannot look up an image", &error))?;
            active.extend(found.map(|image| image.config_digest));
            containers.push((container, size));
        }
        let volumes = volumes(store).map_err(gc_error)?;
        Ok(Usage { survey, images, containers, volumes, active })
    }

    fn summary(&self) -> [Row; 4] {
        let ids: BTreeSet<Digest> = self.images.iter().map(|usage| usage.image.id).collect();
        let active: BTreeSet<Digest> =
            self.active.iter().filter(|id| ids.contains(id)).copied().collect();
        let size = images_size(self.images.iter());
        let used = self.images.iter().filter(|usage| active.contains(&usage.image.id));
        let images = row("Images", ids.len(), active.len(), size, size - images_size(used));
        let running = self.containers.iter().filter(|(container, _)| container.is_running());
        let running = running.count();
        let size = self.containers.iter().map(|(_, size)| size).sum();
        let ended = self.containers.iter().filter(|(container, _)| !container.is_running());
        let ended = ended.map(|(_, size)| size).sum();
        let containers = row("Containers", self.containers.len(), running, size, ended);
        // Nothing removes a volume but its owner.
        let count = self.volumes.len();
        let size = self.volumes.iter().map(|volume| volume.size).sum();
        let volumes = row("Local Volumes", count, count, size, 0);
        let cache = || self.cache();
        let in_use = cache().filter(|entry| entry.in_use).count();
        let free = cache().filter(|entry| entry.is_removable()).map(|entry| entry.size).sum();
        let size = self.survey.cache_size();
        let cache = row("Build Cache", cache().count(), in_use, size, free);
        [images, containers, volumes, cache]
    }

    fn cache(&self) -> impl Iterator<Item = &Entry> {
        self.survey.entries.iter().filter(|entry| entry.is_cache())
    }

    fn containers_of(&self, id: &Digest) -> usize {
        self.active.iter().filter(|active| *active == id).count()
    }

    fn in_full(&self) -> Row {
        let images: Vec<Value> = self
            .images
            .iter()
            .map(|usage| {
                let (repository, tag) = names(usage);
                json!({
                    "ID": usage.image.id,
                    "Repository": repository,
                    "Tag": tag,
                    "CreatedAt": usage.image.created,
                    "Size": usage.size,
                    "SharedSize": usage.shared,
                    "UniqueSize": usage.size - usage.shared,
                    "Containers": self.containers_of(&usage.image.id),
                })
            })
            .collect();
        let containers: Vec<Value> = self
            .containers
            .iter()
            .map(|(container, size)| {
                let (status, state) = containers::status(container);
                json!({
                    "ID": container.id,
                    "Image": container.image,
                    "Command": container.command.join(" "),
                    "Size": size,
                    "CreatedAt": container.created,
                    "Status": status,
                    "State": state,
                    "Names": container.name,
                })
            })
            .collect();
        let volumes =
            self.volumes.iter().map(|volume| json!({ "Name": volume.name, "Size": volume.size }));
        let cache = self.cache().map(|entry| super::du::listed(entry).value);
        Row::new()
            .with("Images", images)
            .with("Containers", containers)
            .with("Volumes", volumes.collect::<Vec<_>>())
            .with("BuildCache", cache.collect::<Vec<_>>())
    }

    fn print_in_full(&self) {
        say("Images space usage:\n");
        let rows: Vec<Vec<String>> = self
            .images
            .iter()
            .map(|usage| {
                let (repository, tag) = names(usage);
                vec![
                    repository,
                    tag,
                    usage.image.id.short(),
                    ago(usage.image.created.as_deref()),
                    human_size(usage.size),
                    human_size(usage.shared),
                    human_size(usage.size - usage.shared),
                    self.containers_of(&usage.image.id).to_string(),
                ]
            })
            .collect();
        table(
            &[
                "REPOSITORY",
                "TAG",
                "IMAGE ID",
                "CREATED",
                "SIZE",
                "SHARED SIZE",
                "UNIQUE SIZE",
                "CONTAINERS",
            ],
            &rows,
        );
        say("\nContainers space usage:\n");
        let rows: Vec<Vec<String>> = self
            .containers
            .iter()
            .map(|(container, size)| {
                vec![
                    container.id.chars().take(12).collect(),
                    container.image.clone(),
                    containers::command(container, false),
                    human_size(*size),
                    ago(Some(&container.created)),
                    containers::status(container).0,
                    container.name.clone(),
                ]
            })
            .collect();
        table(&["CONTAINER ID", "IMAGE", "COMMAND", "SIZE", "CREATED", "STATUS", "NAMES"], &rows);
        say("\nLocal Volumes space usage:\n");
        let rows: Vec<Vec<String>> = self
            .volumes
            .iter()
            .map(|volume| vec![volume.name.clone(), human_size(volume.size)])
            .collect();
        table(&["VOLUME NAME", "SIZE"], &rows);
        say(format!("\nBuild cache usage: {}\n", human_size(self.survey.cache_size())));
        let rows: Vec<Vec<String>> = self
            .cache()
            .map(|entry| {
                let description = sanitize(&entry.description, false);
                vec![
                    entry.object.id().chars().take(12).collect(),
                    entry.record_type.word().to_owned(),
                    human_size(entry.size),
                    ago(entry.created.as_deref()),
                    ago(Some(&time(entry.last_used))),
                    entry.usage_count.map(|count| count.to_string()).unwrap_or_default(),
                    entry.shared.to_string(),
                    console::truncate_str(&description, DESCRIPTION_WIDTH, "…").into_owned(),
                ]
            })
            .collect();
        table(
            &[
                "CACHE ID",
                "CACHE TYPE",
                "SIZE",
                "CREATED",
                "LAST USED",
                "USAGE",
                "SHARED",
                "DESCRIPTION",
            ],
            &rows,
        );
    }
}

/// One line of the summary.
fn row(name: &'static str, total: usize, active: usize, size: u64, free: u64) -> Row {
    let percent = (free * 100).checked_div(size);
    let reclaimable = match percent {
        Some(percent) => format!("{} ({percent}%)", human_size(free)),
        None => human_size(free),
    };
    Row::new()
        .with("Type", name)
        .with("TotalCount", total)
        .with("Active", active)
        .shown("Size", size, human_size(size))
        .shown("Reclaimable", free, reclaimable)
}

fn names(usage: &ImageUsage) -> (String, String) {
    let none = || "<none>".to_owned();
    let name = usage.image.name.as_ref();
    let repository = name.map_or_else(none, ImageName::familiar_repository);
    (repository, name.and_then(ImageName::tag).map_or_else(none, str::to_owned))
}
