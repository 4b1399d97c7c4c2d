//! The cells of a rollout file, as rows are read from them.

use super::RolloutRow;
use super::view::{IDS, Summary, TOKENS, View};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch, StructArray};
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::verdict::{Outcome, Verdict};

/// Reads cells by column name; `None` if the file is not one that
/// [`write`](super::write::write) makes.
pub(super) struct Cells {
    batch: StructArray,
}

impl Cells {
    pub(super) fn of(batch: RecordBatch) -> Cells {
        let batch = StructArray::from(batch);
        Cells { batch }
    }

    pub(super) fn len(&self) -> usize {
        self.batch.len()
    }

    pub(super) fn summary(&self, index: usize) -> Option<Summary> {
        Some(Summary {
            prompt: self.number::<UInt32Type>("prompt_index", index)??,
            sample: self.number::<UInt32Type>("sample_index", index)??,
            reward: self.number::<Float32Type>("reward", index)?,
            tokens: self.tokens(index)?,
        })
    }

    pub(super) fn view(&self, index: usize) -> Option<View> {
        Some(View {
            key: self.key(index)?,
            row: self.number::<UInt64Type>("row", index)??,
            tokens: self.tokens(index)?,
            finish: self.finish(index)?,
            reward: self.number::<Float32Type>("reward", index)?,
            advantage: self.number::<Float32Type>("advantage", index)?,
            verdicts: self.verdicts(index)?,
            prompt: self.text("prompt", index)??,
            completion: self.text("completion", index)??,
            reference: self.text("reference", index)?,
            completion_ids: match self.batch.column_by_name(IDS) {
                Some(_) => self.list::<UInt32Type>(IDS, index)?,
                None => Vec::new(),
            },
        })
    }

    fn tokens(&self, index: usize) -> Option<u32> {
        match self.batch.column_by_name(TOKENS) {
            Some(_) => self.number::<UInt32Type>(TOKENS, index)?,
            // Files of earlier releases do not have this column.
            None => u32::try_from(self.list::<UInt32Type>(IDS, index)?.len()).ok(),
        }
    }

    fn key(&self, index: usize) -> Option<SampleKey> {
        Some(SampleKey {
            stage: self.number::<UInt32Type>("stage", index)??,
            step: self.number::<UInt64Type>("step", index)??.checked_sub(1)?,
            prompt: self.number::<UInt32Type>("prompt_index", index)??,
            sample: self.number::<UInt32Type>("sample_index", index)??,
        })
    }

    fn finish(&self, index: usize) -> Option<FinishReason> {
        match self.text("finish", index)??.as_str() {
            "stop" => Some(FinishReason::Stop),
            "length" => Some(FinishReason::Length),
            _ => None,
        }
    }

    fn verdicts(&self, index: usize) -> Option<Vec<Verdict>> {
        let column = self.batch.column_by_name("verdicts")?;
        let list = column.as_list_opt::<i32>()?.value(index);
        let batch = list.as_struct_opt()?.clone();
        let verdicts = Cells { batch };
        (0..verdicts.len())
            .map(|index| verdicts.verdict(index))
            .collect()
    }

    pub(super) fn row(&self, index: usize) -> Option<RolloutRow> {
        let rollout = Rollout {
            key: self.key(index)?,
            row: self.number::<UInt64Type>("row", index)??,
            prompt_ids: self.list::<UInt32Type>("prompt_ids", index)?,
            completion_ids: self.list::<UInt32Type>("completion_ids", index)?,
            behaviour_logprobs: self.list::<Float32Type>("behaviour_logprobs", index)?,
            experts: self.list::<UInt16Type>("experts", index)?,
            // Files of earlier releases do not have this column.
            kept_ids: match self.batch.column_by_name("kept_ids") {
                Some(_) => SamplingMask::from_numbers(self.list::<UInt32Type>("kept_ids", index)?),
                None => SamplingMask::default(),
            },
            policy_version: self.number::<UInt64Type>("policy_version", index)??,
            finish: self.finish(index)?,
        };
        Some(RolloutRow {
            scored: ScoredRollout {
                rollout,
                verdicts: self.verdicts(index)?,
                reward: self.number::<Float32Type>("reward", index)?,
                advantage: self.number::<Float32Type>("advantage", index)?,
            },
            prompt: self.text("prompt", index)??,
            completion: self.text("completion", index)??,
            reference: self.text("reference", index)?,
        })
    }

    fn verdict(&self, index: usize) -> Option<Verdict> {
        let reason = self.text("reason", index)?.unwrap_or_default();
        let outcome = match self.text("outcome", index)??.as_str() {
            "score" => Outcome::Score {
                value: self.number::<Float32Type>("score", index)??,
                parts: self.list::<Float32Type>("parts", index)?,
            },
            "abstain" => Outcome::Abstain { reason },
            "trap" => Outcome::Trap { reason },
            "out_of_fuel" => Outcome::OutOfFuel,
            "out_of_time" => Outcome::OutOfTime,
            _ => return None,
        };
        Some(Verdict {
            plugin: self.text("plugin", index)??,
            module_sha256: self.text("module_sha256", index)??,
            config_sha256: self.text("config_sha256", index)??,
            outcome,
            value: self.number::<Float32Type>("value", index)?,
            fuel: self.number::<UInt64Type>("fuel", index)??,
        })
    }

    /// Reads a number. The outer `Option` is `None` without such a column, the inner one if the
    /// cell is null.
    fn number<T: ArrowPrimitiveType>(&self, name: &str, index: usize) -> Option<Option<T::Native>> {
        let column = self.batch.column_by_name(name)?.as_primitive_opt::<T>()?;
        Some(column.is_valid(index).then(|| column.value(index)))
    }

    fn text(&self, name: &str, index: usize) -> Option<Option<String>> {
        let column = self.batch.column_by_name(name)?.as_string_opt::<i32>()?;
        Some(
            column
                .is_valid(index)
                .then(|| column.value(index).to_string()),
        )
    }

    fn list<T: ArrowPrimitiveType>(&self, name: &str, index: usize) -> Option<Vec<T::Native>> {
        let column = self.batch.column_by_name(name)?.as_list_opt::<i32>()?;
        Some(
            column
                .value(index)
                .as_primitive_opt::<T>()?
                .values()
                .to_vec(),
        )
    }
}
