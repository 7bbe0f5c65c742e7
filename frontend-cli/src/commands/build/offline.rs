//! `--offline`: what of a command line contradicts it, before anything is opened.
//!
//! What only a step needs (a base image, an address of ADD, a layer) is found where the step fetches
//! it, since a step that is cached fetches nothing.

use super::options::{BuildOptions, ContextValue};
use super::output::OutputKind;
use super::source;
use crate::commands::engine::needs_network;
use crate::dockerfile::NamedContext;
use crate::report::CliError;

/// An error for the first thing that needs the network whatever is cached.
pub(super) fn check(options: &BuildOptions) -> Result<(), CliError> {
    if !options.offline {
        return Ok(());
    }
    let context = options.context.as_str();
    if context != "-" && source::BuildSource::is_foreign(context) {
        return Err(needs_network(&format!("the build context `{context}`")));
    }
    if let Some(file) = options.file.as_deref().filter(|file| source::is_http(file)) {
        return Err(needs_network(&format!("the Dockerfile `{file}`")));
    }
    for (name, value) in &options.contexts {
        if let ContextValue::Other(NamedContext::Http(url)) = value {
            return Err(needs_network(&format!("the build context `{name}`, `{url}`,")));
        }
    }
    let pushes = |kind: &OutputKind| matches!(kind, OutputKind::Image { push: true, .. });
    if options.outputs.iter().any(|output| pushes(&output.kind)) {
        return Err(needs_network("publishing the result"));
    }
    if options.network == parser::Network::Host {
        return Err(needs_network("--network host"));
    }
    Ok(())
}
