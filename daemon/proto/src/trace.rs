//! What took how long in a step: as it is recorded, and as trace viewers read it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The spans of one step, from its begin to that of the next one, or to the stage's end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTrace {
    /// Name of the stage.
    pub stage: String,
    /// The step, from 1.
    pub step: u64,
    /// The spans, in the order in which they ended.
    pub spans: Vec<Span>,
    /// Number of spans that were too many to be kept.
    pub left_out: u64,
}

/// Something that took time in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The part of r1d that was at it.
    pub lane: Lane,
    /// The work.
    pub name: String,
    /// When it began, in microseconds since the step began.
    pub start_us: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// The parts of r1d that work at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The worker's device: requests, and their parts inside them.
    Device,
    /// The rewards; a span is a group's time from its first completion to its last verdict.
    Rewards,
    /// The thread that reads rows and writes journal, rollout files and ledger.
    Writer,
    /// The worker's thread that writes checkpoints.
    Checkpoint,
}

impl Lane {
    const ALL: [Lane; 4] = [Lane::Device, Lane::Rewards, Lane::Writer, Lane::Checkpoint];

    fn name(self) -> &'static str {
        match self {
            Lane::Device => "device",
            Lane::Rewards => "rewards",
            Lane::Writer => "journal and ledger",
            Lane::Checkpoint => "checkpoint",
        }
    }

    /// Whether spans of the lane overlap without one being inside the other.
    fn overlaps(self) -> bool {
        matches!(self, Lane::Rewards | Lane::Checkpoint)
    }
}

impl StepTrace {
    /// The trace as a document of the Trace Event Format, which Perfetto and Chrome read: complete
    /// events (`X`) for lanes that do one thing after the other, pairs of asynchronous ones (`b`,
    /// `e`) for the others.
    pub fn to_chrome(&self) -> Value {
        let process = format!("{} step {}", self.stage, self.step);
        let mut events = vec![metadata("process_name", 0, &process)];
        let lanes = (1..).zip(Lane::ALL);
        events.extend(lanes.map(|(thread, lane)| metadata("thread_name", thread, lane.name())));
        for (id, span) in (1..).zip(&self.spans) {
            events.extend(span.events(id));
        }
        json!({
            "displayTimeUnit": "ms",
            "otherData": {
                "stage": self.stage,
                "step": self.step,
                "spans_left_out": self.left_out,
            },
            "traceEvents": events,
        })
    }
}

fn metadata(what: &str, thread: u64, name: &str) -> Value {
    json!({ "ph": "M", "pid": 1, "tid": thread, "name": what, "args": { "name": name } })
}

impl Span {
    fn events(&self, id: u64) -> Vec<Value> {
        let thread = (1..).zip(Lane::ALL).find(|(_, lane)| *lane == self.lane);
        let thread: u64 = thread.map_or(0, |(thread, _)| thread);
        let event = |phase: &str, at: u64| {
            json!({
                "ph": phase,
                "pid": 1,
                "tid": thread,
                "cat": self.lane.name(),
                "name": self.name,
                "ts": at,
            })
        };
        if !self.lane.overlaps() {
            let mut whole = event("X", self.start_us);
            whole["dur"] = self.duration_us.into();
            return vec![whole];
        }
        let ends = [
            ("b", self.start_us),
            ("e", self.start_us + self.duration_us),
        ];
        let mut ends = ends.map(|(phase, at)| event(phase, at));
        ends.iter_mut().for_each(|end| end["id"] = id.into());
        ends.into()
    }
}
