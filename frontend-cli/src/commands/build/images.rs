//! Base images: their identities first, their layers only when a step needs them.

use std::collections::BTreeMap;

use cache::Store;
use cache::image::Image;
use cache::oci::{ImageName, Platform};
use cache::remote::{Registries, RemoteError};
use futures_util::future::try_join_all;

use crate::dockerfile::{ImageRequest, RequestedImage, ResolvedImage, ResolvedImages, nearest};
use crate::progress::{Outcome, Progress};
use crate::report::{CliError, ErrorKind, Excerpt, Problem, chain};

/// Finds images in the local store and in registries.
pub(crate) struct ImageResolver {
    pub(crate) store: Store,
    pub(crate) registries: Registries,
    /// Ask the registry even for what is here.
    pub(crate) pull: bool,
    /// Names of `oci-layout://` contexts that were loaded.
    pub(crate) found: BTreeMap<ImageRequest, Image>,
}

impl ImageResolver {
    /// Resolves what is not resolved yet, all at the same time. A name that is not found may be a
    /// misspelt one of `stages`.
    pub(super) async fn resolve(
        &mut self,
        requests: &[RequestedImage],
        stages: &[String],
        progress: &Progress,
        excerpt: &(dyn Fn(parser::Span) -> Excerpt + Sync),
    ) -> Result<(), CliError> {
        let this = &*self;
        let open = requests.iter().filter(|wanted| !this.found.contains_key(&wanted.request));
        let resolved = try_join_all(open.map(|wanted| async move {
            let request = &wanted.request;
            let step = progress.begin(&format!("[internal] load metadata for {}", request.name));
            match this.resolve_one(&request.name, &request.platform).await {
                Ok(image) => {
                    progress.finish(step, Outcome::Done);
                    Ok((request.clone(), image))
                }
                Err(error) => {
                    progress.finish(step, Outcome::Failed(error.to_string()));
                    if let Some(other) = this.other_platforms(request) {
                        let excerpt = wanted.span.map(excerpt);
                        return Err(platform_error(request, &other, &error, excerpt));
                    }
                    let near = nearest_stage(&request.name, stages);
                    Err(resolve_error(&request.name, &error, wanted.span.map(excerpt), near))
                }
            }
        }))
        .await?;
        self.found.extend(resolved);
        Ok(())
    }

    /// The local store first: no socket is opened for what is here.
    pub(crate) async fn resolve_one(
        &self,
        name: &ImageName,
        platform: &Platform,
    ) -> Result<Image, RemoteError> {
        if !self.pull
            && let Some(image) = self.store.images().get(name, platform)?
        {
            return Ok(image);
        }
        let resolved = self.registries.resolve(name, platform, self.store.blobs()).await?;
        // The next build finds it here; its layers follow when a step needs them.
        self.store.images().tag_pulled(&resolved.image, name, resolved.index)?;
        Ok(resolved.image)
    }

    /// The platforms for which the local store has an image that is wanted for another one.
    fn other_platforms(&self, request: &ImageRequest) -> Option<String> {
        let known = self.store.images().platforms(&request.name).ok()?;
        let mut known: Vec<String> = known.iter().map(ToString::to_string).collect();
        known.sort();
        known.dedup();
        (!known.is_empty() && !known.contains(&request.platform.to_string()))
            .then(|| known.join(", "))
    }

    /// What the lowering needs to know.
    pub(super) fn resolved(&self) -> ResolvedImages {
        let identity = |image: &Image| ResolvedImage {
            manifest: image.manifest_digest,
            config_digest: image.config_digest,
            config: image.config.clone(),
        };
        self.found.iter().map(|(request, image)| (request.clone(), identity(image))).collect()
    }
}

fn platform_error(
    request: &ImageRequest,
    known: &str,
    error: &RemoteError,
    excerpt: Option<Excerpt>,
) -> CliError {
    let (name, platform) = (request.name.familiar(), &request.platform);
    let mut problem =
        Problem::new(format!("image `{name}` is here for {known}, not for {platform}"))
            .note(chain(error));
    if let Some(excerpt) = excerpt {
        problem = problem.at(excerpt);
    }
    let problem = problem.hint(format!(
        "pull or load it for {platform}, or start from what is here: FROM --platform={} {name}",
        known.split(',').next().unwrap_or(known)
    ));
    CliError::new(ErrorKind::Environment, vec![problem])
}

pub(crate) fn resolve_error(
    name: &ImageName,
    error: &RemoteError,
    excerpt: Option<Excerpt>,
    near_stage: Option<&str>,
) -> CliError {
    let mut problem =
        Problem::new(format!("cannot resolve image `{}`", name.familiar())).note(chain(error));
    if let Some(excerpt) = excerpt {
        problem = problem.at(excerpt);
    }
    if let Some(stage) = near_stage {
        problem = problem.hint(format!("did you mean the stage `{stage}`?"));
    }
    let reach = match error {
        RemoteError::Offline { .. } => "leave out --offline",
        _ => "make its registry reachable",
    };
    problem = problem.hint(format!(
        "the image is not in the local store (`strake images`); import or load it there as `{}`, or {reach}",
        name.familiar()
    ));
    CliError::new(ErrorKind::Environment, vec![problem])
}

/// The stage that was meant by an image name without a registry of its own.
fn nearest_stage<'a>(name: &ImageName, stages: &'a [String]) -> Option<&'a str> {
    let written = name.familiar();
    let written = written.strip_suffix(":latest").unwrap_or(&written);
    nearest(written, stages.iter().map(String::as_str))
}
