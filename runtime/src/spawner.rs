//! skeleton
use crate::request::{ContainerIo, ContainerRequest, NetworkMode};
use crate::{Container, RuntimeError};

/// Starts containers, through the init helper it owns. Dropping it kills them all.
#[derive(Debug)]
pub struct Spawner {}

impl Spawner {
    /// Starts the init helper. Call [`crate::isolate`] first.
    pub fn start() -> Result<Spawner, RuntimeError> {
        todo!()
    }

    /// Lets the helper make the namespaces and the fixed mounts of the next container while the
    /// caller does something else. Never needed; a prepared container that no request matches is
    /// thrown away. Does not block.
    pub fn prepare(&self, network: NetworkMode) {
        todo!("{network:?}")
    }

    /// Starts a container. Returns once its program has been executed, or could not be.
    pub fn spawn(
        &self,
        request: &ContainerRequest,
        io: ContainerIo,
    ) -> Result<Container, RuntimeError> {
        todo!("{request:?} {io:?}")
    }
}
