//! The files of a layer, read ahead.
//!
//! A walk knows which files it will write before it writes them. [`ReadAhead`] takes them in that
//! order and gives them back in that order, read by a few threads of its own: opening and reading
//! small files costs the kernel more time than hashing them does. Threads are only started for a
//! layer that has more files than one thread reads in no time; in the pool of rayon, who waits for
//! a file would begin other work, which may wait for this layer.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::digesting::Content;
use crate::hash::Fingerprint;
use crate::tree::{self, Device, Metadata};

/// Larger files are read where they are written, piece by piece.
pub(super) const SMALL: u64 = 64 << 10;
/// Files that a thread reads at a time, at most, and their bytes.
const BATCH: usize = 32;
const BATCH_BYTES: u64 = 512 << 10;
const MAX_THREADS: usize = 4;
/// Batches that wait for a thread.
const WAITING: usize = 64;

/// A regular file to be read.
pub(super) struct ToRead {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: CString,
    pub(super) stat: Stat,
    /// It is written as a link to an earlier entry: nobody will want its bytes.
    pub(super) is_further: bool,
}

/// A regular file that was.
pub(super) struct Opened {
    pub(super) metadata: Metadata,
    /// What it stands for.
    pub(super) device: Option<Device>,
    pub(super) content: Content,
}

type Results = Vec<Result<Opened, Errno>>;

struct Batch {
    files: Vec<ToRead>,
    done: SyncSender<Results>,
}

/// Buffers to read into: new memory costs more than the reading.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

#[derive(Default)]
pub(super) struct ReadAhead {
    /// Not handed on yet.
    gathered: Vec<ToRead>,
    gathered_bytes: u64,
    /// Handed on, oldest first.
    batches: VecDeque<Receiver<Results>>,
    /// Read, oldest first.
    read: VecDeque<Result<Opened, Errno>>,
    threads: Option<SyncSender<Batch>>,
    spare: Spare,
}

impl ReadAhead {
    /// Takes the next file.
    pub(super) fn push(&mut self, file: ToRead) {
        self.gathered_bytes += file.stat.st_size as u64;
        self.gathered.push(file);
        if self.gathered.len() < BATCH && self.gathered_bytes < BATCH_BYTES {
            return;
        }
        let spare = &self.spare;
        let threads = self.threads.get_or_insert_with(|| start(spare));
        let files = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let (done, batch) = sync_channel(1);
        if let Err(refused) = threads.send(Batch { files, done }) {
            // No thread could be had.
            let Batch { files, done } = refused.0;
            let _ = done.send(read_all(&files, spare));
        }
        self.batches.push_back(batch);
    }

    /// Gives the oldest file.
    pub(super) fn pop(&mut self) -> Result<Opened, Errno> {
        if self.read.is_empty() {
            let read = match self.batches.pop_front() {
                Some(batch) => batch.recv().map_err(|_| Errno::IO)?,
                None => {
                    self.gathered_bytes = 0;
                    read_all(&std::mem::take(&mut self.gathered), &self.spare)
                }
            };
            self.read.extend(read);
        }
        self.read.pop_front().unwrap_or(Err(Errno::IO))
    }

    /// Takes back what held a file.
    pub(super) fn give_back(&mut self, content: Content) {
        if let Content::Read { bytes, .. } = content {
            lock(&self.spare).push(bytes);
        }
    }
}

/// Threads that end when the sender is dropped.
fn start(spare: &Spare) -> SyncSender<Batch> {
    let (sender, receiver) = sync_channel::<Batch>(WAITING);
    let receiver = Arc::new(Mutex::new(receiver));
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    for _ in 0..count {
        let (receiver, spare) = (receiver.clone(), spare.clone());
        let work = move || {
            loop {
                let next = lock(&receiver).recv();
                let Ok(Batch { files, done }) = next else { break };
                // Whoever wanted them may have failed meanwhile.
                let _ = done.send(read_all(&files, &spare));
            }
        };
        if std::thread::Builder::new().name("layer".to_owned()).spawn(work).is_err() {
            break;
        }
    }
    sender
}

fn read_all(files: &[ToRead], spare: &Spare) -> Results {
    let mut buffers = {
        let mut spare = lock(spare);
        let kept = spare.len().saturating_sub(files.len());
        spare.split_off(kept)
    };
    files.iter().map(|file| read(file, buffers.pop().unwrap_or_default())).collect()
}

/// Opens a file, and reads it unless it is large.
pub(super) fn read(file: &ToRead, mut bytes: Vec<u8>) -> Result<Opened, Errno> {
    let ToRead { dir, name, stat, is_further } = file;
    let open = tree::open_file(dir, name)?;
    let metadata = tree::read_metadata(stat, Some(open.as_fd()))?;
    let device = if stat.st_size == 0 { tree::read_device(&open)? } else { None };
    let size = stat.st_size as u64;
    if size > SMALL || *is_further {
        return Ok(Opened { metadata, device, content: Content::Open(open) });
    }
    bytes.clear();
    // One byte more than there is, so that a read shows whether there is more.
    bytes.reserve(size as usize + 1);
    while (bytes.len() as u64) < size {
        match rustix::io::read(&open, spare_capacity(&mut bytes)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Committed snapshots never change: this is a broken disk.
    if bytes.len() as u64 != size {
        return Err(Errno::IO);
    }
    let hash = Fingerprint::of(&bytes);
    Ok(Opened { metadata, device, content: Content::Read { bytes, hash } })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
