//! Direct preference optimisation: a policy learns from pairs without a reward model (Rafailov et
//! al. 2023).

use crate::batch::{self, MicroBatch};
use crate::division::Division;
use crate::head::{Chunk, Head, entropy_sum};
use crate::preference::{Side, dpo_loss};
use crate::tally::{Fold, Tally};
use crate::trainer::{Load, Passed, Trainer, add_load};
use crate::{LearnError, packing};
use r1d_model::CausalLm;
use r1d_proto::hyperparameters::{DpoLossType, DpoObjective};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::worker::{Metrics, Pair, TrainDpo, TrainSequence};
use r1d_torch::work;
use tch::{Device, Kind, Tensor};

impl Trainer {
    /// Updates a policy once on pairs, against a reference that does not change.
    ///
    /// The loss is that of [`preference`](crate::preference), a mean over the pairs of the whole
    /// batch. `batch.step` is the place in the learning-rate schedule. Metrics are those of TRL's
    /// `DPOTrainer`: means over pairs, `entropy` over completion tokens and `mean_token_accuracy`
    /// over those of the chosen completions.
    pub fn train_dpo(
        &mut self,
        model: &CausalLm,
        reference: &CausalLm,
        batch: &TrainDpo,
    ) -> Result<Metrics, LearnError> {
        self.smaller_once(model.device(), |trainer| {
            trainer.train_dpo_whole(model, reference, batch)
        })
    }

    fn train_dpo_whole(
        &mut self,
        model: &CausalLm,
        reference: &CausalLm,
        batch: &TrainDpo,
    ) -> Result<Metrics, LearnError> {
        let clock = self.now();
        check(&batch.objective)?;
        batch::check_pairs(&batch.pairs, model.config.vocab_size)?;
        if batch.pairs.is_empty() {
            return Err(LearnError::Request(
                "the batch of pairs is empty".to_owned(),
            ));
        }
        let sides: Vec<[TrainSequence; 2]> = batch.pairs.iter().map(sides).collect();
        let shares = !self.aux_loss(model).wanted();
        let division = self.divide_pairs(&batch.pairs, shares);
        self.begin_update(&division)?;
        let (mut sums, mut load) = (DpoSums::new(model.device()), None);
        for turn in division.turns() {
            for group in &turn.micro_batches {
                if group.is_empty() {
                    self.stand_by_without_gradients(reference)?;
                    self.stand_by(model, false)?;
                    continue;
                }
                let own: Vec<&TrainSequence> = group.iter().flat_map(|&at| &sides[at]).collect();
                let of = DpoUpdate {
                    model,
                    reference,
                    batch,
                    shares,
                };
                add_load(&mut load, self.pairs_micro_batch(of, &own, &mut sums)?)?;
                work::moved(group.len() as u64);
            }
            self.optimiser.end_leaf(turn.of)?;
        }
        sums.0.exchange(self.gang.as_ref(), "metrics", 0)?;
        let sums = sums.0.total()?;
        let loss = sums.f_select(0, 0)?;
        let updated = self.finish_update(model, batch.step, batch.step, &loss, load)?;
        let tokens = |side: &TrainSequence| side.prompt_ids.len() + side.completion_ids.len();
        self.tokens_seen += sides.iter().flatten().map(tokens).sum::<usize>() as i64;

        let mut metrics = report(&sums, batch.pairs.len() as f64)?;
        self.report_update(model, loss.f_double_value(&[])?, &updated, &mut metrics)?;
        self.time(&mut metrics, "update", clock);
        Ok(metrics)
    }

    /// Adds the gradients of a micro-batch of pairs, chosen and rejected sequences in turn, and a
    /// row to `sums`. Returns its load.
    fn pairs_micro_batch(
        &mut self,
        of: DpoUpdate,
        own: &[&TrainSequence],
        sums: &mut DpoSums,
    ) -> Result<Load, LearnError> {
        let (model, batch) = (of.model, of.batch);
        let micro = MicroBatch::of_rollouts(own, of.shares, None, model.device())?;
        let places = Places::of(own, model.device())?;
        let theirs = self.reference_sums(of.reference, &micro, &places)?;
        let Passed {
            hidden,
            output,
            blocks,
        } = self.forward(model, &micro)?;
        let load = output.load.as_ref().map(Tensor::shallow_clone);
        let sequences = 2 * batch.pairs.len();
        let aux = self.aux_share(
            output.aux_loss.as_ref().map(Tensor::shallow_clone),
            &micro,
            sequences,
        )?;
        drop(output);
        let mut of_pairs = None;
        let mut loss = |logp: &Tensor, _start: i64| {
            let ours = places.sums(logp)?;
            let side = |of: i64| places.side(&ours, &theirs, of);
            let pairs = batch.pairs.len() as f64;
            let loss = dpo_loss(&batch.objective, &side(0)?, &side(1)?, pairs);
            let sums = sums_of_pairs(&ours.detach(), &theirs, batch.objective.beta)?;
            of_pairs = Some((loss.f_detach()?, sums));
            Ok(loss)
        };
        let mut seen = Vec::new();
        let mut observe = |chunk: Chunk| {
            seen.push(sums_of_tokens(&chunk, &micro, &places)?);
            Ok(())
        };
        let head = self.head(model, 1.0, self.invariant)?;
        let (targets, mut take) = (&micro.targets, || self.optimiser.accumulate());
        head.backward(
            &hidden,
            targets,
            aux,
            true,
            &mut loss,
            &mut observe,
            &mut take,
        )?;
        self.through_blocks(blocks, &micro, sequences)?;
        let of_tokens =
            Tensor::f_stack(&seen, 0)?.f_sum_dim_intlist(&[0i64][..], false, Kind::Double)?;
        if let Some((loss, of_pairs)) = of_pairs {
            sums.0.push(&[loss, of_pairs, of_tokens])?;
        }
        Ok(load)
    }

    /// The reference's sums of log-probabilities of a micro-batch's completions, without gradients.
    /// There are no recorded experts: policy and reference each use their own routers.
    fn reference_sums(
        &self,
        reference: &CausalLm,
        micro: &MicroBatch,
        places: &Places,
    ) -> Result<Tensor, LearnError> {
        tch::no_grad(|| {
            let hidden = self.hidden(reference, micro)?;
            let head = Head::new(reference, 1.0, self.invariant);
            places.sums(&head.logprobs(&hidden, &micro.targets)?)
        })
    }

    /// Divides pairs among ranks and micro-batches; both completions of a pair stay together.
    fn divide_pairs(&self, pairs: &[Pair], shares: bool) -> Division {
        let prompts = if shares { 1 } else { 2 };
        let tokens = |index: usize| {
            let pair = &pairs[index];
            prompts * pair.prompt_ids.len() + pair.chosen_ids.len() + pair.rejected_ids.len()
        };
        let pack = |items: &[usize], budget| packing::best_fit_of(items, &tokens, budget);
        self.divide(&(0..pairs.len()).collect::<Vec<_>>(), &tokens, &pack)
    }
}

/// What the passes of an update have in common.
#[derive(Clone, Copy)]
struct DpoUpdate<'a> {
    model: &'a CausalLm,
    reference: &'a CausalLm,
    batch: &'a TrainDpo,
    /// Whether a pair's prompt is computed once.
    shares: bool,
}

fn check(objective: &DpoObjective) -> Result<(), LearnError> {
    let DpoObjective {
        loss_type,
        beta,
        label_smoothing,
    } = objective;
    let smoothing = if *loss_type == DpoLossType::Ipo {
        0.0..=0.0
    } else {
        0.0..=0.499_999
    };
    let wrong = match () {
        _ if !(beta.is_finite() && *beta > 0.0) => {
            format!("beta = {beta}: expected a number above 0")
        }
        _ if !smoothing.contains(label_smoothing) => {
            format!("label_smoothing = {label_smoothing}: expected 0 to below 0.5, and 0 for IPO")
        }
        _ => return Ok(()),
    };
    Err(LearnError::Request(wrong))
}

/// The pair's two sequences, the chosen one first.
fn sides(pair: &Pair) -> [TrainSequence; 2] {
    [&pair.chosen_ids, &pair.rejected_ids].map(|ids| TrainSequence {
        prompt_ids: pair.prompt_ids.clone(),
        completion_ids: ids.clone(),
        behaviour_logprobs: Vec::new(),
        experts: Vec::new(),
        kept_ids: SamplingMask::default(),
        advantage: 0.0,
        truncated: false,
    })
}

/// The sequence of each completion token of a micro-batch: sequences 2i and 2i + 1 are the chosen
/// and the rejected one of pair i.
struct Places {
    /// The sequence of each token, int64 `[N]`.
    sequence: Tensor,
    /// The tokens of each sequence's completion, float32 `[2P]`.
    lengths: Tensor,
}

impl Places {
    fn of(sequences: &[&TrainSequence], device: Device) -> Result<Places, LearnError> {
        let lengths = || {
            sequences
                .iter()
                .map(|sequence| sequence.completion_ids.len())
        };
        let index: Vec<i64> = lengths()
            .enumerate()
            .flat_map(|(i, n)| std::iter::repeat_n(i as i64, n))
            .collect();
        let lengths: Vec<f32> = lengths().map(|n| n as f32).collect();
        Ok(Places {
            sequence: Tensor::f_from_slice(&index)?.f_to_device(device)?,
            lengths: Tensor::f_from_slice(&lengths)?.f_to_device(device)?,
        })
    }

    /// Sums per-token values `[N]` over each sequence, `[2P]`.
    fn sums(&self, values: &Tensor) -> Result<Tensor, LearnError> {
        let zeros = Tensor::f_zeros(self.lengths.size(), (values.kind(), values.device()))?;
        Ok(zeros.f_index_add(0, &self.sequence, values)?)
    }

    /// One side of all pairs; side 0 is the chosen one.
    fn side(&self, policy: &Tensor, reference: &Tensor, side: i64) -> Result<Side, LearnError> {
        let of = |values: &Tensor| values.f_view([-1, 2])?.f_select(1, side);
        Ok(Side {
            policy: of(policy)?,
            reference: of(reference)?,
            lengths: of(&self.lengths)?,
        })
    }

    /// Marks tokens of chosen completions: float64 `[n]`, 1 or 0.
    fn chosen(&self, start: i64, n: i64) -> Result<Tensor, LearnError> {
        Ok(self
            .sequence
            .f_narrow(0, start, n)?
            .f_remainder(2)?
            .f_eq(0)?
            .f_to_kind(Kind::Double)?)
    }
}

/// Sums over a chunk's tokens, float64 `[4]`: Σ entropy and the number of tokens; then the number
/// of chosen completions' tokens that were predicted right, and their number.
fn sums_of_tokens(
    chunk: &Chunk,
    micro: &MicroBatch,
    places: &Places,
) -> Result<Tensor, LearnError> {
    let n = chunk.logp.size1()?;
    let targets = micro.targets.f_narrow(0, chunk.start, n)?;
    let chosen = places.chosen(chunk.start, n)?;
    let right = chunk
        .likeliest()?
        .f_eq_tensor(&targets)?
        .f_to_kind(Kind::Double)?;
    let entropy = entropy_sum(chunk, &targets, 1.0)?;
    let count = Tensor::f_full([0i64; 0], n as f64, (Kind::Double, chunk.logp.device()))?;
    Ok(Tensor::f_stack(
        &[
            entropy,
            count,
            right.f_dot(&chosen)?,
            chosen.f_sum(Kind::Double)?,
        ],
        0,
    )?)
}

/// Sums over an update: the loss, [`sums_of_pairs`] and [`sums_of_tokens`].
struct DpoSums(Tally);

impl DpoSums {
    fn new(device: Device) -> DpoSums {
        DpoSums(Tally::new(&[Fold::Sum; 10], device))
    }
}

/// Sums over pairs by their sides' sums, `[2P]` each: float64 `[5]`, logp of chosen and rejected,
/// rewards of chosen and rejected, and the number of pairs whose chosen reward is higher. A reward
/// is β times the log-ratio.
fn sums_of_pairs(ours: &Tensor, theirs: &Tensor, beta: f64) -> Result<Tensor, LearnError> {
    let ours = ours.f_to_kind(Kind::Double)?.f_view([-1, 2])?;
    let rewards = ours
        .f_sub(&theirs.f_to_kind(Kind::Double)?.f_view([-1, 2])?)?
        .f_mul_scalar(beta)?;
    let right = rewards
        .f_select(1, 0)?
        .f_gt_tensor(&rewards.f_select(1, 1)?)?
        .f_sum(Kind::Double)?
        .f_view([1])?;
    let sum = |values: &Tensor| values.f_sum_dim_intlist(&[0i64][..], false, Kind::Double);
    Ok(Tensor::f_cat(&[sum(&ours)?, sum(&rewards)?, right], 0)?)
}

/// The metrics of an update over these pairs, from the folded [`DpoSums`].
fn report(sums: &Tensor, pairs: f64) -> Result<Metrics, LearnError> {
    let sums = Vec::<f64>::try_from(sums)?;
    let names = [
        "logps/chosen",
        "logps/rejected",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
    ];
    let of_pairs = names.into_iter().zip(&sums[1..6]);
    let mut metrics: Metrics = of_pairs
        .map(|(name, sum)| (name.to_owned(), sum / pairs))
        .collect();
    metrics.insert(
        "rewards/margins".to_owned(),
        metrics["rewards/chosen"] - metrics["rewards/rejected"],
    );
    if let [entropy, all, right, chosen] = sums[6..] {
        metrics.insert("entropy".to_owned(), entropy / all.max(1.0));
        metrics.insert("mean_token_accuracy".to_owned(), right / chosen.max(1.0));
    }
    Ok(metrics)
}
