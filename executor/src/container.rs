//! Containers that outlive the command that made them, or have a name.

use cache::Store;
use cache::snapshot::SnapshotId;
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
    /// Its changes over the image.
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
        engine: i32,
    },
    /// Ended.
    Exited {
        /// As a shell shows it.
        code: i32,
    },
}

impl Containers {
    /// The containers of `store`.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// Makes a record with a new id.
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
        let _ = (&self.store, name, image, command);
        todo!()
    }

    /// Writes a changed record.
    pub fn update(&self, container: &Container) -> Result<(), ExecutorError> {
        let _ = container;
        todo!()
    }

    /// The container with this name, id, or unambiguous start of an id.
    pub fn find(&self, name: &str) -> Result<Option<Container>, ExecutorError> {
        let _ = name;
        todo!()
    }

    /// All containers, oldest first.
    pub fn list(&self) -> Result<Vec<Container>, ExecutorError> {
        todo!()
    }

    /// Removes the record and the kept changes.
    pub fn remove(&self, id: &str) -> Result<(), ExecutorError> {
        let _ = id;
        todo!()
    }
}
