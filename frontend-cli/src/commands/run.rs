//! `strake run`: the process of an image in a new container, through the executor that RUN uses.
//!
//! The exit code is the process's own; 125, 126 and 127 are ours, as docker has them: the engine
//! failed, the program cannot be executed, it does not exist.

mod terminal;
mod volume;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use cache::image::Image;
use cache::image::unpack::layers_needed;
use cache::oci::{ImageName, Platform};
use cache::snapshot::ActiveSnapshot;
use executor::{
    Container, ContainerStatus, Containers, Executor, ExecutorError, Process, ProcessIo,
    ProcessMount, RunningProcess,
};
use runtime::{ExitStatus, NetworkMode, WindowSize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::build::images::{ImageResolver, resolve_error};
use super::build::options::extra_host;
use super::engine::{Engine, Needs, needs_network, registries, store_error};
use super::far::{layers, unavailable};
use super::limits::{human_limit, limits};
use crate::args::{PullPolicy, RunArgs};
use crate::report::{CliError, chain};
use volume::Volume;

/// Docker's exit code for failures of the engine.
const ENGINE_FAILED: u8 = 125;

pub(crate) fn run(root: Option<PathBuf>, args: RunArgs) -> Result<ExitCode, CliError> {
    run_container(root, &args).map_err(|error| match error.exit_code() {
        1 => error.with_exit_code(ENGINE_FAILED),
        _ => error,
    })
}

fn run_container(root: Option<PathBuf>, args: &RunArgs) -> Result<ExitCode, CliError> {
    if args.interactive && args.tty && !std::io::stdin().is_terminal() {
        return Err(CliError::input("the input device is not a TTY").hint("leave out -t"));
    }
    let network = match (network(&args.network)?, args.offline) {
        (NetworkMode::Host, true) => return Err(needs_network("--network host")),
        (_, true) => NetworkMode::None,
        (network, false) => network,
    };
    let engine = Engine::open(root, Needs::Containers { first: Some(network) })?;
    let executor = Executor::new(engine.spawner()?, &engine.identity()?);
    let status = engine.block_on_uninterrupted(async {
        let image = find_image(&engine, args).await?;
        start_and_wait(&engine, &executor, args, network, &image).await
    })?;
    Ok(ExitCode::from(u8::try_from(status.shell_code() & 0xff).unwrap_or(u8::MAX)))
}

/// The image with all its layers here, fetched if they are not and may be.
async fn find_image(engine: &Engine, args: &RunArgs) -> Result<Image, CliError> {
    let platform = match &args.platform {
        Some(text) => text
            .parse()
            .map_err(|error| CliError::input(format!("invalid platform `{text}`: {error}")))?,
        None => Platform::host(),
    };
    let found = match args.pull {
        PullPolicy::Always if args.offline => return Err(needs_network("--pull always")),
        PullPolicy::Always => None,
        PullPolicy::Missing | PullPolicy::Never => {
            let found = engine.store.images().find(&args.image, &platform);
            found.map_err(|error| CliError::caused("cannot look up the image", &error))?
        }
    };
    if let Some(image) = found {
        return with_layers(engine, args, image).await;
    }
    if args.pull == PullPolicy::Never {
        return engine.find_image(&args.image);
    }
    // Without a terminal to watch, this line is all that explains the wait.
    eprintln!("Unable to find image '{}' locally", args.image);
    let name: ImageName = args.image.parse().map_err(|error| {
        CliError::input(format!("invalid image name `{}`: {error}", args.image))
    })?;
    let resolver = ImageResolver {
        store: engine.store.clone(),
        registries: registries(args.offline),
        pull: true,
        found: BTreeMap::new(),
    };
    let image = resolver
        .resolve_one(&name, &platform)
        .await
        .map_err(|error| resolve_error(&name, &error, None, None))?;
    with_layers(engine, args, image).await
}

/// The image, when what is missing of its layers has been fetched: a build that needed no file of
/// its base knows it without them.
async fn with_layers(engine: &Engine, args: &RunArgs, image: Image) -> Result<Image, CliError> {
    let missing = layers_needed(&engine.store, &image)
        .map_err(|error| CliError::caused("cannot read the image", &error))?;
    if missing.is_empty() {
        return Ok(image);
    }
    let what = format!("{} of {} are not here", layers(missing.len()), args.image);
    if args.pull == PullPolicy::Never {
        return Err(CliError::environment(what).hint("leave out --pull never"));
    }
    let registries = registries(args.offline);
    let fetched =
        registries.fetch_layers(&engine.store, &image, &missing, None, &|_, _, _| {}).await;
    fetched.map_err(|error| unavailable(&what, &error))?;
    Ok(image)
}

async fn start_and_wait(
    engine: &Engine,
    executor: &Executor,
    args: &RunArgs,
    network: NetworkMode,
    image: &Image,
) -> Result<ExitStatus, CliError> {
    let tree = cache::image::unpack::unpack_image(&engine.store, image)
        .map_err(|error| CliError::caused("cannot unpack the image", &error))?;
    let rootfs = engine
        .store
        .snapshots()
        .prepare(tree.as_ref().map(|tree| tree.id()))
        .map_err(store_error)?;

    let containers = Containers::new(&engine.store);
    // A container that is removed at its end needs no record, unless it has a name to keep.
    let mut container = match args.rm && args.name.is_none() {
        true => None,
        false => Some(
            containers
                .create(args.name.as_deref(), &args.image, &args.command)
                .map_err(executor_error)?,
        ),
    };
    let mut volumes = Vec::new();
    let result = run_process(
        engine,
        executor,
        args,
        network,
        image,
        &rootfs,
        container.as_ref(),
        &mut volumes,
    )
    .await;
    // Its end takes as long as what is left to do here.
    engine.spawner()?.retire();
    let settled = settle(&containers, &mut container, rootfs, args.rm, &result);
    for volume in volumes.iter().filter(|volume| args.rm && volume.is_anonymous) {
        engine.store.trash(&volume.source).map_err(store_error)?;
    }
    let status = result?;
    settled?;
    Ok(status)
}

#[allow(clippy::too_many_arguments)] // One caller; each is a different thing of the container's.
async fn run_process(
    engine: &Engine,
    executor: &Executor,
    args: &RunArgs,
    network: NetworkMode,
    image: &Image,
    rootfs: &ActiveSnapshot,
    container: Option<&Container>,
    volumes: &mut Vec<Volume>,
) -> Result<ExitStatus, CliError> {
    let mut process = process(args, network, image)?;
    if let Some(hostname) = &args.hostname {
        process.hostname = hostname.clone();
    } else if let Some(container) = container {
        process.hostname = container.id.chars().take(12).collect();
    } else {
        process.hostname = rootfs.id().to_string().chars().take(12).collect();
    }
    let mut mounts: Vec<ProcessMount> = Vec::new();
    for spec in &args.volumes {
        let volume = Volume::open(spec, &engine.store)?;
        mounts.push(volume.mount());
        volumes.push(volume);
    }
    for spec in &args.tmpfs {
        mounts.push(volume::tmpfs(spec)?);
    }
    let io = match args.tty {
        true => ProcessIo::Terminal {
            size: terminal::size().unwrap_or(WindowSize { rows: 24, columns: 80 }),
        },
        false => ProcessIo::Inherit { stdin: args.interactive },
    };
    // Before the process exists, so that no signal in between is lost.
    let signals = Signals::new()?;
    let mut running = executor.start(&process, rootfs, mounts, io).await.map_err(executor_error)?;
    // There is nothing to do until it ends.
    engine.store.empty_trash_in_background();
    let attached =
        running.take_pty().map(|pty| terminal::attach(pty, args.interactive)).transpose();
    let attached = attached.map_err(|error| CliError::caused("cannot use the terminal", &error))?;
    let status = wait(&mut running, signals, attached.as_ref()).await?;
    if let Some(limit) = status.memory_limit.filter(|_| status.code != Some(0)) {
        // The exit code alone would not tell this from any other SIGKILL.
        eprintln!("killed: out of memory at {}", human_limit(limit));
    }
    if let Some(attached) = attached {
        attached.finish();
    }
    Ok(status)
}

/// Waits for the end of the process and passes signals on to it meanwhile.
async fn wait(
    running: &mut RunningProcess,
    mut signals: Signals,
    attached: Option<&terminal::Attached>,
) -> Result<ExitStatus, CliError> {
    loop {
        let signal = {
            tokio::select! {
                status = running.wait() => return status.map_err(executor_error),
                signal = signals.next() => signal,
            }
        };
        match (signal, attached) {
            (libc_signal::WINCH, Some(attached)) => attached.resize(),
            (libc_signal::WINCH, None) => {}
            (signal, _) => running.signal(signal).map_err(executor_error)?,
        }
    }
}

/// Numbers of `signal(7)` that this file speaks of.
mod libc_signal {
    pub(super) const HUP: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const QUIT: i32 = 3;
    pub(super) const USR1: i32 = 10;
    pub(super) const USR2: i32 = 12;
    pub(super) const TERM: i32 = 15;
    pub(super) const CONT: i32 = 18;
    pub(super) const WINCH: i32 = 28;
}

/// The signals that are passed on.
struct Signals(Vec<(i32, Signal)>);

impl Signals {
    fn new() -> Result<Self, CliError> {
        use libc_signal::{CONT, HUP, INT, QUIT, TERM, USR1, USR2, WINCH};
        [HUP, INT, QUIT, USR1, USR2, TERM, CONT, WINCH]
            .into_iter()
            .map(|number| Ok((number, signal(SignalKind::from_raw(number))?)))
            .collect::<std::io::Result<Vec<_>>>()
            .map(Signals)
            .map_err(|error| CliError::caused("cannot receive signals", &error))
    }

    async fn next(&mut self) -> i32 {
        let arrivals = self.0.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        futures_util::future::select_all(arrivals).await.0
    }
}

/// Writes down how a container ended, or removes it.
fn settle(
    containers: &Containers,
    container: &mut Option<Container>,
    rootfs: ActiveSnapshot,
    remove: bool,
    result: &Result<ExitStatus, CliError>,
) -> Result<(), CliError> {
    let Some(container) = container else { return Ok(()) };
    if remove {
        drop(rootfs);
        return containers.remove(&container.id).map_err(executor_error);
    }
    let code = match result {
        Ok(status) => status.shell_code(),
        Err(error) => i32::from(error.exit_code()),
    };
    container.snapshot = Some(*rootfs.id());
    container.status = ContainerStatus::Exited { code };
    rootfs.keep().map_err(store_error)?;
    containers.update(container).map_err(executor_error)
}

fn process(args: &RunArgs, network: NetworkMode, image: &Image) -> Result<Process, CliError> {
    let mut process = Process::from_image(&image.config);
    let config = &image.config.config;
    match &args.entrypoint {
        Some(entrypoint) => {
            let entrypoint = Some(entrypoint.clone()).filter(|program| !program.is_empty());
            process.args = entrypoint.into_iter().chain(args.command.iter().cloned()).collect();
        }
        None if !args.command.is_empty() => {
            process.args =
                config.entrypoint.iter().flatten().chain(&args.command).cloned().collect();
        }
        None => {}
    }
    if process.args.is_empty() {
        return Err(CliError::input("no command specified")
            .hint("the image has neither ENTRYPOINT nor CMD: name a command behind the image"));
    }
    for file in &args.env_files {
        for (number, line) in (1..).zip(read_env_file(file)?.lines()) {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                let variable = variable(line).ok_or_else(|| {
                    CliError::input(format!(
                        "{}:{number}: `{line}` is not a variable",
                        file.display()
                    ))
                })?;
                process.env.extend(variable);
            }
        }
    }
    for text in &args.env {
        let variable =
            variable(text).ok_or_else(|| CliError::input(format!("invalid --env `{text}`")))?;
        process.env.extend(variable);
    }
    if args.tty && !process.env.iter().any(|(name, _)| name == "TERM") {
        process.env.push(("TERM".into(), "xterm".into()));
    }
    if let Some(directory) = &args.workdir {
        if !directory.starts_with('/') {
            return Err(CliError::input(format!(
                "the working directory `{directory}` is invalid, it needs to be an absolute path"
            )));
        }
        process.cwd = directory.clone();
    }
    if let Some(user) = &args.user {
        process.user = user.clone();
    }
    process.network = network;
    process.limits = limits(&args.limits)?;
    process.limits.pids = args.pids_limit.filter(|limit| *limit > 0);
    process.privileged = args.privileged;
    process.read_only = args.read_only;
    process.extra_hosts =
        args.add_hosts.iter().map(|host| extra_host(host)).collect::<Result<Vec<_>, _>>()?;
    for (_, address) in &mut process.extra_hosts {
        if address == "host-gateway" {
            if args.offline {
                return Err(needs_network("--add-host with host-gateway"));
            }
            *address = executor::host_address()
                .map_err(|error| CliError::caused("cannot use --add-host", &error))?;
        }
    }
    Ok(process)
}

fn read_env_file(path: &std::path::Path) -> Result<String, CliError> {
    fs_err::read_to_string(path)
        .map_err(|error| CliError::caused("cannot read the --env-file", &error))
}

/// `NAME=value`, or `NAME` with the value that we have, if we have one. `None` for no variable.
fn variable(text: &str) -> Option<Option<(String, String)>> {
    match text.split_once('=') {
        Some(("", _)) => None,
        Some((name, value)) => Some(Some((name.to_owned(), value.to_owned()))),
        None if text.is_empty() => None,
        None => Some(std::env::var(text).ok().map(|value| (text.to_owned(), value))),
    }
}

fn network(text: &str) -> Result<NetworkMode, CliError> {
    match text {
        "default" | "" => Ok(NetworkMode::Proxied),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => {
            Err(CliError::input(format!("network {text} not found"))
                .hint("use default, none or host"))
        }
    }
}

fn executor_error(error: ExecutorError) -> CliError {
    match &error {
        ExecutorError::Runtime(cause) => {
            let code = u8::try_from(cause.exit_code()).unwrap_or(ENGINE_FAILED);
            let text = chain(cause);
            let (message, causes) = text.split_once('\n').unwrap_or((&text, ""));
            let report = CliError::input(message).with_exit_code(code);
            if causes.is_empty() { report } else { report.note(causes) }
        }
        error => {
            let text = chain(error);
            let (message, causes) = text.split_once('\n').unwrap_or((&text, ""));
            let report = CliError::environment(message).with_exit_code(ENGINE_FAILED);
            let report = if causes.is_empty() { report } else { report.note(causes) };
            match error.near_names().first() {
                Some(near) => report.hint(format!("did you mean `{near}`?")),
                None => report,
            }
        }
    }
}
