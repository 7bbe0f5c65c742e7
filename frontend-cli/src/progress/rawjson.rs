//! Progress as one JSON object a line, in the shape of BuildKit's `SolveStatus`:
//! `{"vertexes":[…]}`, `{"statuses":[…]}`, `{"logs":[…]}`, `{"warnings":[…]}`. Log data is base64.

use std::io::Write;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Outcome, State, StepId, Stream, Update, View};

pub(super) struct RawJson;

impl RawJson {
    fn vertex(state: &State, id: StepId) -> Option<Value> {
        let step = state.step(id)?;
        let mut vertex = json!({ "digest": step.digest, "name": step.name });
        if !step.inputs.is_empty() {
            vertex["inputs"] = json!(step.inputs);
        }
        if let Some(started) = step.started {
            vertex["started"] = json!(rfc3339(started));
        }
        if let Some(finished) = step.finished {
            vertex["completed"] = json!(rfc3339(finished));
        }
        match &step.outcome {
            Some(Outcome::Cached) => vertex["cached"] = json!(true),
            Some(Outcome::Failed(error)) => vertex["error"] = json!(error),
            Some(Outcome::Done) | None => {}
        }
        Some(json!({ "vertexes": [vertex] }))
    }

    fn digest(state: &State, id: StepId) -> String {
        state.step(id).map(|step| step.digest.clone()).unwrap_or_default()
    }
}

impl View for RawJson {
    fn update(&mut self, state: &State, update: &Update, out: &mut dyn Write) {
        let line = match update {
            Update::Declare { step, .. }
            | Update::Start { step, .. }
            | Update::Finish { step, .. } => Self::vertex(state, *step),
            Update::Log { step, stream, data, at } => Some(json!({ "logs": [{
                "vertex": Self::digest(state, *step),
                "stream": match stream { Stream::Stdout => 1, Stream::Stderr => 2 },
                "data": base64(data),
                "timestamp": rfc3339(*at),
            }]})),
            Update::Transfer { step, id, current, total, at } => Some(json!({ "statuses": [{
                "id": id,
                "vertex": Self::digest(state, *step),
                "current": current,
                "total": total.unwrap_or(0),
                "timestamp": rfc3339(*at),
            }]})),
            Update::Warn { step, text } => Some(json!({ "warnings": [{
                "vertex": step.map(|step| Self::digest(state, step)),
                "level": 1,
                "short": base64(text.as_bytes()),
            }]})),
        };
        if let Some(line) = line {
            let _ = writeln!(out, "{line}");
        }
    }

    fn tick(&mut self, _: &State, _: &mut dyn Write) {}

    fn finish(&mut self, _: &State, _: &mut dyn Write) {}
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

/// Standard base64 with padding, as JSON carries bytes in Go's encoding.
pub(crate) fn base64(data: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let group = u32::from(chunk[0]) << 16
            | u32::from(*chunk.get(1).unwrap_or(&0)) << 8
            | u32::from(*chunk.get(2).unwrap_or(&0));
        for position in 0..4 {
            if position <= chunk.len() {
                let index = (group >> (18 - 6 * position)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads_as_the_standard_says() {
        for (data, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(super::base64(data.as_bytes()), text);
        }
    }
}
