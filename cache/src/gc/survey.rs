//! Everything that the store holds and that is, or could become, cache.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::GcError;
use super::usage::{Links, Usage};
use super::uses::Uses;
use crate::image::Image;
use crate::image::document::digest_of;
use crate::index::CacheKey;
use crate::oci::{ChainId, Digest};
use crate::snapshot::SnapshotId;
use crate::state::{Lease, Store, StoreError, file_error};

/// In a second. Several builds fit into one.
pub(super) const NANOSECONDS: i64 = 1_000_000_000;

/// A thing in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A file tree.
    Snapshot(SnapshotId),
    /// A blob that no image refers to.
    Blob(Digest),
    /// A directory in `cache-mounts/`, by its name.
    CacheMount(String),
    /// What is remembered of build contexts.
    Contexts,
}

impl Object {
    /// What `du` and the filters call it.
    pub fn id(&self) -> String {
        match self {
            Object::Snapshot(id) => id.to_string(),
            Object::Blob(digest) => digest.hex(),
            Object::CacheMount(name) => name.clone(),
            Object::Contexts => "contexts".to_owned(),
        }
    }

    /// What is removed with it.
    pub(super) fn paths(&self, store: &Store) -> Result<Vec<PathBuf>, StoreError> {
        match self {
            Object::Snapshot(id) => Ok(vec![store.snapshots().directory(id)]),
            Object::Blob(digest) => Ok(vec![store.blobs().path(digest)]),
            Object::CacheMount(name) => Ok(vec![store.cache_mounts_dir().join(name)]),
            // The directory itself stays.
            Object::Contexts => children(&store.contexts_dir()),
        }
    }

    /// The lease of who relies on it; trees are leased with all that they stand on. The memory of
    /// contexts needs none: who has it open reads on, and who saves makes it anew.
    fn lease(&self) -> Option<Lease> {
        match self {
            Object::Blob(digest) => Some(Lease::Blob(*digest)),
            Object::CacheMount(name) => Some(Lease::CacheMount(name.clone())),
            Object::Snapshot(_) | Object::Contexts => None,
        }
    }
}

/// BuildKit's kinds of cache records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// A step's result, or a layer.
    Regular,
    /// `RUN --mount=type=cache`.
    CacheMount,
    /// Memory of build contexts.
    LocalSource,
}

impl RecordType {
    /// BuildKit's word for it.
    pub fn word(self) -> &'static str {
        match self {
            RecordType::Regular => "regular",
            RecordType::CacheMount => "exec.cachemount",
            RecordType::LocalSource => "source.local",
        }
    }
}

/// One row of the survey.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is.
    pub object: Object,
    /// Its kind.
    pub record_type: RecordType,
    /// The step's name, or what else people would call it.
    pub description: String,
    /// Bytes on the disk; what hard links share is counted in one entry only.
    pub size: u64,
    /// The snapshot it stands on.
    pub parent: Option<SnapshotId>,
    /// RFC 3339, where it is known.
    pub created: Option<String>,
    /// When it, or something on top of it, was last used; nanoseconds since 1970.
    pub last_used: i64,
    /// In how many builds it was the result of a step, the one that made it among them; of a cache
    /// mount, how many steps had it; of others `None`.
    pub usage_count: Option<u64>,
    /// Whether a kept container needs it, or another process relies on it.
    pub in_use: bool,
    /// Whether that is only a process, whose end makes it cache again.
    pub leased: bool,
    /// Whether an image needs it.
    pub shared: bool,
    /// Whether this process relies on it: such things go last.
    is_own: bool,
    /// The records whose result it is.
    pub(super) keys: Vec<CacheKey>,
    /// `None`: not measured.
    usage: Option<Usage>,
}

impl Entry {
    /// Whether neither an image nor a container needs it.
    pub fn is_cache(&self) -> bool {
        !self.shared && (!self.in_use || self.leased)
    }

    /// Whether it is cache that nobody is using just now.
    pub fn is_removable(&self) -> bool {
        self.is_cache() && !self.in_use
    }

    /// Whether steps still write to it.
    pub fn is_mutable(&self) -> bool {
        self.record_type != RecordType::Regular
    }
}

/// What the store holds.
#[derive(Debug, Default)]
pub struct Survey {
    /// What images and containers need comes first.
    pub entries: Vec<Entry>,
    /// Records whose snapshots are gone.
    pub(super) stale: Vec<CacheKey>,
    /// Records whose trees are far away, and the names of these.
    pub(super) far: Vec<(CacheKey, Vec<SnapshotId>)>,
    links: Links,
    /// How many snapshots stand on one.
    children: HashMap<SnapshotId, usize>,
    depths: HashMap<SnapshotId, usize>,
}

impl Survey {
    /// Bytes of what neither an image nor a container needs.
    pub fn cache_size(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.is_cache()).map(|entry| entry.size).sum()
    }

    /// Bytes of everything.
    pub fn total_size(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    pub(super) fn has_children(&self, at: usize) -> bool {
        match &self.entries[at].object {
            Object::Snapshot(id) => self.children.get(id).copied().unwrap_or_default() > 0,
            _ => false,
        }
    }

    /// Least recently used first, what this process uses last, and a child always before what it
    /// stands on.
    pub(super) fn eviction_order(&self) -> Vec<usize> {
        let depth = |entry: &Entry| match &entry.object {
            Object::Snapshot(id) => self.depths.get(id).copied().unwrap_or_default(),
            _ => 0,
        };
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&at| {
            let entry = &self.entries[at];
            let age = (entry.is_own, entry.last_used);
            (age, std::cmp::Reverse(depth(entry)), entry.object.clone())
        });
        order
    }

    /// Counts the entry as removed; says how many bytes that frees.
    pub(super) fn take(&mut self, at: usize) -> u64 {
        if let Some(parent) = self.entries[at].parent
            && let Some(count) = self.children.get_mut(&parent)
        {
            *count = count.saturating_sub(1);
        }
        self.entries[at].usage.as_ref().map_or(0, |usage| self.links.take(usage))
    }

    pub(super) fn is_measured(&self, at: usize) -> bool {
        self.entries[at].usage.is_some()
    }

    /// Takes over the sizes of an earlier survey. What is new since then has none.
    pub(super) fn adopt_sizes(&mut self, measured: Survey) {
        self.links = measured.links;
        let mut sizes: BTreeMap<Object, (u64, Option<Usage>)> = measured
            .entries
            .into_iter()
            .map(|entry| (entry.object, (entry.size, entry.usage)))
            .collect();
        for entry in &mut self.entries {
            (entry.size, entry.usage) = sizes.remove(&entry.object).unwrap_or_default();
        }
    }
}

/// Looks at everything in the store. Walks every file tree, so it costs about what `du` does.
pub fn survey(store: &Store) -> Result<Survey, GcError> {
    let mut survey = graph(store)?;
    measure(store, &mut survey)?;
    Ok(survey)
}

/// Who needs what, without sizes.
pub(super) fn graph(store: &Store) -> Result<Survey, GcError> {
    let mut survey = Survey::default();
    // First of all: who ends from here on has left its reasons where they are read below.
    let leases = store.process().leases();
    let (own, others) = (leases.own(), leases.of_others()?);
    let snapshots = store.snapshots();
    let uses = Uses::of(store.root()).read();
    let mut trees: BTreeMap<SnapshotId, Entry> = BTreeMap::new();
    for id in snapshots.list()? {
        let dir = snapshots.directory(&id);
        let Some((parent, created)) = snapshots.origin(&id)? else { continue };
        let entry = Entry {
            parent,
            created: Some(created),
            last_used: modified(&dir.join("info")),
            // The build that made it is not in the log.
            usage_count: Some(uses.get(&id.to_string()).map_or(1, |count| count + 1)),
            ..bare(Object::Snapshot(id), RecordType::Regular, "a tree of no step or image")
        };
        trees.insert(id, entry);
    }
    add_records(store, &mut survey, &mut trees)?;
    let parents: HashMap<SnapshotId, Option<SnapshotId>> =
        trees.iter().map(|(id, entry)| (*id, entry.parent)).collect();
    let ancestry = |id: SnapshotId| {
        std::iter::successors(Some(id), |id| parents.get(id).copied().flatten())
            .take_while(|id| parents.contains_key(id))
            // Parents are older than their children; a damaged `info` could say otherwise.
            .take(parents.len())
    };
    let mut protected = store.images().reachable()?;
    for root in image_trees(store, &mut protected)? {
        for id in ancestry(root) {
            if let Some(entry) = trees.get_mut(&id) {
                entry.shared = true;
                if entry.keys.is_empty() {
                    "a layer of an image".clone_into(&mut entry.description);
                }
            }
        }
    }
    for kept in snapshots.kept()? {
        for id in snapshots.kept_parent(&kept)?.into_iter().flat_map(ancestry) {
            if let Some(entry) = trees.get_mut(&id) {
                entry.in_use = true;
            }
        }
    }
    let leased = |leases: &HashSet<Lease>| {
        let ids = leases.iter().filter_map(|lease| match lease {
            Lease::Snapshot(id) => Some(*id),
            _ => None,
        });
        ids.flat_map(&ancestry).collect::<BTreeSet<SnapshotId>>()
    };
    for id in leased(&others) {
        if let Some(entry) = trees.get_mut(&id)
            && !entry.in_use
        {
            (entry.in_use, entry.leased) = (true, true);
        }
    }
    for id in leased(&own) {
        if let Some(entry) = trees.get_mut(&id) {
            entry.is_own = true;
        }
    }
    // Who is used uses what it stands on.
    let used: Vec<(SnapshotId, i64)> = trees.iter().map(|(id, e)| (*id, e.last_used)).collect();
    for (id, time) in used {
        survey.depths.insert(id, ancestry(id).count());
        for below in ancestry(id) {
            if let Some(entry) = trees.get_mut(&below) {
                entry.last_used = entry.last_used.max(time);
            }
        }
    }
    for entry in trees.values() {
        if let Some(parent) = entry.parent {
            *survey.children.entry(parent).or_default() += 1;
        }
    }
    survey.entries = trees.into_values().collect();
    add_others(store, &protected, &uses, &mut survey)?;
    for entry in &mut survey.entries {
        if let Some(lease) = entry.object.lease() {
            entry.is_own |= own.contains(&lease);
            if others.contains(&lease) && !entry.in_use {
                (entry.in_use, entry.leased) = (true, true);
            }
        }
    }
    Ok(survey)
}

fn bare(object: Object, record_type: RecordType, description: &str) -> Entry {
    Entry {
        object,
        record_type,
        description: description.to_owned(),
        size: 0,
        parent: None,
        created: None,
        last_used: 0,
        usage_count: None,
        in_use: false,
        leased: false,
        shared: false,
        is_own: false,
        keys: Vec::new(),
        usage: None,
    }
}

fn add_records(
    store: &Store,
    survey: &mut Survey,
    trees: &mut BTreeMap<SnapshotId, Entry>,
) -> Result<(), GcError> {
    let far = store.index().far_layers()?;
    for record in store.index().records()? {
        let used = store.index().last_used(&record.key)?.unwrap_or_default() * NANOSECONDS;
        let outputs: Vec<SnapshotId> =
            record.outputs.iter().filter_map(|output| output.snapshot).collect();
        let gone = || outputs.iter().copied().filter(|id| !trees.contains_key(id));
        if gone().next().is_some() {
            match gone().all(|id| far.contains_key(&id)) {
                true => survey.far.push((record.key, gone().collect())),
                false => survey.stale.push(record.key),
            }
            continue;
        }
        for id in outputs {
            if let Some(entry) = trees.get_mut(&id) {
                entry.description.clone_from(&record.name);
                entry.last_used = entry.last_used.max(used);
                entry.keys.push(record.key);
            }
        }
    }
    Ok(())
}

/// The highest tree that there is of every image. Blobs that hold what is above it in another form
/// than the manifest names are added to `protected`.
fn image_trees(
    store: &Store,
    protected: &mut BTreeSet<Digest>,
) -> Result<Vec<SnapshotId>, GcError> {
    let mut roots = Vec::new();
    for row in store.images().list()? {
        let Some(image) = store.images().by_manifest(&row.manifest)? else { continue };
        let diff_ids = &image.config.rootfs.diff_ids;
        let found = unpacked_tree(store, &image)?;
        roots.extend(found.map(|(id, _)| id));
        let unpacked = found.map_or(0, |(_, layers)| layers);
        for diff_id in &diff_ids[unpacked..] {
            for (_, form) in store.index().layer_blobs(diff_id)? {
                protected.extend(digest_of(&form).ok());
            }
        }
    }
    Ok(roots)
}

/// The tree of the most layers of an image that are unpacked, and how many these are.
pub(super) fn unpacked_tree(
    store: &Store,
    image: &Image,
) -> Result<Option<(SnapshotId, usize)>, StoreError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    for count in (1..=diff_ids.len()).rev() {
        let Some(chain) = ChainId::of(&diff_ids[..count]) else { break };
        if let Some(snapshot) = store.snapshots().unpacked(&chain)? {
            return Ok(Some((*snapshot.id(), count)));
        }
    }
    Ok(None)
}

fn add_others(
    store: &Store,
    protected: &BTreeSet<Digest>,
    uses: &BTreeMap<String, u64>,
    survey: &mut Survey,
) -> Result<(), GcError> {
    for digest in store.blobs().list()? {
        if protected.contains(&digest) {
            continue;
        }
        let last_used = modified(&store.blobs().path(&digest));
        let what = "a blob that no image names";
        let object = Object::Blob(digest);
        survey.entries.push(Entry { last_used, ..bare(object, RecordType::Regular, what) });
    }
    let mounts = store.cache_mounts_dir();
    for entry in fs_err::read_dir(&mounts).map_err(file_error("list", &mounts))? {
        let entry = entry.map_err(file_error("list", &mounts))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = fs_err::read_to_string(entry.path().join("id")).unwrap_or_else(|_| name.clone());
        let last_used = modified(&entry.path().join("data")).max(modified(&entry.path()));
        let what = format!("cache mount {}", id.trim());
        let created = rfc3339(modified(&entry.path().join("id")));
        let usage_count = Some(uses.get(&name).copied().unwrap_or_default());
        let bare = bare(Object::CacheMount(name), RecordType::CacheMount, &what);
        survey.entries.push(Entry { last_used, created, usage_count, ..bare });
    }
    let contexts = children(&store.contexts_dir())?;
    let newest = contexts.iter().map(|path| modified(path)).max();
    if let Some(last_used) = newest {
        let what = "what is known of build contexts";
        let object = Object::Contexts;
        survey.entries.push(Entry { last_used, ..bare(object, RecordType::LocalSource, what) });
    }
    Ok(())
}

/// Sizes, beginning with what stays: what is shared with it is not cache.
fn measure(store: &Store, survey: &mut Survey) -> Result<(), GcError> {
    survey.entries.sort_by_key(|entry| (entry.is_cache(), entry.object.clone()));
    for entry in &mut survey.entries {
        let usage = Usage::of(entry.object.paths(store)?, &mut survey.links)?;
        entry.size = survey.links.count(&usage);
        entry.usage = Some(usage);
    }
    Ok(())
}

/// The paths of what lies in a directory.
fn children(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs_err::read_dir(dir).map_err(file_error("list", dir))?;
    entries.map(|entry| Ok(entry.map_err(file_error("list", dir))?.path())).collect()
}

/// A time in nanoseconds since 1970; `None` for none.
fn rfc3339(nanoseconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_nanosecond(nanoseconds.into()).ok()?;
    (nanoseconds > 0).then(|| time.to_string())
}

/// Nanoseconds since 1970; 0 for what is not there.
fn modified(path: &Path) -> i64 {
    let time = fs_err::symlink_metadata(path).and_then(|metadata| metadata.modified());
    let since = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or_default()
}
