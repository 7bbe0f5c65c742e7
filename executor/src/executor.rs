//! One process in one container.

use std::sync::Arc;

use cache::snapshot::ActiveSnapshot;
use runtime::{ExitStatus, Pty, Spawner, WindowSize};
use solver::LogSink;

use crate::{ExecutorError, Process, ProcessMount};

/// Runs processes. Clones share everything.
#[derive(Debug, Clone)]
pub struct Executor {
    spawner: Arc<Spawner>,
}

/// Where the standard streams of a process lead.
#[derive(Debug, Clone)]
pub enum ProcessIo {
    /// To our own output; with our own standard input or with none.
    Inherit {
        /// The process reads our standard input.
        stdin: bool,
    },
    /// A pseudo-terminal of its own: see [`RunningProcess::take_pty`].
    Terminal {
        /// Its first size.
        size: WindowSize,
    },
    /// To the log of a vertex, without standard input.
    Log(LogSink),
}

impl Executor {
    /// An executor whose containers `spawner` starts.
    pub fn new(spawner: Arc<Spawner>) -> Self {
        Self { spawner }
    }

    /// Starts a process on `rootfs`. Dropping the future or the result kills it.
    pub async fn start(
        &self,
        process: &Process,
        rootfs: &ActiveSnapshot,
        mounts: Vec<ProcessMount>,
        io: ProcessIo,
    ) -> Result<RunningProcess, ExecutorError> {
        let _ = (&self.spawner, process, rootfs, mounts, io);
        todo!()
    }

    /// Runs a process to its end.
    pub async fn run(
        &self,
        process: &Process,
        rootfs: &ActiveSnapshot,
        mounts: Vec<ProcessMount>,
        io: ProcessIo,
    ) -> Result<ExitStatus, ExecutorError> {
        self.start(process, rootfs, mounts, io).await?.wait().await
    }
}

/// A process that was started. Dropped, it and everything it started is killed.
#[derive(Debug)]
pub struct RunningProcess {}

impl RunningProcess {
    /// Its process id as we see it.
    pub fn pid(&self) -> i32 {
        todo!()
    }

    /// Its terminal, once, with [`ProcessIo::Terminal`].
    pub fn take_pty(&mut self) -> Option<Pty> {
        todo!()
    }

    /// Sends it a signal; no error if it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), ExecutorError> {
        let _ = signal;
        todo!()
    }

    /// Waits for its end, and until its log is complete. May be called again, and dropped halfway
    /// without ending the process.
    pub async fn wait(&mut self) -> Result<ExitStatus, ExecutorError> {
        todo!()
    }

    /// The last lines that it wrote to its log, oldest first.
    pub fn log_tail(&self) -> Vec<String> {
        todo!()
    }
}
