//! The scheduler: one task owns the state of every vertex, tasks beside it only send messages.
//!
//! Keys come forward, demand goes backward, and both move at the same time:
//!
//! - **Keys.** Contexts are fingerprinted and unpinned sources asked, all at once. A vertex has its
//!   fast key as soon as its inputs have theirs, and is looked up then.
//! - **Demand.** The targets are demanded. A demanded vertex with a record is done. One that misses
//!   demands its inputs. One whose key is not known yet waits for it, unless no record of its op
//!   exists at all: then it is a miss whatever its key will be, and a cold build runs its first
//!   steps while the context is still being read.
//! - **Work.** A vertex that has missed and has all inputs looks for its slow key, if a record of
//!   its op exists, and is executed else. A key that is at work already is followed, not executed a
//!   second time.
//!
//! [`Schedule::advance`] is the whole machine: it looks at what is known of a vertex and moves it
//! as far as that allows. It may be called at any time and any number of times, and is called
//! whenever something a vertex waits for has changed; so no wake-up can be lost, and none is wrong.

mod plan;
mod record;
mod task;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Output, Record};
use tokio::task::{JoinError, JoinSet};

use self::plan::{Plan, is_context};
use self::task::{Message, Shared};
use crate::error::{OpError, SolveError};
use crate::event::{Event, EventSender};
use crate::key;
use crate::llb::{Definition, Op, SourceOp, Vertex, VertexId};
use crate::records::RecordsError;
use crate::slow::{self, Probed};
use crate::solution::{Decisions, Keys, Origin, Solution, Unfinished, VertexReport};
use crate::solver::Solver;
use crate::worker::{Claim, InputValue};
use crate::writer::Writer;

/// How far a vertex is. It only ever moves down this list.
#[derive(Debug, Clone, PartialEq)]
enum VertexState {
    /// Nobody needs it so far.
    Idle,
    /// Needed; whether it must be executed is not known yet.
    Demanded,
    /// It has no record, and waits for this many inputs, or for its key.
    AwaitingInputs { missing: usize },
    /// Its slow key is looked for.
    Probing,
    /// It is being executed, or waits for its turn.
    Running,
    /// Another vertex with the same key is ahead; its result will be this one's too.
    Following,
    /// Its outputs are there.
    Done { outputs: Arc<[Output]>, origin: Origin },
    /// It is read where it lies and has no outputs.
    Direct,
}

impl VertexState {
    fn is_done(&self) -> bool {
        matches!(self, VertexState::Done { .. } | VertexState::Direct)
    }
}

/// What is known of a vertex.
struct Progress {
    state: VertexState,
    op: Fingerprint,
    /// Keys and contents of inputs that its fast key still waits for.
    unkeyed: usize,
    /// What the records had under its fast key.
    hit: Option<Record>,
    /// Records must not answer for it: it was asked for without cache.
    no_cache: bool,
    /// Some record of its op exists.
    op_known: bool,
    /// The slow key and what it was made of, where they were computed.
    slow: Option<(CacheKey, Vec<Fingerprint>)>,
    /// Vertices that get its result.
    followers: Vec<usize>,
}

/// Gets what a solve decided, when it ends.
pub(crate) type Decided = Box<dyn FnOnce(Arc<Decisions>) + Send>;

/// One solve.
pub(crate) struct Schedule {
    definition: Arc<Definition>,
    plan: Plan,
    shared: Arc<Shared>,
    vertices: Vec<Progress>,
    reports: Vec<VertexReport>,
    keys: Keys,
    /// Which vertex is, or was, at work on a key.
    owners: HashMap<CacheKey, usize>,
    /// Vertices of which something changed.
    changed: VecDeque<usize>,
    /// How many contents of a context are still being read.
    reading: HashMap<usize, usize>,
    /// Targets that are not done.
    open_targets: HashSet<usize>,
    writer: Writer,
    records_warned: bool,
    /// `None` when it was told.
    decided: Option<Decided>,
    // Dropping this cancels all work.
    tasks: JoinSet<Message>,
}

/// However a solve ends, by being dropped as well, it says what it had decided.
impl Drop for Schedule {
    fn drop(&mut self) {
        if self.decided.is_some() {
            self.tell();
        }
    }
}

impl Schedule {
    pub(crate) fn new(
        solver: &Solver,
        definition: Arc<Definition>,
        events: EventSender,
        decided: Decided,
    ) -> Schedule {
        let plan = Plan::new(&definition);
        let vertices = definition.vertices().iter().enumerate();
        let vertices =
            vertices.map(|(index, vertex)| Progress::new(&plan, index, vertex)).collect();
        let count = definition.vertices().len();
        let records = Arc::clone(&solver.records);
        let worker = Arc::clone(&solver.worker);
        let admission = Arc::clone(&solver.admission);
        Schedule {
            keys: Keys::new(&plan.input_contents, &plan.identities, plan.contents.len()),
            shared: Arc::new(Shared { worker, records: Arc::clone(&records), admission, events }),
            vertices,
            reports: vec![VertexReport::default(); count],
            owners: HashMap::new(),
            changed: VecDeque::new(),
            reading: HashMap::new(),
            open_targets: HashSet::new(),
            writer: Writer::new(records),
            records_warned: false,
            decided: Some(decided),
            tasks: JoinSet::new(),
            definition,
            plan,
        }
    }

    /// Works until the targets are there or something fails.
    pub(crate) async fn run(mut self) -> Result<Solution, SolveError> {
        let result = self.solve().await;
        // Whatever still runs is of no use to anybody now, and must have ended when this returns.
        self.tasks.shutdown().await;
        if let Some(error) = self.writer.finish().await {
            self.warn_of_records(&error);
        }
        if let Err(SolveError::Op { id, .. }) = &result {
            self.reports[id.0].unfinished = Some(Unfinished::Failed);
        }
        result?;
        let outputs = self.outputs();
        Ok(Solution { outputs, decisions: self.tell() })
    }

    async fn solve(&mut self) -> Result<(), SolveError> {
        self.read_contents();
        self.set_first_keys()?;
        for target in self.definition.clone().targets() {
            let vertex = target.vertex.0;
            self.demand(vertex);
            if !self.state(vertex).is_done() {
                self.open_targets.insert(vertex);
            }
        }
        loop {
            while let Some(vertex) = self.changed.pop_front() {
                self.advance(vertex)?;
            }
            if self.open_targets.is_empty() {
                return Ok(());
            }
            let message = match self.tasks.try_join_next() {
                Some(message) => Some(message),
                None => {
                    self.writer.flush();
                    self.tasks.join_next().await
                }
            };
            match message {
                Some(message) => self.receive(message.map_err(broken_down)?)?,
                None => unreachable!("targets wait, but nothing is at work"),
            }
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), SolveError> {
        match message {
            Message::Content { content, result: Ok(found) } => {
                self.keys.set_content(content, found);
                self.finish_reading(content, None);
                for user in self.plan.contents[content].users.clone() {
                    self.one_key_part_more(user)?;
                }
            }
            Message::Content { content, result: Err(error) } => {
                self.finish_reading(content, Some(&error));
                let user = self.plan.contents[content].users[0];
                return Err(self.failed(user, error));
            }
            Message::Probed { vertex, probed: Ok(probed) } => {
                self.probed(vertex, probed.map(|probed| *probed))?
            }
            Message::Probed { vertex, probed: Err(error) } => {
                return Err(self.failed(vertex, error));
            }
            Message::Found { vertex, record } => {
                self.finish(vertex, &record.outputs, Origin::Fast, record.created)?;
            }
            Message::Executed { vertex, result: Ok(outputs), claim } => {
                self.executed(vertex, outputs, claim)?;
            }
            Message::Executed { vertex, result: Err(error), claim } => {
                drop(claim);
                return Err(self.failed(vertex, error));
            }
        }
        Ok(())
    }

    // --- keys, forward ---

    fn read_contents(&mut self) {
        for (index, wanted) in self.plan.contents.iter().enumerate() {
            if is_context(self.definition.vertex(VertexId(wanted.source))) {
                let readers = self.reading.entry(wanted.source).or_insert(0);
                if *readers == 0 {
                    let vertex = VertexId(wanted.source);
                    let at = SystemTime::now();
                    self.shared.events.send(Event::Started { vertex, at });
                }
                *readers += 1;
            }
            self.tasks.spawn(Arc::clone(&self.shared).content(index, wanted.request.clone()));
        }
    }

    fn finish_reading(&mut self, content: usize, error: Option<&OpError>) {
        let source = self.plan.contents[content].source;
        let Some(readers) = self.reading.get_mut(&source) else { return };
        *readers -= 1;
        if *readers == 0 || error.is_some() {
            self.send_completed(source, false, error.map(ToString::to_string));
        }
    }

    fn set_first_keys(&mut self) -> Result<(), SolveError> {
        for vertex in 0..self.vertices.len() {
            let context = is_context(self.definition.vertex(VertexId(vertex)));
            if self.plan.reachable[vertex] && !context && self.vertices[vertex].unkeyed == 0 {
                // Those whose inputs were keyed in this very loop are keyed by their inputs.
                if self.keys.fast[vertex].is_none() {
                    self.set_key(vertex)?;
                }
            }
        }
        Ok(())
    }

    /// A part that the fast key of `vertex` waited for is there.
    fn one_key_part_more(&mut self, vertex: usize) -> Result<(), SolveError> {
        self.vertices[vertex].unkeyed -= 1;
        match self.vertices[vertex].unkeyed {
            0 => self.set_key(vertex),
            _ => Ok(()),
        }
    }

    /// Gives a vertex its fast key, and then all that waited for nothing else.
    fn set_key(&mut self, vertex: usize) -> Result<(), SolveError> {
        let mut ready = vec![vertex];
        while let Some(vertex) = ready.pop() {
            let op = self.vertices[vertex].op;
            let inputs = self.keys.inputs(&self.definition, vertex);
            let key = key::fast(op, self.keys.identity(vertex).map(Arc::as_ref), &inputs);
            self.keys.fast[vertex] = Some(key);
            self.reports[vertex].key = Some(key);
            self.look_up(vertex, key)?;
            self.changed.push_back(vertex);
            for &consumer in &self.plan.consumers[vertex] {
                let waiting = &mut self.vertices[consumer].unkeyed;
                *waiting -= 1;
                if *waiting == 0 {
                    ready.push(consumer);
                }
            }
        }
        Ok(())
    }

    /// Asks the records for a fast key, and says so if they have it, needed or not.
    fn look_up(&mut self, vertex: usize, key: CacheKey) -> Result<(), SolveError> {
        let progress = &self.vertices[vertex];
        if progress.no_cache || self.plan.tainted[vertex] || progress.state.is_done() {
            return Ok(());
        }
        let Some(record) = self.live_record(vertex, key)? else { return Ok(()) };
        self.reports[vertex].origin = Some(Origin::Fast);
        self.reports[vertex].created = Some(record.created.clone());
        self.reports[vertex].outputs.clone_from(&record.outputs);
        self.send_completed(vertex, true, None);
        self.vertices[vertex].hit = Some(record);
        Ok(())
    }

    /// A record whose trees are gone is no record.
    fn live_record(&mut self, vertex: usize, key: CacheKey) -> Result<Option<Record>, SolveError> {
        let record = match self.shared.records.lookup_outputs(&key) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.warn_of_records(&error);
                return Ok(None);
            }
        };
        let is_there = slow::is_there(self.shared.worker.as_ref(), &record.outputs)
            .map_err(|error| self.failed(vertex, error))?;
        let usable = is_there && record.outputs.len() >= self.plan.outputs[vertex];
        Ok(usable.then_some(record))
    }

    // --- demand, backward ---

    fn demand(&mut self, vertex: usize) {
        if self.vertices[vertex].state != VertexState::Idle {
            return;
        }
        let known = self.shared.records.has_op(&self.vertices[vertex].op);
        let op_known = known.unwrap_or_else(|error| {
            self.warn_of_records(&error);
            false
        });
        self.vertices[vertex].op_known = op_known;
        self.vertices[vertex].state = VertexState::Demanded;
        self.changed.push_back(vertex);
    }

    /// Moves a vertex as far as what is known allows.
    fn advance(&mut self, vertex: usize) -> Result<(), SolveError> {
        if self.vertices[vertex].state == VertexState::Demanded {
            if self.take_hit(vertex)? || !self.must_miss(vertex) {
                return Ok(());
            }
            self.demand_inputs(vertex);
        }
        let VertexState::AwaitingInputs { missing } = self.vertices[vertex].state else {
            return Ok(());
        };
        let Some(key) = self.keys.fast[vertex] else { return Ok(()) };
        // The key may have come later than the demand.
        if self.take_hit(vertex)? || self.follow(vertex, key)? || missing > 0 {
            return Ok(());
        }
        let progress = &self.vertices[vertex];
        let inputs = &self.definition.vertices()[vertex].inputs;
        if progress.op_known && !progress.no_cache && !inputs.is_empty() {
            let inputs = self.probe_inputs(vertex);
            let task = Arc::clone(&self.shared).probe(vertex, self.vertices[vertex].op, inputs);
            self.tasks.spawn(task);
            self.vertices[vertex].state = VertexState::Probing;
        } else {
            self.execute(vertex);
        }
        Ok(())
    }

    fn take_hit(&mut self, vertex: usize) -> Result<bool, SolveError> {
        let Some(record) = self.vertices[vertex].hit.take() else { return Ok(false) };
        self.finish(vertex, &record.outputs, Origin::Fast, record.created)?;
        Ok(true)
    }

    fn must_miss(&self, vertex: usize) -> bool {
        let progress = &self.vertices[vertex];
        let unasked = progress.no_cache || self.plan.tainted[vertex];
        unasked || !progress.op_known || self.keys.fast[vertex].is_some()
    }

    fn demand_inputs(&mut self, vertex: usize) {
        let definition = Arc::clone(&self.definition);
        let mut missing = 0;
        for input in &definition.vertices()[vertex].inputs {
            let producer = input.edge.vertex.0;
            self.demand(producer);
            missing += usize::from(!self.state(producer).is_done());
        }
        self.vertices[vertex].state = VertexState::AwaitingInputs { missing };
    }

    /// Leaves the work on `key` to the vertex that is at it, if there is one; else it is `vertex`
    /// from now on.
    ///
    /// A vertex that wants no cache follows only one that was, or will be, executed.
    fn follow(&mut self, vertex: usize, key: CacheKey) -> Result<bool, SolveError> {
        let leader = *self.owners.entry(key).or_insert(vertex);
        if leader == vertex {
            return Ok(false);
        }
        if let VertexState::Done { outputs, origin } = self.state(leader).clone() {
            if self.vertices[vertex].no_cache && matches!(origin, Origin::Fast | Origin::Slow) {
                self.owners.insert(key, vertex);
                return Ok(false);
            }
            let created = self.reports[leader].created.clone().unwrap_or_default();
            self.share(vertex, &outputs, created)?;
            return Ok(true);
        }
        self.vertices[leader].no_cache |= self.vertices[vertex].no_cache;
        self.vertices[leader].followers.push(vertex);
        self.vertices[vertex].state = VertexState::Following;
        Ok(true)
    }

    // --- work ---

    fn probed(&mut self, vertex: usize, probed: Option<Probed>) -> Result<(), SolveError> {
        if let Some(Probed { key, contents, hit, learned }) = probed {
            if let Some(record) = learned {
                self.writer.store_record(record);
            }
            self.vertices[vertex].slow = Some((key, contents));
            let usable = |record: &Record| record.outputs.len() >= self.plan.outputs[vertex];
            // Somebody without cache may have joined while the probe was running.
            if let Some(record) = hit.filter(usable)
                && !self.vertices[vertex].no_cache
            {
                let finished = self.finished(vertex, &record.outputs, &record.created);
                self.writer.store(finished, None);
                return self.finish(vertex, &record.outputs, Origin::Slow, record.created);
            }
            if self.follow(vertex, key)? {
                return Ok(());
            }
        }
        self.execute(vertex);
        Ok(())
    }

    fn execute(&mut self, vertex: usize) {
        let definition = Arc::clone(&self.definition);
        let this = &definition.vertices()[vertex];
        let progress = &self.vertices[vertex];
        let inputs = this.inputs.iter().map(|input| match self.state(input.edge.vertex.0) {
            VertexState::Done { outputs, .. } => {
                InputValue::Output(outputs[input.edge.output].clone())
            }
            _ => InputValue::Direct(Arc::clone(definition.vertex(input.edge.vertex))),
        });
        let inputs = inputs.collect();
        let asks = !progress.no_cache && !self.plan.tainted[vertex];
        let shared = self.keys.fast[vertex].filter(|_| asks);
        let task = Arc::clone(&self.shared);
        self.tasks.spawn(task.execute(VertexId(vertex), Arc::clone(this), inputs, shared));
        self.vertices[vertex].state = VertexState::Running;
    }

    fn executed(
        &mut self,
        vertex: usize,
        outputs: Vec<Output>,
        claim: Option<Claim>,
    ) -> Result<(), SolveError> {
        let created = jiff::Timestamp::now().to_string();
        let finished = self.finished(vertex, &outputs, &created);
        self.writer.store(finished, claim);
        self.finish(vertex, &outputs, Origin::Executed, created)
    }

    /// A result is there: everybody who waited for it moves on.
    fn finish(
        &mut self,
        vertex: usize,
        outputs: &[Output],
        origin: Origin,
        created: String,
    ) -> Result<(), SolveError> {
        let needed = self.plan.outputs[vertex];
        if outputs.len() < needed {
            let vertex = Arc::clone(&self.definition.vertices()[vertex]);
            return Err(SolveError::NoSuchOutput { vertex, output: needed - 1 });
        }
        let report = &mut self.reports[vertex];
        // A fast hit was reported when its key was known.
        if report.origin.is_none() {
            report.origin = Some(origin);
            report.created = Some(created.clone());
            report.outputs = outputs.to_vec();
            self.send_completed(vertex, origin.is_cached(), None);
        }
        let outputs: Arc<[Output]> = outputs.into();
        let state = VertexState::Done { outputs: Arc::clone(&outputs), origin };
        self.vertices[vertex].state = state;
        self.open_targets.remove(&vertex);
        for &consumer in &self.plan.consumers[vertex] {
            if let VertexState::AwaitingInputs { missing } = &mut self.vertices[consumer].state {
                *missing -= 1;
                if *missing == 0 {
                    self.changed.push_back(consumer);
                }
            }
        }
        for follower in std::mem::take(&mut self.vertices[vertex].followers) {
            self.share(follower, &outputs, created.clone())?;
        }
        Ok(())
    }

    /// Gives a vertex the result of the one it followed.
    fn share(
        &mut self,
        vertex: usize,
        outputs: &[Output],
        created: String,
    ) -> Result<(), SolveError> {
        // Who followed by a slow key has a fast key of its own.
        if self.vertices[vertex].slow.is_some() {
            let finished = self.finished(vertex, outputs, &created);
            self.writer.store(finished, None);
        }
        self.finish(vertex, outputs, Origin::Shared, created)
    }

    fn failed(&self, vertex: usize, error: OpError) -> SolveError {
        self.send_completed(vertex, false, Some(error.to_string()));
        let id = VertexId(vertex);
        let vertex = Arc::clone(self.definition.vertex(id));
        SolveError::Op { id, vertex, cause: Arc::new(error) }
    }

    // --- records ---

    fn warn_of_records(&mut self, error: &RecordsError) {
        if !std::mem::replace(&mut self.records_warned, true) {
            let message = match std::error::Error::source(error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            };
            self.shared.events.send(Event::Warning { vertex: None, message });
        }
    }

    // --- answers ---

    fn state(&self, vertex: usize) -> &VertexState {
        &self.vertices[vertex].state
    }

    fn send_completed(&self, vertex: usize, cached: bool, error: Option<String>) {
        let at = SystemTime::now();
        let vertex = VertexId(vertex);
        self.shared.events.send(Event::Completed { vertex, at, cached, error });
    }

    fn outputs(&self) -> Vec<Output> {
        let output = |edge: &crate::llb::Edge| match self.state(edge.vertex.0) {
            VertexState::Done { outputs, .. } => outputs[edge.output].clone(),
            state => unreachable!("a target is not done, but {state:?}"),
        };
        self.definition.targets().iter().map(output).collect()
    }

    /// Hands over what was decided; there is nothing left to tell after that.
    fn tell(&mut self) -> Arc<Decisions> {
        let mut vertices = std::mem::take(&mut self.reports);
        for (report, progress) in vertices.iter_mut().zip(&self.vertices) {
            if progress.state == VertexState::Running {
                report.unfinished.get_or_insert(Unfinished::Cut);
            }
        }
        let definition = Arc::clone(&self.definition);
        let keys = std::mem::take(&mut self.keys);
        let decisions = Arc::new(Decisions { vertices, definition, keys });
        if let Some(decided) = self.decided.take() {
            decided(Arc::clone(&decisions));
        }
        decisions
    }
}

impl Progress {
    fn new(plan: &Plan, index: usize, vertex: &Vertex) -> Progress {
        let state = match &vertex.op {
            Op::Source(SourceOp::Scratch) => {
                let empty = Output { snapshot: None, content: Some(key::empty_tree()) };
                VertexState::Done { outputs: Arc::new([empty]), origin: Origin::Fast }
            }
            _ if vertex.is_direct() => VertexState::Direct,
            _ => VertexState::Idle,
        };
        // Each input gives one part: its key, or the content of a context.
        let unkeyed = vertex.inputs.len() + usize::from(plan.identities[index].is_some());
        Progress {
            state,
            op: key::op_digest(vertex),
            unkeyed,
            hit: None,
            no_cache: vertex.meta.no_cache,
            op_known: false,
            slow: None,
            followers: Vec::new(),
        }
    }
}

fn broken_down(error: JoinError) -> SolveError {
    let message = match error.try_into_panic() {
        Ok(panic) => match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => panic
                .downcast::<&str>()
                .map_or_else(|_| "without a word".to_owned(), |message| (*message).to_owned()),
        },
        Err(error) => error.to_string(),
    };
    SolveError::Panic { message }
}
