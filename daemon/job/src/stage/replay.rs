//! What a trainer takes over from the sampler.

use r1d_job_macros::{Keys, Read, Write};

/// What the trainer of a stage takes over from the sampler, so that both see one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Keys, Read, Write)]
pub struct Replay {
    /// Whether the ids that top_p and top_k left are recorded, so that policies are compared over
    /// them.
    #[key(
        default = true,
        meaning = "Where top_p or top_k cut ids off, log-probabilities of sampler, policy and \
                   reference are over those that were left (Keep Sampling Mask, DeepSeek-V3.2 \
                   3.1), whose mean number is `sampling/kept_ids/mean`; false: over the whole \
                   vocabulary. No effect with top_p = 1.0 and top_k = 0."
    )]
    pub keep_sampling_mask: bool,
    /// Whether the trainer takes the experts that the sampler took.
    #[key(
        default = true,
        meaning = "The trainer takes the experts that the sampler took. No effect on dense models."
    )]
    pub routing_replay: bool,
    /// Whether the reference takes the sampler's experts too.
    #[key(
        default = false,
        meaning = "With `routing_replay`, the reference takes the sampler's experts too. false: \
                   it routes by itself, as the model that it is; the paper forces the policy's \
                   experts, and DPO's reference and PPO's value model always route by themselves."
    )]
    pub routing_replay_reference: bool,
}
