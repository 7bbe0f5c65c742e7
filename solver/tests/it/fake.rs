//! A worker whose trees are integers.
//!
//! An image is its number, `add n` adds `n` to the sum of its inputs, `div n` divides it (so that
//! different inputs come to the same content), `roll` gives a new number each time. The content of
//! a tree is its number. Every execution gives a new snapshot id, as real ones do.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cache::hash::Fingerprint;
use cache::snapshot::SnapshotId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use solver::llb::{Op, Selector, SourceOp, Vertex};
use solver::{
    CacheKey, Claim, Content, ContentRequest, Demand, Ingredient, InputValue, LogSink, OpError,
    Output, Stream, Worker,
};

#[derive(Default)]
pub(crate) struct FakeWorker {
    state: Mutex<State>,
    claims: Mutex<HashMap<CacheKey, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
pub(crate) struct State {
    trees: HashMap<SnapshotId, i64>,
    next: u64,
    /// Names of what was executed to its end, in order.
    pub(crate) executed: Vec<String>,
    /// Names of what was begun, in order.
    pub(crate) begun: Vec<String>,
    /// How often a content was asked for: of sources, of parts of trees, of whole trees.
    pub(crate) source_contents: usize,
    pub(crate) tree_contents: usize,
    pub(crate) running: usize,
    pub(crate) most_running: usize,
    /// What each is expected to take, what there is, and what was taken together at the most. Who
    /// needs more than there is takes all of it.
    pub(crate) demands: HashMap<String, Demand>,
    pub(crate) whole: Option<Demand>,
    pub(crate) taken: Demand,
    pub(crate) most_taken: Demand,
    pub(crate) gone: HashSet<SnapshotId>,
    pub(crate) files: HashMap<(String, String), i64>,
    pub(crate) delays: HashMap<String, Duration>,
    pub(crate) content_delay: Duration,
    pub(crate) failing: HashSet<String>,
    pub(crate) panicking: HashSet<String>,
    /// Executions say the content of their outputs.
    pub(crate) knows_content: bool,
    pub(crate) claims: bool,
}

/// Counts what runs, and notices when it is dropped half-way.
struct Running<'a>(&'a FakeWorker, Demand);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running -= 1;
        state.taken.memory -= self.1.memory;
        state.taken.cpu -= self.1.cpu;
    }
}

impl FakeWorker {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the lock")
    }

    /// The number that a tree is.
    pub(crate) fn value(&self, output: &Output) -> i64 {
        match &output.snapshot {
            None => 0,
            Some(id) => self.state().trees[id],
        }
    }

    fn taken_by(&self, vertex: &Vertex) -> Demand {
        let demand = self.expects(vertex);
        match self.state().whole {
            None => demand,
            Some(whole) => {
                Demand { memory: demand.memory.min(whole.memory), cpu: demand.cpu.min(whole.cpu) }
            }
        }
    }

    pub(crate) fn set_file(&self, context: &str, path: &str, value: i64) {
        self.state().files.insert((context.into(), path.into()), value);
    }

    /// Forgets what was executed, not what came out.
    pub(crate) fn forget_calls(&self) {
        let mut state = self.state();
        state.executed.clear();
        state.begun.clear();
        state.source_contents = 0;
        state.tree_contents = 0;
        state.most_running = 0;
        state.most_taken = Demand::default();
    }

    fn read(&self, vertex: &Vertex, selector: &Selector) -> Result<Vec<(String, i64)>, OpError> {
        match &vertex.op {
            Op::Source(SourceOp::Context(context)) => {
                let state = self.state();
                let read = |path: &str| {
                    let value = state.files.get(&(context.name.clone(), path.to_owned())).copied();
                    let missing = || OpError::worker(format!("`{path}` not found"));
                    Ok((path.to_owned(), value.ok_or_else(missing)?))
                };
                selector.paths.iter().map(|path| read(&path.path)).collect()
            }
            Op::Source(SourceOp::Inline { files }) => {
                let sum = |bytes: &[u8]| bytes.iter().map(|b| i64::from(*b)).sum();
                Ok(files.iter().map(|file| (file.path.clone(), sum(&file.content))).collect())
            }
            Op::Source(SourceOp::Http(http)) => {
                let value = self.state().files.get(&("http".into(), http.url.clone())).copied();
                Ok(vec![(http.url.clone(), value.unwrap_or_default())])
            }
            op => panic!("{op:?} is not read where it lies"),
        }
    }

    fn sum(&self, vertex: &Vertex, inputs: &[InputValue]) -> Result<i64, OpError> {
        let mut sum = 0;
        for (input, value) in vertex.inputs.iter().zip(inputs) {
            sum += match (value, &input.role) {
                (InputValue::Output(output), _) => self.value(output),
                (InputValue::Direct(source), solver::llb::InputRole::Content(selector)) => {
                    self.read(source, selector)?.iter().map(|(_, value)| value).sum()
                }
                (InputValue::Direct(source), _) => {
                    self.read(source, &Selector::everything())?.iter().map(|(_, v)| v).sum()
                }
            };
        }
        Ok(sum)
    }

    fn apply(&self, vertex: &Vertex, sum: i64) -> Result<i64, OpError> {
        let value = match &vertex.op {
            Op::Source(SourceOp::Image(image)) => {
                i64::from(u8::from_str_radix(&image.diff_ids[0].0.hex()[..2], 16).expect("hex"))
            }
            Op::Source(_) => self.read(vertex, &Selector::everything())?[0].1,
            Op::File(_) | Op::Merge(_) => sum,
            Op::Exec(exec) => {
                let number = || exec.args[1].parse::<i64>().expect("a number");
                match exec.args[0].as_str() {
                    "add" => sum + number(),
                    "div" => sum / number(),
                    "roll" => {
                        let mut state = self.state();
                        state.next += 1;
                        1000 + i64::try_from(state.next).expect("small")
                    }
                    other => panic!("no such program: {other}"),
                }
            }
        };
        Ok(value)
    }

    fn keep(&self, name: &str, value: i64) -> Output {
        let mut state = self.state();
        state.next += 1;
        let id: SnapshotId = format!("{:032x}", state.next).parse().expect("32 hex digits");
        state.trees.insert(id, value);
        state.executed.push(name.to_owned());
        let content = state.knows_content.then(|| fingerprint(value));
        Output { snapshot: Some(id), content }
    }
}

fn fingerprint(value: i64) -> Fingerprint {
    Fingerprint::of(&value.to_le_bytes())
}

impl Worker for FakeWorker {
    fn exec(
        &self,
        vertex: Arc<Vertex>,
        inputs: Vec<InputValue>,
        log: LogSink,
    ) -> BoxFuture<'_, Result<Vec<Output>, OpError>> {
        let work = async move {
            let name = vertex.meta.name.clone();
            let demand = self.taken_by(&vertex);
            let (delay, fails, panics) = {
                let mut state = self.state();
                state.taken.memory += demand.memory;
                state.taken.cpu += demand.cpu;
                state.most_taken.memory = state.most_taken.memory.max(state.taken.memory);
                state.most_taken.cpu = state.most_taken.cpu.max(state.taken.cpu);
                state.begun.push(name.clone());
                state.running += 1;
                state.most_running = state.most_running.max(state.running);
                let delay = state.delays.get(&name).copied();
                (delay, state.failing.contains(&name), state.panicking.contains(&name))
            };
            let _running = Running(self, demand);
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            assert!(!panics, "out of cheese");
            log.write(Stream::Stdout, name.clone());
            if fails {
                return Err(OpError::Exit {
                    command: name,
                    code: Some(2),
                    signal: None,
                    oom: false,
                    memory_limit: None,
                    log_tail: vec!["no rule".to_owned()],
                });
            }
            let value = self.apply(&vertex, self.sum(&vertex, &inputs)?)?;
            Ok(vec![self.keep(&name, value)])
        };
        work.boxed()
    }

    fn content(&self, request: ContentRequest) -> BoxFuture<'_, Result<Content, OpError>> {
        let work = async move {
            let delay = self.state().content_delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if let Some(output) = &request.output {
                self.state().tree_contents += 1;
                let value = self.value(output);
                let fingerprint = fingerprint(value);
                return Ok(Content { fingerprint, ingredients: Vec::new() });
            }
            self.state().source_contents += 1;
            let files = self.read(&request.vertex, &request.selector)?;
            // The name of what is selected does not count.
            let values: Vec<u8> = files.iter().flat_map(|(_, value)| value.to_le_bytes()).collect();
            let ingredients = files.iter().map(|(path, value)| Ingredient {
                part: format!("file:{path}"),
                value: value.to_string(),
            });
            let ingredients = ingredients.collect();
            Ok(Content { fingerprint: Fingerprint::of(&values), ingredients })
        };
        work.boxed()
    }

    fn rootfs_content(&self, output: Output) -> BoxFuture<'_, Result<Fingerprint, OpError>> {
        self.state().tree_contents += 1;
        let value = self.value(&output);
        async move { Ok(fingerprint(value)) }.boxed()
    }

    fn exists(&self, output: &Output) -> Result<bool, OpError> {
        let state = self.state();
        let is_there = |id| state.trees.contains_key(id) && !state.gone.contains(id);
        Ok(output.snapshot.as_ref().is_some_and(is_there))
    }

    fn expects(&self, vertex: &Vertex) -> Demand {
        self.state().demands.get(&vertex.meta.name).copied().unwrap_or_default()
    }

    fn claim(&self, key: CacheKey) -> BoxFuture<'_, Option<Claim>> {
        if !self.state().claims {
            return std::future::ready(None).boxed();
        }
        let lock = Arc::clone(self.claims.lock().expect("claims").entry(key).or_default());
        async move { Some(Box::new(lock.lock_owned().await) as Claim) }.boxed()
    }
}
