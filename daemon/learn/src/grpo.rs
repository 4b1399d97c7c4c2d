//! Group relative policy optimisation (DeepSeekMath 4.1; R1 2.2.1): the updates that a rollout
//! batch with its advantages makes.

use crate::batch::{self, MicroBatch, Replay};
use crate::correction::Ratios;
use crate::division::Division;
use crate::gang::Gang;
use crate::head::{Chunk, Head, Take, entropy_sum};
use crate::metrics::{Counts, Difference, HostSums, MetricSums, Progress, Totals, completions};
use crate::objective::{self, Sequences, Share, Tokens, policy_loss, token_weight};
use crate::trainer::{Load, Passed, Trainer, add_load, utilisation};
use crate::{LearnError, minibatch, packing, router, sampling_mask};
use r1d_model::CausalLm;
use r1d_proto::hyperparameters::Objective;
use r1d_proto::worker::{Metrics, Train, TrainSequence};
use tch::{Device, Kind, Tensor};

/// A rollout batch with the state of its updates.
pub(crate) struct Run<'a> {
    step: u64,
    pub sequences: &'a [TrainSequence],
    objective: &'a Objective,
    device: Device,
    /// Whether a prompt is computed once for all sequences of a micro-batch that begin with it. The
    /// balance loss is over whole sequences, so with it each sequence computes its own.
    shares_prompts: bool,
    /// The shape of the recorded experts that are forced on the policy; `None` without replay.
    replay: Option<Replay>,
    /// Whether completions without an advantage are left out of passes that they could not affect.
    leaves_out: bool,
    /// The policy's log-probabilities before the first update, float32 `[completion]` per sequence;
    /// `None` if there is only one update.
    pub old: Vec<Option<Tensor>>,
    /// The reference's log-probabilities, if β > 0, float32 `[completion]` per sequence.
    pub reference: Vec<Option<Tensor>>,
    /// Per-token advantages (PPO). `None` if all tokens of a sequence share its advantage (GRPO).
    pub advantages: Option<Vec<Vec<f32>>>,
    /// |trainer's − sampler's log-probability| at the weights that sampled (`ROLL-2`).
    difference: Difference,
    /// The weights that correct that difference.
    ratios: Ratios,
    totals: Totals,
    /// Tokens that the updates' passes computed so far.
    fed: usize,
    pub progress: Progress<'a>,
}

/// What a run counted up to a moment.
pub(crate) struct Mark {
    differences: usize,
    ratios: usize,
    fed: usize,
    done: u64,
}

impl Trainer {
    /// Makes `num_iterations` passes over the batch, each of `num_minibatches` updates.
    ///
    /// `reference` is needed if β > 0. `progress(done, total)` counts completion tokens through
    /// forward passes. A minibatch whose completions are all masked makes no update. Metrics are
    /// means over the updates, weighted by tokens where TRL's are. An error leaves the weights as
    /// the last whole update made them. In a gang `progress` is about this rank's tokens of all.
    ///
    /// If β is 0, completions whose advantage is 0, as in groups of equal rewards, have a gradient
    /// of 0: they count in the loss's denominators, but are not computed, unless their load on
    /// experts is a part of the update. `completions/skipped_ratio` is their share; `entropy` and
    /// `sampling/…` are then over the others.
    pub fn train(
        &mut self,
        model: &CausalLm,
        reference: Option<&CausalLm>,
        batch: &Train,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Metrics, LearnError> {
        let mut clock = self.now();
        let mut metrics = completions(&batch.sequences);
        let Train {
            step,
            seed,
            objective,
            sequences,
            ..
        } = batch;
        let mut run = Run::new(
            model,
            *step,
            sequences,
            objective,
            self,
            Progress::new(progress),
        )?;
        run.leaves_out = objective.beta == 0.0 && !self.balances(model);
        run.expect();
        metrics.insert("completions/skipped_ratio".to_owned(), run.skipped_ratio());
        if run.objective.beta != 0.0 {
            let reference = reference.ok_or_else(|| {
                LearnError::Request("beta > 0 needs a reference model".to_owned())
            })?;
            let mark = run.mark();
            self.smaller_once(model.device(), |trainer| {
                run.back_to(&mark);
                trainer.score_reference(reference, &mut run)
            })?;
            clock = self.time(&mut metrics, "reference", clock);
        }
        if run.keeps_old() {
            let mark = run.mark();
            self.smaller_once(model.device(), |trainer| {
                run.back_to(&mark);
                trainer.score_old(model, &mut run)
            })?;
            clock = self.time(&mut metrics, "old_logprobs", clock);
        }
        let mut update = batch.first_update;
        for pass in 0..run.objective.num_iterations.max(1) {
            let parts = run.objective.num_minibatches.max(1) as usize;
            for minibatch in minibatch::split(*seed, *step, pass, sequences.len(), parts) {
                self.update(model, &mut run, &minibatch, update)?;
                update += 1;
            }
        }
        self.time(&mut metrics, "update", clock);
        utilisation(self, model, run.fed, &mut metrics);
        self.report(model, &run, &mut metrics)?;
        Ok(metrics)
    }

    /// Reports the metrics of all updates of a rollout batch.
    pub(crate) fn report(
        &mut self,
        model: &CausalLm,
        run: &Run,
        metrics: &mut Metrics,
    ) -> Result<(), LearnError> {
        self.tokens_seen += run
            .sequences
            .iter()
            .map(|s| (s.prompt_ids.len() + s.completion_ids.len()) as i64)
            .sum::<i64>();
        metrics.insert("num_tokens".to_owned(), self.tokens_seen as f64);
        run.totals.report(run.objective, metrics);
        run.difference.report(metrics)?;
        run.ratios.report(metrics)?;
        let trained = run.trained();
        metrics.extend(sampling_mask::size_metric(
            trained.iter().map(|&index| &run.sequences[index]),
            model.config.vocab_size,
        ));
        if model.config.moe_layers > 0 {
            metrics.insert("moe/bias_abs_max".to_owned(), router::bias_abs_max(model)?);
        }
        Ok(())
    }

    /// Computes the policy's own log-probabilities before its first update.
    pub(crate) fn score_old(&self, model: &CausalLm, run: &mut Run) -> Result<(), LearnError> {
        let mark = run.mark();
        let own = self.score(model, run, run.replay, |run, index, logp| {
            run.old[index] = Some(logp)
        })?;
        own.into_iter().try_for_each(|index| run.measure(index))?;
        run.exchange(self.gang.as_ref(), &mark)
    }

    /// Computes the reference's log-probabilities. By default its own routers choose its experts;
    /// those of the policy's rollouts are forced on it if the objective says so.
    pub(crate) fn score_reference(
        &self,
        reference: &CausalLm,
        run: &mut Run,
    ) -> Result<(), LearnError> {
        let replay = run
            .replay
            .filter(|_| run.objective.routing_replay_reference);
        self.score(reference, run, replay, |run, index, logp| {
            run.reference[index] = Some(logp)
        })
        .map(drop)
    }

    /// Computes the log-probabilities of every completion that an update computes, without
    /// gradients. Returns the completions that this rank computed, ascending; what it keeps is of
    /// all ranks.
    fn score(
        &self,
        model: &CausalLm,
        run: &mut Run,
        replay: Option<Replay>,
        keep: impl Fn(&mut Run, usize, Tensor),
    ) -> Result<Vec<usize>, LearnError> {
        let division = self.divide_rollouts(run, &run.computed());
        let (mut own, mut found) = (Vec::new(), Vec::new());
        for group in division.micro_batches() {
            if group.is_empty() {
                self.stand_by_without_gradients(model)?;
                continue;
            }
            let micro = run.micro_batch(group, replay)?;
            let hidden = self.hidden(model, &micro)?;
            let head = Head::new(model, run.objective.temperature as f64, self.invariant);
            let logp = head
                .keeping(micro.kept.as_ref())
                .logprobs(&hidden, &micro.targets)?;
            found.push(logp);
            own.extend(group);
            run.progress.add(&micro);
        }
        let found = self.everywhere("log-probabilities", run.device, &found)?;
        let order: Vec<usize> = division.in_order().collect();
        let lengths: Vec<i64> = order.iter().map(|&at| run.length(at) as i64).collect();
        for (&index, own) in order.iter().zip(found.f_split_with_sizes(&lengths, 0)?) {
            keep(run, index, own);
        }
        own.sort_unstable();
        Ok(own)
    }

    /// Divides these sequences among ranks and micro-batches; a group's sequences stay together as
    /// far as they can, to share their prompt.
    fn divide_rollouts(&self, run: &Run, chosen: &[usize]) -> Division {
        self.divide_sequences(run.sequences, chosen, run.shares_prompts)
    }

    pub(crate) fn divide_sequences(
        &self,
        sequences: &[TrainSequence],
        chosen: &[usize],
        shares_prompts: bool,
    ) -> Division {
        let pack =
            |chosen: &[usize], budget| packing::rollouts(sequences, chosen, shares_prompts, budget);
        self.divide(chosen, &|index| batch::fed(&sequences[index]), &pack)
    }

    /// Joins a number for each token that this rank computed, float32 `[N]` for each micro-batch,
    /// with those of the other ranks, in the order of [`Division::in_order`].
    pub(crate) fn everywhere(
        &self,
        name: &str,
        device: Device,
        own: &[Tensor],
    ) -> Result<Tensor, LearnError> {
        let own = match own {
            [] => Tensor::f_zeros([0], (Kind::Float, device))?,
            own => Tensor::f_cat(own, 0)?.f_to_kind(Kind::Float)?,
        };
        match &self.gang {
            Some(gang) => Ok(gang.all_gather(name, &own)?.rows),
            None => Ok(own),
        }
    }

    /// Makes one update on a minibatch.
    pub(crate) fn update(
        &mut self,
        model: &CausalLm,
        run: &mut Run,
        minibatch: &[usize],
        update: u64,
    ) -> Result<(), LearnError> {
        let mark = run.mark();
        self.smaller_once(model.device(), |trainer| {
            run.back_to(&mark);
            trainer.update_whole(model, run, minibatch, update)
        })
    }

    fn update_whole(
        &mut self,
        model: &CausalLm,
        run: &mut Run,
        minibatch: &[usize],
        update: u64,
    ) -> Result<(), LearnError> {
        let share = run.share(minibatch);
        let trained: Vec<usize> = minibatch
            .iter()
            .copied()
            .filter(|&index| run.trains(index))
            .collect();
        let mut chosen: Vec<usize> = trained
            .iter()
            .copied()
            .filter(|&index| run.computes(index))
            .collect();
        if chosen.is_empty() {
            // A gradient of 0 is an update too, because moments and weight decay have an effect:
            // the cheapest completion gives it.
            chosen.extend(trained.iter().min_by_key(|&&index| run.length(index)));
        }
        if chosen.is_empty() {
            return Ok(());
        }
        let division = self.divide_rollouts(run, &chosen);
        self.begin_update(&division)?;
        let (mut sums, mark) = (MetricSums::new(run.device), run.mark());
        let mut load = None;
        for turn in division.turns() {
            for group in &turn.micro_batches {
                if group.is_empty() {
                    self.stand_by(model, false)?;
                    continue;
                }
                let of = (share, chosen.len());
                add_load(
                    &mut load,
                    self.micro_batch(model, run, group, of, &mut sums)?,
                )?;
            }
            self.optimiser.end_leaf(turn.of)?;
        }
        run.exchange(self.gang.as_ref(), &mark)?;
        let sums = sums.total(self.gang.as_ref())?;
        let updated = self
            .finish_update(model, run.step, update, &sums.f_select(0, 0)?, load)
            .map_err(LearnError::of_advantages)?;
        let sums = HostSums::read(&sums)?;
        let tokens = |sequences: &[usize]| sequences.iter().map(|&index| run.length(index)).sum();
        let counts = Counts {
            sequences: trained.len(),
            tokens: tokens(&trained),
            skipped: trained.len() - chosen.len(),
            computed: tokens(&chosen),
        };
        run.totals.add(&sums, counts, &updated);
        Ok(())
    }

    /// Adds a micro-batch's gradients and sums to those of an update with this share and number of
    /// sequences. Returns its load.
    fn micro_batch(
        &mut self,
        model: &CausalLm,
        run: &mut Run,
        group: &[usize],
        (share, sequences): (Share, usize),
        sums: &mut MetricSums,
    ) -> Result<Load, LearnError> {
        let micro = run.micro_batch(group, run.replay)?;
        run.fed += micro.packed.ids.size1()? as usize;
        let Passed {
            hidden,
            output,
            blocks,
        } = self.forward(model, &micro)?;
        let load = output.load.as_ref().map(Tensor::shallow_clone);
        let aux = self.aux_share(
            output.aux_loss.as_ref().map(Tensor::shallow_clone),
            &micro,
            sequences,
        )?;
        drop(output);
        let head = self.head(model, run.objective.temperature as f64, self.invariant)?;
        run.backward(head, group, &micro, share, &hidden, aux, sums, &mut || {
            self.optimiser.accumulate()
        })?;
        self.through_blocks(blocks, &micro, sequences)?;
        run.progress.add(&micro);
        Ok(load)
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        model: &CausalLm,
        step: u64,
        sequences: &'a [TrainSequence],
        objective: &'a Objective,
        trainer: &Trainer,
        progress: Progress<'a>,
    ) -> Result<Run<'a>, LearnError> {
        if objective.temperature.is_nan() || objective.temperature <= 0.0 {
            let message = format!(
                "temperature = {}: log-probabilities need one above 0",
                objective.temperature
            );
            return Err(LearnError::Request(message));
        }
        let replay = Replay::of(model).filter(|_| objective.routing_replay);
        batch::check_rollouts(sequences, replay, model.config.vocab_size)?;
        let none = || sequences.iter().map(|_| None).collect();
        Ok(Run {
            step,
            sequences,
            objective,
            device: model.device(),
            shares_prompts: !trainer.aux_loss(model).wanted(),
            replay,
            leaves_out: false,
            old: none(),
            reference: none(),
            advantages: None,
            difference: Difference::new(model.device()),
            ratios: Ratios::new(model.device()),
            totals: Totals::default(),
            fed: 0,
            progress,
        })
    }

    /// What is counted so far.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            differences: self.difference.0.len(),
            ratios: self.ratios.0.len(),
            fed: self.fed,
            done: self.progress.done(),
        }
    }

    /// Forgets what was counted since a mark.
    pub(crate) fn back_to(&mut self, mark: &Mark) {
        self.difference.0.truncate(mark.differences);
        self.ratios.0.truncate(mark.ratios);
        self.fed = mark.fed;
        self.progress.back_to(mark.done);
    }

    /// Joins what this rank counted since a mark for the metrics with what the others did.
    fn exchange(&mut self, gang: Option<&Gang>, mark: &Mark) -> Result<(), LearnError> {
        let Mark {
            differences,
            ratios,
            ..
        } = *mark;
        let difference = &mut self.difference.0;
        difference.exchange(gang, "differences of log-probabilities", differences)?;
        self.ratios.0.exchange(gang, "corrections", ratios)
    }

    /// Sets the number of tokens that will go through forward passes.
    fn expect(&mut self) {
        let tokens: usize = self
            .computed()
            .iter()
            .map(|&index| self.length(index))
            .sum();
        let Objective {
            num_iterations,
            beta,
            ..
        } = *self.objective;
        let passes = num_iterations.max(1) as u64 + self.keeps_old() as u64 + (beta != 0.0) as u64;
        self.progress.expect(tokens as u64 * passes);
    }

    /// The share of training completions that are not computed.
    fn skipped_ratio(&self) -> f64 {
        let trained = self.trained().len();
        (trained - self.computed().len()) as f64 / trained.max(1) as f64
    }

    /// Whether π_old is kept. With a single update π_old is the policy of that update itself.
    fn keeps_old(&self) -> bool {
        self.advantages.is_some()
            || self.objective.num_iterations.max(1) * self.objective.num_minibatches.max(1) > 1
    }

    fn trains(&self, index: usize) -> bool {
        !(self.objective.mask_truncated_completions && self.sequences[index].truncated)
    }

    /// Whether a pass over a completion that trains can have an effect.
    fn computes(&self, index: usize) -> bool {
        !(self.leaves_out && self.sequences[index].advantage == 0.0)
    }

    fn computed(&self) -> Vec<usize> {
        self.trained()
            .into_iter()
            .filter(|&index| self.computes(index))
            .collect()
    }

    pub(crate) fn trained(&self) -> Vec<usize> {
        (0..self.sequences.len())
            .filter(|&index| self.trains(index))
            .collect()
    }

    /// The number of a sequence's completion tokens.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.sequences[index].completion_ids.len()
    }

    fn share(&self, minibatch: &[usize]) -> Share {
        if self.advantages.is_some() {
            let tokens: usize = minibatch.iter().map(|&index| self.length(index)).sum();
            return Share {
                sequences: minibatch.len() as f64,
                tokens: tokens as f64,
            };
        }
        let tokens: usize = self.trained().iter().map(|&index| self.length(index)).sum();
        let part = minibatch.len() as f64 / self.sequences.len() as f64;
        Share {
            sequences: minibatch.len() as f64,
            tokens: tokens as f64 * part,
        }
    }

    fn micro_batch(
        &self,
        group: &[usize],
        replay: Option<Replay>,
    ) -> Result<MicroBatch, LearnError> {
        let sequences: Vec<_> = group.iter().map(|&index| &self.sequences[index]).collect();
        MicroBatch::of_rollouts(&sequences, self.shares_prompts, replay, self.device)
    }

    /// The log-probabilities that the sampler recorded, float32 `[N]`.
    fn behaviour(&self, group: &[usize]) -> Result<Tensor, LearnError> {
        let flat: Vec<f32> = group
            .iter()
            .flat_map(|&index| self.sequences[index].behaviour_logprobs.iter().copied())
            .collect();
        Ok(Tensor::f_from_slice(&flat)?.f_to_device(self.device)?)
    }

    /// Compares a sequence's old log-probabilities with the sampler's.
    fn measure(&mut self, index: usize) -> Result<(), LearnError> {
        let theirs = self.behaviour(&[index])?;
        match &self.old[index] {
            Some(ours) => self.difference.add(ours, &theirs),
            None => Ok(()),
        }
    }

    /// The objective's input about a micro-batch's N completion tokens.
    fn tokens(&self, group: &[usize], share: Share) -> Result<Tokens, LearnError> {
        let lengths: Vec<usize> = group.iter().map(|&index| self.length(index)).collect();
        let each = |value: &dyn Fn(usize) -> f32| -> Result<Tensor, LearnError> {
            let flat: Vec<f32> = group
                .iter()
                .flat_map(|&index| std::iter::repeat_n(value(index), self.length(index)))
                .collect();
            Ok(Tensor::f_from_slice(&flat)?.f_to_device(self.device)?)
        };
        let gather = |kept: &[Option<Tensor>]| -> Result<Option<Tensor>, LearnError> {
            let parts: Option<Vec<&Tensor>> =
                group.iter().map(|&index| kept[index].as_ref()).collect();
            Ok(parts.map(|parts| Tensor::f_cat(&parts, 0)).transpose()?)
        };
        let sequences = objective::is_whole(self.objective)
            .then(|| Sequences::of(&lengths, self.device))
            .transpose()?;
        let advantage = match &self.advantages {
            Some(advantages) => {
                let flat: Vec<f32> = group
                    .iter()
                    .flat_map(|&index| advantages[index].iter().copied())
                    .collect();
                Tensor::f_from_slice(&flat)?.f_to_device(self.device)?
            }
            None => each(&|index| self.sequences[index].advantage)?,
        };
        Ok(Tokens {
            advantage,
            weight: each(&|index| token_weight(self.objective, self.length(index), share) as f32)?,
            old: gather(&self.old)?,
            reference: gather(&self.reference)?,
            sampled: objective::needs_sampled(self.objective)
                .then(|| self.behaviour(group))
                .transpose()?,
            sequences,
        })
    }

    /// Adds a micro-batch's gradients and sums.
    #[allow(
        clippy::too_many_arguments,
        reason = "one micro-batch's pieces, each made by another part of the update"
    )]
    fn backward(
        &mut self,
        head: Head,
        group: &[usize],
        micro: &MicroBatch,
        share: Share,
        hidden: &Tensor,
        aux: Option<Tensor>,
        sums: &mut MetricSums,
        take: &mut Take,
    ) -> Result<(), LearnError> {
        let tokens = self.tokens(group, share)?;
        // A completion that stands in where nothing trains was never scored by the old policy.
        let is_old_known = tokens.old.is_some() || !self.keeps_old();
        let behaviour = if self.keeps_old() {
            None
        } else {
            Some(self.behaviour(group)?)
        };
        let temperature = self.objective.temperature as f64;
        let (mut losses, mut held, mut entropies) = (Vec::new(), Vec::new(), Vec::new());
        let mut corrections = Vec::new();
        let mut loss = |logp: &Tensor, start: i64| {
            let n = logp.size1()?;
            let loss = if n == micro.trained_tokens() {
                policy_loss(self.objective, logp, &tokens)
            } else {
                policy_loss(self.objective, logp, &tokens.narrow(start, n))
            };
            losses.push(loss.sums);
            held.push(loss.held);
            corrections.extend(loss.corrections);
            Ok(loss.loss)
        };
        let mut observe = |chunk: Chunk| {
            let n = chunk.logp.size1()?;
            let targets = micro.targets.f_narrow(0, chunk.start, n)?;
            entropies.push(entropy_sum(&chunk, &targets, temperature)?);
            match &behaviour {
                Some(behaviour) => self
                    .difference
                    .add(chunk.logp, &behaviour.f_narrow(0, chunk.start, n)?),
                None => Ok(()),
            }
        };
        let whole = tokens.sequences.is_some();
        head.keeping(micro.kept.as_ref()).backward(
            hidden,
            &micro.targets,
            aux,
            whole,
            &mut loss,
            &mut observe,
            take,
        )?;
        for weights in corrections.iter().filter(|_| is_old_known) {
            self.ratios.add(weights)?;
        }
        let lengths: Vec<usize> = group.iter().map(|&index| self.length(index)).collect();
        let sequences = Sequences::of(&lengths, self.device)?;
        sums.add(&losses, &entropies, &Tensor::f_cat(&held, 1)?, &sequences)
    }
}
