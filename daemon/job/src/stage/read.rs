//! Reads stages from a job file.

use super::*;
use crate::error::JobError;
use crate::fields::ResolvedTable;
use std::path::Path;

impl Stage {
    /// Reads a `[[stage]]` table. Its weights come from the nearest of the stages `before` that
    /// trains a policy of the same model, unless the file says otherwise.
    pub(crate) fn read(
        stage: &ResolvedTable<'_>,
        before: &[Stage],
        base_dir: &Path,
    ) -> Result<Stage, JobError> {
        let model = stage.optional::<String>("model")?;
        let is_nearest = |before: &&Stage| {
            before.trains() && before.reward_model().is_none() && before.model == model
        };
        let nearest = || {
            before
                .iter()
                .rfind(is_nearest)
                .map(|before| before.name.clone())
        };
        let from = match stage.optional::<String>("from")?.or_else(nearest) {
            Some(name) if name != "base" => Origin::Stage(name),
            _ => Origin::Base,
        };
        let kind_name = stage.get::<String>("kind")?;
        let samples_once = kind_name == "rejection-sampling";
        let length = match (stage.optional("steps")?, stage.optional("epochs")?) {
            (Some(steps), None) => Length::Steps(steps),
            (None, Some(epochs)) => Length::Epochs(epochs),
            (Some(_), Some(_)) => {
                return Err(stage.unsound(
                    "`steps` and `epochs` both say how long it runs",
                    "keep one of them",
                ));
            }
            (None, None) if samples_once => Length::Epochs(1.0),
            (None, None) if kind_name == "eval" => Length::Steps(0),
            (None, None) => {
                return Err(
                    stage.unsound("nothing says how long it runs", "add `steps` or `epochs`")
                );
            }
        };
        let kind = match kind_name.as_str() {
            "pretrain" => StageKind::Pretrain(Pretrain {
                batch_size: stage.get("batch_size")?,
                max_length: stage.get("max_length")?,
            }),
            "sft" => StageKind::Sft(Sft::read(stage, None)?),
            "distill" => {
                let template = TemplateSource::read(&stage.get::<String>("template")?, base_dir);
                StageKind::Sft(Sft::read(stage, Some(template))?)
            }
            "eval" => StageKind::Eval(Box::new(Eval::read(stage, before)?)),
            "rejection-sampling" => {
                StageKind::RejectionSampling(Box::new(RejectionSampling::read(stage, base_dir)?))
            }
            "reward-model" => StageKind::RewardModel(RewardModel::read(stage)?),
            "dpo" => StageKind::Dpo(Dpo::read(stage)?),
            "ppo" => StageKind::Ppo(Box::new(Ppo::read(stage, base_dir)?)),
            _ => StageKind::Grpo(Box::new(Grpo::read(stage, base_dir)?)),
        };
        let trains = !matches!(kind, StageKind::RejectionSampling(_) | StageKind::Eval(_));
        Ok(Stage {
            name: stage.get("name")?,
            model,
            from,
            data: stage.get("data")?,
            length,
            more_data: stage.optional("more_data")?.unwrap_or_default(),
            schedule: if trains {
                Some(Schedule::read(stage)?)
            } else {
                None
            },
            // A key that a kind of stage does not have is missing from its table of keys too.
            router: RouterTraining {
                bias_update_speed: stage.optional("bias_update_speed")?.unwrap_or(0.0),
                aux_loss_alpha: stage.optional("aux_loss_alpha")?.unwrap_or(0.0),
                device_loss_alpha: stage.optional("device_loss_alpha")?.unwrap_or(0.0),
            },
            lora: read_lora(stage, &kind)?,
            mtp_loss_weight: stage.optional("mtp_loss_weight")?.unwrap_or(0.0),
            speculative_decoding: stage.optional("speculative_decoding")?.unwrap_or(false),
            max_tokens_per_device: stage.optional("max_tokens_per_device")?.unwrap_or(0),
            kind,
        })
    }
}

/// Reads the adapters' keys; `None` for kinds that train all weights, or none.
fn read_lora(stage: &ResolvedTable<'_>, kind: &StageKind) -> Result<Option<Lora>, JobError> {
    if !matches!(kind, StageKind::Sft(_) | StageKind::Grpo(_)) {
        return Ok(None);
    }
    let (r, lora_alpha) = (stage.get("lora_r")?, stage.get("lora_alpha")?);
    Ok(Some(Lora {
        r,
        lora_alpha,
        target_modules: stage.get("lora_target_modules")?,
    }))
}

impl Sft {
    fn read(stage: &ResolvedTable<'_>, template: Option<TemplateSource>) -> Result<Sft, JobError> {
        Ok(Sft {
            batch_size: stage.get("batch_size")?,
            max_length: stage.get("max_length")?,
            tokenize: stage.optional("tokenize")?,
            template,
        })
    }
}

impl Schedule {
    fn read(stage: &ResolvedTable<'_>) -> Result<Schedule, JobError> {
        Ok(Schedule {
            learning_rate: stage.get("learning_rate")?,
            lr_scheduler_type: stage.get("lr_scheduler_type")?,
            warmup_steps: stage.get("warmup_steps")?,
            min_lr_ratio: stage.get("min_lr_ratio")?,
            adam_beta1: stage.get("adam_beta1")?,
            adam_beta2: stage.get("adam_beta2")?,
            adam_epsilon: stage.get("adam_epsilon")?,
            weight_decay: stage.get("weight_decay")?,
            max_grad_norm: stage.get("max_grad_norm")?,
        })
    }
}

impl Rollouts {
    fn read(stage: &ResolvedTable<'_>, base_dir: &Path) -> Result<Rollouts, JobError> {
        let rewards = stage.tables("reward").map(|table| {
            let plugin = table
                .get("plugin")
                .and_then(toml::Value::as_str)
                .unwrap_or_default();
            Reward::read(
                &ResolvedTable::new(
                    table,
                    format!("{}, [[stage.reward]] {plugin:?}", stage.place),
                ),
                base_dir,
            )
        });
        Ok(Rollouts {
            prompts_per_step: stage.get("prompts_per_step")?,
            num_generations: stage.get("num_generations")?,
            max_completion_length: stage.get("max_completion_length")?,
            temperature: stage.get("temperature")?,
            top_p: stage.get("top_p")?,
            top_k: stage.get("top_k")?,
            keep_sampling_mask: stage.optional("keep_sampling_mask")?.unwrap_or(false),
            changes: stage
                .tables("schedule")
                .map(|table| {
                    Change::read(&ResolvedTable::new(
                        table,
                        format!("{}, [[stage.schedule]]", stage.place),
                    ))
                })
                .collect::<Result<_, _>>()?,
            rewards: rewards.collect::<Result<_, _>>()?,
        })
    }
}

impl Change {
    fn read(change: &ResolvedTable<'_>) -> Result<Change, JobError> {
        Ok(Change {
            after_step: change.get("after_step")?,
            temperature: change.optional("temperature")?,
            max_completion_length: change.optional("max_completion_length")?,
        })
    }
}

impl RewardModel {
    fn read(stage: &ResolvedTable<'_>) -> Result<RewardModel, JobError> {
        let center_rewards_coefficient: f64 = stage.get("center_rewards_coefficient")?;
        let loss = match stage.get::<String>("loss")?.as_str() {
            "pointwise" if center_rewards_coefficient > 0.0 => {
                let problem = "center_rewards_coefficient holds the scores of pairs around 0, and \
                               loss = \"pointwise\" has labels for that";
                return Err(stage.unsound(problem, "leave it out"));
            }
            "pointwise" => RewardLoss::Pointwise,
            _ => RewardLoss::Pairwise {
                center_rewards_coefficient,
            },
        };
        Ok(RewardModel {
            batch_size: stage.get("batch_size")?,
            max_length: stage.get("max_length")?,
            loss,
            eval_data: stage.optional("eval_data")?,
        })
    }
}

impl Dpo {
    fn read(stage: &ResolvedTable<'_>) -> Result<Dpo, JobError> {
        Ok(Dpo {
            batch_size: stage.get("batch_size")?,
            max_length: stage.get("max_length")?,
            tokenize: stage.get("tokenize")?,
            objective: DpoObjective {
                loss_type: stage.get("loss_type")?,
                beta: stage.get("beta")?,
                label_smoothing: stage.get("label_smoothing")?,
            },
        })
    }
}

impl Ppo {
    fn read(stage: &ResolvedTable<'_>, base_dir: &Path) -> Result<Ppo, JobError> {
        Ok(Ppo {
            rollouts: Rollouts::read(stage, base_dir)?,
            num_ppo_epochs: stage.get("num_ppo_epochs")?,
            num_mini_batches: stage.get("num_mini_batches")?,
            cliprange: stage.get("cliprange")?,
            cliprange_value: stage.get("cliprange_value")?,
            vf_coef: stage.get("vf_coef")?,
            gamma: stage.get("gamma")?,
            lam: stage.get("lam")?,
            kl_coef: stage.get("kl_coef")?,
            routing_replay: stage.get("routing_replay")?,
            routing_replay_reference: stage.get("routing_replay_reference")?,
            value_learning_rate: match stage.optional("value_learning_rate")? {
                Some(rate) => rate,
                None => stage.get("learning_rate")?,
            },
            value_model: stage.optional("value_model")?,
        })
    }
}

impl RejectionSampling {
    fn read(stage: &ResolvedTable<'_>, base_dir: &Path) -> Result<RejectionSampling, JobError> {
        let select = match stage.get::<String>("select")?.as_str() {
            "best-of-n" => Select::BestOfN,
            "top-p" => Select::TopP {
                share: stage.get("keep_share")?,
            },
            _ => Select::Correct {
                at: stage.get("correct_at")?,
            },
        };
        let keep = stage
            .optional("keep")?
            .unwrap_or(u32::from(select == Select::BestOfN));
        Ok(RejectionSampling {
            rollouts: Rollouts::read(stage, base_dir)?,
            select,
            keep,
            review: stage.get("review")?,
        })
    }
}

impl Grpo {
    fn read(stage: &ResolvedTable<'_>, base_dir: &Path) -> Result<Grpo, JobError> {
        let epsilon = stage.get("epsilon")?;
        Ok(Grpo {
            rollouts: Rollouts::read(stage, base_dir)?,
            num_iterations: stage.get("num_iterations")?,
            steps_per_generation: stage.get("steps_per_generation")?,
            loss_type: stage.get("loss_type")?,
            importance_sampling_level: stage.get("importance_sampling_level")?,
            baseline: stage.get("baseline")?,
            scale_rewards: stage.get("scale_rewards")?,
            epsilon,
            epsilon_high: stage.optional("epsilon_high")?.unwrap_or(epsilon),
            beta: stage.get("beta")?,
            use_bias_correction_kl: stage.get("use_bias_correction_kl")?,
            off_policy_mask_threshold: stage.optional("off_policy_mask_threshold")?,
            sync_ref_steps: stage.get("sync_ref_steps")?,
            mask_truncated_completions: stage.get("mask_truncated_completions")?,
            routing_replay: stage.get("routing_replay")?,
            routing_replay_reference: stage.get("routing_replay_reference")?,
            dynamic_sampling: stage.get("dynamic_sampling")?,
            max_resample_rounds: stage.get("max_resample_rounds")?,
        })
    }
}
