//! Files over HTTP.

use solver::llb::HttpSource;
use solver::{Content, LogSink, Output};

use super::LocalWorker;
use crate::ExecutorError;

impl LocalWorker {
    pub(super) async fn http_state(&self, source: &HttpSource) -> Result<Content, ExecutorError> {
        let _ = source;
        todo!()
    }

    pub(super) async fn fetch_http(
        &self,
        source: &HttpSource,
        log: &LogSink,
    ) -> Result<Output, ExecutorError> {
        let _ = (source, log);
        todo!()
    }
}
