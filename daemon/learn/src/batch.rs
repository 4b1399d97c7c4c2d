//! Turns token sequences into the tensors of one packed forward pass.

use crate::LearnError;
use crate::sampling_mask::KeptRows;
use r1d_model::{CausalLm, Packed};
use r1d_proto::worker::{Labelled, Pair, SupervisedSequence, TrainSequence};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// The shape of the recorded expert ids under routing replay.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// Layers with routed experts.
    pub moe_layers: i64,
    /// Routed experts of a layer (E): recorded ids are below it.
    pub experts: i64,
    /// Routed experts that each token goes to (K).
    pub experts_per_token: i64,
}

impl Replay {
    /// The shape for a model; `None` for a dense one, which has nothing to replay.
    pub fn of(model: &CausalLm) -> Option<Replay> {
        let config = &model.config;
        let replay = Replay {
            moe_layers: config.moe_layers,
            experts: config.experts,
            experts_per_token: config.experts_per_token,
        };
        (config.moe_layers > 0).then_some(replay)
    }
}

/// The input of one forward pass, and the rows that predict trained tokens.
pub struct MicroBatch {
    /// The tokens that are fed.
    pub packed: Packed,
    /// Rows of the pass whose hidden states predict `targets`, int64 `[N]`; `None` if all rows do,
    /// in order.
    pub rows: Option<Tensor>,
    /// The trained ids, int64 `[N]`.
    pub targets: Tensor,
    /// The recorded experts under routing replay, int64 `[T, moe_layers, K]`.
    pub forced_experts: Option<Tensor>,
    /// The ids that the targets were drawn from; `None` if sampling cut none of their sets short.
    pub kept: Option<KeptRows>,
}

impl MicroBatch {
    /// A token for a pass that this rank goes through because others have tokens for it.
    pub fn to_stand_by(device: Device) -> Result<MicroBatch, LearnError> {
        let ids = Tensor::f_zeros([1], (Kind::Int64, device))?;
        Ok(MicroBatch {
            targets: ids.shallow_clone(),
            packed: Packed::new(ids, vec![1]),
            rows: None,
            forced_experts: None,
            kept: None,
        })
    }

    /// Builds a micro-batch of rollouts: prompt and completion without its last id, which is never
    /// fed; every completion id is a target. With `share`, neighbours with the same prompt have it
    /// fed once, with the experts that the first of them recorded.
    pub fn of_rollouts(
        sequences: &[&TrainSequence],
        share: bool,
        replay: Option<Replay>,
        device: Device,
    ) -> Result<MicroBatch, LearnError> {
        let mut build = Builder::default();
        let mut experts = Vec::new();
        let mut kept = KeptRows::default();
        // The prompt that was fed last, and its tokens in the pass.
        let mut shared: Option<(&[u32], Range<i64>)> = None;
        for sequence in sequences {
            let prompt = &sequence.prompt_ids[..];
            let fed = sequence.completion_ids.len().saturating_sub(1);
            let prefix = match &shared {
                Some((ids, tokens)) if share && *ids == prompt => tokens.clone(),
                _ => {
                    let start = build.ids.len() as i64;
                    shared = Some((prompt, start..start + prompt.len() as i64));
                    0..0
                }
            };
            let own_prompt = if prefix.is_empty() { prompt } else { &[] };
            if let Some(replay) = replay {
                let own = (own_prompt.len() + fed)
                    * (replay.moe_layers * replay.experts_per_token) as usize;
                experts.extend(
                    sequence.experts[sequence.experts.len() - own..]
                        .iter()
                        .map(|&expert| i64::from(expert)),
                );
            }
            build.feed(
                own_prompt.iter().chain(&sequence.completion_ids[..fed]),
                prefix.clone(),
            );
            // The token before each completion id predicts it; the prompt's last token predicts the
            // first.
            let own_start = build.ids.len() - fed;
            let prompt_end = if prefix.is_empty() {
                own_start as i64
            } else {
                prefix.end
            };
            kept.add(&sequence.kept_ids, sequence.completion_ids.len());
            build.predict(
                std::iter::once(prompt_end - 1)
                    .chain((own_start..).map(|row| row as i64))
                    .zip(&sequence.completion_ids),
            );
        }
        let shape = |replay: Replay| {
            [
                build.ids.len() as i64,
                replay.moe_layers,
                replay.experts_per_token,
            ]
        };
        let forced_experts = replay.map(|replay| {
            Ok::<_, LearnError>(
                Tensor::f_from_slice(&experts)?
                    .f_view(shape(replay))?
                    .f_to_device(device)?,
            )
        });
        let forced_experts = forced_experts.transpose()?;
        Ok(MicroBatch {
            forced_experts,
            kept: kept.or_none(),
            ..build.finish(device)?
        })
    }

    /// Builds a micro-batch of text: all ids but the last are fed, and the next id is a target if
    /// it is trained.
    pub fn of_supervised(
        sequences: &[&SupervisedSequence],
        device: Device,
    ) -> Result<MicroBatch, LearnError> {
        let mut build = Builder::default();
        for sequence in sequences {
            let start = build.ids.len() as i64;
            build.feed(
                sequence
                    .ids
                    .iter()
                    .take(sequence.ids.len().saturating_sub(1)),
                0..0,
            );
            let trained = sequence.ids.iter().zip(&sequence.trained).skip(1);
            build.predict(
                (start..)
                    .zip(trained)
                    .filter(|(_, (_, trained))| **trained)
                    .map(|(row, (id, _))| (row, id)),
            );
        }
        build.finish(device)
    }

    /// The number of trained tokens, N.
    pub fn trained_tokens(&self) -> i64 {
        self.targets.size()[0]
    }
}

/// The input and targets of multi-token prediction (DeepSeek-V3 2.2), beside a [`MicroBatch`] of
/// the same sequences.
pub struct Further {
    /// Rows of the micro-batch's pass with the tokens tᵢ that have two behind them, int64 `[T']`.
    pub rows: Tensor,
    /// The tokens tᵢ₊₁.
    pub next: Packed,
    /// Rows of `next` whose tᵢ₊₂ are trained, int64 `[N']`.
    pub predicting: Tensor,
    /// The trained tᵢ₊₂ of these rows, int64 `[N']`.
    pub targets: Tensor,
}

impl Further {
    /// Builds the input of prediction, of the sequences that have a trained token behind two
    /// others; `None` if none has.
    pub fn of_supervised(
        sequences: &[&SupervisedSequence],
        device: Device,
    ) -> Result<Option<Further>, LearnError> {
        let (mut rows, mut next) = (Vec::new(), Builder::default());
        let mut start = 0;
        for sequence in sequences {
            let ids = &sequence.ids;
            let count = match further_targets(sequence) {
                0 => 0,
                _ => ids.len().saturating_sub(2),
            };
            rows.extend((0..count).map(|i| start + i as i64));
            let first = next.ids.len() as i64;
            next.feed(ids.iter().skip(1).take(count), 0..0);
            let trained = ids.iter().zip(&sequence.trained).skip(2);
            next.predict(
                (first..)
                    .zip(trained)
                    .filter(|(_, (_, trained))| **trained)
                    .map(|(row, (id, _))| (row, id)),
            );
            start += ids.len().saturating_sub(1) as i64;
        }
        if next.targets.is_empty() {
            return Ok(None);
        }
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        let predicting = tensor(&next.rows)?;
        let micro = next.finish(device)?;
        Ok(Some(Further {
            rows: tensor(&rows)?,
            next: micro.packed,
            predicting,
            targets: micro.targets,
        }))
    }
}

/// The number of trained ids that have two others before them.
pub(crate) fn further_targets(sequence: &SupervisedSequence) -> usize {
    sequence
        .trained
        .iter()
        .take(sequence.ids.len())
        .skip(2)
        .filter(|&&trained| trained)
        .count()
}

/// The number of tokens that the forward pass of a rollout reads.
pub fn fed(sequence: &TrainSequence) -> usize {
    (sequence.prompt_ids.len() + sequence.completion_ids.len()).saturating_sub(1)
}

#[derive(Default)]
struct Builder {
    ids: Vec<i64>,
    lengths: Vec<i64>,
    prefixes: Vec<Range<i64>>,
    rows: Vec<i64>,
    targets: Vec<i64>,
}

impl Builder {
    /// Feeds a sequence's tokens behind its shared `prefix`, if any. Without tokens of its own it
    /// is not a sequence of the pass.
    fn feed<'a>(&mut self, ids: impl Iterator<Item = &'a u32>, prefix: Range<i64>) {
        let start = self.ids.len();
        self.ids.extend(ids.map(|&id| i64::from(id)));
        if self.ids.len() > start {
            self.lengths.push((self.ids.len() - start) as i64);
            self.prefixes.push(prefix);
        }
    }

    /// Adds predictions: (row of the pass, id that it predicts).
    fn predict<'a>(&mut self, predictions: impl Iterator<Item = (i64, &'a u32)>) {
        for (row, &id) in predictions {
            self.rows.push(row);
            self.targets.push(i64::from(id));
        }
    }

    fn finish(self, device: Device) -> Result<MicroBatch, LearnError> {
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        let in_order = self.rows.len() == self.ids.len()
            && self.rows.iter().zip(0..).all(|(&row, place)| row == place);
        let shares = self.prefixes.iter().any(|prefix| !prefix.is_empty());
        let prefixes = if shares { self.prefixes } else { Vec::new() };
        Ok(MicroBatch {
            packed: Packed {
                ids: tensor(&self.ids)?,
                lengths: self.lengths,
                prefixes,
            },
            rows: if in_order {
                None
            } else {
                Some(tensor(&self.rows)?)
            },
            targets: tensor(&self.targets)?,
            forced_experts: None,
            kept: None,
        })
    }
}

/// Refuses rollouts that would make a forward pass fail, which on a GPU the process cannot recover
/// from.
pub fn check_rollouts(
    sequences: &[TrainSequence],
    replay: Option<Replay>,
    vocab_size: i64,
) -> Result<(), LearnError> {
    for (index, sequence) in sequences.iter().enumerate() {
        let refuse = |problem: String| Err(LearnError::Sequence { index, problem });
        let (prompt, completion) = (sequence.prompt_ids.len(), sequence.completion_ids.len());
        if prompt == 0 || completion == 0 {
            return refuse(format!(
                "{prompt} prompt and {completion} completion ids; each needs at least one"
            ));
        }
        if sequence.behaviour_logprobs.len() != completion {
            return refuse(format!(
                "{} log-probabilities for {completion} completion ids",
                sequence.behaviour_logprobs.len()
            ));
        }
        if !sequence.advantage.is_finite() {
            return refuse(format!("its advantage is {}", sequence.advantage));
        }
        if let Some(id) = beyond(
            sequence.prompt_ids.iter().chain(&sequence.completion_ids),
            vocab_size,
        ) {
            return refuse(format!(
                "id {id} is beyond the model's vocabulary of {vocab_size}"
            ));
        }
        if let Err(bad) = sequence
            .kept_ids
            .check(&sequence.completion_ids, vocab_size.unsigned_abs())
        {
            return refuse(bad.to_string());
        }
        let Some(replay) = replay else { continue };
        let expected = fed(sequence) * (replay.moe_layers * replay.experts_per_token) as usize;
        if sequence.experts.len() != expected {
            let got = sequence.experts.len();
            return refuse(format!(
                "{got} recorded experts where {expected} are needed: sample with this model, or \
                 set routing_replay = false"
            ));
        }
        if let Some(expert) = sequence
            .experts
            .iter()
            .find(|&&expert| expert as i64 >= replay.experts)
        {
            return refuse(format!(
                "recorded expert {expert} is beyond the model's {}",
                replay.experts
            ));
        }
    }
    Ok(())
}

/// Refuses text for the same reasons as [`check_rollouts`].
pub fn check_supervised(
    sequences: &[SupervisedSequence],
    vocab_size: i64,
) -> Result<(), LearnError> {
    for (index, sequence) in sequences.iter().enumerate() {
        let refuse = |problem: String| Err(LearnError::Sequence { index, problem });
        if sequence.ids.len() < 2 {
            return refuse(format!(
                "{} ids; a prediction needs at least two",
                sequence.ids.len()
            ));
        }
        if sequence.trained.len() != sequence.ids.len() {
            return refuse(format!(
                "{} mask entries for {} ids",
                sequence.trained.len(),
                sequence.ids.len()
            ));
        }
        if let Some(id) = beyond(sequence.ids.iter(), vocab_size) {
            return refuse(format!(
                "id {id} is beyond the model's vocabulary of {vocab_size}"
            ));
        }
    }
    Ok(())
}

/// Refuses pairs for the same reasons as [`check_rollouts`]; the error has the pair's index.
pub fn check_pairs(pairs: &[Pair], vocab_size: i64) -> Result<(), LearnError> {
    for (
        index,
        Pair {
            prompt_ids,
            chosen_ids,
            rejected_ids,
            margin,
        },
    ) in pairs.iter().enumerate()
    {
        let refuse = |problem: String| Err(LearnError::Sequence { index, problem });
        let lengths = [
            ("prompt", prompt_ids.len()),
            ("chosen", chosen_ids.len()),
            ("rejected", rejected_ids.len()),
        ];
        if let Some((name, _)) = lengths.into_iter().find(|(_, length)| *length == 0) {
            return refuse(format!("no {name} ids; a pair needs at least one of each"));
        }
        if !margin.is_finite() {
            return refuse(format!("its margin is {margin}"));
        }
        if let Some(id) = beyond(
            prompt_ids.iter().chain(chosen_ids).chain(rejected_ids),
            vocab_size,
        ) {
            return refuse(format!(
                "id {id} is beyond the model's vocabulary of {vocab_size}"
            ));
        }
    }
    Ok(())
}

/// Refuses labelled texts for the same reasons as [`check_rollouts`].
pub fn check_labelled(items: &[Labelled], vocab_size: i64) -> Result<(), LearnError> {
    for (index, Labelled { ids, label }) in items.iter().enumerate() {
        let refuse = |problem: String| Err(LearnError::Sequence { index, problem });
        if ids.is_empty() {
            return refuse("no ids to score".to_owned());
        }
        if !(0.0..=1.0).contains(label) {
            return refuse(format!("its label is {label}, expected 0 to 1"));
        }
        if let Some(id) = beyond(ids.iter(), vocab_size) {
            return refuse(format!(
                "id {id} is beyond the model's vocabulary of {vocab_size}"
            ));
        }
    }
    Ok(())
}

fn beyond<'a>(mut ids: impl Iterator<Item = &'a u32>, vocab_size: i64) -> Option<u32> {
    ids.find(|&&id| id as i64 >= vocab_size).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::sampling_mask::SamplingMask;

    fn values(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.view([-1])).unwrap()
    }

    fn rollout(prompt: &[u32], completion: &[u32], experts: &[u16]) -> TrainSequence {
        TrainSequence {
            prompt_ids: prompt.to_vec(),
            completion_ids: completion.to_vec(),
            behaviour_logprobs: vec![-1.0; completion.len()],
            experts: experts.to_vec(),
            kept_ids: SamplingMask::default(),
            advantage: 1.0,
            truncated: false,
        }
    }

    const REPLAY: Option<Replay> = Some(Replay {
        moe_layers: 1,
        experts: 4,
        experts_per_token: 2,
    });

    #[test]
    fn completion_ids_are_predicted_by_the_row_before_them() {
        let (a, b) = (
            rollout(&[1, 2], &[3, 4], &[0, 1, 1, 2, 2, 3]),
            rollout(&[5], &[6], &[3, 0]),
        );
        let batch = MicroBatch::of_rollouts(&[&a, &b], true, REPLAY, Device::Cpu).unwrap();
        assert_eq!(values(&batch.packed.ids), [1, 2, 3, 5]);
        assert_eq!(batch.packed.lengths, [3, 1]);
        assert_eq!(values(&batch.rows.unwrap()), [1, 2, 3]);
        assert_eq!(values(&batch.targets), [3, 4, 6]);
        let experts = batch.forced_experts.unwrap();
        assert_eq!(experts.size(), [4, 1, 2]);
        assert_eq!(values(&experts), [0, 1, 1, 2, 2, 3, 3, 0]);
    }

    #[test]
    fn a_prompt_that_neighbours_share_is_fed_once() {
        let a = rollout(&[1, 2], &[3, 4], &[0, 1, 1, 2, 2, 3]);
        // It recorded other experts for its prompt, but the first sequence's are used.
        let b = rollout(&[1, 2], &[5, 6, 7], &[3, 3, 3, 3, 0, 2, 1, 3]);
        let one_id = rollout(&[1, 2], &[8], &[0, 1, 1, 2]);
        let other = rollout(&[9], &[1, 2], &[0, 1, 1, 0]);
        let batch =
            MicroBatch::of_rollouts(&[&a, &b, &one_id, &other], true, REPLAY, Device::Cpu).unwrap();
        assert_eq!(values(&batch.packed.ids), [1, 2, 3, 5, 6, 9, 1]);
        assert_eq!(
            batch.packed.lengths,
            [3, 2, 2],
            "a completion of one id feeds nothing of its own"
        );
        assert_eq!(batch.packed.prefixes, [0..0, 0..2, 0..0]);
        assert_eq!(values(&batch.rows.unwrap()), [1, 2, 1, 3, 4, 1, 5, 6]);
        assert_eq!(values(&batch.targets), [3, 4, 5, 6, 7, 8, 1, 2]);
        assert_eq!(
            values(&batch.forced_experts.unwrap()),
            [0, 1, 1, 2, 2, 3, 0, 2, 1, 3, 0, 1, 1, 0]
        );

        let apart = MicroBatch::of_rollouts(&[&a, &b], false, REPLAY, Device::Cpu).unwrap();
        assert_eq!(
            (apart.packed.lengths, apart.packed.prefixes),
            (vec![3, 4], vec![])
        );
        assert_eq!(values(&apart.rows.unwrap()), [1, 2, 4, 5, 6]);
    }

    #[test]
    fn only_trained_ids_are_targets() {
        let partly = SupervisedSequence {
            ids: vec![1, 2, 3, 4],
            trained: vec![true, false, true, true],
        };
        let wholly = SupervisedSequence {
            ids: vec![7, 8],
            trained: vec![true; 2],
        };
        let batch = MicroBatch::of_supervised(&[&partly, &wholly], Device::Cpu).unwrap();
        assert_eq!(values(&batch.packed.ids), [1, 2, 3, 7]);
        assert_eq!(values(&batch.rows.unwrap()), [1, 2, 3]);
        assert_eq!(values(&batch.targets), [3, 4, 8]);
        assert!(
            MicroBatch::of_supervised(&[&wholly], Device::Cpu)
                .unwrap()
                .rows
                .is_none()
        );
    }

    #[test]
    fn unsound_sequences_are_refused_with_their_index() {
        let good = rollout(&[1], &[2, 3], &[0, 1, 2, 3]);
        assert!(check_rollouts(std::slice::from_ref(&good), REPLAY, 10).is_ok());
        let broken = |change: &dyn Fn(&mut TrainSequence), words: &str| {
            let mut bad = good.clone();
            change(&mut bad);
            let error = check_rollouts(&[good.clone(), bad], REPLAY, 10).unwrap_err();
            assert!(error.is_invalid_request());
            assert!(
                error.to_string().starts_with("sequence 1: ") && error.to_string().contains(words),
                "{error}"
            );
        };
        broken(&|s| s.prompt_ids.clear(), "0 prompt");
        broken(&|s| s.completion_ids.clear(), "0 completion");
        broken(
            &|s| s.behaviour_logprobs.truncate(1),
            "1 log-probabilities for 2",
        );
        broken(&|s| s.advantage = f32::NAN, "NaN");
        broken(&|s| s.completion_ids[0] = 10, "id 10");
        broken(
            &|s| s.kept_ids = SamplingMask::from_numbers(vec![0, 0, 1, 0, 4]),
            "3 tokens for 2 completion ids",
        );
        broken(
            &|s| s.kept_ids = SamplingMask::from_numbers(vec![0, 1, 4, 1]),
            "id 3, token 1",
        );
        broken(
            &|s| s.kept_ids = SamplingMask::from_numbers(vec![0, 1, 3, 8]),
            "reach to 11",
        );
        broken(
            &|s| s.kept_ids = SamplingMask::from_numbers(vec![0, 1, 3]),
            "end inside a run",
        );
        broken(&|s| s.experts.truncate(3), "routing_replay");
        broken(&|s| s.experts[0] = 4, "expert 4");
        let short = SupervisedSequence {
            ids: vec![1],
            trained: vec![true],
        };
        assert!(
            check_supervised(&[short], 10)
                .unwrap_err()
                .to_string()
                .contains("at least two")
        );
        let uneven = SupervisedSequence {
            ids: vec![1, 2],
            trained: vec![true],
        };
        assert!(
            check_supervised(&[uneven], 10)
                .unwrap_err()
                .to_string()
                .contains("1 mask entries for 2")
        );
    }
}
