//! Containers that outlive the command that made them, or have a name.
//!
//! ```text
//! containers/<id>/config.json    the record
//! containers/lock                held while names are compared and records made
//! ```

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cache::Store;
use cache::hash::Fingerprint;
use cache::snapshot::SnapshotId;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::ExecutorError;

/// The containers of a store.
#[derive(Debug, Clone)]
pub struct Containers {
    store: Store,
}

/// What is written down about a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Its name, unique among the containers of a store.
    pub name: String,
    /// The image as the user named it.
    pub image: String,
    /// What runs in it.
    pub command: Vec<String>,
    /// RFC 3339.
    pub created: String,
    /// Its changes over the image, where they are kept.
    pub snapshot: Option<SnapshotId>,
    /// How far it is.
    pub status: ContainerStatus,
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    /// Made, not started.
    Created,
    /// Running under the engine process `engine`.
    Running {
        /// Process id of the engine.
        engine: u32,
    },
    /// Ended.
    Exited {
        /// As a shell shows it.
        code: i32,
    },
}

impl Container {
    /// Whether it is running. A record of an engine that has died says so no more.
    pub fn is_running(&self) -> bool {
        match self.status {
            ContainerStatus::Running { engine } => Path::new(&format!("/proc/{engine}")).exists(),
            ContainerStatus::Created | ContainerStatus::Exited { .. } => false,
        }
    }
}

impl Containers {
    /// The containers of `store`.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// Makes a record with a new id, and a name of its own if none is given.
    ///
    /// # Errors
    ///
    /// [`ExecutorError::NameInUse`], [`ExecutorError::BadName`].
    pub fn create(
        &self,
        name: Option<&str>,
        image: &str,
        command: &[String],
    ) -> Result<Container, ExecutorError> {
        if let Some(name) = name
            && !is_name(name)
        {
            return Err(ExecutorError::BadName { name: name.to_owned() });
        }
        let _lock = self.lock()?;
        if let Some(name) = name
            && let Some(other) = self.list()?.into_iter().find(|other| other.name == name)
        {
            return Err(ExecutorError::NameInUse { name: name.to_owned(), id: short(&other.id) });
        }
        let id = new_id()?;
        let name = name.map_or_else(|| short(&id), str::to_owned);
        let container = Container {
            name,
            image: image.to_owned(),
            command: command.to_vec(),
            created: jiff::Timestamp::now().to_string(),
            snapshot: None,
            status: ContainerStatus::Created,
            id,
        };
        let dir = self.dir(&container.id);
        fs_err::create_dir_all(&dir).map_err(ExecutorError::file("make the directory", &dir))?;
        self.update(&container)?;
        Ok(container)
    }

    /// Writes a changed record.
    pub fn update(&self, container: &Container) -> Result<(), ExecutorError> {
        let dir = self.dir(&container.id);
        let path = dir.join("config.json");
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&dir)?;
            file.write_all(&serde_json::to_vec(container)?)?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(ExecutorError::file("write", &path))
    }

    /// The container with this name, id, or start of an id that fits one only.
    pub fn find(&self, name: &str) -> Result<Option<Container>, ExecutorError> {
        let mut all = self.list()?;
        if let Some(exact) = all.iter().position(|c| c.name == name || c.id == name) {
            return Ok(Some(all.swap_remove(exact)));
        }
        let mut starting = all.into_iter().filter(|c| !name.is_empty() && c.id.starts_with(name));
        Ok(starting.next().filter(|_| starting.next().is_none()))
    }

    /// All containers, oldest first. A record that cannot be read is of a container that was never
    /// finished making, and is left out.
    pub fn list(&self) -> Result<Vec<Container>, ExecutorError> {
        let base = self.store.containers_dir();
        let entries = match fs_err::read_dir(&base) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(ExecutorError::File { attempt: "list", path: base, source });
            }
        };
        let read = |path: PathBuf| -> Option<Container> {
            serde_json::from_slice(&fs_err::read(path.join("config.json")).ok()?).ok()
        };
        let mut all: Vec<Container> =
            entries.flatten().filter_map(|entry| read(entry.path())).collect();
        all.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        Ok(all)
    }

    /// Removes the record and the kept changes. Of a container that is not there, nothing.
    pub fn remove(&self, id: &str) -> Result<(), ExecutorError> {
        let _lock = self.lock()?;
        let Some(container) = self.list()?.into_iter().find(|c| c.id == id) else { return Ok(()) };
        if let Some(snapshot) = &container.snapshot {
            self.store.snapshots().remove(snapshot)?;
        }
        Ok(self.store.trash(&self.dir(&container.id))?)
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.store.containers_dir().join(id)
    }

    fn lock(&self) -> Result<OwnedFd, ExecutorError> {
        let base = self.store.containers_dir();
        fs_err::create_dir_all(&base).map_err(ExecutorError::file("make the directory", &base))?;
        let path = base.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let open = || -> std::io::Result<OwnedFd> {
            let lock = rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)?;
            // Held for as long as it takes to read and write a few small files.
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
            Ok(lock)
        };
        open().map_err(ExecutorError::file("lock", &path))
    }
}

/// As Docker has it: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() >= 2
        && name.len() <= 128
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn short(id: &str) -> String {
    id[..12].to_owned()
}

fn new_id() -> Result<String, ExecutorError> {
    let mut random = [0u8; 32];
    std::io::Read::read_exact(
        &mut fs_err::File::open("/dev/urandom")
            .map_err(ExecutorError::file("open", "/dev/urandom"))?,
        &mut random,
    )
    .map_err(ExecutorError::file("read", "/dev/urandom"))?;
    Ok(Fingerprint::from_bytes(random).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_container() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let containers = Containers::new(&store);
        let mut web = containers.create(Some("web"), "busybox", &["sh".to_owned()]).unwrap();
        let other = containers.create(None, "busybox", &[]).unwrap();
        let taken = containers.create(Some("web"), "busybox", &[]);
        assert!(matches!(taken, Err(ExecutorError::NameInUse { .. })));
        web.status = ContainerStatus::Exited { code: 3 };
        containers.update(&web).unwrap();
        assert_eq!(containers.find("web").unwrap(), Some(web.clone()));
        assert_eq!(containers.find(&other.id[..10]).unwrap(), Some(other.clone()));
        assert_eq!(containers.list().unwrap().len(), 2);
        containers.remove(&web.id).unwrap();
        containers.create(Some("web"), "busybox", &[]).unwrap();
        assert_eq!(containers.find("nobody").unwrap(), None);
    }

    #[test]
    fn a_name_cannot_be_a_path() {
        let root = tempfile::tempdir().unwrap();
        let containers = Containers::new(&Store::open(root.path()).unwrap());
        for name in ["../x", "a/b", "", "x", "-a", "a b"] {
            let made = containers.create(Some(name), "busybox", &[]);
            assert!(matches!(made, Err(ExecutorError::BadName { .. })), "{name}");
        }
    }
}
