//! How the sampler's deviation from the trainer is corrected.

use crate::error::JobError;
use crate::file::setting::by_words;
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::{ImportanceSamplingCorrection, ImportanceSamplingMode};

by_words!(ImportanceSamplingMode);

/// Truncated importance sampling between sampler and trainer, under TRL's names without `vllm_`.
#[derive(Clone, Copy, Debug, PartialEq, Keys, Read, Write)]
pub struct Correction {
    /// Whether the policy's loss is weighted by the ratio of trainer to sampler.
    #[key(
        default = true,
        meaning = "Truncated importance sampling: sampler and trainer compute with other kernels, \
                   and the policy's loss is weighted by the ratio of the trainer's probability \
                   before the first update to the sampler's (TRL's \
                   vllm_importance_sampling_correction). The ratios are \
                   `sampling/importance_sampling_ratio`; with batch_invariant = true they are \
                   exactly 1."
    )]
    pub importance_sampling_correction: bool,
    /// What has such a ratio, and what happens to one out of bounds.
    #[key(
        default = "token_truncate",
        meaning = "Whether each token has such a ratio or a sequence, the product of its tokens'; \
                   and what happens to one out of bounds: it is set to the bound (truncate), or \
                   the token or sequence does not train (mask). TRL's default is \
                   \"sequence_mask\"; the modes of sequences compute the output head twice."
    )]
    pub importance_sampling_mode: ImportanceSamplingMode,
    /// The upper bound of these ratios.
    #[key(takes = positive(), default = 3.0)]
    pub importance_sampling_clip_max: f64,
    /// Their lower bound; 0: none.
    #[key(takes = amount(), default = 0.0)]
    pub importance_sampling_clip_min: f64,
}

impl Correction {
    /// The correction in the form that a worker takes; `None` if it is off.
    pub(super) fn settings(&self) -> Option<ImportanceSamplingCorrection> {
        self.importance_sampling_correction
            .then_some(ImportanceSamplingCorrection {
                mode: self.importance_sampling_mode,
                clip_min: self.importance_sampling_clip_min,
                clip_max: self.importance_sampling_clip_max,
            })
    }

    /// Checks that a ratio can be within the bounds.
    pub(super) fn check(&self, place: &str) -> Result<(), JobError> {
        let (min, max) = (
            self.importance_sampling_clip_min,
            self.importance_sampling_clip_max,
        );
        if min < max {
            return Ok(());
        }
        Err(JobError::unsound(
            place,
            format!(
                "importance_sampling_clip_min = {min} is not below importance_sampling_clip_max = \
                 {max}"
            ),
            "lower `importance_sampling_clip_min`, or raise `importance_sampling_clip_max`",
        ))
    }
}
