//! One process in one container.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cache::snapshot::{ActiveSnapshot, RootOf};
use oci_spec::runtime::{
    Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, User, UserBuilder,
};
use runtime::{
    Container, ContainerIo, ContainerRequest, ExitStatus, InjectedFile, NetworkMode, Pty, Spawner,
    Stdin, WindowSize,
};
use solver::{LogSink, Stream};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::copy::{FileOperation, view_active};
use crate::log::ProcessLog;
use crate::merged::Owners;
use crate::users::{ProcessUser, Users};
use crate::{DEFAULT_PATH, ExecutorError, MountSource, Process, ProcessMount, Redactions};

/// How long the pipes of a container that has ended may stay open.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs processes. Clones share everything.
#[derive(Debug, Clone)]
pub struct Executor {
    spawner: Arc<Spawner>,
    owners: Owners,
}

/// Where the standard streams of a process lead.
#[derive(Debug, Clone)]
pub enum ProcessIo {
    /// To our own output; with our own standard input or with none.
    Inherit {
        /// The process reads our standard input.
        stdin: bool,
    },
    /// A pseudo-terminal of its own: see [`RunningProcess::take_pty`].
    Terminal {
        /// Its first size.
        size: WindowSize,
    },
    /// To the log of a vertex, without what must not be seen there, and without standard input.
    Log(LogSink, Redactions),
}

impl Executor {
    /// An executor whose containers `spawner` starts, as `identity`.
    pub fn new(spawner: Arc<Spawner>, identity: &runtime::Identity) -> Self {
        Self { spawner, owners: owners(identity) }
    }

    /// Starts a process on `rootfs`. Dropping the future or the result kills it.
    ///
    /// The working directory is made where it is missing, for the user of the process. Mounts are
    /// made in the order of their targets, so that a nested one is never hidden.
    ///
    /// # Errors
    ///
    /// A user that is not in the image, a program that cannot be run, a sandbox that cannot be
    /// made.
    pub async fn start(
        &self,
        process: &Process,
        rootfs: &ActiveSnapshot,
        mounts: Vec<ProcessMount>,
        io: ProcessIo,
    ) -> Result<RunningProcess, ExecutorError> {
        let request = self.request(process, rootfs, mounts, &io)?;
        let container_io = match io {
            ProcessIo::Inherit { stdin: false } => ContainerIo::Inherit { stdin: Stdin::Null },
            ProcessIo::Inherit { stdin: true } => ContainerIo::Inherit { stdin: Stdin::Inherit },
            ProcessIo::Terminal { size } => ContainerIo::Pty { size },
            ProcessIo::Log(..) => ContainerIo::Pipes { stdin: Stdin::Null },
        };
        let spawner = self.spawner.clone();
        let container = blocking(move || Ok(spawner.spawn(&request, container_io)?)).await?;
        RunningProcess::new(container, io)
    }

    /// Runs a process to its end. Dropping the future kills it.
    ///
    /// # Errors
    ///
    /// As [`Executor::start`]. A process that fails is no error.
    pub async fn run(
        &self,
        process: &Process,
        rootfs: &ActiveSnapshot,
        mounts: Vec<ProcessMount>,
        io: ProcessIo,
    ) -> Result<ExitStatus, ExecutorError> {
        self.start(process, rootfs, mounts, io).await?.wait().await
    }

    fn request(
        &self,
        process: &Process,
        rootfs: &ActiveSnapshot,
        mounts: Vec<ProcessMount>,
        io: &ProcessIo,
    ) -> Result<ContainerRequest, ExecutorError> {
        if process.args.is_empty() {
            return Err(invalid("there is no command to run"));
        }
        let root = view_active(rootfs, self.owners)
            .map_err(ExecutorError::file("open the snapshot", rootfs.upper()))?;
        let mut user = Users::read(&Arc::new(root))?.process_user(&process.user)?;
        user.groups.extend(&process.additional_gids);
        make_working_directory(process, rootfs, &user, self.owners)?;

        let mut spec =
            if process.privileged { runtime::insecure_spec() } else { runtime::default_spec() };
        spec.set_hostname(Some(process.hostname.clone()));
        if let Some(root) = spec.root_mut() {
            root.set_readonly(Some(process.read_only));
        }
        if let Some(inner) = spec.process_mut() {
            inner.set_args(Some(process.args.clone()));
            inner.set_env(Some(environment(process, &user, io)?));
            inner.set_cwd(process.cwd.clone().into());
            let old = inner.user().clone();
            inner.set_user(oci_user(&user, &old)?);
            inner.set_terminal(Some(matches!(io, ProcessIo::Terminal { .. })));
            let limits = process.ulimits.iter().map(rlimit).collect::<Result<Vec<_>, _>>()?;
            inner.set_rlimits(Some(limits));
        }
        let resources = process.limits.resources().map_err(|error| invalid(error.to_string()))?;
        if let (Some(linux), Some(mut resources)) = (spec.linux_mut(), resources) {
            let rules = linux.resources().as_ref().and_then(|own| own.devices().clone());
            resources.set_devices(rules);
            linux.set_resources(Some(resources));
        }
        let hidden: Vec<String> =
            mounts.iter().map(|mount| crate::pattern::clean(&mount.target)).collect();
        let (more, mut files) = oci_mounts(mounts)?;
        let mut all = spec.mounts().clone().unwrap_or_default();
        set_shm_size(&mut all, process.shm_size);
        all.extend(more);
        spec.set_mounts(Some(all));
        let root_of =
            if matches!(io, ProcessIo::Log(..)) { RootOf::Step } else { RootOf::Container };
        let mut network_files = network_files(process, root_of == RootOf::Step);
        // A mount over /etc hides what is in it, as if it had come after these files.
        network_files.retain(|file| !hidden.iter().any(|target| file.target.starts_with(target)));
        network_files.append(&mut files);
        Ok(ContainerRequest {
            spec,
            rootfs: rootfs.container_mounts(root_of),
            network: process.network,
            files: network_files,
        })
    }
}

/// Runs `work` where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExecutorError> + Send + 'static,
) -> Result<T, ExecutorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ExecutorError::Panic { message: error.to_string() }),
    }
}

/// Where owners of files are written for `identity`.
pub(crate) fn owners(identity: &runtime::Identity) -> Owners {
    match identity {
        runtime::Identity::Single { .. } => Owners::Attribute,
        runtime::Identity::Root | runtime::Identity::Ranges { .. } => Owners::Native,
    }
}

fn invalid(reason: impl Into<String>) -> ExecutorError {
    ExecutorError::Process { reason: reason.into() }
}

/// A missing working directory is made before the process starts, in the root file system; what the
/// kernel provides (`/proc`, `/sys`, `/dev`) is not.
fn make_working_directory(
    process: &Process,
    rootfs: &ActiveSnapshot,
    user: &ProcessUser,
    owners: Owners,
) -> Result<(), ExecutorError> {
    let cwd = crate::pattern::clean(&process.cwd);
    if !cwd.starts_with('/') {
        return Err(invalid(format!("the working directory `{cwd}` is not absolute")));
    }
    let first = cwd.split('/').nth(1).unwrap_or_default();
    if process.cwd == "/" || matches!(first, "proc" | "sys" | "dev") {
        return Ok(());
    }
    let operation = FileOperation::new(rootfs, owners)?;
    operation.make_directory(&cwd, (user.uid, user.gid), 0o755, None)?;
    // The kernel wants what stands before a `..` as well; as with runc it is root's.
    for (end, _) in process.cwd.match_indices("/..").filter(|(end, _)| {
        let rest = &process.cwd[end + 3..];
        rest.is_empty() || rest.starts_with('/')
    }) {
        let before = crate::pattern::clean(&process.cwd[..end]);
        operation.make_directory(&before, (0, 0), 0o755, None)?;
    }
    Ok(())
}

fn environment(
    process: &Process,
    user: &ProcessUser,
    io: &ProcessIo,
) -> Result<Vec<String>, ExecutorError> {
    let mut env: Vec<(&str, &str)> = Vec::with_capacity(process.env.len() + 3);
    let defaults = [("PATH", DEFAULT_PATH), ("HOME", &user.home)];
    let terminal = [("TERM", "xterm")];
    let is_terminal = matches!(io, ProcessIo::Terminal { .. });
    let defaults = defaults.iter().chain(terminal.iter().filter(|_| is_terminal)).copied();
    for (name, value) in &process.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!("`{name}` cannot be an environment variable")));
        }
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => env.push((name, value)),
        }
    }
    for (name, value) in defaults {
        if !env.iter().any(|(known, _)| *known == name) {
            env.push((name, value));
        }
    }
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn oci_user(user: &ProcessUser, old: &User) -> Result<User, ExecutorError> {
    let mut builder =
        UserBuilder::default().uid(user.uid).gid(user.gid).additional_gids(user.groups.clone());
    if let Some(umask) = old.umask() {
        builder = builder.umask(umask);
    }
    builder.build().map_err(|error| invalid(error.to_string()))
}

fn rlimit((name, soft, hard): &(String, i64, i64)) -> Result<PosixRlimit, ExecutorError> {
    use PosixRlimitType as Type;
    let typ = match name.as_str() {
        "cpu" => Type::RlimitCpu,
        "fsize" => Type::RlimitFsize,
        "data" => Type::RlimitData,
        "stack" => Type::RlimitStack,
        "core" => Type::RlimitCore,
        "rss" => Type::RlimitRss,
        "nproc" => Type::RlimitNproc,
        "nofile" => Type::RlimitNofile,
        "memlock" => Type::RlimitMemlock,
        "as" => Type::RlimitAs,
        "locks" => Type::RlimitLocks,
        "sigpending" => Type::RlimitSigpending,
        "msgqueue" => Type::RlimitMsgqueue,
        "nice" => Type::RlimitNice,
        "rtprio" => Type::RlimitRtprio,
        "rttime" => Type::RlimitRttime,
        other => return Err(invalid(format!("`{other}` is not the name of a ulimit"))),
    };
    // -1 is no limit, which is all ones.
    let (soft, hard) = (soft.cast_unsigned(), hard.cast_unsigned());
    let limit = PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard).build();
    limit.map_err(|error| invalid(error.to_string()))
}

fn set_shm_size(mounts: &mut [Mount], size: Option<u64>) {
    let Some(size) = size else { return };
    let shm = mounts.iter_mut().find(|m| m.destination() == std::path::Path::new("/dev/shm"));
    if let Some(shm) = shm {
        let mut options = shm.options().clone().unwrap_or_default();
        options.retain(|option| !option.starts_with("size="));
        options.push(format!("size={size}"));
        shm.set_options(Some(options));
    }
}

/// The mounts in the order of their targets, and the files, which the runtime mounts last.
fn oci_mounts(
    mut mounts: Vec<ProcessMount>,
) -> Result<(Vec<Mount>, Vec<InjectedFile>), ExecutorError> {
    mounts.sort_by_key(|mount| crate::pattern::components(&mount.target).len());
    let (mut oci, mut files) = (Vec::new(), Vec::new());
    for mount in mounts {
        let target = crate::pattern::clean(&mount.target);
        if !target.starts_with('/') || target == "/" {
            return Err(invalid(format!("invalid mount target {:?}", mount.target)));
        }
        let access = if mount.readonly { "ro" } else { "rw" };
        let build = |kind: &str, source: &str, options: Vec<String>| {
            let builder = MountBuilder::default().destination(&*target).typ(kind).source(source);
            builder.options(options).build().map_err(|error| invalid(error.to_string()))
        };
        match mount.source {
            source @ (MountSource::Path(_) | MountSource::Bind(..)) => {
                let (path, further) = match source {
                    MountSource::Bind(path, further) => (path, further),
                    MountSource::Path(path) => (path, Vec::new()),
                    _ => continue,
                };
                let path = path.to_str().ok_or_else(|| {
                    invalid(format!("`{}` cannot be mounted: it is not UTF-8", path.display()))
                })?;
                let options = ["rbind", "rprivate", access].into_iter().chain(further);
                let options = options.map(str::to_owned).collect();
                oci.push(build("bind", path, options)?);
            }
            MountSource::Tmpfs { size, mode } => {
                let mut options = ["nosuid", "nodev", access].map(str::to_owned).to_vec();
                options.push(format!("mode={mode:o}"));
                options.extend(size.map(|size| format!("size={size}")));
                oci.push(build("tmpfs", "tmpfs", options)?);
            }
            MountSource::Tree { mounts, path } => {
                let mut parts = mounts.into_iter();
                let (Some(mut tree), None) = (parts.next(), parts.next()) else {
                    return Err(invalid(format!("`{target}`: a tree is one mount")));
                };
                tree.set_destination(target.clone().into());
                if !mount.readonly {
                    make_scratch(&mut tree);
                }
                let mut options = tree.options().clone().unwrap_or_default();
                options.push(access.to_owned());
                options.push(format!("{}={path}", runtime::SUBPATH_OPTION));
                tree.set_options(Some(options));
                oci.push(tree);
            }
            MountSource::File { content, mode, uid, gid } => files.push(InjectedFile {
                target: target.into(),
                content,
                mode,
                uid,
                gid,
                read_only: mount.readonly,
            }),
        }
    }
    Ok((oci, files))
}

/// Lets writes to a read-only tree go to memory.
fn make_scratch(tree: &mut Mount) {
    let mut options = tree.options().clone().unwrap_or_default();
    if tree.typ().as_deref() != Some("overlay") {
        // One layer is described as a bind of it.
        let layer = tree.source().clone().unwrap_or_default();
        let layer = layer.display().to_string().replace('\\', r"\\").replace(':', r"\:");
        options = vec![format!("lowerdir={layer}")];
        tree.set_typ(Some("overlay".to_owned()));
        tree.set_source(Some("overlay".into()));
    }
    options.retain(|option| option != "ro");
    options.push(runtime::SCRATCH_OPTION.to_owned());
    tree.set_options(Some(options));
}

/// `/etc/hosts` and `/etc/resolv.conf`; `/etc/hostname` too, but not in builds, which see the
/// image's as they do under BuildKit.
fn network_files(process: &Process, is_build: bool) -> Vec<InjectedFile> {
    let mut hosts = String::from("127.0.0.1\tlocalhost");
    if is_build {
        hosts.push(' ');
        hosts.push_str(&process.hostname);
    }
    hosts.push_str("\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    hosts.push_str("fe00::\tip6-localnet\nff00::\tip6-mcastprefix\n");
    hosts.push_str("ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n");
    if !is_build {
        hosts.push_str(&format!("127.0.1.1\t{}\n", process.hostname));
    }
    for (name, address) in &process.extra_hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    let resolvers = fs_err::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolvers = match process.network {
        NetworkMode::Host => resolvers,
        NetworkMode::None | NetworkMode::Proxied => runtime::network::resolv_conf(&resolvers),
    };
    let file = |target: &str, content: String| InjectedFile {
        target: target.into(),
        content: content.into_bytes(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        read_only: is_build,
    };
    let mut files = vec![file("/etc/hosts", hosts), file("/etc/resolv.conf", resolvers)];
    if !is_build {
        files.push(file("/etc/hostname", format!("{}\n", process.hostname)));
    }
    files
}

/// A process that was started. Dropped, it and everything it started is killed.
#[derive(Debug)]
pub struct RunningProcess {
    container: Arc<Container>,
    exit: AsyncFd<OwnedFd>,
    pty: Option<Pty>,
    log: Option<ProcessLog>,
    followers: JoinSet<std::io::Result<()>>,
}

impl RunningProcess {
    fn new(mut container: Container, io: ProcessIo) -> Result<Self, ExecutorError> {
        let failed =
            |source| ExecutorError::File { attempt: "watch", path: "the container".into(), source };
        let exit = container.exit_fd().try_clone_to_owned().map_err(failed)?;
        // Its successor is unsafe; this descriptor is owned, and stays the same until it is closed.
        #[expect(deprecated)]
        let exit = AsyncFd::with_interest(exit, Interest::READABLE).map_err(failed)?;
        let mut followers = JoinSet::new();
        let log = match io {
            ProcessIo::Log(sink, hidden) => Some(ProcessLog::new(sink, hidden)),
            ProcessIo::Inherit { .. } | ProcessIo::Terminal { .. } => None,
        };
        if let Some(log) = &log {
            let pipes = [
                (container.take_stdout(), Stream::Stdout),
                (container.take_stderr(), Stream::Stderr),
            ];
            for (pipe, stream) in pipes {
                if let Some(pipe) = pipe {
                    let log = log.clone();
                    followers.spawn(async move { log.follow(pipe, stream).await });
                }
            }
        }
        let pty = container.take_pty();
        Ok(Self { container: Arc::new(container), exit, pty, log, followers })
    }

    /// Its process id as we see it.
    pub fn pid(&self) -> i32 {
        self.container.pid()
    }

    /// Its terminal, once, with [`ProcessIo::Terminal`].
    pub fn take_pty(&mut self) -> Option<Pty> {
        self.pty.take()
    }

    /// Sends it a signal; no error if it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), ExecutorError> {
        Ok(self.container.signal(signal)?)
    }

    /// Waits for its end, and until its log is complete. May be called again, and dropped halfway
    /// without ending the process.
    pub async fn wait(&mut self) -> Result<ExitStatus, ExecutorError> {
        // Readiness stays: the descriptor is never read from.
        let ready = self.exit.readable().await.map(|mut guard| guard.retain_ready());
        ready.map_err(|source| ExecutorError::File {
            attempt: "watch",
            path: "the container".into(),
            source,
        })?;
        let container = self.container.clone();
        let status = blocking(move || Ok(container.wait()?)).await?;
        // Every process of the container is gone, so its pipes are closed; nobody else has them.
        let drained = async { while self.followers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, drained).await.is_err() {
            tracing::warn!("the output of a container did not end with it");
        }
        Ok(status)
    }

    /// The last lines that it wrote to its log, oldest first.
    pub fn log_tail(&self) -> Vec<String> {
        self.log.as_ref().map(ProcessLog::tail).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cache::oci::ImageConfiguration;

    fn user() -> ProcessUser {
        ProcessUser { uid: 7, gid: 7, groups: vec![8], home: "/home/x".into() }
    }

    #[test]
    fn a_malformed_variable_of_an_image_never_becomes_one_of_ours() {
        let mut config = ImageConfiguration::default();
        let env = ["A=1", "HOME", "=x", "PATH_TO_SECRET", "A=2", "B="].map(str::to_owned);
        config.config.env = Some(env.to_vec());
        let process = Process::from_image(&config);
        let io = ProcessIo::Inherit { stdin: false };
        let env = environment(&process, &user(), &io).unwrap();
        assert_eq!(env, ["A=2", "B=", &format!("PATH={DEFAULT_PATH}"), "HOME=/home/x"]);
    }

    #[test]
    fn mounts_come_in_the_order_of_their_targets() {
        let tmpfs = |target: &str| ProcessMount {
            target: target.to_owned(),
            source: MountSource::Tmpfs { size: Some(4096), mode: 0o1777 },
            readonly: false,
        };
        let (mounts, _) = oci_mounts(vec![tmpfs("/a/b/c"), tmpfs("/z"), tmpfs("/a/b")]).unwrap();
        let targets: Vec<_> =
            mounts.iter().map(|m| m.destination().display().to_string()).collect();
        assert_eq!(targets, ["/z", "/a/b", "/a/b/c"]);
        assert!(oci_mounts(vec![tmpfs("/a/..")]).is_err());
    }

    #[test]
    fn a_single_layer_becomes_an_overlay_when_it_is_written_to() {
        let bind = MountBuilder::default()
            .destination("/")
            .typ("bind")
            .source("/store/a:b")
            .options(vec!["rbind".to_owned(), "ro".to_owned()])
            .build()
            .unwrap();
        let mount = ProcessMount {
            target: "/src".into(),
            source: MountSource::Tree { mounts: vec![bind], path: "/x".into() },
            readonly: false,
        };
        let (mounts, _) = oci_mounts(vec![mount]).unwrap();
        assert_eq!(mounts[0].typ().as_deref(), Some("overlay"));
        assert_eq!(
            mounts[0].options().clone().unwrap(),
            [r"lowerdir=/store/a\:b", runtime::SCRATCH_OPTION, "rw", "strake.subpath=/x"]
        );
    }
}
