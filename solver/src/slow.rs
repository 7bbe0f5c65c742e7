//! The slow key: is there a result of this op on the same content, whatever its history?
//!
//! Content is only looked at when some record of the op exists, and a record keeps no contents that
//! nobody had to compute: a cold build hashes nothing. Instead each op's newest record names the
//! trees it was made from. When a later build comes with other trees, both are compared then; only
//! what differs by history but not by content costs a full comparison.
//!
//! Content that cannot be had (an input's file is missing, an old tree was pruned) is no error
//! here: the step is executed, and says better what is wrong.

use std::collections::HashMap;
use std::sync::Arc;

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Output, Record};
use futures_util::future::try_join_all;

use crate::error::OpError;
use crate::key;
use crate::llb::{Selector, Vertex};
use crate::records::Records;
use crate::worker::{ContentRequest, Worker};

/// One input of a vertex as the slow key sees it.
#[derive(Debug, Clone)]
pub(crate) enum ProbeInput {
    /// Its content is known: it is read where it lies.
    Known(Fingerprint),
    /// A tree that is there.
    Tree {
        /// Who made it.
        producer: Arc<Vertex>,
        /// The tree.
        output: Output,
        /// The part that is read, where not everything is.
        selector: Option<Selector>,
    },
}

/// What looking for a slow key found.
#[derive(Debug)]
pub(crate) struct Probed {
    /// The slow key.
    pub(crate) key: CacheKey,
    /// What it was made of: the content of each input.
    pub(crate) contents: Vec<Fingerprint>,
    /// The result of the same op on the same content, perhaps without its ingredients.
    pub(crate) hit: Option<Record>,
    /// The newest record of the op, under the slow key that the comparison found it to have: worth
    /// storing, as the next build may come back to that content.
    pub(crate) learned: Option<Record>,
}

impl ProbeInput {
    /// The content, if it can be told without reading anything.
    pub(crate) fn known(&self) -> Option<Fingerprint> {
        match self {
            ProbeInput::Known(content) => Some(*content),
            ProbeInput::Tree { output, selector: None, .. } => match output {
                Output { content: Some(content), .. } => Some(*content),
                Output { snapshot: None, .. } => Some(key::empty_tree()),
                _ => None,
            },
            ProbeInput::Tree { .. } => None,
        }
    }

    async fn content(&self, worker: &dyn Worker) -> Result<Fingerprint, OpError> {
        match (self.known(), self) {
            (Some(content), _) => Ok(content),
            (None, ProbeInput::Known(content)) => Ok(*content),
            (None, ProbeInput::Tree { output, selector: None, .. }) => {
                worker.rootfs_content(output.clone()).await
            }
            (None, ProbeInput::Tree { producer, output, selector: Some(selector) }) => {
                let request = ContentRequest {
                    vertex: Arc::clone(producer),
                    output: Some(output.clone()),
                    selector: selector.clone(),
                };
                Ok(worker.content(request).await?.fingerprint)
            }
        }
    }

    /// The same input as it was when the record with these parts was made.
    fn at(&self, parts: &HashMap<&str, &str>, index: usize) -> Option<ProbeInput> {
        let part = |name: String| parts.get(name.as_str()).copied();
        if let Some(content) = part(key::content_part(index)) {
            return content.parse().ok().map(ProbeInput::Known);
        }
        let ProbeInput::Tree { producer, .. } = self else { return None };
        let snapshot = match part(key::tree_part(index))? {
            "" => None,
            id => Some(id.parse().ok()?),
        };
        let selector = match part(key::read_part(index)) {
            None => None,
            Some(text) => Some(serde_json::from_str(text).ok()?),
        };
        let output = Output { snapshot, content: None };
        Some(ProbeInput::Tree { producer: Arc::clone(producer), output, selector })
    }
}

/// Computes the slow key and looks it up; then compares with the newest record of the op.
///
/// `None` means that there can be no hit and that the key was not worth computing.
pub(crate) async fn probe(
    worker: &dyn Worker,
    records: &dyn Records,
    op: Fingerprint,
    inputs: &[ProbeInput],
) -> Result<Option<Probed>, OpError> {
    let latest = records.lookup(&key::latest(op)).ok().flatten();
    let before: Option<Vec<ProbeInput>> = latest.as_ref().and_then(|record| {
        let parts = record.ingredients.iter();
        let parts = parts.map(|part| (part.part.as_str(), part.value.as_str())).collect();
        inputs.iter().enumerate().map(|(index, input)| input.at(&parts, index)).collect()
    });
    // Files of the context differ, as after any edit: hash no tree for that.
    if before.as_ref().is_some_and(|before| known_to_differ(before, inputs)) {
        return Ok(None);
    }
    let contents = try_join_all(inputs.iter().map(|input| input.content(worker))).await;
    let Ok(contents) = contents else { return Ok(None) };
    let slow = key::slow(op, &contents);
    if let Ok(Some(record)) = records.lookup_outputs(&slow)
        && is_there(worker, &record.outputs)?
    {
        return Ok(Some(Probed { key: slow, contents, hit: Some(record), learned: None }));
    }
    let mut probed = Probed { key: slow, contents, hit: None, learned: None };
    if let (Some(latest), Some(before)) = (latest, before)
        && is_there(worker, &latest.outputs)?
        && let Some(before) = contents_before(worker, &before, &probed.contents).await?
    {
        let hit = before == probed.contents;
        let record = Record { key: key::slow(op, &before), ..latest };
        *(if hit { &mut probed.hit } else { &mut probed.learned }) = Some(record);
    }
    Ok(Some(probed))
}

/// Whether every tree of a record can be used.
pub(crate) fn is_there(worker: &dyn Worker, outputs: &[Output]) -> Result<bool, OpError> {
    for output in outputs.iter().filter(|output| output.snapshot.is_some()) {
        if !worker.exists(output)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn known_to_differ(before: &[ProbeInput], now: &[ProbeInput]) -> bool {
    before.iter().zip(now).any(|pair| match pair {
        (ProbeInput::Known(before), ProbeInput::Known(now)) => before != now,
        _ => false,
    })
}

/// The contents of an earlier build's inputs. `None` when one cannot be had, or when one differs
/// from the present contents and others would still have to be computed.
async fn contents_before(
    worker: &dyn Worker,
    before: &[ProbeInput],
    now: &[Fingerprint],
) -> Result<Option<Vec<Fingerprint>>, OpError> {
    let mut contents = Vec::with_capacity(before.len());
    for input in before {
        let differs = contents.iter().zip(now).any(|(before, now)| before != now);
        let gone = match input {
            ProbeInput::Tree { output, .. } => !is_there(worker, std::slice::from_ref(output))?,
            ProbeInput::Known(_) => false,
        };
        if gone || (differs && input.known().is_none()) {
            return Ok(None);
        }
        let Ok(content) = input.content(worker).await else { return Ok(None) };
        contents.push(content);
    }
    Ok(Some(contents))
}
