//! The solver's events as updates of the progress.

use std::collections::HashMap;
use std::time::SystemTime;

use solver::llb::{Definition, VertexId};
use solver::{Event, EventReceiver};

use crate::progress::{Outcome, Progress, StepId, Stream, Update};

/// Announces the vertices of a definition and passes on what happens to them until the solve is
/// over.
pub(super) async fn forward(
    definition: &Definition,
    mut events: EventReceiver,
    progress: Progress,
) {
    let mut steps: HashMap<VertexId, StepId> = HashMap::new();
    let digest = |vertex| digest(definition, vertex);
    for vertex in definition.ids() {
        let inputs = definition.vertex(vertex).inputs.iter().map(|input| digest(input.edge.vertex));
        let source = &definition.vertex(vertex).meta.source;
        let step = progress.declare(
            &definition.vertex(vertex).meta.name,
            digest(vertex),
            inputs.collect(),
            source.as_ref().map(|lines| (lines.first_line, lines.last_line)),
        );
        steps.insert(vertex, step);
    }
    while let Some(event) = events.recv().await {
        let at = SystemTime::now();
        let update = match event {
            Event::Started { vertex, at } => {
                steps.get(&vertex).map(|step| Update::Start { step: *step, at })
            }
            Event::Completed { vertex, at, cached, error } => steps.get(&vertex).map(|step| {
                let outcome = match error {
                    Some(error) => Outcome::Failed(error),
                    None if cached => Outcome::Cached,
                    None => Outcome::Done,
                };
                Update::Finish { step: *step, at, outcome }
            }),
            Event::Log { vertex, stream, data } => steps.get(&vertex).map(|step| {
                let stream = match stream {
                    solver::Stream::Stdout => Stream::Stdout,
                    solver::Stream::Stderr => Stream::Stderr,
                };
                Update::Log { step: *step, stream, data, at }
            }),
            Event::Status { vertex, id, current, total, .. } => steps
                .get(&vertex)
                .map(|step| Update::Transfer { step: *step, id, current, total, at }),
            Event::Warning { vertex, message } => {
                let step = vertex.and_then(|vertex| steps.get(&vertex).copied());
                Some(Update::Warn { step, text: message })
            }
        };
        if let Some(update) = update {
            progress.send(update);
        }
    }
}

/// What a vertex is called by machines that follow the progress.
pub(super) fn digest(definition: &Definition, vertex: VertexId) -> String {
    let key = format!("{} {}", vertex.index(), definition.vertex(vertex).meta.name);
    cache::oci::Digest::of(key.as_bytes()).to_string()
}
