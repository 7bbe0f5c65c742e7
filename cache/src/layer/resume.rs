//! How much of an earlier archive a layer begins with.
//!
//! The walk goes through the layer as ever, but what it meets is held back until it comes to the
//! next checkpoint of the earlier packing: if that holds here too, everything until there is in the
//! earlier archive, and is dropped. Where it does not, or behind the last one, what is held is
//! written like all that follows.

use std::collections::HashMap;

use super::checkpoint::{Checkpoint, Trace};
use super::pack::Event;

/// Each directory that is held keeps a file open, and a chunk has a thousand names.
const HELD_DIRECTORIES: usize = 256;

pub(super) struct Resuming<'a> {
    /// Of a layer on the same parent.
    checkpoints: &'a [Checkpoint],
    /// How many of them hold.
    shared: usize,
    /// What was met since the last of these.
    held: Vec<Event>,
    held_directories: usize,
}

impl<'a> Resuming<'a> {
    /// `None` if there is nothing to look for.
    pub(super) fn new(checkpoints: &'a [Checkpoint]) -> Option<Self> {
        let readable = checkpoints.iter().take_while(|one| one.hasher().is_some()).count();
        let checkpoints = &checkpoints[..readable];
        let has_any = !checkpoints.is_empty();
        has_any.then(|| Self { checkpoints, shared: 0, held: Vec::new(), held_directories: 0 })
    }

    /// Takes what the walk met last; `false` if there is no use in going on. `links` gets the first
    /// names of what is dropped.
    pub(super) fn meet(
        &mut self,
        event: Event,
        trace: &Trace,
        links: &mut HashMap<(u64, u64), Vec<u8>>,
    ) -> bool {
        self.held_directories += usize::from(matches!(event, Event::Directory { .. }));
        let is_end = matches!(event, Event::EndOfDirectory { .. });
        self.held.push(event);
        let next = &self.checkpoints[self.shared];
        if is_end || trace.names() < next.names {
            return self.held_directories <= HELD_DIRECTORIES;
        }
        if trace.mark().trace != next.trace {
            return false;
        }
        self.shared += 1;
        self.held_directories = 0;
        for (inode, path) in self.held.drain(..).filter_map(Event::linked) {
            links.entry(inode).or_insert(path);
        }
        self.shared < self.checkpoints.len()
    }

    /// What the archives share, and what is to be written behind that.
    pub(super) fn end(self) -> (&'a [Checkpoint], Vec<Event>) {
        (&self.checkpoints[..self.shared], self.held)
    }
}
