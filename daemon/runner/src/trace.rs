//! The trace of a step: how long its parts took, read off the events and commands of the machine.
//!
//! It lasts from the step's first command to that of the next step, or to the stage's end, so what
//! lies between two steps (checkpoint, evaluation) is in that of the step before. Nothing is
//! decided by it.

use crate::message::{Command, Event, Source, Store};
use r1d_proto::trace::{Lane, Span, StepTrace};
use r1d_proto::worker::{self, Body, CheckpointState, WorkerRequest};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most spans of a step (`LIM-1`); later ones are only counted.
const SPANS_MAX: usize = 8192;

/// Records the spans of the step at work.
#[derive(Debug)]
pub(crate) struct Tracer {
    began: Duration,
    spans: Vec<Span>,
    left_out: u64,
    /// The worker's request in flight, and when it was sent.
    request: Option<(String, Duration)>,
    /// What is awaited from the writer, and since when.
    task: Option<(&'static str, Duration)>,
    /// The groups that rewards have judged or are judging, by the index of their prompt.
    groups: BTreeMap<u32, GroupTime>,
    /// Whether an evaluation is at work, which lies between two steps.
    is_evaluating: bool,
    /// When the snapshot was taken of the checkpoint that is being written.
    checkpoint: Option<Duration>,
    /// The step that was committed and whose trace is not handed over yet.
    committed: Option<(usize, u64)>,
}

/// The time in which completions of a prompt were at the rewards.
#[derive(Clone, Copy, Debug)]
struct GroupTime {
    began: Duration,
    ended: Duration,
}

impl Tracer {
    pub(crate) fn new(now: Duration) -> Tracer {
        Tracer {
            began: now,
            spans: Vec::new(),
            left_out: 0,
            request: None,
            task: None,
            groups: BTreeMap::new(),
            is_evaluating: false,
            checkpoint: None,
            committed: None,
        }
    }

    /// Notes what an event ends.
    pub(crate) fn hear(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Worker(Body::Event(worker::Event::Spans(spans))) => self.parts(spans, now),
            Event::Worker(Body::Done(_) | Body::Failed(_)) => {
                if let Some((name, since)) = self.request.take() {
                    self.add(Lane::Device, name, since, now);
                }
            }
            Event::Worker(Body::Checkpoint(report)) => {
                if !matches!(report.state, CheckpointState::Writing { .. })
                    && let Some(since) = self.checkpoint.take()
                {
                    self.add(Lane::Checkpoint, "writing the checkpoint", since, now);
                }
            }
            Event::Stored | Event::Prompts(_) | Event::Batch(_) | Event::Recalled(_) => {
                if let Some((name, since)) = self.task.take() {
                    self.add(Lane::Writer, name, since, now);
                }
            }
            Event::Scored { key, .. } | Event::Concluded { key, .. } => {
                if let Some(group) = self.groups.get_mut(&key.prompt) {
                    group.ended = now;
                }
            }
            _ => {}
        }
    }

    /// Notes what commands begin. Returns the trace of the last step where they end it, with the
    /// index of its stage in place of the name.
    pub(crate) fn follow(
        &mut self,
        commands: &[Command],
        now: Duration,
    ) -> Option<(usize, StepTrace)> {
        let ended = commands.iter().any(ends_step).then(|| self.take(now));
        for command in commands {
            match command {
                Command::Worker(request) => {
                    let name = self.named(of_request(request), is_of_completions(request));
                    self.request = Some((name, now));
                    if matches!(**request, WorkerRequest::Save { .. }) {
                        self.checkpoint = Some(now);
                    }
                }
                Command::Score(items) => {
                    for item in items {
                        let (began, ended) = (now, now);
                        let group = GroupTime { began, ended };
                        self.groups.entry(item.key.prompt).or_insert(group);
                    }
                }
                Command::Store(store) => {
                    self.task = Some((of_store(store), now));
                    if let Store::Commit { stage, step, .. } = store {
                        self.committed = Some((*stage, *step));
                    }
                }
                Command::ReadPrompts {
                    of: Source::Eval { .. },
                    ..
                } => {
                    // The groups of what was judged before are another's, also of equal index.
                    self.close_groups();
                    self.is_evaluating = true;
                    self.task = Some(("reading rows", now));
                }
                Command::ReadPrompts { .. }
                | Command::ReadBatch { .. }
                | Command::ReadHeldOut { .. } => self.task = Some(("reading rows", now)),
                Command::Recall { .. } | Command::Forget { .. } => {
                    self.task = Some(("looking into the journal", now));
                }
                Command::MakeDataSet { .. } => self.task = Some(("making the data set", now)),
                _ => {}
            }
        }
        ended.flatten()
    }

    /// Hands the spans over if they are a step's, and begins anew.
    fn take(&mut self, now: Duration) -> Option<(usize, StepTrace)> {
        self.close_groups();
        self.is_evaluating = false;
        if let Some(since) = self.checkpoint {
            self.add(Lane::Checkpoint, "writing the checkpoint", since, now);
        }
        let spans = std::mem::take(&mut self.spans);
        let left_out = std::mem::take(&mut self.left_out);
        self.began = now;
        let (stage, step) = self.committed.take()?;
        let trace = StepTrace {
            stage: String::new(),
            step: step + 1,
            spans,
            left_out,
        };
        Some((stage, trace))
    }

    /// Adds the spans of the groups that rewards have judged.
    fn close_groups(&mut self) {
        for (prompt, group) in std::mem::take(&mut self.groups) {
            let name = self.named(&format!("group {prompt}"), true);
            self.add(Lane::Rewards, name, group.began, group.ended);
        }
    }

    /// The name of a span; those of an evaluation's completions say so.
    fn named(&self, name: &str, is_of_completions: bool) -> String {
        if self.is_evaluating && is_of_completions {
            format!("evaluation: {name}")
        } else {
            name.to_owned()
        }
    }

    /// Adds the parts of the worker's request, which end now.
    fn parts(&mut self, spans: &worker::Spans, now: Duration) {
        let began = now.saturating_sub(Duration::from_micros(spans.total_us));
        for span in &spans.spans {
            let start = began + Duration::from_micros(span.start_us);
            let end = start + Duration::from_micros(span.duration_us);
            self.add(Lane::Device, span.name.clone(), start, end);
        }
        self.left_out += spans.left_out;
    }

    fn add(&mut self, lane: Lane, name: impl Into<String>, from: Duration, to: Duration) {
        if self.spans.len() == SPANS_MAX {
            self.left_out += 1;
            return;
        }
        // What began in the step before is shown from this one's begin on.
        let from = from.max(self.began);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.spans.push(Span {
            lane,
            name: name.into(),
            start_us: micros(from - self.began),
            duration_us: micros(to.saturating_sub(from)),
        });
    }
}

/// Whether a command is the first of a step, or ends the stage: both end the step before.
fn ends_step(command: &Command) -> bool {
    match command {
        Command::ReadPrompts { of, round, .. } => matches!(of, Source::Stage(_)) && *round == 0,
        Command::ReadBatch { .. }
        | Command::Recall { .. }
        | Command::Store(Store::FinishStage { .. }) => true,
        _ => false,
    }
}

/// Whether a request samples completions or judges them.
fn is_of_completions(request: &WorkerRequest) -> bool {
    use WorkerRequest::{Answer, Generate, Score};
    matches!(request, Generate(_) | Answer(_) | Score { .. })
}

fn of_request(request: &WorkerRequest) -> &'static str {
    match request {
        WorkerRequest::Open(_) => "opening the model",
        WorkerRequest::Generate(_) => "sampling",
        WorkerRequest::Train(_)
        | WorkerRequest::Supervise(_)
        | WorkerRequest::TrainReward(_)
        | WorkerRequest::TrainDpo(_)
        | WorkerRequest::TrainPpo(_) => "training",
        WorkerRequest::SyncReference => "copying the policy to the reference",
        WorkerRequest::Save { .. } => "copying the checkpoint",
        WorkerRequest::Restore { .. } => "restoring",
        WorkerRequest::Export { .. } => "exporting",
        WorkerRequest::Close => "closing",
        WorkerRequest::Score { .. } => "scoring by a reward model",
        WorkerRequest::Answer(_) => "judging",
        WorkerRequest::More(_) | WorkerRequest::Rendezvous(_) => "receiving",
    }
}

fn of_store(store: &Store) -> &'static str {
    match store {
        Store::BeginStage { .. } => "beginning the stage",
        Store::Seal { .. } => "sealing the step",
        Store::Commit { .. } => "committing the step",
        Store::Checkpoint { .. } => "recording the checkpoint",
        Store::DropCheckpoint { .. } => "dropping a checkpoint",
        Store::Eval(_) => "recording the evaluation",
        Store::FinishStage { .. } => "finishing the stage",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScoreItem;
    use r1d_proto::ids::SampleKey;
    use r1d_proto::rollout::FinishReason;
    use r1d_proto::worker::{CheckpointReport, Metrics, Reply, Spans};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn request(request: WorkerRequest) -> Command {
        Command::Worker(Box::new(request))
    }

    fn commit(step: u64) -> Command {
        Command::Store(Store::Commit {
            stage: 1,
            step,
            metrics: Metrics::new(),
            rollouts: Vec::new(),
        })
    }

    fn stored(step: u64) -> Event {
        let state = CheckpointState::Stored {
            manifest_sha256: String::new(),
        };
        let report = CheckpointReport {
            stage: 1,
            step,
            state,
        };
        Event::Worker(Body::Checkpoint(report))
    }

    /// Step, spans (name, begin and duration in milliseconds) and those left out of a trace.
    fn told(trace: Option<(usize, StepTrace)>) -> (u64, Vec<(String, u64, u64)>, u64) {
        let (stage, trace) = trace.unwrap();
        assert_eq!(stage, 1);
        let of = |span: &Span| {
            (
                span.name.clone(),
                span.start_us / 1000,
                span.duration_us / 1000,
            )
        };
        (
            trace.step,
            trace.spans.iter().map(of).collect(),
            trace.left_out,
        )
    }

    /// A request's parts lie inside it; a checkpoint that is written through the next step is in
    /// the traces of both.
    #[test]
    fn a_steps_trace_has_what_it_did_and_what_was_written_beside_it() {
        let mut tracer = Tracer::new(seconds(0));
        let read = |step| [Command::ReadBatch { stage: 1, step }];
        assert!(tracer.follow(&read(0), seconds(10)).is_none(), "of no step");
        tracer.hear(&Event::Batch(crate::Batch::Pairs(Vec::new())), seconds(11));
        tracer.follow(&[request(WorkerRequest::SyncReference)], seconds(11));
        let part = Span {
            lane: Lane::Device,
            name: "backward".into(),
            start_us: 1_000_000,
            duration_us: 500_000,
        };
        let spans = Spans {
            spans: vec![part],
            left_out: 2,
            total_us: 3_000_000,
        };
        tracer.hear(
            &Event::Worker(Body::Event(worker::Event::Spans(spans))),
            seconds(14),
        );
        tracer.hear(
            &Event::Worker(Body::Done(Reply::ReferenceSynced)),
            seconds(14),
        );
        tracer.follow(&[commit(0)], seconds(14));
        tracer.hear(&Event::Stored, seconds(15));
        let save = WorkerRequest::Save {
            stage: 1,
            step: 1,
            dir: "d".into(),
        };
        tracer.follow(&[request(save)], seconds(15));
        tracer.hear(
            &Event::Worker(Body::Done(Reply::SnapshotTaken)),
            seconds(16),
        );
        let (step, spans, left_out) = told(tracer.follow(&read(1), seconds(17)));
        let expected = [
            ("reading rows", 0, 1000),
            ("backward", 2000, 500),
            ("copying the policy to the reference", 1000, 3000),
            ("committing the step", 4000, 1000),
            ("copying the checkpoint", 5000, 1000),
            ("writing the checkpoint", 5000, 2000),
        ];
        let expected = expected.map(|(name, start, duration)| (name.to_string(), start, duration));
        assert_eq!((step, &spans[..], left_out), (1, &expected[..], 2));

        tracer.follow(&[commit(1)], seconds(18));
        tracer.hear(&stored(1), seconds(20));
        let ends = [Command::Store(Store::FinishStage { stage: 1 })];
        let (step, spans, left_out) = told(tracer.follow(&ends, seconds(21)));
        let written = ("writing the checkpoint".to_string(), 0, 3000);
        assert_eq!((step, left_out), (2, 0));
        assert_eq!(spans, [written]);
    }

    /// An evaluation's groups have the indices of the step's before it.
    #[test]
    fn an_evaluations_spans_are_apart_from_the_steps() {
        let key = SampleKey {
            stage: 1,
            step: 0,
            prompt: 0,
            sample: 0,
        };
        let read = |of| Command::ReadPrompts {
            of,
            step: 0,
            round: 0,
            count: 1,
        };
        let mut tracer = Tracer::new(seconds(0));
        let mut judge = |of, at| {
            let item = ScoreItem {
                of,
                key,
                row: 0,
                completion_ids: Vec::new(),
                finish: FinishReason::Length,
            };
            let scored = Event::Scored {
                key,
                verdicts: Vec::new(),
                asked: Vec::new(),
                text: String::new(),
            };
            tracer.follow(&[read(of)], seconds(at));
            tracer.follow(&[Command::Score(vec![item])], seconds(at + 1));
            tracer.hear(&scored, seconds(at + 2));
            if matches!(of, Source::Stage(_)) {
                tracer.follow(&[commit(0)], seconds(at + 3));
            }
        };
        judge(Source::Stage(1), 10);
        judge(Source::Eval { eval: 0, model: 0 }, 20);
        let (_, spans, _) = told(tracer.follow(&[read(Source::Stage(1))], seconds(30)));
        let expected = [
            ("group 0", 1000, 1000),
            ("evaluation: group 0", 11_000, 1000),
        ];
        let expected = expected.map(|(name, start, duration)| (name.to_string(), start, duration));
        assert_eq!(spans, expected);
    }
}
