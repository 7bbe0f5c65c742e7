//! Git checkouts.

use solver::llb::GitSource;
use solver::{Content, LogSink, Output};

use super::LocalWorker;
use crate::ExecutorError;

impl LocalWorker {
    pub(super) async fn git_state(&self, source: &GitSource) -> Result<Content, ExecutorError> {
        let _ = source;
        todo!()
    }

    pub(super) async fn fetch_git(
        &self,
        source: &GitSource,
        log: &LogSink,
    ) -> Result<Output, ExecutorError> {
        let _ = (source, log);
        todo!()
    }
}
