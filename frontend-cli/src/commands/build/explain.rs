//! What a build decided about its steps, kept until its end is known.
//!
//! The solve says it however it ends. An interrupted build drops all its work, so what is to outlive
//! that cannot be among it.

use std::sync::{Arc, Mutex, PoisonError};

use cache::StoreError;
use solver::Decisions;

use super::options::BuildOptions;
use super::output::Output;
use super::record;
use super::source::BuildSource;
use crate::commands::engine::Engine;
use crate::commands::why::{self, Explanation, Fault};
use crate::history::without_password;
use crate::report::CliError;

/// The decisions of the last solve of a build, and the output that failed.
#[derive(Default)]
pub(super) struct Decided {
    decisions: Arc<Mutex<Option<Arc<Decisions>>>>,
    failed_output: Mutex<Option<String>>,
}

impl Decided {
    /// Where a solve says them.
    pub(super) fn door(&self) -> impl FnOnce(Arc<Decisions>) + Send + 'static {
        let place = Arc::clone(&self.decisions);
        move |decisions| *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(decisions)
    }

    /// Notes that an output failed.
    pub(super) fn failed_at(&self, output: &Output) {
        let name = Some(output.to_string());
        *self.failed_output.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Writes down for `strake why` what was decided, or what the build ended with before.
    pub(super) fn explain(
        &self,
        engine: &Engine,
        options: &BuildOptions,
        source: &BuildSource,
        error: Option<&CliError>,
    ) -> Result<Option<Explanation>, StoreError> {
        let decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(decisions) = decisions else {
            if let Some(error) = error {
                unsolved(engine, options, error)?;
            }
            return Ok(None);
        };
        let output = self.failed_output.lock().unwrap_or_else(PoisonError::into_inner).take();
        let fault = error.map(|error| fault(options, error, output));
        let scope = why::scope(&source.origin, &source.file, options.target.as_deref());
        why::record(&engine.store, &scope, &decisions, record::status(error), fault).map(Some)
    }
}

/// Writes down for `strake why` what ended a build before its first step.
pub(super) fn unsolved(
    engine: &Engine,
    options: &BuildOptions,
    error: &CliError,
) -> Result<(), StoreError> {
    let fault = fault(options, error, None);
    why::record_unsolved(&engine.store, record::status(Some(error)), Some(fault))
}

fn fault(options: &BuildOptions, error: &CliError, output: Option<String>) -> Fault {
    let text = options.secrets.redactions().hide_text(&error.text());
    Fault { output, text: without_password(&text) }
}
