//! `strake save`, `load` and `import`.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cache::layer::Compression;
use cache::oci::{ImageConfiguration, ImageName, Platform};
use exporter::{ArchiveFormat as Format, ArchiveOptions, Destination, LayerForm, SaveImage};

use super::engine::{Engine, Needs, registries};
use super::far::bring_layers;
use super::{say, stdout_takes_data};
use crate::args::{ArchiveFormat, ImportArgs, LoadArgs, SaveArgs};
use crate::dockerfile::configuration_of;
use crate::report::CliError;

pub(crate) fn save(root: Option<PathBuf>, args: &SaveArgs) -> Result<ExitCode, CliError> {
    if args.output.is_none() {
        stdout_takes_data()?;
    }
    let engine = Engine::open(root, Needs::Trees)?;
    let images = args
        .images
        .iter()
        .map(|text| {
            let image = engine.find_image(text)?;
            // An id names nothing in the archive; a name does.
            let is_id = engine.store.images().by_id(text).ok().flatten().is_some();
            let names: Vec<ImageName> = text.parse().ok().filter(|_| !is_id).into_iter().collect();
            Ok((image, names))
        })
        .collect::<Result<Vec<_>, CliError>>()?;
    engine.block_on(async {
        let registries = registries(false);
        for (image, _) in &images {
            let what = format!("cannot save image {}", image.config_digest);
            bring_layers(&engine.store, &registries, image, &what).await?;
        }
        Ok(())
    })?;
    let images: Vec<SaveImage<'_>> =
        images.iter().map(|(image, names)| SaveImage { image, names }).collect();
    let format = match args.format {
        ArchiveFormat::DockerArchive => Format::Docker,
        ArchiveFormat::OciArchive => Format::Oci,
    };
    // Like docker's: what was never compressed goes as it is.
    let form = LayerForm { compression: Compression::None, force: false };
    let options = ArchiveOptions { format, form, ..ArchiveOptions::default() };
    let saved = match &args.output {
        Some(path) => exporter::save(&engine.store, &images, &options, Destination::File(path)),
        None => {
            let mut stdout = std::io::stdout().lock();
            exporter::save(&engine.store, &images, &options, Destination::Writer(&mut stdout))
        }
    };
    saved.map_err(|error| CliError::caused("cannot write the archive", &error))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn load(root: Option<PathBuf>, args: &LoadArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Trees)?;
    let loaded = match &args.input {
        Some(path) => {
            if !path.exists() {
                return Err(CliError::input(format!("there is no archive `{}`", path.display())));
            }
            match path.is_dir() {
                true => exporter::load_path(&engine.store, path),
                false => exporter::load_archive(&engine.store, opened(path)?),
            }
        }
        None => {
            refuse_terminal()?;
            exporter::load_archive(&engine.store, decompressed(std::io::stdin())?)
        }
    };
    let loaded = loaded.map_err(|error| CliError::caused("cannot load the archive", &error))?;
    engine.sync_later();
    for one in &loaded {
        if args.quiet {
            continue;
        }
        if one.names.is_empty() {
            say(format!("Loaded image ID: {}", one.image.config_digest));
        }
        for name in &one.names {
            say(format!("Loaded image: {}", name.familiar()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn import(root: Option<PathBuf>, args: &ImportArgs) -> Result<ExitCode, CliError> {
    let name: Option<ImageName> = args
        .name
        .as_deref()
        .map(|text| {
            text.parse()
                .map_err(|error| CliError::input(format!("invalid image name `{text}`: {error}")))
        })
        .transpose()?;
    let platform: Platform = match &args.platform {
        Some(text) => text
            .parse()
            .map_err(|error| CliError::input(format!("invalid platform `{text}`: {error}")))?,
        None => Platform::host(),
    };
    let mut config = ImageConfiguration {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        created: Some(jiff::Timestamp::now().to_string()),
        ..ImageConfiguration::default()
    };
    if !args.changes.is_empty() {
        config.config = configuration_of(&args.changes, &platform)
            .map_err(|message| CliError::input(format!("invalid --change: {message}")))?;
    }

    let engine = Engine::open(root, Needs::Trees)?;
    let message = args.message.as_deref();
    let image = if args.source == "-" {
        refuse_terminal()?;
        exporter::import(&engine.store, decompressed(std::io::stdin())?, config, message)
    } else {
        let archive = opened(Path::new(&args.source))?;
        exporter::import(&engine.store, archive, config, message)
    };
    let image = image
        .map_err(|error| CliError::caused(format!("cannot import `{}`", args.source), &error))?;
    if let Some(name) = &name {
        engine
            .store
            .images()
            .tag(&image, name)
            .map_err(|error| CliError::caused("cannot name the image", &error))?;
    }
    engine.sync_later();
    say(image.config_digest);
    Ok(ExitCode::SUCCESS)
}

fn opened(path: &Path) -> Result<Box<dyn Read + Send>, CliError> {
    let file = fs_err::File::open(path)
        .map_err(|error| CliError::caused("cannot read the archive", &error))?;
    decompressed(file)
}

/// Archives come in more compressions than layers may have.
fn decompressed(stream: impl Read + Send + 'static) -> Result<Box<dyn Read + Send>, CliError> {
    executor::context::without_foreign_compression(stream)
        .map_err(|error| CliError::caused("cannot read the archive", &error))
}

fn refuse_terminal() -> Result<(), CliError> {
    if std::io::stdin().is_terminal() {
        return Err(CliError::input("standard input is a terminal, not an archive")
            .hint("name a file, or pipe the archive into the command"));
    }
    Ok(())
}
