//! Requests that are longer than a frame: their list travels before them, in parts.
//!
//! ```text
//! More { id 7, items 0..a }  More { id 7, items a..b }  …  Train { id 7, items z.. } ─▶ one answer
//! ```
//!
//! A part is made when its turn comes, and freed when it has been sent: the whole request is never
//! in memory a second time.

use crate::worker::{
    Group, Labelled, Pair, Part, Question, RewardBatch, SupervisedSequence, ToWorker,
    TrainSequence, WorkerRequest,
};

/// Most bytes of a part that has more than one item. A single item may be as long as a frame.
pub const PART_MAX_BYTES: usize = 32 << 20;

/// The parts of a request are of another kind than its list. It happens only between different
/// releases of r1d and r1d-worker: run the same release of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the parts of a request are of another kind than its list: run the same release of r1d and \
     r1d-worker"
)]
pub struct OtherKind;

/// The most bytes that a value takes in postcard.
trait Encoded {
    fn bytes_max(&self) -> usize;
}

/// Most bytes of a varint of 32 bits, and of the header of a list.
const NUMBER_BYTES: usize = 5;

impl Encoded for Vec<u32> {
    fn bytes_max(&self) -> usize {
        NUMBER_BYTES * (1 + self.len())
    }
}

impl Encoded for TrainSequence {
    fn bytes_max(&self) -> usize {
        let numbers = self.prompt_ids.bytes_max()
            + self.completion_ids.bytes_max()
            + self.kept_ids.numbers().bytes_max();
        numbers
            + size_of::<f32>() * (2 + self.behaviour_logprobs.len())
            + size_of::<u16>() * self.experts.len()
            + 4 * NUMBER_BYTES
    }
}

impl Encoded for SupervisedSequence {
    fn bytes_max(&self) -> usize {
        self.ids.bytes_max() + NUMBER_BYTES + self.trained.len()
    }
}

impl Encoded for Pair {
    fn bytes_max(&self) -> usize {
        self.prompt_ids.bytes_max()
            + self.chosen_ids.bytes_max()
            + self.rejected_ids.bytes_max()
            + size_of::<f32>()
    }
}

impl Encoded for Labelled {
    fn bytes_max(&self) -> usize {
        self.ids.bytes_max() + size_of::<f32>()
    }
}

impl Encoded for Group {
    fn bytes_max(&self) -> usize {
        self.prompt_ids.bytes_max() + self.samples.bytes_max() + 4 * NUMBER_BYTES
    }
}

impl Encoded for Question {
    fn bytes_max(&self) -> usize {
        self.prompt_ids.bytes_max() + NUMBER_BYTES
    }
}

/// Takes the first items, of at most `bytes` together, but at least one.
fn front<T: Encoded>(items: &mut Vec<T>, bytes: usize) -> Vec<T> {
    let mut sum = 0;
    let fits = |item: &&T| {
        sum += item.bytes_max();
        sum <= bytes
    };
    let count = items
        .iter()
        .take_while(fits)
        .count()
        .max(1)
        .min(items.len());
    items.drain(..count).collect()
}

impl Part {
    fn front(&mut self, bytes: usize) -> Part {
        match self {
            Part::Rollouts(items) => Part::Rollouts(front(items, bytes)),
            Part::Supervised(items) => Part::Supervised(front(items, bytes)),
            Part::Pairs(items) => Part::Pairs(front(items, bytes)),
            Part::Labelled(items) => Part::Labelled(front(items, bytes)),
            Part::Texts(items) => Part::Texts(front(items, bytes)),
            Part::Groups(items) => Part::Groups(front(items, bytes)),
            Part::Questions(items) => Part::Questions(front(items, bytes)),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Part::Rollouts(items) => items.is_empty(),
            Part::Supervised(items) => items.is_empty(),
            Part::Pairs(items) => items.is_empty(),
            Part::Labelled(items) => items.is_empty(),
            Part::Texts(items) => items.is_empty(),
            Part::Groups(items) => items.is_empty(),
            Part::Questions(items) => items.is_empty(),
        }
    }

    /// Puts the `later` items behind these; an error if they are of another kind.
    pub fn append(&mut self, later: Part) -> Result<(), OtherKind> {
        match (self, later) {
            (Part::Rollouts(items), Part::Rollouts(mut later)) => items.append(&mut later),
            (Part::Supervised(items), Part::Supervised(mut later)) => items.append(&mut later),
            (Part::Pairs(items), Part::Pairs(mut later)) => items.append(&mut later),
            (Part::Labelled(items), Part::Labelled(mut later)) => items.append(&mut later),
            (Part::Texts(items), Part::Texts(mut later)) => items.append(&mut later),
            (Part::Groups(items), Part::Groups(mut later)) => items.append(&mut later),
            (Part::Questions(items), Part::Questions(mut later)) => items.append(&mut later),
            _ => return Err(OtherKind),
        }
        Ok(())
    }
}

/// Calls `$use` with the list of a request as [`Part`]'s kind and a reference to it.
macro_rules! with_list {
    ($request:expr, $use:ident, $otherwise:expr) => {
        match $request {
            WorkerRequest::Train(batch) => $use!(Rollouts, &mut batch.sequences),
            WorkerRequest::TrainPpo(batch) => $use!(Rollouts, &mut batch.sequences),
            WorkerRequest::Supervise(batch) => $use!(Supervised, &mut batch.sequences),
            WorkerRequest::TrainDpo(batch) => $use!(Pairs, &mut batch.pairs),
            WorkerRequest::TrainReward(batch) => match &mut batch.batch {
                RewardBatch::Pairs { pairs, .. } => $use!(Pairs, pairs),
                RewardBatch::Labelled(items) => $use!(Labelled, items),
            },
            WorkerRequest::Score { sequences, .. } => $use!(Texts, sequences),
            WorkerRequest::Generate(request) => $use!(Groups, &mut request.groups),
            WorkerRequest::Answer(request) => $use!(Questions, &mut request.questions),
            _ => $otherwise,
        }
    };
}

impl WorkerRequest {
    /// Takes the request's list out; `None` for a request that has none.
    fn take_list(&mut self) -> Option<Part> {
        macro_rules! take {
            ($kind:ident, $list:expr) => {
                Some(Part::$kind(std::mem::take($list)))
            };
        }
        with_list!(self, take, None)
    }

    /// Puts a list into the request, before what its own list holds; an error if the request has no
    /// list of this kind.
    pub fn with_list_before(&mut self, before: Part) -> Result<(), OtherKind> {
        let mut whole = before;
        if let Some(own) = self.take_list() {
            whole.append(own)?;
        }
        macro_rules! put {
            ($kind:ident, $list:expr) => {
                match whole {
                    Part::$kind(items) => {
                        *$list = items;
                        Ok(())
                    }
                    _ => Err(OtherKind),
                }
            };
        }
        with_list!(self, put, Err(OtherKind))
    }
}

impl ToWorker {
    /// Splits a request into the messages that it travels in: parts of at most `part_bytes`, or of
    /// one item, and then the request with the last of them. Most requests are one message.
    pub fn messages(self, part_bytes: usize) -> Messages {
        let ToWorker { id, mut request } = self;
        let list = request.take_list().filter(|list| !list.is_empty());
        Messages {
            id,
            request: Some(request),
            list,
            part_bytes,
        }
    }
}

/// Iterates over the messages of a request.
pub struct Messages {
    id: u64,
    request: Option<WorkerRequest>,
    list: Option<Part>,
    part_bytes: usize,
}

impl Iterator for Messages {
    type Item = ToWorker;

    fn next(&mut self) -> Option<ToWorker> {
        let id = self.id;
        let part = self.list.as_mut().map(|list| list.front(self.part_bytes));
        match part {
            Some(part) if self.list.as_ref().is_some_and(|list| !list.is_empty()) => {
                Some(ToWorker {
                    id,
                    request: WorkerRequest::More(part),
                })
            }
            last => {
                self.list = None;
                let mut request = self.request.take()?;
                if let Some(last) = last {
                    // It cannot fail: the list came out of this request.
                    let _ = request.with_list_before(last);
                }
                Some(ToWorker { id, request })
            }
        }
    }
}

/// Puts the messages of requests together again.
#[derive(Default)]
pub struct Assembly {
    /// The id of a request, and its parts so far.
    waiting: Option<(u64, Part)>,
}

impl Assembly {
    /// Adds a message; returns the whole request once its last message is here. Parts whose request
    /// never came are dropped.
    pub fn add(&mut self, message: ToWorker) -> Result<Option<ToWorker>, OtherKind> {
        let ToWorker { id, mut request } = message;
        let before = self
            .waiting
            .take()
            .filter(|(of, _)| *of == id)
            .map(|(_, part)| part);
        if let WorkerRequest::More(part) = request {
            let whole = match before {
                Some(mut before) => before.append(part).map(|()| before)?,
                None => part,
            };
            self.waiting = Some((id, whole));
            return Ok(None);
        }
        if let Some(before) = before {
            request.with_list_before(before)?;
        }
        Ok(Some(ToWorker { id, request }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, Format};
    use crate::hyperparameters::PpoObjective;
    use crate::sampling_mask::SamplingMask;
    use crate::worker::{Supervise, TrainPpo};

    /// A sequence whose rollout has `layers` × 8 experts for each of 8 tokens.
    fn rollout(index: u32, layers: usize, experts: u16) -> TrainSequence {
        TrainSequence {
            prompt_ids: vec![index, 129_279],
            completion_ids: vec![1; 7],
            behaviour_logprobs: vec![-1.0; 7],
            experts: (0..8 * 8 * layers)
                .map(|i| (i % experts as usize) as u16)
                .collect(),
            kept_ids: SamplingMask::default(),
            advantage: 1.0,
            truncated: false,
        }
    }

    fn train(sequences: Vec<TrainSequence>) -> ToWorker {
        let objective = PpoObjective {
            num_ppo_epochs: 1,
            num_mini_batches: 1,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            gamma: 1.0,
            lam: 1.0,
            kl_coef: 0.0,
            temperature: 1.0,
            routing_replay: true,
            routing_replay_reference: false,
        };
        let scores = vec![1.0; sequences.len()];
        let train = TrainPpo {
            step: 0,
            first_update: 0,
            objective,
            seed: 0,
            sequences,
            scores,
        };
        ToWorker {
            id: 7,
            request: WorkerRequest::TrainPpo(train),
        }
    }

    fn assembled(messages: impl Iterator<Item = ToWorker>) -> ToWorker {
        let mut assembly = Assembly::default();
        let mut whole: Vec<ToWorker> = messages
            .filter_map(|message| assembly.add(message).unwrap())
            .collect();
        assert_eq!(whole.len(), 1);
        whole.remove(0)
    }

    #[test]
    fn a_step_of_a_mixture_of_experts_is_the_same_whatever_the_frames() {
        let request = train((0..20).map(|index| rollout(index, 58, 256)).collect());
        for limit in [1, 5_000, 20_000, PART_MAX_BYTES] {
            let messages: Vec<ToWorker> = request.clone().messages(limit).collect();
            for message in &messages {
                let items = match &message.request {
                    WorkerRequest::More(Part::Rollouts(items)) => items.len(),
                    WorkerRequest::TrainPpo(train) => train.sequences.len(),
                    other => panic!("{other:?}"),
                };
                let bytes = frame::encode(Format::Postcard, message).unwrap().len();
                assert!(
                    items == 1 || bytes <= limit,
                    "{bytes} bytes of {items} items under a limit of {limit}"
                );
            }
            assert_eq!(messages.len() > 1, limit < PART_MAX_BYTES, "{limit}");
            assert_eq!(assembled(messages.into_iter()), request);
        }
    }

    /// 512 completions of 8,192 tokens, 58 layers × 8 of 256 experts: no frame holds that.
    #[test]
    fn the_step_of_r1_passes() {
        let one = rollout(0, 58, 256);
        let bytes = frame::encode(
            Format::Postcard,
            &ToWorker {
                id: 1,
                request: WorkerRequest::More(Part::Rollouts(vec![one])),
            },
        )
        .unwrap();
        let of_a_completion = bytes.len() / 8 * 8192;
        assert!(of_a_completion * 512 > frame::LENGTH_MAX_BYTES as usize);
        assert!(of_a_completion + PART_MAX_BYTES < frame::LENGTH_MAX_BYTES as usize);
        assert!(
            bytes.len() < 8 * (58 * 8 + 32),
            "an expert takes a byte: {}",
            bytes.len()
        );
    }

    #[test]
    fn expert_ids_keep_their_values_at_either_width() {
        for experts in [vec![], vec![0, 255], vec![0, 256, 65_535]] {
            let mut sent = rollout(0, 0, 1);
            sent.experts = experts;
            let bytes = postcard::to_stdvec(&sent).unwrap();
            assert_eq!(postcard::from_bytes::<TrainSequence>(&bytes).unwrap(), sent);
        }
        let mut bytes = postcard::to_stdvec(&rollout(0, 1, 8)).unwrap();
        let width = bytes
            .windows(3)
            .position(|window| window == [1, 0, 1])
            .unwrap();
        bytes[width] = 3;
        assert!(postcard::from_bytes::<TrainSequence>(&bytes).is_err());
    }

    #[test]
    fn parts_without_their_request_are_let_go_of_and_foreign_ones_refused() {
        let mut assembly = Assembly::default();
        let part = Part::Rollouts(vec![rollout(0, 1, 8)]);
        assert_eq!(
            assembly.add(ToWorker {
                id: 1,
                request: WorkerRequest::More(part.clone())
            }),
            Ok(None)
        );
        let next = ToWorker {
            id: 2,
            request: WorkerRequest::Supervise(Supervise {
                step: 0,
                sequences: vec![],
            }),
        };
        assert_eq!(
            assembly.add(next),
            Ok(Some(ToWorker {
                id: 2,
                request: WorkerRequest::Supervise(Supervise {
                    step: 0,
                    sequences: vec![]
                })
            }))
        );
        assert_eq!(
            assembly.add(ToWorker {
                id: 3,
                request: WorkerRequest::More(part)
            }),
            Ok(None)
        );
        let other = ToWorker {
            id: 3,
            request: WorkerRequest::Supervise(Supervise {
                step: 0,
                sequences: vec![],
            }),
        };
        assert_eq!(assembly.add(other), Err(OtherKind));
        let close = ToWorker {
            id: 4,
            request: WorkerRequest::Close,
        };
        assert_eq!(close.clone().messages(1).collect::<Vec<_>>(), [close]);
    }
}
