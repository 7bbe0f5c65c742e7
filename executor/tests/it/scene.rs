//! A machine with a store, a busybox root file system and a context.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cache::Store;
use cache::oci::Platform;
use cache::remote::{Registries, RegistryConfig};
use cache::snapshot::{CommitInfo, Snapshot};
use executor::{LocalWorker, LocalWorkerConfig, SecretStore, SshAgents};
use runtime::{Isolation, Spawner};
use solver::llb::{
    CopyAction, ExecMount, ExecOp, FileAction, FileOp, LocalContext, MountKind, Op, SourceOp,
    Unpack, Vertex, VertexMeta,
};
use solver::{Event, EventReceiver, EventSender, InputValue, LogSink, OpError, Output, Worker};

const APPLETS: &[&str] = &[
    "sh", "true", "false", "cat", "echo", "ls", "id", "sleep", "stat", "touch", "mkdir",
    "readlink", "grep", "test", "hostname", "env", "chmod", "rm", "ln", "pwd", "find", "wc", "yes",
    "head", "df", "mount", "nc", "printf",
];

/// What the kernel gives us once.
pub(crate) struct Machine {
    pub(crate) isolation: Isolation,
    pub(crate) spawner: Arc<Spawner>,
}

impl Machine {
    /// Enters namespaces; must come before any thread.
    pub(crate) fn new() -> Self {
        let isolation = runtime::isolate().expect("namespaces");
        let spawner = Arc::new(Spawner::start().expect("the init helper"));
        Self { isolation, spawner }
    }
}

/// A store of its own for one case.
pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) base: Snapshot,
    pub(crate) secrets: SecretStore,
    pub(crate) ssh: SshAgents,
    pub(crate) allow: Vec<String>,
    isolation: Isolation,
    spawner: Arc<Spawner>,
}

/// How a step went, and what it wrote.
pub(crate) struct Ran {
    pub(crate) result: Result<Output, OpError>,
    pub(crate) log: String,
}

impl Scene {
    pub(crate) fn new(machine: &Machine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        fs_err::create_dir(dir.path().join("context")).unwrap();
        let base = busybox(&store);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            dir,
            store,
            runtime,
            base,
            secrets: SecretStore::new(),
            ssh: SshAgents::new(),
            allow: Vec::new(),
            isolation: machine.isolation.clone(),
            spawner: machine.spawner.clone(),
        }
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.context().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    pub(crate) fn worker(&self) -> LocalWorker {
        let _entered = self.runtime.enter();
        LocalWorker::new(LocalWorkerConfig {
            store: self.store.clone(),
            spawner: self.spawner.clone(),
            identity: self.isolation.identity.clone(),
            registries: Registries::new(RegistryConfig::default()),
            contexts: BTreeMap::from([("context".to_owned(), self.context())]),
            secrets: self.secrets.clone(),
            ssh: self.ssh.clone(),
            allow: self.allow.clone(),
            limits: executor::Limits::default(),
            offline: false,
            devices: executor::cdi::Devices::default(),
            created: Some("2024-01-01T00:00:00Z".to_owned()),
        })
    }

    pub(crate) fn base(&self) -> InputValue {
        InputValue::Output(Output { snapshot: Some(*self.base.id()), content: None })
    }

    /// The context as an input.
    pub(crate) fn context_input(&self, excludes: &[&str]) -> InputValue {
        InputValue::Direct(Arc::new(vertex(Op::Source(SourceOp::Context(LocalContext {
            name: "context".to_owned(),
            excludes: excludes.iter().map(|line| (*line).to_owned()).collect(),
        })))))
    }

    /// Executes a vertex on its own.
    pub(crate) fn exec(&self, vertex: Vertex, inputs: Vec<InputValue>) -> Ran {
        let worker = self.worker();
        let (log, events) = log();
        let ran = self.runtime.block_on(async {
            let result = worker.exec(Arc::new(vertex), inputs, log).await;
            worker.finish().await;
            result
        });
        Ran { result: ran.map(|mut outputs| outputs.remove(0)), log: text(events) }
    }

    /// Runs a shell script on `base`.
    pub(crate) fn run_on(&self, base: InputValue, script: &str) -> Ran {
        self.exec(vertex(Op::Exec(shell(script))), vec![base])
    }

    /// Runs a shell script on busybox with changes to its op.
    pub(crate) fn run_with(&self, script: &str, change: impl FnOnce(&mut ExecOp)) -> Ran {
        let mut op = shell(script);
        change(&mut op);
        self.exec(vertex(Op::Exec(op)), vec![self.base()])
    }

    pub(crate) fn run(&self, script: &str) -> Ran {
        self.run_with(script, |_| {})
    }

    pub(crate) fn copy(&self, action: CopyAction, source: InputValue) -> Ran {
        let op = Op::File(FileOp { actions: vec![FileAction::Copy(action)] });
        self.exec(vertex(op), vec![self.base(), source])
    }

    /// The names in the layer of a result, sorted, as an image would have them.
    pub(crate) fn layer(&self, output: &Output) -> Vec<String> {
        let snapshot = self.store.snapshots().get(&output.snapshot.unwrap()).unwrap().unwrap();
        let mut archive = Vec::new();
        cache::layer::pack(&snapshot, &mut archive).unwrap();
        let mut archive = tar::Archive::new(&archive[..]);
        let entries = archive.entries().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .map(|name| name.trim_end_matches('/').to_owned())
            .collect();
        names.sort();
        names
    }
}

impl Ran {
    pub(crate) fn output(self) -> Output {
        match self.result {
            Ok(output) => output,
            Err(error) => panic!("{error}\n{:?}\n{}", std::error::Error::source(&error), self.log),
        }
    }

    pub(crate) fn input(self) -> InputValue {
        InputValue::Output(self.output())
    }

    /// What the step wrote; it must have succeeded.
    pub(crate) fn log(self) -> String {
        let log = self.log.clone();
        self.output();
        log
    }

    pub(crate) fn error(self) -> String {
        let error = self.result.expect_err("the step should have failed");
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }
}

pub(crate) fn vertex(op: Op) -> Vertex {
    Vertex { op, inputs: Vec::new(), meta: VertexMeta::named("step") }
}

pub(crate) fn shell(script: &str) -> ExecOp {
    let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecOp::new(args, Platform::host())
}

pub(crate) fn copy(source: &str, dest: &str) -> CopyAction {
    CopyAction {
        input: 1,
        sources: vec![source.to_owned()],
        wildcard: true,
        dest: dest.to_owned(),
        owner: None,
        mode: None,
        unpack: Unpack::No,
        parents: false,
        exclude: Vec::new(),
        from_context: true,
        required: true,
        link: false,
        created: None,
    }
}

pub(crate) fn mount(target: &str, kind: MountKind) -> ExecMount {
    ExecMount { target: target.to_owned(), kind }
}

pub(crate) fn secret(id: &str, env: Option<&str>, file: bool) -> MountKind {
    MountKind::Secret {
        id: id.to_owned(),
        required: false,
        mode: 0o400,
        uid: 0,
        gid: 0,
        env: env.map(str::to_owned),
        file,
    }
}

fn log() -> (LogSink, EventReceiver) {
    let (events, received) = EventSender::channel();
    let op = Op::Source(SourceOp::Scratch);
    let mut definition = solver::llb::Definition::new();
    let id = definition.add(vertex(op)).unwrap();
    (LogSink::new(id, events), received)
}

fn text(mut events: EventReceiver) -> String {
    let mut log = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Log { data, .. } = event {
            log.extend(data);
        }
    }
    String::from_utf8_lossy(&log).into_owned()
}

/// A committed snapshot with busybox, its applets and an account.
fn busybox(store: &Store) -> Snapshot {
    let active = store.snapshots().prepare(None).unwrap();
    let root = active.upper();
    for name in ["bin", "tmp", "etc", "root"] {
        fs_err::create_dir(root.join(name)).unwrap();
    }
    fs_err::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("busybox-static is needed");
    for applet in APPLETS {
        fs_err::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    fs_err::write(root.join("etc/passwd"), passwd).unwrap();
    fs_err::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:2000:app\n").unwrap();
    let created = "2024-01-01T00:00:00Z".to_owned();
    active.commit(CommitInfo { created, ..CommitInfo::default() }).unwrap()
}

/// Asks again and again, for ten seconds at most.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

/// Whether `needle` stands in any file below `root`.
pub(crate) fn contains_bytes(root: &Path, needle: &[u8]) -> Option<PathBuf> {
    for entry in fs_err::read_dir(root).ok()? {
        let path = entry.unwrap().path();
        let kind = fs_err::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            if let Some(found) = contains_bytes(&path, needle) {
                return Some(found);
            }
        } else if kind.is_file() {
            let bytes = fs_err::read(&path).unwrap_or_default();
            if bytes.windows(needle.len()).any(|window| window == needle) {
                return Some(path);
            }
        }
    }
    None
}
