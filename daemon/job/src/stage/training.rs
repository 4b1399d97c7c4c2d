//! How a stage trains weights: AdamW, its schedule, micro-batches, adapters, the router's balance.

use crate::file::setting::by_words;
use crate::limits::MICRO_BATCH_MAX_TOKENS;
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::{
    Dtype, GradientCheckpointing, Lora, LrSchedule, Optimiser, OptimizerOffload, RouterTraining,
};

by_words!(LrSchedule, OptimizerOffload);

/// Settings of AdamW, its learning-rate schedule, and the size of micro-batches.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Training {
    /// AdamW's rate after the warm-up.
    #[key(takes = amount(), required = "it depends on the kind of stage")]
    pub learning_rate: f64,
    /// How the rate falls after the warm-up.
    #[key(
        takes = OneOf(&["linear", "constant", "cosine"]),
        default = "linear",
        meaning = "How the rate falls after the warm-up, from `learning_rate` to `min_lr_ratio` \
                   of it at the stage's end."
    )]
    pub lr_scheduler_type: LrSchedule,
    /// Updates over which the rate rises from 0.
    #[key(takes = steps(0), default = 0, unit = "updates")]
    pub warmup_steps: u64,
    /// Where linear and cosine schedules end, as a share of `learning_rate`.
    #[key(takes = share(), default = 0.0)]
    pub min_lr_ratio: f64,
    /// AdamW's decay of the first moment.
    #[key(takes = number(0.0, DECAY_MAX), default = 0.9)]
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    #[key(takes = number(0.0, DECAY_MAX), default = 0.999)]
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    #[key(takes = positive(), default = 1e-8)]
    pub adam_epsilon: f64,
    /// Decoupled weight decay; not applied to norms, biases and the router's correction bias.
    #[key(
        takes = amount(),
        default = 0.0,
        meaning = "Decoupled; not applied to norms, biases and the router's correction bias."
    )]
    pub weight_decay: f64,
    /// Global norm that gradients are clipped to; 0: no clipping.
    #[key(takes = amount(), default = 1.0)]
    pub max_grad_norm: f64,
    /// Data type in which AdamW keeps the first moment.
    #[key(
        takes = OneOf(&["float32", "bfloat16"]),
        default = "float32",
        meaning = "Data type in which AdamW keeps the mean of gradients between updates. \
                   \"bfloat16\" needs 2 bytes less for each parameter."
    )]
    pub exp_avg_dtype: Dtype,
    /// Data type in which AdamW keeps the second moment.
    #[key(
        takes = OneOf(&["float32", "bfloat16"]),
        default = "float32",
        meaning = "Data type in which AdamW keeps the mean of squared gradients between updates. \
                   \"bfloat16\" needs 2 bytes less for each parameter, and an adam_beta2 of 0.99 \
                   at most, since smaller changes would be rounded away."
    )]
    pub exp_avg_sq_dtype: Dtype,
    /// The memory in which AdamW keeps what it updates.
    #[key(
        takes = OneOf(&["none", "cpu"]),
        default = "none",
        meaning = "\"cpu\" keeps AdamW's moments and float32 weights in the host's memory, and \
                   updates them with its processor: a GPU then has 2 bytes of each bfloat16 \
                   weight and 4 of its gradient, and an update takes longer. \"none\" keeps them \
                   on the device."
    )]
    pub optimizer_offload: OptimizerOffload,
    /// Tokens that micro-batches are packed to.
    #[key(
        takes = count(16, MICRO_BATCH_MAX_TOKENS),
        default = 16384,
        unit = "tokens",
        meaning = "Micro-batches are packed to this many tokens: it bounds the memory of \
                   activations and changes no result beyond rounding."
    )]
    pub max_tokens_per_device: u32,
    /// Whether an update runs each block again for its gradients.
    #[key(
        default = false,
        meaning = "Whether an update keeps only the input of each block, and runs the block again \
                   for its gradients: it needs much less memory for activations and more time, \
                   and changes no result beyond rounding."
    )]
    pub gradient_checkpointing: bool,
    /// Number of blocks that `gradient_checkpointing` runs again; 0: all.
    #[key(
        takes = integer(0, 65_536),
        default = 0,
        unit = "blocks",
        meaning = "With `gradient_checkpointing`: how many blocks, from the first on, are run \
                   again; what the others compute is kept. 0: all are."
    )]
    pub recompute_num_layers: u32,
}

/// Largest decay of AdamW's moments.
const DECAY_MAX: f64 = 0.999_999;

impl Training {
    /// AdamW and its schedule over `total_steps` updates, in the form that a worker takes.
    pub(crate) fn optimiser(&self, total_steps: u64) -> Optimiser {
        Optimiser {
            learning_rate: self.learning_rate,
            lr_scheduler_type: self.lr_scheduler_type,
            warmup_steps: self.warmup_steps,
            total_steps,
            min_lr_ratio: self.min_lr_ratio,
            adam_beta1: self.adam_beta1,
            adam_beta2: self.adam_beta2,
            adam_epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            exp_avg_dtype: self.exp_avg_dtype,
            exp_avg_sq_dtype: self.exp_avg_sq_dtype,
            optimizer_offload: self.optimizer_offload,
        }
    }

    /// Gradient checkpointing in the form that a worker takes; `None` without it.
    pub(crate) fn checkpointing(&self) -> Option<GradientCheckpointing> {
        let recompute_num_layers = match self.recompute_num_layers {
            0 => u32::MAX,
            layers => layers,
        };
        self.gradient_checkpointing
            .then_some(GradientCheckpointing {
                recompute_num_layers,
            })
    }

    /// Whether AdamW is in the host's memory.
    pub(crate) fn is_on_host(&self) -> bool {
        self.optimizer_offload == OptimizerOffload::Cpu
    }

    /// Bytes that AdamW keeps of each parameter's gradients.
    pub(crate) fn moment_bytes(&self) -> u64 {
        [self.exp_avg_dtype, self.exp_avg_sq_dtype]
            .map(Dtype::bytes)
            .iter()
            .sum()
    }
}

/// Settings of low-rank adapters, by TRL's names.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Adapters {
    /// Rank of the adapters; 0: the weights themselves are trained.
    #[key(
        takes = integer(0, 65_536),
        default = 0,
        meaning = "Rank of low-rank adapters (LoRA) that are trained while the weights stay as \
                   they are; 0: the weights are trained. What the stage leaves is merged (in \
                   bfloat16 rounded once more), with the adapter beside it in peft's format."
    )]
    pub lora_r: u32,
    /// Scale of the adapters, times their rank.
    #[key(
        takes = positive(),
        default = 32.0,
        meaning = "The adapters' part is scaled by lora_alpha / lora_r."
    )]
    pub lora_alpha: f64,
    /// Linear layers that get adapters, by the last parts of their names, or `all-linear`.
    #[key(
        default = ["all-linear"],
        meaning = "Linear layers that get an adapter, by the last parts of their names \
                   (\"q_proj\", \"self_attn.o_proj\"); \"all-linear\": all but the output \
                   head and, in mixture-of-experts models, the feed-forward layers, of which \
                   the experts' alone can be named: \"gate_proj\", \"up_proj\", \"down_proj\"."
    )]
    pub lora_target_modules: Vec<String>,
}

impl Adapters {
    /// The adapters in the form that a worker takes; `None` if there are none.
    pub(crate) fn lora(&self) -> Option<Lora> {
        (self.lora_r > 0).then(|| Lora {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            target_modules: self.lora_target_modules.clone(),
        })
    }
}

/// Balance of the router in mixture-of-experts models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Keys, Read, Write)]
pub struct Router {
    /// Step of the router's correction bias per update.
    #[key(
        takes = amount(),
        default = 0.0,
        meaning = "Step of the router's correction bias per update (auxiliary-loss-free \
                   balancing, gamma of DeepSeek-V3 2.1.2); 0 freezes it. No effect on models \
                   whose routers have none."
    )]
    pub bias_update_speed: f64,
    /// Weight of the sequence-wise balance loss.
    #[key(
        takes = amount(),
        default = 0.0,
        meaning = "Weight of the sequence-wise balance loss (DeepSeek-V3 eq. 17; with a softmax \
                   router the expert-level loss of DeepSeek-V2, which used 0.003); 0: none. No \
                   effect on dense models."
    )]
    pub aux_loss_alpha: f64,
    /// Weight of the device-level balance loss.
    #[key(
        takes = amount(),
        default = 0.0,
        meaning = "Weight of the device-level balance loss (DeepSeek-V2 2.2.3, which used 0.05), \
                   with the router's groups as devices; 0: none. No effect on dense models."
    )]
    pub device_loss_alpha: f64,
}

impl Router {
    /// The balance in the form that a worker takes.
    pub(crate) fn training(self) -> RouterTraining {
        RouterTraining {
            bias_update_speed: self.bias_update_speed,
            aux_loss_alpha: self.aux_loss_alpha,
            device_loss_alpha: self.device_loss_alpha,
        }
    }
}

/// Training of the model's multi-token prediction module.
#[derive(Clone, Copy, Debug, PartialEq, Keys, Read, Write)]
pub struct Prediction {
    /// λ of multi-token prediction; 0: no prediction module is trained.
    #[key(
        takes = amount(),
        default = 0.0,
        meaning = "Weight of multi-token prediction (lambda of DeepSeek-V3 2.2, which used 0.3, \
                   then 0.1); the model's config.json must have num_nextn_predict_layers = 1. 0: \
                   its prediction module is left out."
    )]
    pub mtp_loss_weight: f64,
}
