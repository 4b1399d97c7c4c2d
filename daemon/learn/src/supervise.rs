//! Next-token prediction on given text: pretraining and supervised fine-tuning.

use crate::batch::{self, Further, MicroBatch};
use crate::division::Division;
use crate::head::Chunk;
use crate::tally::{Fold, Tally};
use crate::trainer::{Load, Passed, Trainer, add_load, utilisation};
use crate::{LearnError, packing};
use r1d_model::{CausalLm, Forward};
use r1d_proto::worker::{Metrics, Supervise, SupervisedSequence};
use r1d_torch::work;
use tch::{Kind, Tensor};

/// Loss and number of ids predicted right, and the same of the prediction module.
const SUMS: &[Fold] = &[Fold::Sum; 4];

impl Trainer {
    /// Makes one update on the batch.
    ///
    /// L = −1/N Σ log π_θ(id | ids before it) over the N trained ids of the whole batch: each token
    /// weighs the same, however sequences are packed. `batch.step` is the place in the
    /// learning-rate schedule. With [`Trainer::with_prediction`], λ times the corresponding mean
    /// over the module's predictions, each of the token after the next one, is added (DeepSeek-V3
    /// (24)–(25)).
    pub fn supervise(
        &mut self,
        model: &CausalLm,
        batch: &Supervise,
    ) -> Result<Metrics, LearnError> {
        self.smaller_once(model.device(), |trainer| {
            trainer.supervise_whole(model, batch)
        })
    }

    fn supervise_whole(
        &mut self,
        model: &CausalLm,
        batch: &Supervise,
    ) -> Result<Metrics, LearnError> {
        let clock = self.now();
        batch::check_supervised(&batch.sequences, model.config.vocab_size)?;
        let (chosen, tokens) = trained_ones(&batch.sequences)?;
        let division = self.divide_supervised(batch, &chosen);
        self.begin_update(&division)?;
        let mut sums = Tally::new(SUMS, model.device());
        let further = chosen
            .iter()
            .map(|&i| batch::further_targets(&batch.sequences[i]));
        let further: Vec<usize> = further.filter(|&targets| targets > 0).collect();
        let further_tokens: usize = further.iter().sum();
        let (mut load, mut fed) = (None, 0);
        for turn in division.turns() {
            for group in &turn.micro_batches {
                if group.is_empty() {
                    self.stand_by(model, further_tokens > 0 && self.mtp_loss_weight > 0.0)?;
                    continue;
                }
                let sequences: Vec<_> = group.iter().map(|&i| &batch.sequences[i]).collect();
                let of = UpdateSize {
                    sequences: chosen.len(),
                    tokens,
                    further_sequences: further.len(),
                    further_tokens,
                };
                let (row, own) = self.supervise_micro_batch(model, &sequences, of)?;
                sums.push(&row)?;
                add_load(&mut load, own)?;
                fed += sequences.iter().map(|own| own.ids.len()).sum::<usize>();
            }
            self.optimiser.end_leaf(turn.of)?;
        }
        sums.exchange(self.gang.as_ref(), "metrics", 0)?;
        let sums = sums.total()?;
        let loss = sums.f_select(0, 0)?;
        let updated = self.finish_update(model, batch.step, batch.step, &loss, load)?;
        let length = |sequence: &SupervisedSequence| sequence.ids.len();
        self.tokens_seen += batch.sequences.iter().map(length).sum::<usize>() as i64;

        let mut metrics = Metrics::new();
        let mut put = |name: &str, value: f64| {
            metrics.insert(name.to_owned(), value);
        };
        put(
            "mean_token_accuracy",
            sums.f_double_value(&[1])? / tokens as f64,
        );
        if further_tokens > 0 && self.mtp_loss_weight > 0.0 {
            put("mtp_loss", sums.f_double_value(&[2])?);
            put(
                "mtp_mean_token_accuracy",
                sums.f_double_value(&[3])? / further_tokens as f64,
            );
        }
        self.report_update(model, loss.f_double_value(&[])?, &updated, &mut metrics)?;
        self.time(&mut metrics, "update", clock);
        utilisation(self, model, fed, &mut metrics);
        Ok(metrics)
    }

    /// Adds a micro-batch's gradients. Returns its [`SUMS`], two vectors of two, and its load.
    fn supervise_micro_batch(
        &mut self,
        model: &CausalLm,
        sequences: &[&SupervisedSequence],
        of: UpdateSize,
    ) -> Result<([Tensor; 2], Load), LearnError> {
        let micro = MicroBatch::of_supervised(sequences, model.device())?;
        let Passed {
            hidden,
            output,
            blocks,
        } = self.forward(model, &micro)?;
        let mut aux = self.aux_share(
            output.aux_loss.as_ref().map(Tensor::shallow_clone),
            &micro,
            of.sequences,
        )?;
        let mut loads = output.load.as_ref().map(Tensor::shallow_clone);
        let mut further_sums = Tensor::f_zeros([2], (Kind::Double, model.device()))?;
        if self.mtp_loss_weight > 0.0 {
            let predicted = self.predict_further(model, sequences, &output.hidden, of)?;
            loads = loads.map(|own| predicted.behind(own)).transpose()?;
            further_sums = predicted.sums;
            aux = plus(aux, plus(predicted.loss, predicted.balance)?)?;
        }
        drop(output);
        let sums = self.predict(model, &micro, &hidden, aux, of.tokens)?;
        self.through_blocks(blocks, &micro, of.sequences)?;
        work::moved(sequences.iter().map(|own| own.ids.len() as u64).sum());
        Ok(([sums, further_sums], loads))
    }

    /// Adds the prediction module's part of a micro-batch of `sequences` whose pass returned
    /// `hidden`.
    fn predict_further(
        &mut self,
        model: &CausalLm,
        sequences: &[&SupervisedSequence],
        hidden: &Tensor,
        of: UpdateSize,
    ) -> Result<Predicted, LearnError> {
        let nothing = Tensor::f_zeros([2], (Kind::Double, model.device()))?;
        let Some(further) = Further::of_supervised(sequences, model.device())? else {
            let others_have = of.further_tokens > 0 && model.expert_group().is_some();
            let stand_by = others_have.then(|| self.stand_by_further(model, hidden));
            return Ok(Predicted {
                loss: stand_by.transpose()?,
                balance: None,
                sums: nothing,
                load: None,
            });
        };
        let options = Forward {
            aux_loss: self.aux_loss(model),
            count_experts: true,
            ..Forward::default()
        };
        let output = model.predict(
            &hidden.f_index_select(0, &further.rows)?,
            &further.next,
            &options,
        )?;
        let predicting = output.hidden.f_index_select(0, &further.predicting)?;
        let (mut losses, mut right) = (Vec::new(), Vec::new());
        let mtp_loss_weight = self.mtp_loss_weight;
        let mut loss = |logp: &Tensor, _start: i64| {
            let loss = logp
                .f_sum(Kind::Float)?
                .f_mul_scalar(-1.0 / of.further_tokens as f64)?;
            losses.push(loss.f_detach()?);
            Ok(loss.f_mul_scalar(mtp_loss_weight)?)
        };
        let mut observe = |chunk: Chunk| right_ones(&chunk, &further.targets, &mut right);
        let head = self.head(model, 1.0, false)?;
        let mut take = || self.optimiser.accumulate();
        let surrogate = head.surrogate(
            &predicting,
            &further.targets,
            &mut loss,
            &mut observe,
            &mut take,
        )?;
        let share = further.next.lengths.len() as f64 / of.further_sequences.max(1) as f64;
        let balance = output.aux_loss.map(|balance| balance.f_mul_scalar(share));
        Ok(Predicted {
            loss: surrogate,
            balance: balance.transpose()?,
            sums: totals(&losses, &right)?,
            load: output.load,
        })
    }

    /// Adds a micro-batch's gradients. Returns its loss and the number of ids that the likeliest
    /// prediction got right, `[2]` float64.
    fn predict(
        &mut self,
        model: &CausalLm,
        micro: &MicroBatch,
        hidden: &Tensor,
        aux: Option<Tensor>,
        tokens: usize,
    ) -> Result<Tensor, LearnError> {
        let (mut losses, mut right) = (Vec::new(), Vec::new());
        let mut loss = |logp: &Tensor, _start: i64| {
            let loss = logp
                .f_sum(Kind::Float)?
                .f_mul_scalar(-1.0 / tokens as f64)?;
            losses.push(loss.f_detach()?);
            Ok(loss)
        };
        let mut observe = |chunk: Chunk| right_ones(&chunk, &micro.targets, &mut right);
        let head = self.head(model, 1.0, self.invariant)?;
        head.backward(
            hidden,
            &micro.targets,
            aux,
            false,
            &mut loss,
            &mut observe,
            &mut || self.optimiser.accumulate(),
        )?;
        totals(&losses, &right)
    }

    fn divide_supervised(&self, batch: &Supervise, chosen: &[usize]) -> Division {
        let fed = |index: usize| batch.sequences[index].ids.len() - 1;
        let pack = |items: &[usize], budget| packing::best_fit_of(items, &fed, budget);
        self.divide(chosen, &fed, &pack)
    }
}

/// The numbers of a whole update, which a micro-batch's share of it depends on.
#[derive(Clone, Copy)]
struct UpdateSize {
    sequences: usize,
    /// Trained ids.
    tokens: usize,
    /// Sequences that the prediction module has targets in, and the number of these.
    further_sequences: usize,
    further_tokens: usize,
}

/// The prediction module's results for a micro-batch.
struct Predicted {
    /// A scalar whose gradients are the loss's, in everything except the head.
    loss: Option<Tensor>,
    /// The micro-batch's share of the module's balance losses.
    balance: Option<Tensor>,
    /// The module's loss without λ, and the number of ids that it predicted right: `[2]` float64.
    sums: Tensor,
    /// The tokens that each of the module's experts got, `[1, E]`; `None` if it has no experts.
    load: Option<Tensor>,
}

impl Predicted {
    /// Appends the module's load as a row behind the other layers'.
    fn behind(&self, others: Tensor) -> Result<Tensor, LearnError> {
        Ok(match &self.load {
            Some(own) => Tensor::f_cat(&[&others, own], 0)?,
            None => others,
        })
    }
}

/// The indices of the sequences with an id that is trained, and the number of all such ids, at
/// least one. The first id of a sequence has no prediction.
fn trained_ones(sequences: &[SupervisedSequence]) -> Result<(Vec<usize>, usize), LearnError> {
    let count = |sequence: &SupervisedSequence| {
        let behind_the_first = sequence.trained.iter().skip(1);
        behind_the_first.filter(|&&trained| trained).count()
    };
    let counts: Vec<usize> = sequences.iter().map(count).collect();
    let tokens: usize = counts.iter().sum();
    if tokens == 0 {
        return Err(LearnError::Request(
            "no id of the batch is trained: its loss mask is empty".to_owned(),
        ));
    }
    let has_one = |&index: &usize| counts[index] > 0;
    Ok(((0..sequences.len()).filter(has_one).collect(), tokens))
}

fn plus(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>, LearnError> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some(a.f_add(&b)?),
        (a, b) => a.or(b),
    })
}

/// Counts the ids that the likeliest prediction got right.
fn right_ones(chunk: &Chunk, targets: &Tensor, right: &mut Vec<Tensor>) -> Result<(), LearnError> {
    let targets = targets.f_narrow(0, chunk.start, chunk.logp.size1()?)?;
    right.push(
        chunk
            .likeliest()?
            .f_eq_tensor(&targets)?
            .f_sum(Kind::Double)?,
    );
    Ok(())
}

fn totals(losses: &[Tensor], right: &[Tensor]) -> Result<Tensor, LearnError> {
    let total = |parts: &[Tensor]| Tensor::f_stack(parts, 0)?.f_sum(Kind::Double);
    Ok(Tensor::f_stack(&[total(losses)?, total(right)?], 0)?)
}
