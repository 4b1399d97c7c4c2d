//! Token sequences as the tensors of one packed forward pass.

use crate::LearnError;
use r1d_model::{CausalLm, Packed};
use r1d_proto::worker::{SupervisedSequence, TrainSequence};
use tch::{Device, Tensor};

/// Shape of the recorded expert ids under routing replay.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    pub moe_layers: i64,
    pub experts: i64,
    pub experts_per_token: i64,
}

impl Replay {
    /// `None` for dense models, which have nothing to replay.
    pub fn of(model: &CausalLm) -> Option<Replay> {
        let config = &model.config;
        let replay = Replay { moe_layers: config.moe_layers, experts: config.experts, experts_per_token: config.experts_per_token };
        (config.moe_layers > 0).then_some(replay)
    }
}

/// What one forward pass reads, and which of its rows predict tokens that count.
pub struct MicroBatch {
    pub packed: Packed,
    /// int64 `[N]`: rows of the pass whose hidden state predicts `targets`; `None` where all do, in order.
    pub rows: Option<Tensor>,
    /// int64 `[N]`.
    pub targets: Tensor,
    /// int64 `[T, moe_layers, K]` under routing replay.
    pub forced_experts: Option<Tensor>,
}

impl MicroBatch {
    /// Prompt and completion without its last id, which is never fed; every completion id is a target.
    pub fn of_rollouts(sequences: &[&TrainSequence], replay: Option<Replay>, device: Device) -> Result<MicroBatch, LearnError> {
        let mut build = Builder::default();
        for sequence in sequences {
            let ids: Vec<u32> = sequence.prompt_ids.iter().chain(&sequence.completion_ids).copied().collect();
            let prompt = sequence.prompt_ids.len();
            build.push(&ids, |position| position >= prompt);
        }
        let forced_experts = replay.map(|replay| forced_experts(sequences, replay, device)).transpose()?;
        Ok(MicroBatch { forced_experts, ..build.finish(device)? })
    }

    /// All ids but the last are fed; the next id is a target where it is trained.
    pub fn of_supervised(sequences: &[&SupervisedSequence], device: Device) -> Result<MicroBatch, LearnError> {
        let mut build = Builder::default();
        for sequence in sequences {
            build.push(&sequence.ids, |position| sequence.trained.get(position).copied().unwrap_or(false));
        }
        build.finish(device)
    }

    /// N.
    pub fn trained_tokens(&self) -> i64 {
        self.targets.size()[0]
    }
}

/// Tokens that the forward pass of a rollout reads.
pub fn fed(sequence: &TrainSequence) -> usize {
    (sequence.prompt_ids.len() + sequence.completion_ids.len()).saturating_sub(1)
}

fn forced_experts(sequences: &[&TrainSequence], replay: Replay, device: Device) -> Result<Tensor, LearnError> {
    let flat: Vec<i64> = sequences.iter().flat_map(|sequence| &sequence.experts).map(|&expert| expert as i64).collect();
    let tokens: usize = sequences.iter().map(|sequence| fed(sequence)).sum();
    let shape = [tokens as i64, replay.moe_layers, replay.experts_per_token];
    Ok(Tensor::f_from_slice(&flat)?.f_view(shape)?.f_to_device(device)?)
}

#[derive(Default)]
struct Builder {
    ids: Vec<i64>,
    lengths: Vec<i64>,
    rows: Vec<i64>,
    targets: Vec<i64>,
}

impl Builder {
    /// All ids but the last are fed; those that are `trained` are targets, each predicted by the row before it.
    fn push(&mut self, ids: &[u32], trained: impl Fn(usize) -> bool) {
        let base = self.ids.len();
        let fed = ids.len().saturating_sub(1);
        self.ids.extend(ids.iter().take(fed).map(|&id| id as i64));
        self.lengths.push(fed as i64);
        for (position, &id) in ids.iter().enumerate().skip(1).filter(|&(position, _)| trained(position)) {
            self.rows.push((base + position - 1) as i64);
            self.targets.push(id as i64);
        }
    }

    fn finish(self, device: Device) -> Result<MicroBatch, LearnError> {
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        let rows = if self.rows.len() == self.ids.len() { None } else { Some(tensor(&self.rows)?) };
        Ok(MicroBatch {
            packed: Packed { ids: tensor(&self.ids)?, lengths: self.lengths },
            rows,
            targets: tensor(&self.targets)?,
            forced_experts: None,
        })
    }
}

/// Refuses what a forward pass would fail on, or, on a GPU, never recover from.
pub fn check_rollouts(sequences: &[TrainSequence], replay: Option<Replay>, vocab_size: i64) -> Result<(), LearnError> {
    for (index, sequence) in sequences.iter().enumerate() {
        let refuse = |problem: String| Err(LearnError::Sequence { index, problem });
        let (prompt, completion) = (sequence.prompt_ids.len(), sequence.completion_ids.len());
        if prompt == 0 || completion == 0 {
            return refuse(format!("{prompt} prompt and {completion} completion ids; each needs at least one"));
        }
        if sequence.behaviour_logprobs.len() != completion {
            return refuse(format!("{} log-probabilities for {completion} completion ids", sequence.behaviour_logprobs.len()));
        }
        if !sequence.advantage.is_finite() {
            return refuse(format!("its advantage is {}", sequence.advantage));
        }
        if let Some(id) = beyond(sequence.prompt_ids.iter().chain(&sequence.completion_ids), vocab_size) {
            return refuse(format!("id {id} is beyond the model's vocabulary of {vocab_size}"));
        }
        let Some(replay) = replay else { continue };
        let expected = fed(sequence) * (replay.moe_layers * replay.experts_per_token) as usize;
        if sequence.experts.len() != expected {
            let got = sequence.experts.len();
            return refuse(format!(
                "{got} recorded experts where {expected} are needed: sample with this model, or set routing_replay = false"
            ));
        }
        if let Some(expert) = sequence.experts.iter().find(|&&expert| expert as i64 >= replay.experts) {
            return refuse(format!("recorded expert {expert} is beyond the model's {}", replay.experts));
        }
    }
    Ok(())
}

/// As [`check_rollouts`].
pub fn check_supervised(sequences: &[SupervisedSequence], vocab_size: i64) -> Result<(), LearnError> {
    for (index, sequence) in sequences.iter().enumerate() {
        let refuse = |problem: String| Err(LearnError::Sequence { index, problem });
        if sequence.ids.len() < 2 {
            return refuse(format!("{} ids; a prediction needs at least two", sequence.ids.len()));
        }
        if sequence.trained.len() != sequence.ids.len() {
            return refuse(format!("{} mask entries for {} ids", sequence.trained.len(), sequence.ids.len()));
        }
        if let Some(id) = beyond(sequence.ids.iter(), vocab_size) {
            return refuse(format!("id {id} is beyond the model's vocabulary of {vocab_size}"));
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

    fn values(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.view([-1])).unwrap()
    }

    fn rollout(prompt: &[u32], completion: &[u32], experts: &[u16]) -> TrainSequence {
        TrainSequence {
            prompt_ids: prompt.to_vec(),
            completion_ids: completion.to_vec(),
            behaviour_logprobs: vec![-1.0; completion.len()],
            experts: experts.to_vec(),
            advantage: 1.0,
            truncated: false,
        }
    }

    const REPLAY: Option<Replay> = Some(Replay { moe_layers: 1, experts: 4, experts_per_token: 2 });

    #[test]
    fn completion_ids_are_predicted_by_the_row_before_them() {
        let (a, b) = (rollout(&[1, 2], &[3, 4], &[0, 1, 1, 2, 2, 3]), rollout(&[5], &[6], &[3, 0]));
        let batch = MicroBatch::of_rollouts(&[&a, &b], REPLAY, Device::Cpu).unwrap();
        assert_eq!(values(&batch.packed.ids), [1, 2, 3, 5]);
        assert_eq!(batch.packed.lengths, [3, 1]);
        assert_eq!(values(&batch.rows.unwrap()), [1, 2, 3]);
        assert_eq!(values(&batch.targets), [3, 4, 6]);
        let experts = batch.forced_experts.unwrap();
        assert_eq!(experts.size(), [4, 1, 2]);
        assert_eq!(values(&experts), [0, 1, 1, 2, 2, 3, 3, 0]);
    }

    #[test]
    fn only_trained_ids_are_targets() {
        let partly = SupervisedSequence { ids: vec![1, 2, 3, 4], trained: vec![true, false, true, true] };
        let wholly = SupervisedSequence { ids: vec![7, 8], trained: vec![true; 2] };
        let batch = MicroBatch::of_supervised(&[&partly, &wholly], Device::Cpu).unwrap();
        assert_eq!(values(&batch.packed.ids), [1, 2, 3, 7]);
        assert_eq!(values(&batch.rows.unwrap()), [1, 2, 3]);
        assert_eq!(values(&batch.targets), [3, 4, 8]);
        assert!(MicroBatch::of_supervised(&[&wholly], Device::Cpu).unwrap().rows.is_none());
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
            assert!(error.to_string().starts_with("sequence 1: ") && error.to_string().contains(words), "{error}");
        };
        broken(&|s| s.prompt_ids.clear(), "0 prompt");
        broken(&|s| s.completion_ids.clear(), "0 completion");
        broken(&|s| s.behaviour_logprobs.truncate(1), "1 log-probabilities for 2");
        broken(&|s| s.advantage = f32::NAN, "NaN");
        broken(&|s| s.completion_ids[0] = 10, "id 10");
        broken(&|s| s.experts.truncate(3), "routing_replay");
        broken(&|s| s.experts[0] = 4, "expert 4");
        let short = SupervisedSequence { ids: vec![1], trained: vec![true] };
        assert!(check_supervised(&[short], 10).unwrap_err().to_string().contains("at least two"));
        let uneven = SupervisedSequence { ids: vec![1, 2], trained: vec![true] };
        assert!(check_supervised(&[uneven], 10).unwrap_err().to_string().contains("1 mask entries for 2"));
    }
}
