//! What commands work with: the store, the namespaces, the helper that starts containers, and the
//! async runtime; opened in the one order that is right.
//!
//! Namespaces can only be entered before the first thread starts, and the store must be opened by
//! whom we are inside of them.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cache::Store;
use cache::StoreError;
use cache::image::Image;
use cache::oci::{ImageName, Platform};
use cache::remote::{CredentialFiles, Registries, RegistryConfig};
use runtime::{Identity, NetworkMode, Spawner};

use crate::report::{CliError, chain};

/// How long a command waits at its end for old trees to be deleted.
const TRASH_PATIENCE: Duration = Duration::from_millis(0);

/// The hidden command of [`Engine::sync_later`].
pub(crate) const SYNC_COMMAND: &str = "sync-store";

/// What a command does with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Reads or names images.
    Documents,
    /// Reads or writes file trees, whose files have any owner.
    Trees,
    /// Starts containers.
    Containers {
        /// The network of the first one, whose namespaces are made while we do something else.
        first: Option<NetworkMode>,
    },
}

/// See the module.
pub(crate) struct Engine {
    pub(crate) store: Store,
    identity: Option<Identity>,
    spawner: Option<Arc<Spawner>>,
}

impl Engine {
    pub(crate) fn open(root: Option<PathBuf>, needs: Needs) -> Result<Engine, CliError> {
        // Before the namespaces: inside of them everybody is uid 0.
        let root = root.unwrap_or_else(Store::default_root);
        let root = std::path::absolute(&root).unwrap_or(root);
        let identity = match needs {
            Needs::Documents => None,
            Needs::Trees | Needs::Containers { .. } => Some(
                runtime::isolate()
                    .map_err(|error| CliError::caused("cannot isolate this process", &error))?
                    .identity,
            ),
        };
        let spawner = match needs {
            // A build may find everything in its cache and need no container.
            Needs::Containers { first: None } => Some(Arc::new(Spawner::deferred())),
            Needs::Containers { first: Some(network) } => {
                let spawner = Spawner::start()
                    .map_err(|error| CliError::caused("cannot start containers", &error))?;
                spawner.prepare(network);
                Some(Arc::new(spawner))
            }
            _ => None,
        };
        let store = Store::open(&root).map_err(store_error)?;
        // While a first container is being made, there is no processor to spare.
        if !matches!(needs, Needs::Containers { first: Some(_) }) {
            store.empty_trash_in_background();
        }
        Ok(Engine { store, identity, spawner })
    }

    /// Brings what this command stored to the disk without waiting for it: a process of its own
    /// does that, since one that ends has to wait for what its threads are writing.
    pub(crate) fn sync_later(&self) {
        use std::os::unix::process::CommandExt;
        use std::process::{Command, Stdio};
        let mut command = Command::new("/proc/self/exe");
        command.arg("--root").arg(self.store.root()).arg(SYNC_COMMAND);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Nothing is lost without it now: the next command that stores something tries again.
        let _ = command.current_dir("/").process_group(0).spawn();
    }

    /// The helper that starts containers.
    pub(crate) fn spawner(&self) -> Result<Arc<Spawner>, CliError> {
        self.spawner.clone().ok_or_else(|| CliError::internal("this command starts no containers"))
    }

    pub(crate) fn identity(&self) -> Result<Identity, CliError> {
        self.identity.clone().ok_or_else(|| CliError::internal("this command is not isolated"))
    }

    /// Runs `work` to its end or until the user interrupts it; dropping it is what cancels it.
    pub(crate) fn block_on<T>(
        &self,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        let runtime = tokio_runtime()?;
        end_if_deaf();
        let result = runtime.block_on(async {
            tokio::select! {
                result = work => result,
                signal = interrupted() => Err(signal),
            }
        });
        // A blocking task that is still reading or hashing must not hold up the end.
        runtime.shutdown_timeout(Duration::from_millis(200));
        self.store.empty_trash(TRASH_PATIENCE);
        result
    }

    /// As [`Engine::block_on`], for work that deals with signals itself.
    pub(crate) fn block_on_uninterrupted<T>(
        &self,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        let runtime = tokio_runtime()?;
        let result = runtime.block_on(work);
        // A thread that waits for a key on the terminal never ends.
        runtime.shutdown_background();
        result
    }

    /// The image that the user means, by name or id.
    pub(crate) fn find_image(&self, text: &str) -> Result<Image, CliError> {
        self.store
            .images()
            .find(text, &Platform::host())
            .map_err(|error| CliError::caused(format!("cannot look up image `{text}`"), &error))?
            .ok_or_else(|| self.no_such_image(text))
    }

    fn no_such_image(&self, text: &str) -> CliError {
        let error = CliError::input(format!("no such image: {text}"));
        let names: Vec<String> = self
            .store
            .images()
            .list()
            .unwrap_or_default()
            .iter()
            .filter_map(|row| row.name.as_ref().map(ImageName::familiar))
            .collect();
        match crate::dockerfile::nearest(text, names.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("`strake images` lists the images that are here"),
        }
    }
}

/// The runtime of a command: one thread for what waits; what works goes to rayon and to blocking
/// threads.
fn tokio_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::caused("cannot start the async runtime", &error))
}

/// Ends the process when an interrupt has not ended it soon: while an export packs layers, nobody
/// looks at signals. What it was writing has a temporary name.
fn end_if_deaf() {
    const GRACE: Duration = Duration::from_millis(800);
    let watch = || {
        let Ok(runtime) = tokio_runtime() else { return };
        runtime.block_on(async {
            let code = interrupted().await.exit_code();
            tokio::time::sleep(GRACE).await;
            std::process::exit(i32::from(code));
        });
    };
    // Without the thread an interrupt only takes longer.
    let _ = std::thread::Builder::new().name("interrupts".into()).spawn(watch);
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() -> CliError {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => CliError::environment("interrupted").with_exit_code(130),
        _ = terminate.recv() => CliError::environment("terminated").with_exit_code(143),
    }
}

/// `sync-store`: what is not durable yet becomes so, however long the disk takes. Nobody waits for
/// this process, so that it also tidies up what costs others time.
pub(crate) fn sync_store(root: Option<PathBuf>) -> Result<std::process::ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Documents)?;
    engine.store.index().tidy().map_err(store_error)?;
    runtime::remove_leftover_groups();
    engine.store.sync_in_background().wait().map_err(store_error)?;
    Ok(std::process::ExitCode::SUCCESS)
}

/// Registries with the user's own credentials; `offline`, whatever is asked of them is an error.
pub(crate) fn registries(offline: bool) -> Registries {
    Registries::new(RegistryConfig {
        credentials: CredentialFiles::from_env(),
        offline,
        ..RegistryConfig::default()
    })
}

/// What was asked for contradicts `--offline`.
pub(crate) fn needs_network(what: &str) -> CliError {
    CliError::input(format!("{what} needs the network")).hint("leave out --offline")
}

/// A store that cannot be opened or used.
pub(crate) fn store_error(error: StoreError) -> CliError {
    let hint = match &error {
        StoreError::NewerVersion { .. } | StoreError::UnknownFeature { .. } => {
            Some("use the newer strake, or another store with --root DIR")
        }
        StoreError::NotAStore { .. } => Some("give strake a directory of its own with --root DIR"),
        StoreError::File { source, .. } => storage_hint(source),
        _ => None,
    };
    let text = chain(&error);
    let (message, causes) = text.split_once('\n').unwrap_or((&text, ""));
    let mut report = CliError::environment(message);
    if !causes.is_empty() {
        report = report.note(causes);
    }
    match hint {
        Some(hint) => report.hint(hint),
        None => report,
    }
}

/// What to do about an error of the file system.
pub(crate) fn storage_hint(error: &std::io::Error) -> Option<&'static str> {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Some(
            "free some space, remove images with `strake rmi`, or use another store with --root DIR",
        ),
        std::io::ErrorKind::PermissionDenied => {
            Some("use a store that you may write, with --root DIR or STRAKE_ROOT")
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            Some("use a store that can be written, with --root DIR")
        }
        _ => None,
    }
}
