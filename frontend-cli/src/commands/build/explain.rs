//! What a build decided about its steps, kept until its end is known.
//!
//! The solve says it however it ends. An interrupted build drops all its work, so what is to outlive
//! that cannot be among it.

use std::sync::{Arc, Mutex, PoisonError};

use cache::StoreError;
use solver::Decisions;

use super::options::BuildOptions;
use super::record;
use super::source::BuildSource;
use crate::commands::engine::Engine;
use crate::commands::why::{self, Explanation};
use crate::report::CliError;

/// The decisions of the last solve of a build.
#[derive(Default)]
pub(super) struct Decided(Arc<Mutex<Option<Arc<Decisions>>>>);

impl Decided {
    /// Where a solve says them.
    pub(super) fn door(&self) -> impl FnOnce(Arc<Decisions>) + Send + 'static {
        let place = Arc::clone(&self.0);
        move |decisions| *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(decisions)
    }

    /// Writes them down for `strake why`, if there are any.
    pub(super) fn explain(
        &self,
        engine: &Engine,
        options: &BuildOptions,
        source: &BuildSource,
        error: Option<&CliError>,
    ) -> Result<Option<Explanation>, StoreError> {
        let decisions = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(decisions) = decisions else { return Ok(None) };
        let scope = why::scope(&source.origin, &source.file, options.target.as_deref());
        why::record(&engine.store, &scope, &decisions, record::status(error)).map(Some)
    }
}
