//! Next-token prediction on given text: pretraining and supervised fine-tuning.

use crate::batch::{self, MicroBatch};
use crate::head::{Chunk, Head};
use crate::trainer::{Trainer, add_load};
use crate::{LearnError, packing, router};
use r1d_model::CausalLm;
use r1d_proto::worker::{Metrics, Supervise};
use tch::{Kind, Tensor};

impl Trainer {
    /// One update on the batch.
    ///
    /// L = −1/N Σ log π_θ(id | ids before it) over the N trained ids of the whole batch: each token weighs the same, however sequences
    /// are packed. `batch.step` is the place in the learning-rate schedule.
    pub fn supervise(&mut self, model: &CausalLm, batch: &Supervise) -> Result<Metrics, LearnError> {
        let clock = self.now();
        batch::check_supervised(&batch.sequences, model.config.vocab_size)?;
        let counts: Vec<usize> =
            batch.sequences.iter().map(|s| s.trained.iter().skip(1).filter(|&&trained| trained).count()).collect();
        let tokens: usize = counts.iter().sum();
        if tokens == 0 {
            return Err(LearnError::Request("no id of the batch is trained: its loss mask is empty".to_owned()));
        }
        let chosen: Vec<usize> = (0..batch.sequences.len()).filter(|&index| counts[index] > 0).collect();
        self.optimiser.clear_gradients()?;
        // [2] float64: loss, ids predicted right.
        let mut sums = Tensor::f_zeros([2], (Kind::Double, model.device()))?;
        let mut load = None;
        for group in self.pack_supervised(batch, &chosen) {
            let sequences: Vec<_> = group.iter().map(|&index| &batch.sequences[index]).collect();
            let micro = MicroBatch::of_supervised(&sequences, model.device())?;
            let (hidden, output) = self.forward(model, &micro, self.wants_aux_loss(model))?;
            add_load(&mut load, &output)?;
            let aux = self.aux_share(&output, &micro, chosen.len())?;
            drop(output);
            sums = sums.f_add(&predict(model, self.invariant, &micro, &hidden, aux, tokens)?)?;
            self.optimiser.accumulate()?;
        }
        let loss = sums.f_double_value(&[0])?;
        let updated = self.finish_update(model, batch.step, batch.step, loss, load)?;
        self.tokens_seen += batch.sequences.iter().map(|sequence| sequence.ids.len() as i64).sum::<i64>();

        let mut metrics = Metrics::new();
        let mut put = |name: &str, value: f64| {
            metrics.insert(name.to_owned(), value);
        };
        put("loss", loss);
        put("mean_token_accuracy", sums.f_double_value(&[1])? / tokens as f64);
        put("num_tokens", self.tokens_seen as f64);
        put("grad_norm", updated.norm);
        put("learning_rate", updated.learning_rate);
        if let Some(load) = updated.load_max_over_mean {
            put("moe/expert_load_max_over_mean", load);
            put("moe/bias_abs_max", router::bias_abs_max(model)?);
        }
        self.time(&mut metrics, "update", clock);
        Ok(metrics)
    }

    fn pack_supervised(&self, batch: &Supervise, chosen: &[usize]) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = chosen.iter().map(|&index| batch.sequences[index].ids.len() - 1).collect();
        let bins = packing::best_fit(&lengths, self.budget);
        bins.into_iter().map(|bin| bin.into_iter().map(|i| chosen[i]).collect()).collect()
    }
}

/// Adds a micro-batch's gradients; returns its loss and how many ids the likeliest prediction was right about, `[2]` float64.
fn predict(
    model: &CausalLm,
    invariant: bool,
    micro: &MicroBatch,
    hidden: &Tensor,
    aux: Option<Tensor>,
    tokens: usize,
) -> Result<Tensor, LearnError> {
    let (mut losses, mut right) = (Vec::new(), Vec::new());
    let mut loss = |logp: &Tensor, _start: i64| {
        let loss = logp.f_sum(Kind::Float)?.f_mul_scalar(-1.0 / tokens as f64)?;
        losses.push(loss.f_detach()?);
        Ok(loss)
    };
    let mut observe = |chunk: Chunk| {
        let targets = micro.targets.f_narrow(0, chunk.start, chunk.logp.size1()?)?;
        right.push(chunk.logits.f_argmax(-1, false)?.f_eq_tensor(&targets)?.f_sum(Kind::Double)?);
        Ok(())
    };
    Head::new(model, 1.0, invariant).backward(hidden, &micro.targets, aux, false, &mut loss, &mut observe)?;
    let total = |parts: &[Tensor]| Tensor::f_stack(parts, 0)?.f_sum(Kind::Double);
    Ok(Tensor::f_stack(&[total(&losses)?, total(&right)?], 0)?)
}
