//! From a solution to images, archives and directories.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use cache::bundle::{Elsewhere, Imported, Tree};
use cache::image::document::digest_of;
use cache::image::far::layers_absent;
use cache::image::{Image, ImageError};
use cache::oci::{Descriptor, Digest, ImageName, Platform};
use cache::remote::{PushTarget, Registries};
use cache::snapshot::Snapshot;
use exporter::{
    ArchiveFormat, ArchiveOptions, AssembleOptions, Destination as Archive, LocalMode,
    LocalOptions, PushOptions, SaveImage,
};
use serde_json::json;

use super::explain::Decided;
use super::far::is_only_pushed;
use super::images::ImageResolver;
use super::options::BuildOptions;
use super::output::{Destination, Output, OutputKind};
use super::source::is_on;
use crate::commands::engine::{Engine, store_error};
use crate::commands::far::unavailable;
use crate::commands::stdout_takes_data;
use crate::dockerfile::Lowered;
use crate::progress::{Outcome, Progress, StepId};
use crate::report::CliError;

/// What came of one platform.
pub(super) struct Built {
    platform: Platform,
    snapshot: Option<Snapshot>,
    /// `SOURCE_DATE_EPOCH` of the command line or the Dockerfile.
    source_date: Option<i64>,
    /// Absent where only the files were asked for.
    image: Option<Image>,
}

impl Built {
    /// The image's id.
    pub(super) fn id(&self) -> Option<Digest> {
        self.image.as_ref().map(|image| image.config_digest)
    }
}

/// The files of an image that is to be made.
enum ImageTree {
    /// None of its own: those of its base.
    Base,
    /// A tree of another machine, that is not here.
    Far(Tree),
    Here(Option<Snapshot>),
}

/// See the module.
pub(super) struct Exporter<'a> {
    pub(super) engine: &'a Engine,
    pub(super) options: &'a BuildOptions,
    pub(super) registries: &'a Registries,
    pub(super) resolver: &'a ImageResolver,
    pub(super) imported: &'a Imported,
    /// Layers that are where they go, or may stay where they are, and not here.
    pub(super) elsewhere: Elsewhere,
    /// Is told which output failed.
    pub(super) decided: &'a Decided,
    pub(super) progress: &'a Progress,
}

impl Exporter<'_> {
    pub(super) async fn export(
        &self,
        targets: Vec<(Platform, Lowered, Option<solver::Output>)>,
    ) -> Result<Vec<Built>, CliError> {
        let mut built = Vec::new();
        for (platform, lowered, output) in targets {
            // Nobody asked for the files, and they need not be here.
            let unwanted = self.options.outputs.iter().all(Output::is_nothing);
            let mut far = None;
            let snapshot = match output.as_ref().and_then(|output| output.snapshot.as_ref()) {
                None => None,
                Some(_) if unwanted => None,
                Some(id) if self.imported.is_far(id) => {
                    let layers = self.imported.layers(&self.engine.store, id, &self.elsewhere);
                    far = layers
                        .map_err(|error| CliError::caused("cannot find the result", &error))?;
                    None
                }
                Some(id) => {
                    let snapshot = self.engine.store.snapshots().get(id).map_err(store_error)?;
                    Some(snapshot.ok_or_else(|| {
                        CliError::internal("the build's result is gone from the store")
                    })?)
                }
            };
            let wants_image = self.options.outputs.iter().any(Output::is_image);
            let tree = match (output, far) {
                (None, _) => ImageTree::Base,
                (_, Some(far)) => ImageTree::Far(far),
                _ => ImageTree::Here(snapshot.clone()),
            };
            let image = match wants_image {
                true => Some(self.assemble(&lowered, tree).await?),
                false => None,
            };
            let source_date = lowered.source_date;
            built.push(Built { platform, snapshot, source_date, image });
        }
        for output in &self.options.outputs {
            self.write(output, &built).await.inspect_err(|_| self.decided.failed_at(output))?;
        }
        self.write_files(&built)?;
        Ok(built)
    }

    async fn assemble(&self, lowered: &Lowered, tree: ImageTree) -> Result<Image, CliError> {
        let step = self.progress.begin("exporting to image");
        let may_be_far = !matches!(tree, ImageTree::Here(_));
        let base = self.base(lowered).cloned();
        let (store, config) = (self.engine.store.clone(), lowered.config.clone());
        let options = AssembleOptions {
            source_date_epoch: lowered.source_date,
            unrecorded: lowered.unrecorded.clone(),
            ..AssembleOptions::default()
        };
        let assembled = tokio::task::spawn_blocking(move || {
            let base = base.as_ref();
            let image = match (tree, base) {
                (ImageTree::Far(tree), _) => {
                    exporter::assemble_far(&store, &tree, base, config, &options)
                }
                (ImageTree::Base, Some(base)) => {
                    exporter::assemble_on(&store, base, config, &options)
                }
                (ImageTree::Base, None) => {
                    return Err(CliError::internal("the base image was not resolved"));
                }
                (ImageTree::Here(tree), _) => {
                    exporter::assemble(&store, tree.as_ref(), base, config, &options)
                }
            };
            image.map_err(|error| CliError::caused("cannot make the image", &error))
        });
        let assembled = assembled.await.map_err(|error| CliError::internal(error.to_string()))?;
        let noted = assembled.and_then(|image| {
            if may_be_far {
                self.note_places(&image, lowered)?;
            }
            Ok(image)
        });
        self.settle(step, noted)
    }

    fn base(&self, lowered: &Lowered) -> Option<&Image> {
        lowered.base.as_ref().and_then(|request| self.resolver.found.get(request))
    }

    /// Layers that are not here lie where the base's lie.
    fn note_places(&self, image: &Image, lowered: &Lowered) -> Result<(), CliError> {
        let failed = |error: &ImageError| CliError::caused("cannot make the image", error);
        let (store, images) = (&self.engine.store, self.engine.store.images());
        let (Some(base), Some(request)) = (self.base(lowered), &lowered.base) else {
            return Ok(());
        };
        if layers_absent(store, image).map_err(|error| failed(&error))?.is_empty() {
            return Ok(());
        }
        let mut places = images.places(&base.manifest_digest).map_err(|error| failed(&error))?;
        if places.is_empty() {
            places.push(request.name.clone());
        }
        images.add_places(image, &places).map_err(|error| failed(&error))
    }

    async fn write(&self, output: &Output, built: &[Built]) -> Result<(), CliError> {
        let names: Vec<ImageName> =
            self.options.tags.iter().chain(&output.names).cloned().collect();
        match &output.kind {
            OutputKind::CacheOnly => Ok(()),
            OutputKind::Image { push, push_by_digest } => {
                let step = self.progress.begin("naming the image");
                let result = self.name(built, &names, step);
                self.settle(step, result)?;
                match push {
                    true => self.push(output, built, &names, *push_by_digest).await,
                    false => Ok(()),
                }
            }
            OutputKind::Oci { dest, is_directory } => {
                let step = self.progress.begin("exporting to oci image format");
                let result =
                    self.archive(output, ArchiveFormat::Oci, dest, *is_directory, built, &names);
                self.settle(step, result.await)
            }
            OutputKind::Docker { dest } => {
                if self.makes_index(built) {
                    return Err(CliError::input(
                        "docker exporter does not currently support exporting manifest lists",
                    )
                    .hint("build one platform, or use type=oci"));
                }
                let step = self.progress.begin("exporting to docker image format");
                let result =
                    self.archive(output, ArchiveFormat::Docker, dest, false, built, &names);
                self.settle(step, result.await)
            }
            OutputKind::Tar { dest, split } => {
                let step = self.progress.begin("exporting to client tarball");
                let result = self.tar(dest, *split, built);
                self.settle(step, result)
            }
            OutputKind::Local { dest, delete, split } => {
                let step = self.progress.begin("exporting to client directory");
                let result = self.local(dest, *delete, *split, built);
                self.settle(step, result)
            }
        }
    }

    fn settle<T>(&self, step: StepId, result: Result<T, CliError>) -> Result<T, CliError> {
        self.progress.finish(
            step,
            match &result {
                Ok(_) => Outcome::Done,
                Err(_) => Outcome::Failed("the export failed".into()),
            },
        );
        result
    }

    fn name(&self, built: &[Built], names: &[ImageName], step: StepId) -> Result<(), CliError> {
        let index = self.index(built);
        if let Some((descriptor, bytes)) = &index {
            self.progress.log(step, &format!("writing index {}", descriptor.digest()));
            self.engine.store.blobs().put(bytes).map_err(store_error)?;
        }
        let index = index.map(|(_, bytes)| Digest::of(&bytes));
        for image in built.iter().filter_map(|built| built.image.as_ref()) {
            self.progress.log(step, &format!("writing image {}", image.config_digest));
            for name in names {
                self.engine.store.images().tag_pulled(image, name, index).map_err(|error| {
                    CliError::caused(format!("cannot name the image {}", name.familiar()), &error)
                })?;
                self.progress.log(step, &format!("naming to {name}"));
            }
        }
        Ok(())
    }

    async fn push(
        &self,
        output: &Output,
        built: &[Built],
        names: &[ImageName],
        by_digest: bool,
    ) -> Result<(), CliError> {
        if names.is_empty() {
            return Err(CliError::input("nothing can be pushed without a name")
                .hint("name the image with -t NAME[:TAG]"));
        }
        let images: Vec<&Image> = built.iter().filter_map(|built| built.image.as_ref()).collect();
        let there = self.bring_for_push(output, &images, names).await?;
        let options = PushOptions {
            form: output.form,
            target: if by_digest { PushTarget::Digest } else { PushTarget::Name },
            annotations: output.annotations.clone(),
            there,
        };
        for name in names {
            let step = self.progress.begin(&format!("pushing {name}"));
            let progress = |_: &cache::oci::Descriptor, _: u64, _: u64| {};
            let (store, registries) = (&self.engine.store, self.registries);
            let pushed = match images[..] {
                [image] if !self.makes_index(built) => {
                    exporter::push(store, registries, image, name, &options, &progress).await
                }
                _ => {
                    exporter::push_index(store, registries, &images, name, &options, &progress)
                        .await
                }
            };
            let digest = self.settle(
                step,
                pushed.map_err(|error| {
                    CliError::caused(format!("cannot push {}", name.familiar()), &error)
                }),
            )?;
            self.progress.log(step, &format!("pushed {name}@{digest}"));
        }
        for image in images {
            self.note_pushed(image, names).map_err(|error| {
                CliError::caused("cannot note where the image's layers are", &error)
            })?;
        }
        Ok(())
    }

    /// Layers that were not sent, since they are there, are found there from now on.
    fn note_pushed(&self, image: &Image, names: &[ImageName]) -> Result<(), ImageError> {
        match layers_absent(&self.engine.store, image)?.is_empty() {
            true => Ok(()),
            false => self.engine.store.images().add_places(image, names),
        }
    }

    /// Brings what must be sent here. Answers with the layers that are where the images go.
    async fn bring_for_push(
        &self,
        output: &Output,
        images: &[&Image],
        names: &[ImageName],
    ) -> Result<BTreeSet<Digest>, CliError> {
        // What is elsewhere and pushed is where it goes.
        let mut there: BTreeSet<Digest> =
            self.elsewhere.values().filter_map(|layer| digest_of(layer).ok()).collect();
        if !is_only_pushed(output) {
            self.bring(images).await?;
            return Ok(there);
        }
        let (store, progress) = (&self.engine.store, |_: &Descriptor, _: u64, _: u64| {});
        for image in images {
            let fetched =
                self.registries.fetch_for_push(store, image, names, &there, &progress).await;
            there.extend(fetched.map_err(|error| unavailable("cannot push the image", &error))?);
        }
        Ok(there)
    }

    /// Brings the layers of images here.
    async fn bring(&self, images: &[&Image]) -> Result<(), CliError> {
        let (store, progress) = (&self.engine.store, |_: &Descriptor, _: u64, _: u64| {});
        for image in images {
            let fetched =
                self.registries.fetch_to_send(store, image, &BTreeSet::new(), &progress).await;
            fetched.map_err(|error| unavailable("cannot write the image", &error))?;
        }
        Ok(())
    }

    async fn archive(
        &self,
        output: &Output,
        format: ArchiveFormat,
        dest: &Destination,
        is_directory: bool,
        built: &[Built],
        names: &[ImageName],
    ) -> Result<(), CliError> {
        let all: Vec<&Image> = built.iter().filter_map(|built| built.image.as_ref()).collect();
        self.bring(&all).await?;
        let images: Vec<SaveImage<'_>> = built
            .iter()
            .filter_map(|built| built.image.as_ref())
            .map(|image| SaveImage { image, names })
            .collect();
        let options = ArchiveOptions {
            format,
            form: output.form,
            annotations: output.annotations.clone(),
            index: self.makes_index(built),
        };
        let store = &self.engine.store;
        let written = match dest {
            Destination::File(path) if is_directory => {
                exporter::save_directory(store, &images, &options, path)
            }
            Destination::File(path) => {
                exporter::save(store, &images, &options, Archive::File(path))
            }
            Destination::Stdout => {
                stdout_takes_data()?;
                exporter::save(
                    store,
                    &images,
                    &options,
                    Archive::Writer(&mut std::io::stdout().lock()),
                )
            }
        };
        written.map(|_| ()).map_err(|error| CliError::caused("cannot write the archive", &error))
    }

    fn tar(
        &self,
        dest: &Destination,
        split: Option<bool>,
        built: &[Built],
    ) -> Result<(), CliError> {
        // The files are those of one build: whatever dates the first dates the others.
        let epoch = built.iter().find_map(|one| one.source_date);
        let places = self.places(split, built)?;
        let trees: Vec<(&str, Option<&Snapshot>)> = places
            .iter()
            .zip(built)
            .map(|(place, one)| (place.as_str(), one.snapshot.as_ref()))
            .collect();
        let written = match dest {
            Destination::File(path) => exporter::write_tars(&trees, epoch, Archive::File(path)),
            Destination::Stdout => {
                stdout_takes_data()?;
                let mut stdout = std::io::stdout().lock();
                exporter::write_tars(&trees, epoch, Archive::Writer(&mut stdout))
            }
        };
        written.map_err(|error| CliError::caused("cannot write the tar", &error))
    }

    fn local(
        &self,
        dest: &Path,
        delete: bool,
        split: Option<bool>,
        built: &[Built],
    ) -> Result<(), CliError> {
        let mut seen = BTreeSet::new();
        for (one, place) in built.iter().zip(self.places(split, built)?) {
            // What a platform before has written into the same directory stays.
            let delete = delete && seen.insert(place.clone());
            let options = LocalOptions {
                mode: if delete { LocalMode::Delete } else { LocalMode::Merge },
                source_date_epoch: one.source_date,
            };
            let directory = dest.join(place);
            exporter::write_local(one.snapshot.as_ref(), options, &directory).map_err(|error| {
                CliError::caused(
                    format!("cannot write the files to `{}`", directory.display()),
                    &error,
                )
            })?;
        }
        Ok(())
    }

    /// Whether the result is an index, be it of one platform (`BUILDKIT_MULTI_PLATFORM`).
    fn makes_index(&self, built: &[Built]) -> bool {
        built.len() > 1 || is_on(self.options.build_args.get("BUILDKIT_MULTI_PLATFORM"))
    }

    /// The index of what was built, as it is in the local store; `None` for a single image.
    fn index(&self, built: &[Built]) -> Option<(Descriptor, Vec<u8>)> {
        let images: Vec<&Image> = built.iter().filter_map(|built| built.image.as_ref()).collect();
        (self.makes_index(built) && !images.is_empty()).then(|| exporter::index(&images))
    }

    /// The directory of each platform's files: none of its own if it is the only one, unless the
    /// output says otherwise. Files of several platforms in one directory must not meet.
    fn places(&self, split: Option<bool>, built: &[Built]) -> Result<Vec<String>, CliError> {
        if split.unwrap_or_else(|| self.makes_index(built)) {
            return Ok(built
                .iter()
                .map(|one| one.platform.to_string().replace('/', "_"))
                .collect());
        }
        let trees: Vec<_> = built.iter().map(|one| one.snapshot.as_ref()).collect();
        let clash = exporter::first_clash(&trees)
            .map_err(|error| CliError::caused("cannot compare the platforms' files", &error))?;
        if let Some((path, first, second)) = clash {
            let [first, second] = [first, second].map(|index| &built[index].platform);
            return Err(CliError::input(format!(
                "cannot overwrite /{} of {first} with that of {second}: platform-split is off",
                path.display()
            ))
            .hint("leave platform-split=false away: each platform then has a directory"));
        }
        Ok(vec![String::new(); built.len()])
    }

    /// `--iidfile` and `--metadata-file`.
    fn write_files(&self, built: &[Built]) -> Result<(), CliError> {
        let image = built.iter().find_map(|built| built.image.as_ref());
        if let Some(path) = &self.options.iidfile {
            let image =
                image.ok_or_else(|| CliError::input("--iidfile needs an image as the output"))?;
            write_whole(path, image.config_digest.to_string().as_bytes())?;
        }
        if let Some(path) = &self.options.metadata_file {
            let names: Vec<String> = self.options.tags.iter().map(ToString::to_string).collect();
            let mut metadata = json!({});
            if let Some(image) = image {
                metadata["containerimage.config.digest"] = json!(image.config_digest);
                let index = self.index(built).map(|(_, bytes)| Digest::of(&bytes));
                let digest = index.unwrap_or(image.manifest_digest);
                metadata["containerimage.digest"] = json!(digest);
            }
            if !names.is_empty() {
                metadata["image.name"] = json!(names.join(","));
            }
            write_whole(path, format!("{metadata:#}\n").as_bytes())?;
        }
        Ok(())
    }
}

/// Refuses a `SOURCE_DATE_EPOCH` of the command line that is no time, before anything is opened.
pub(super) fn check_source_date_epoch(options: &BuildOptions) -> Result<(), CliError> {
    match options.build_args.get("SOURCE_DATE_EPOCH").map(String::as_str) {
        Some(text) if !text.is_empty() && text.parse::<i64>().is_err() => {
            let error = CliError::input(format!("invalid SOURCE_DATE_EPOCH: {text}"));
            Err(error.hint("it is a number of seconds since 1970"))
        }
        _ => Ok(()),
    }
}

/// Writes a file beside its final name and renames it, so that nobody reads half of it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let written = fs_err::File::create(&name)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs_err::rename(&name, path));
    written.map_err(|error| CliError::caused(format!("cannot write `{}`", path.display()), &error))
}
