//! Proximal policy optimisation with a value model (Schulman et al. 2017; Ouyang et al. 2022): the
//! updates that a rollout batch with its scores makes.

use crate::batch::MicroBatch;
use crate::estimate::{self, Estimate};
use crate::grpo::Run;
use crate::metrics::Progress;
use crate::smaller::caught;
use crate::tally::{Fold, Tally};
use crate::trainer::{Load, Passed, Trainer, add_load};
use crate::value::value_loss;
use crate::{LearnError, minibatch};
use r1d_model::{CausalLm, Forward, SequenceClassifier};
use r1d_proto::hyperparameters::{ImportanceSamplingLevel, LossType, Objective, PpoObjective};
use r1d_proto::worker::{Metrics, TrainPpo, TrainSequence};
use tch::Tensor;

/// The value model and its trainer, beside the policy's.
pub struct Critic<'a> {
    /// The value model.
    pub model: &'a SequenceClassifier,
    /// The trainer of `model.model()`, part of the gang that the policy's is part of.
    pub trainer: &'a mut Trainer,
}

/// One update of the value model.
#[derive(Clone, Copy)]
struct ValueUpdate<'a> {
    targets: &'a Targets,
    /// The sequences, by their places in the run.
    minibatch: &'a [usize],
    settings: &'a PpoObjective,
    step: u64,
    /// The update's number in the stage.
    update: u64,
}

/// Values before the first update, and returns to learn; an entry per token of each sequence.
struct Targets {
    values: Vec<Vec<f32>>,
    returns: Vec<Vec<f32>>,
}

/// Sums over the value model's updates of a rollout batch.
#[derive(Default)]
struct ValueTotals {
    updates: f64,
    tokens: f64,
    loss: f64,
    held: f64,
    norm: f64,
}

impl Trainer {
    /// Makes `num_ppo_epochs` passes over the batch, each of `num_mini_batches` updates of the
    /// policy and of the value model.
    ///
    /// Log-probabilities, the reference's (needed if `kl_coef` > 0) and values are computed first,
    /// and advantages and returns are estimated from them ([`estimate`]). The loss of an update is
    /// the mean over its minibatch's tokens of the clipped policy loss and, for the value model,
    /// `vf_coef` times [`value_loss`]; the two share no weights, and each has an optimiser of its
    /// own. `progress(done, total)` counts completion tokens through forward passes. Metrics have
    /// TRL's names; an error leaves the weights as the last whole update made them.
    pub fn train_ppo(
        &mut self,
        model: &CausalLm,
        critic: &mut Critic,
        reference: Option<&CausalLm>,
        batch: &TrainPpo,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Metrics, LearnError> {
        let mut clock = self.now();
        check(batch)?;
        let settings = &batch.objective;
        let objective = policy_objective(settings);
        let mut metrics = crate::metrics::completions(&batch.sequences);
        let mut run = Run::new(
            model,
            batch.step,
            &batch.sequences,
            &objective,
            self,
            Progress::new(progress),
        )?;
        let epochs = settings.num_ppo_epochs.max(1);
        let all = run.trained();
        let tokens: usize = all.iter().map(|&index| run.length(index)).sum();
        run.progress.expect(
            tokens as u64 * (u64::from(2 * epochs) + 2 + u64::from(settings.kl_coef != 0.0)),
        );

        self.score_old(model, &mut run)?;
        clock = self.time(&mut metrics, "old_logprobs", clock);
        if settings.kl_coef != 0.0 {
            let reference = reference.ok_or_else(|| {
                LearnError::Request("kl_coef > 0 needs a reference model".to_owned())
            })?;
            self.score_reference(reference, &mut run)?;
            clock = self.time(&mut metrics, "reference", clock);
        }
        let values = critic.values(&mut run)?;
        clock = self.time(&mut metrics, "values", clock);
        let targets = targets(&mut run, batch, values, &mut metrics)?;

        let (mut update, mut of_values) = (batch.first_update, ValueTotals::default());
        for pass in 0..epochs {
            let parts = settings.num_mini_batches.max(1) as usize;
            for minibatch in
                minibatch::split(batch.seed, batch.step, pass, batch.sequences.len(), parts)
            {
                self.update(model, &mut run, &minibatch, update)?;
                let of_minibatch = ValueUpdate {
                    targets: &targets,
                    minibatch: &minibatch,
                    settings,
                    step: batch.step,
                    update,
                };
                critic.update(&mut run, of_minibatch, &mut of_values)?;
                update += 1;
            }
        }
        self.time(&mut metrics, "update", clock);
        self.report(model, &run, &mut metrics)?;
        of_values.report(settings, &mut metrics);
        Ok(metrics)
    }
}

/// Estimates advantages, which the run gets, and returns from the log-probabilities and `values` of
/// all completion tokens, and reports on them.
fn targets(
    run: &mut Run,
    batch: &TrainPpo,
    values: Vec<Vec<f32>>,
    metrics: &mut Metrics,
) -> Result<Targets, LearnError> {
    let (settings, scores) = (&batch.objective, &batch.scores);
    let (old, theirs) = (on_host(&run.old)?, on_host(&run.reference)?);
    // They are no longer needed, because the policy's loss itself has no KL term.
    run.reference.fill_with(|| None);
    let lists = old.iter().zip(&theirs).zip(values.iter().zip(scores));
    let estimates = lists.map(|((old, theirs), (values, &score))| {
        estimate::estimate(settings, old, theirs, values, score)
    });
    let mut estimates: Vec<Estimate> = estimates.collect();
    report(metrics, settings, &old, &values, scores, &estimates);
    estimate::whiten(&mut estimates);
    let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
    let advantages = estimates.iter().map(|own| single(&own.advantages));
    run.advantages = Some(advantages.collect());
    let returns = estimates.iter().map(|own| single(&own.returns));
    Ok(Targets {
        returns: returns.collect(),
        values,
    })
}

impl Critic<'_> {
    fn shares_prompts(&self) -> bool {
        !self.trainer.aux_loss(self.model.model()).wanted()
    }

    /// Builds the pass whose rows predict completion tokens: a token's value is that of the text
    /// before it. The value model uses its own routers.
    fn micro_batch(
        &self,
        sequences: &[TrainSequence],
        group: &[usize],
    ) -> Result<MicroBatch, LearnError> {
        let own: Vec<&TrainSequence> = group.iter().map(|&index| &sequences[index]).collect();
        MicroBatch::of_rollouts(
            &own,
            self.shares_prompts(),
            None,
            self.model.model().device(),
        )
    }

    fn options(&self) -> Forward<'static> {
        Forward {
            invariant: self.trainer.invariant,
            ..Forward::default()
        }
    }

    /// Computes a value for each completion token of each sequence, without gradients.
    fn values(&self, run: &mut Run) -> Result<Vec<Vec<f32>>, LearnError> {
        let (model, trainer) = (self.model.model(), &self.trainer);
        let division =
            trainer.divide_sequences(run.sequences, &run.trained(), self.shares_prompts());
        let mut found = Vec::new();
        for group in division.micro_batches() {
            if group.is_empty() {
                trainer.stand_by_without_gradients(model)?;
                continue;
            }
            let micro = self.micro_batch(run.sequences, group)?;
            let hidden = trainer.hidden(model, &micro)?;
            found.push(tch::no_grad(|| {
                self.model.values(&hidden, &self.options())
            })?);
            run.progress.add(&micro);
        }
        let flat = trainer.everywhere("values", model.device(), &found)?;
        let flat = Vec::<f32>::try_from(flat)?;
        let (mut values, mut rest) = (vec![Vec::new(); run.sequences.len()], &flat[..]);
        for index in division.in_order() {
            let (own, behind) = rest.split_at(run.length(index).min(rest.len()));
            values[index] = own.to_vec();
            rest = behind;
        }
        Ok(values)
    }

    /// Makes one update on a minibatch; once more in smaller micro-batches if memory runs out.
    fn update(
        &mut self,
        run: &mut Run,
        of: ValueUpdate<'_>,
        totals: &mut ValueTotals,
    ) -> Result<(), LearnError> {
        let (mark, updates) = (run.mark(), self.trainer.updates);
        let mut whole =
            |critic: &mut Critic, run: &mut Run| caught(|| critic.update_whole(run, of, totals));
        match whole(self, run) {
            Err(error) => {
                let device = self.model.model().device();
                if !self.trainer.halves_after(&error, updates, device)? {
                    return Err(error);
                }
                run.back_to(&mark);
                whole(self, run)
            }
            made => made,
        }
    }

    fn update_whole(
        &mut self,
        run: &mut Run,
        of: ValueUpdate<'_>,
        totals: &mut ValueTotals,
    ) -> Result<(), LearnError> {
        let (model, minibatch) = (self.model.model(), of.minibatch);
        let tokens: usize = minibatch.iter().map(|&index| run.length(index)).sum();
        if tokens == 0 {
            return Ok(());
        }
        let shares = self.shares_prompts();
        let division = self
            .trainer
            .divide_sequences(run.sequences, minibatch, shares);
        self.trainer.begin_update(&division)?;
        // The loss, and the number of tokens that the clip held back.
        let mut sums = Tally::new(&[Fold::Sum; 2], model.device());
        let mut load = None;
        for turn in division.turns() {
            for group in &turn.micro_batches {
                if group.is_empty() {
                    self.trainer.stand_by(model, false)?;
                    continue;
                }
                let own = self.update_micro_batch(run, group, (of, tokens), &mut sums)?;
                add_load(&mut load, own)?;
            }
            self.trainer.optimiser.end_leaf(turn.of)?;
        }
        sums.exchange(self.trainer.gang.as_ref(), "metrics", 0)?;
        let sums = sums.total()?;
        let loss = sums.f_select(0, 0)?;
        let updated = self
            .trainer
            .finish_update(model, of.step, of.update, &loss, load)?;
        let sums = Vec::<f64>::try_from(sums)?;
        let [loss, held] = sums[..] else {
            return Ok(());
        };
        totals.updates += 1.0;
        totals.tokens += tokens as f64;
        totals.loss += loss;
        totals.held += held;
        totals.norm += updated.norm;
        Ok(())
    }

    /// Adds a micro-batch's gradients, and a row to `sums`; the update is over `tokens` tokens.
    /// Returns its load.
    fn update_micro_batch(
        &mut self,
        run: &mut Run,
        group: &[usize],
        (of, tokens): (ValueUpdate<'_>, usize),
        sums: &mut Tally,
    ) -> Result<Load, LearnError> {
        let (model, sequences) = (self.model.model(), of.minibatch.len());
        let micro = self.micro_batch(run.sequences, group)?;
        let Passed {
            hidden,
            output,
            blocks,
        } = self.trainer.forward(model, &micro)?;
        let aux = self.trainer.aux_share(
            output.aux_loss.as_ref().map(Tensor::shallow_clone),
            &micro,
            sequences,
        )?;
        let load = output.load.as_ref().map(Tensor::shallow_clone);
        drop(output);
        let flat = |lists: &[Vec<f32>]| -> Result<Tensor, LearnError> {
            let own = group.iter().flat_map(|&index| &lists[index]);
            let flat: Vec<f32> = own.copied().collect();
            Ok(Tensor::f_from_slice(&flat)?.f_to_device(model.device())?)
        };
        let values = self.model.values(&hidden, &self.options())?;
        let (old, returns) = (flat(&of.targets.values)?, flat(&of.targets.returns)?);
        let clip = of.settings.cliprange_value;
        let found = value_loss(&values, &old, &returns, clip, tokens as f64);
        sums.push(&[found.loss.f_detach()?, found.held])?;
        let loss = found.loss.f_mul_scalar(of.settings.vf_coef)?;
        let loss = aux.map_or_else(|| Ok(loss.shallow_clone()), |aux| loss.f_add(&aux))?;
        r1d_torch::runtime::backward(&loss)?;
        self.trainer.optimiser.accumulate()?;
        self.trainer.through_blocks(blocks, &micro, sequences)?;
        run.progress.add(&micro);
        Ok(load)
    }
}

impl ValueTotals {
    /// Reports after the policy's own metrics, whose `loss` becomes that of both models.
    fn report(&self, settings: &PpoObjective, metrics: &mut Metrics) {
        let updates = self.updates.max(1.0);
        let policy = |name: &str| metrics.get(name).copied().unwrap_or(0.0);
        let (loss, clipped, entropy) = (
            policy("loss"),
            policy("clip_ratio/region_mean"),
            policy("entropy"),
        );
        let values = [
            ("loss", loss + settings.vf_coef * self.loss / updates),
            ("loss/policy_avg", loss),
            ("loss/value_avg", self.loss / updates),
            ("policy/clipfrac_avg", clipped),
            ("policy/entropy_avg", entropy),
            ("val/clipfrac_avg", self.held / self.tokens.max(1.0)),
            ("val/grad_norm", self.norm / updates),
        ];
        metrics.extend(values.map(|(name, value)| (name.to_owned(), value)));
    }
}

fn check(batch: &TrainPpo) -> Result<(), LearnError> {
    let settings = &batch.objective;
    if batch.sequences.is_empty() {
        return Err(LearnError::Request("the rollout batch is empty".to_owned()));
    }
    if batch.scores.len() != batch.sequences.len() {
        let message = format!(
            "{} scores for {} sequences",
            batch.scores.len(),
            batch.sequences.len()
        );
        return Err(LearnError::Request(message));
    }
    if let Some(index) = batch.scores.iter().position(|score| !score.is_finite()) {
        return Err(LearnError::Sequence {
            index,
            problem: format!("its score is {}", batch.scores[index]),
        });
    }
    let within = [("gamma", settings.gamma), ("lam", settings.lam)];
    if let Some((name, value)) = within
        .into_iter()
        .find(|(_, value)| !(0.0..=1.0).contains(value))
    {
        return Err(LearnError::Request(format!(
            "{name} = {value}: expected a number from 0 to 1"
        )));
    }
    let at_least_0 = [
        ("cliprange", settings.cliprange),
        ("cliprange_value", settings.cliprange_value),
        ("vf_coef", settings.vf_coef),
        ("kl_coef", settings.kl_coef),
    ];
    match at_least_0
        .into_iter()
        .find(|(_, value)| !(value.is_finite() && *value >= 0.0))
    {
        Some((name, value)) => Err(LearnError::Request(format!(
            "{name} = {value}: expected 0 or more"
        ))),
        None => Ok(()),
    }
}

/// The objective of PPO's clipped loss: at token level, a mean over tokens, without a KL term.
fn policy_objective(settings: &PpoObjective) -> Objective {
    Objective {
        loss_type: LossType::Dapo,
        importance_sampling_level: ImportanceSamplingLevel::Token,
        epsilon: settings.cliprange,
        epsilon_high: settings.cliprange,
        beta: 0.0,
        use_bias_correction_kl: false,
        off_policy_mask_threshold: None,
        importance_sampling_correction: None,
        num_iterations: settings.num_ppo_epochs,
        num_minibatches: settings.num_mini_batches,
        mask_truncated_completions: false,
        max_completion_length: 1,
        temperature: settings.temperature,
        routing_replay: settings.routing_replay,
        routing_replay_reference: settings.routing_replay_reference,
    }
}

fn on_host(lists: &[Option<Tensor>]) -> Result<Vec<Vec<f32>>, LearnError> {
    lists
        .iter()
        .map(|list| {
            list.as_ref()
                .map_or(Ok(Vec::new()), |list| Ok(Vec::try_from(list)?))
        })
        .collect()
}

/// Reports means over completions of the batch's estimates before it is learned from. The
/// advantages are not whitened yet.
fn report(
    metrics: &mut Metrics,
    settings: &PpoObjective,
    old: &[Vec<f32>],
    values: &[Vec<f32>],
    scores: &[f32],
    estimates: &[Estimate],
) {
    let count = scores.len().max(1) as f64;
    let score = scores.iter().map(|&score| f64::from(score)).sum::<f64>() / count;
    let kl = estimates.iter().map(|estimate| estimate.kl).sum::<f64>() / count;
    let entropy = -old
        .iter()
        .flatten()
        .map(|&logp| f64::from(logp))
        .sum::<f64>()
        / count;
    let non_score = -settings.kl_coef * kl;
    let mut put = |name: &str, value: f64| {
        metrics.insert(name.to_owned(), value);
    };
    put("objective/scores", score);
    put("objective/non_score_reward", non_score);
    put("objective/rlhf_reward", score + non_score);
    put("objective/entropy", entropy);
    if settings.kl_coef != 0.0 {
        put("objective/kl", kl);
    }
    put(
        "val/explained_variance",
        estimate::explained_variance(values, estimates),
    );
}
