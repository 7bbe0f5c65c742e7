//! COPY, ADD and WORKDIR: file operations on a new snapshot.
//!
//! The index remembers, for each step and each context it reads, the snapshot that the step's last
//! run made: a run on a context that has changed takes from it what has not.

use std::sync::atomic::Ordering;

use solver::key::op_digest;
use solver::llb::{FileAction, FileOp, Op, SourceOp, Vertex};
use solver::{InputValue, LogSink, Output};

use cache::hash::FingerprintBuilder;
use cache::snapshot::{ActiveSnapshot, Snapshot};

use super::{CancelOnDrop, LocalWorker, input};
use crate::ExecutorError;
use crate::copy::{FileOperation, Reuse};
use crate::executor::blocking;
use crate::source_tree::SourceTree;

/// Where the index keeps the snapshot that each step's last run made.
const LAST_RUNS: &str = "copies";

/// An action, and where it copies from.
type Actions = [(FileAction, Option<SourceTree>)];

/// Does all of a step; says which patterns matched nothing. `None` if the tree cannot be what it
/// should: see [`FileOperation::finish`].
fn run(
    operation: FileOperation,
    actions: &Actions,
    active: &ActiveSnapshot,
) -> Result<Option<Vec<String>>, ExecutorError> {
    let mut unmatched = Vec::new();
    for (action, source) in actions {
        match (action, source) {
            (FileAction::Copy(copy), Some(source)) => {
                unmatched.extend(operation.copy(copy, source)?.unmatched);
            }
            (FileAction::Mkdir(mkdir), _) => operation.mkdir(mkdir)?,
            (FileAction::Copy(_), None) => {}
        }
    }
    Ok(operation.finish(active)?.then_some(unmatched))
}

impl LocalWorker {
    pub(super) async fn file_op(
        &self,
        vertex: &Vertex,
        op: &FileOp,
        inputs: &[InputValue],
        log: &LogSink,
    ) -> Result<Output, ExecutorError> {
        let base = self.rootfs(inputs)?;
        let mut actions = Vec::new();
        for action in &op.actions {
            let source = match action {
                FileAction::Copy(copy) => Some(self.tree(input(inputs, copy.input)?)?),
                FileAction::Mkdir(_) => None,
            };
            actions.push((action.clone(), source));
        }
        let cancel = CancelOnDrop::default();
        let cancelled = cancel.flag.clone();
        let owners = self.owners;
        let step = self.step_on_contexts(vertex, inputs)?;
        let earlier = match &step {
            // Without cache, what lies in the store is not to be trusted.
            Some(step) if !vertex.meta.no_cache => self.last_run(step)?,
            _ => None,
        };
        let resembles = earlier.clone();
        let is_noted = step.is_some();
        let snapshots = self.config.store.snapshots().clone();
        let (active, unmatched) = blocking(move || {
            let mut reuse = Reuse::of(earlier.as_ref());
            if let Some(last) = &earlier
                && last.parent().map(Snapshot::id) == base.as_ref().map(Snapshot::id)
                && reuse.may_amend(last)
            {
                let active = snapshots.amend(last.id())?;
                let operation = FileOperation::after(Some(last), reuse, &active, owners)?;
                match run(operation.cancelled_by(cancelled.clone()), &actions, &active) {
                    Ok(Some(unmatched)) => return Ok((active, unmatched)),
                    Ok(None) => {}
                    Err(error) if cancelled.load(Ordering::Relaxed) => return Err(error),
                    // What is wrong with the step shows again, in a tree of its own.
                    Err(error) => tracing::debug!("a COPY is done as a whole: {error}"),
                }
                reuse = Reuse::of(Some(last));
            }
            let active = snapshots.prepare(base.as_ref().map(Snapshot::id))?;
            let operation = match is_noted {
                true => FileOperation::after(earlier.as_ref(), reuse, &active, owners)?,
                false => FileOperation::new(&active, owners)?,
            };
            let unmatched = run(operation.cancelled_by(cancelled), &actions, &active)?;
            Ok((active, unmatched.unwrap_or_default()))
        })
        .await?;
        for pattern in unmatched {
            log.warn(format!("`{pattern}` matches no file"));
        }
        let output = self.commit_like(active, resembles).await?;
        if let (Some(step), Some(snapshot)) = (step, output.snapshot) {
            let made = snapshot.to_string();
            self.config.store.index().put_value(LAST_RUNS, &step, made.as_bytes())?;
        }
        Ok(output)
    }

    /// The name of a step that copies from directories that will be there at the next build too;
    /// `None` for others.
    fn step_on_contexts(
        &self,
        vertex: &Vertex,
        inputs: &[InputValue],
    ) -> Result<Option<String>, ExecutorError> {
        let mut name = FingerprintBuilder::new("strake step on contexts v1");
        name.add("op", op_digest(vertex).as_bytes());
        let mut has_any = false;
        for value in inputs {
            let InputValue::Direct(source) = value else { continue };
            let Op::Source(SourceOp::Context(context)) = &source.op else { continue };
            let root = self.context_root(context)?;
            has_any |= !root.starts_with(self.config.store.contexts_dir());
            name.add("context", std::os::unix::ffi::OsStrExt::as_bytes(root.as_os_str()));
        }
        Ok(has_any.then(|| name.finish().to_string()))
    }

    /// What the last run of a step made, if it is still there.
    fn last_run(&self, step: &str) -> Result<Option<Snapshot>, ExecutorError> {
        let store = &self.config.store;
        let made = store.index().value(LAST_RUNS, step)?;
        let id = made.and_then(|made| std::str::from_utf8(&made).ok()?.parse().ok());
        Ok(id.map_or(Ok(None), |id| store.snapshots().get(&id))?)
    }
}
