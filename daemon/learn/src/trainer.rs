//! The trainer: a model's optimiser, and the parts that all kinds of updates share.

use crate::batch::MicroBatch;
use crate::division::{Divider, Division, Pack};
use crate::gang::Gang;
use crate::head::Head;
use crate::optimiser::Optimiser;
use crate::{LearnError, router, schedule};
use r1d_model::{AuxLoss, Blockwise, CausalLm, Forward, Output, checkpoint};
use r1d_proto::hyperparameters::{self, GradientCheckpointing, RouterTraining};
use r1d_proto::worker::Metrics;
use r1d_proto::world::SharedClock;
use r1d_torch::spans::span;
use std::path::Path;
use std::time::Duration;
use tch::{Kind, Tensor};

/// Updates a policy in place. Each stage has its own; [`state`](Trainer::state) is everything that
/// it keeps between requests.
pub struct Trainer {
    pub(crate) optimiser: Optimiser,
    pub(crate) router: RouterTraining,
    /// Most tokens of a micro-batch.
    pub(crate) budget: usize,
    /// Tokens of the largest micro-batch of an update so far.
    pub(crate) largest: usize,
    /// Number of updates that were made.
    pub(crate) updates: u64,
    pub(crate) invariant: bool,
    /// λ of multi-token prediction; 0 if it is not trained.
    pub(crate) mtp_loss_weight: f64,
    /// Whether updates differentiate a block at a time.
    checkpointing: Option<GradientCheckpointing>,
    /// Number of prompt and completion tokens trained on since the stage began.
    pub(crate) tokens_seen: i64,
    /// The gang that updates are made with; `None` if they are made alone.
    pub(crate) gang: Option<Gang>,
    clock: Option<SharedClock>,
    /// Floating-point operations a second that the device can do; `None` where that is not known.
    peak: Option<f64>,
}

/// Numbers of an update for the metrics.
pub(crate) struct Updated {
    pub norm: f64,
    pub learning_rate: f64,
    pub load_max_over_mean: Option<f64>,
}

/// A forward pass of an update.
pub(crate) struct Passed<'a> {
    /// The hidden states of the rows that predict targets, `[N, D]`.
    pub hidden: Tensor,
    /// All of the output, with the update's records of the experts. Without gradient checkpointing
    /// that has the balance loss too.
    pub output: Output,
    /// The blocks, if they are differentiated one at a time.
    pub blocks: Option<Blockwise<'a>>,
}

/// The number of tokens that went to each expert, summed over the micro-batches of an update: int64
/// `[moe_layers, E]`.
pub(crate) type Load = Option<Tensor>;

impl Trainer {
    /// Makes a trainer with a fresh optimiser. `max_tokens_per_device` limits a micro-batch (a
    /// longer sequence gets one to itself). In `invariant` mode the forward pass gives the bits
    /// that the sampler recorded.
    pub fn new(
        model: &CausalLm,
        optimiser: &hyperparameters::Optimiser,
        router: RouterTraining,
        max_tokens_per_device: u32,
        invariant: bool,
    ) -> Result<Trainer, LearnError> {
        let tokens = max_tokens_per_device;
        Trainer::in_gang(model, optimiser, router, tokens, invariant, None)
    }

    /// Makes a trainer that is part of a gang. All ranks have the same weights and settings, and
    /// are given the same requests; afterwards they have the same weights and metrics, except for
    /// times and what a rank computed. `gang` of one rank trains as without one.
    ///
    /// An update for which a rank has not memory enough fails on all of them: micro-batches are the
    /// same for all ranks, so none can make its own smaller.
    pub fn in_gang(
        model: &CausalLm,
        optimiser: &hyperparameters::Optimiser,
        router: RouterTraining,
        max_tokens_per_device: u32,
        invariant: bool,
        gang: Option<Gang>,
    ) -> Result<Trainer, LearnError> {
        model.set_requires_grad(true);
        let gang = gang.filter(|gang| !gang.is_alone());
        Ok(Trainer {
            optimiser: Optimiser::in_gang(model.parameters(), optimiser, gang.clone())?
                .with_kernels(model.kernels().cloned()),
            gang,
            router,
            budget: max_tokens_per_device.max(1) as usize,
            largest: 0,
            updates: 0,
            invariant,
            mtp_loss_weight: 0.0,
            checkpointing: None,
            tokens_seen: 0,
            clock: None,
            peak: None,
        })
    }

    /// Makes supervised updates train the model's multi-token prediction module too, with this
    /// weight (λ of DeepSeek-V3 (25)).
    pub fn with_prediction(self, mtp_loss_weight: f64) -> Trainer {
        Trainer {
            mtp_loss_weight,
            ..self
        }
    }

    /// Makes updates differentiate one block at a time, which needs less memory. Gradients are the
    /// same, except for the order in which those of a tied embedding are added.
    pub fn with_checkpointing(self, checkpointing: Option<GradientCheckpointing>) -> Trainer {
        Trainer {
            checkpointing,
            ..self
        }
    }

    /// Makes updates report `timing_s/…` metrics by this clock.
    pub fn with_clock(self, clock: SharedClock) -> Trainer {
        Trainer {
            clock: Some(clock),
            ..self
        }
    }

    /// Makes updates report `perf/mfu`, their share of these floating-point operations a second.
    pub fn with_peak(self, peak: Option<f64>) -> Trainer {
        Trainer { peak, ..self }
    }

    /// Everything that [`restore`](Self::restore) needs to continue with the same bits, as views of
    /// live memory. The position in the schedule is not part of it, because each request has it. In
    /// a gang whose ranks share the optimiser's states it is this rank's share.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.with_tokens(self.optimiser.state())
    }

    fn with_tokens(&self, mut state: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
        state.push((
            "num_tokens".to_owned(),
            Tensor::from_slice(&[self.tokens_seen]),
        ));
        state
    }

    /// What this rank saves of its [`state`](Self::state): what no rank before it has.
    pub fn to_save(&self) -> Vec<(String, Tensor)> {
        self.with_tokens(self.optimiser.to_save())
    }

    /// Reads a [`state`](Self::state) that [`checkpoint::save_tensors`] wrote to `file`, bit for
    /// bit and tensor by tensor, into live memory. Call it after the model's weights are restored.
    pub fn restore(&mut self, file: &Path) -> Result<(), LearnError> {
        self.restore_shares(&[file])
    }

    /// Reads the states that the ranks of a gang wrote to a file each, of this layout or another.
    /// One without shares writes its whole state on any rank, which is enough.
    pub fn restore_shares(&mut self, files: &[&Path]) -> Result<(), LearnError> {
        let state = self.state();
        checkpoint::restore_tensors(files, &state)?;
        if let Some((_, tokens)) = state.last() {
            self.tokens_seen = tokens.f_int64_value(&[0])?;
        }
        self.optimiser.restored()
    }

    /// Divides the `items` of a step, whose tokens are about `cost` each, among ranks and
    /// micro-batches.
    pub(crate) fn divide(
        &self,
        items: &[usize],
        cost: &dyn Fn(usize) -> usize,
        pack: &Pack,
    ) -> Division {
        Divider::of(self.gang.as_ref()).divide(items, cost, self.budget, pack)
    }

    /// Begins an update over the micro-batches of a division: there are no gradients yet.
    pub(crate) fn begin_update(&mut self, division: &Division) -> Result<(), LearnError> {
        self.optimiser.clear_gradients()?;
        // A block's gradients are not to stay beside those of all others.
        let at_once = division.micro_batches().count() == 1 && self.checkpointing.is_none();
        self.optimiser.hold_gradients(at_once);
        Ok(())
    }

    /// Runs one packed forward pass of an update. After what is computed from it has been
    /// differentiated, [`through_blocks`](Self::through_blocks) must be called.
    pub(crate) fn forward<'a>(
        &mut self,
        model: &'a CausalLm,
        batch: &'a MicroBatch,
    ) -> Result<Passed<'a>, LearnError> {
        self.largest = self.largest.max(batch.packed.ids.size1()? as usize);
        let options = Forward {
            aux_loss: self.aux_loss(model),
            count_experts: true,
            ..self.options(batch)
        };
        let forward = || self.pass(model, batch, &options);
        let (output, blocks) = span("forward", forward)?;
        Ok(Passed {
            hidden: predicting(batch, &output.hidden)?,
            output,
            blocks,
        })
    }

    fn pass<'a>(
        &self,
        model: &'a CausalLm,
        batch: &'a MicroBatch,
        options: &Forward<'a>,
    ) -> Result<(Output, Option<Blockwise<'a>>), LearnError> {
        Ok(match self.checkpointing {
            None => (model.forward(&batch.packed, options)?, None),
            Some(GradientCheckpointing {
                recompute_num_layers,
            }) => {
                let recomputed = recompute_num_layers as usize;
                let (output, blocks) =
                    model.forward_blockwise(&batch.packed, options, recomputed)?;
                (output, Some(blocks))
            }
        })
    }

    /// Goes through a pass of an update for which only other ranks of the expert group have tokens,
    /// and one of the multi-token prediction module if they do so `further`.
    pub(crate) fn stand_by(&mut self, model: &CausalLm, further: bool) -> Result<(), LearnError> {
        let micro = MicroBatch::to_stand_by(model.device())?;
        let options = Forward {
            stands_by: true,
            ..self.options(&micro)
        };
        let (output, blocks) = self.pass(model, &micro, &options)?;
        let mut sum = output.hidden.f_sum(output.hidden.kind())?;
        if further {
            let nothing = self.stand_by_further(model, &output.hidden)?;
            sum = sum.f_add(&nothing)?;
        }
        drop(output);
        // Where nothing below the head is trained, no rank has anything to go back to.
        if sum.requires_grad() {
            r1d_torch::runtime::backward(&sum.f_mul_scalar(0.0)?)?;
            self.optimiser.accumulate()?;
        }
        self.through_blocks(blocks, &micro, 1)
    }

    /// Goes through a pass of the multi-token prediction module behind one whose hidden states are
    /// these. Returns what its gradients depend on: 0.
    pub(crate) fn stand_by_further(
        &self,
        model: &CausalLm,
        hidden: &Tensor,
    ) -> Result<Tensor, LearnError> {
        let next = MicroBatch::to_stand_by(model.device())?.packed;
        let options = Forward {
            stands_by: true,
            ..Forward::default()
        };
        let output = model.predict(&hidden.f_narrow(0, 0, 1)?, &next, &options)?;
        Ok(output
            .hidden
            .f_sum(output.hidden.kind())?
            .f_mul_scalar(0.0)?)
    }

    /// Goes through a pass without gradients for which only other ranks of the expert group have
    /// tokens.
    pub(crate) fn stand_by_without_gradients(&self, model: &CausalLm) -> Result<(), LearnError> {
        let micro = MicroBatch::to_stand_by(model.device())?;
        let options = Forward {
            stands_by: true,
            ..self.options(&micro)
        };
        tch::no_grad(|| model.forward(&micro.packed, &options).map(drop))?;
        Ok(())
    }

    /// Adds the gradients of the blocks of a pass, if it left them to be differentiated one at a
    /// time; the update is over `sequences` sequences.
    pub(crate) fn through_blocks(
        &mut self,
        blocks: Option<Blockwise>,
        batch: &MicroBatch,
        sequences: usize,
    ) -> Result<(), LearnError> {
        match blocks {
            Some(blocks) => {
                blocks.backward(share(batch, sequences), &mut || self.optimiser.accumulate())
            }
            None => Ok(()),
        }
    }

    /// The head of an update, whose own gradient goes straight to the optimiser's sum where r1d's
    /// own kernels compute it.
    pub(crate) fn head<'a>(
        &mut self,
        model: &'a CausalLm,
        temperature: f64,
        invariant: bool,
    ) -> Result<Head<'a>, LearnError> {
        let sum = match model.plain_head() {
            Some((_, weight)) => self.optimiser.sum_of(weight)?,
            None => None,
        };
        Ok(Head::new(model, temperature, invariant).adding_to(sum))
    }

    /// Computes the hidden states of such a pass only, without gradients.
    pub(crate) fn hidden(
        &self,
        model: &CausalLm,
        batch: &MicroBatch,
    ) -> Result<Tensor, LearnError> {
        tch::no_grad(|| {
            let forward = || model.forward(&batch.packed, &self.options(batch));
            let output = span("forward without gradients", forward)?;
            predicting(batch, &output.hidden)
        })
    }

    fn options<'a>(&self, batch: &'a MicroBatch) -> Forward<'a> {
        Forward {
            invariant: self.invariant,
            forced_experts: batch.forced_experts.as_ref(),
            ..Forward::default()
        }
    }

    /// Whether a pass also changes weights by the load that its tokens put on the experts, and not
    /// only by its loss.
    pub(crate) fn balances(&self, model: &CausalLm) -> bool {
        model.config.moe_layers > 0
            && (self.aux_loss(model).wanted() || self.router.bias_update_speed != 0.0)
    }

    /// The weights of the losses that an update adds to its own.
    pub(crate) fn aux_loss(&self, model: &CausalLm) -> AuxLoss {
        match model.config.moe_layers {
            0 => AuxLoss::NONE,
            _ => AuxLoss {
                expert_alpha: self.router.aux_loss_alpha,
                device_alpha: self.router.device_loss_alpha,
            },
        }
    }

    /// The micro-batch's share of the balance loss of an update over `sequences` sequences.
    pub(crate) fn aux_share(
        &self,
        aux_loss: Option<Tensor>,
        batch: &MicroBatch,
        sequences: usize,
    ) -> Result<Option<Tensor>, LearnError> {
        let share = share(batch, sequences);
        aux_loss.map(|aux| Ok(aux.f_mul_scalar(share)?)).transpose()
    }

    /// Ends an update whose gradients are complete: checks, clips, steps, and rebalances the
    /// router. `update` is its place in the schedule.
    ///
    /// `loss` is a float64 scalar on the device, where the update decides for itself whether it is
    /// finite: the one wait for the device is behind it, for the numbers that are reported.
    pub(crate) fn finish_update(
        &mut self,
        model: &CausalLm,
        step: u64,
        update: u64,
        loss: &Tensor,
        load: Load,
    ) -> Result<Updated, LearnError> {
        span("gradient exchange", || self.optimiser.exchange_gradients())?;
        let load = self.load_everywhere(model, load)?;
        let norm = span("gradient norm", || self.optimiser.gradient_norm())?;
        let norm = norm.f_to_device(loss.device())?;
        let numbers = Tensor::f_stack(&[loss, &norm], 0)?;
        let is_finite = numbers.f_isfinite()?.f_all()?;
        let learning_rate = schedule::learning_rate(self.optimiser.settings(), update);
        self.updates += 1;
        span("optimiser", || {
            self.optimiser.update(learning_rate, &norm, &is_finite)
        })?;
        let numbers = Vec::<f64>::try_from(numbers)?;
        let norm = numbers[1];
        for (what, value) in [("loss", numbers[0]), ("gradient norm", norm)] {
            if !value.is_finite() {
                return Err(LearnError::NonFinite {
                    step,
                    update,
                    what,
                    value,
                    learning_rate,
                    suspect: None,
                });
            }
        }
        if let (Some(load), true) = (&load, self.router.bias_update_speed != 0.0) {
            model.update_router_bias(load, self.router.bias_update_speed)?;
        }
        let load_max_over_mean = load.as_ref().map(router::load_max_over_mean).transpose()?;
        Ok(Updated {
            norm,
            learning_rate,
            load_max_over_mean,
        })
    }

    /// The load of all ranks' tokens.
    fn load_everywhere(&self, model: &CausalLm, load: Load) -> Result<Load, LearnError> {
        let Some(gang) = self.gang.as_ref().filter(|_| model.config.moe_layers > 0) else {
            return Ok(load);
        };
        let own = match load {
            Some(load) => load,
            // A rank without micro-batches.
            None => Tensor::f_zeros([0, model.config.experts], (Kind::Int64, model.device()))?,
        };
        let all = gang.all_gather("expert load", &own)?;
        let (mut sum, mut at) = (None, 0);
        for count in all.counts.into_iter().filter(|&count| count > 0) {
            add_load(&mut sum, Some(all.rows.f_narrow(0, at, count)?))?;
            at += count;
        }
        Ok(sum)
    }

    /// Reports the metrics that all kinds of one-update steps share.
    pub(crate) fn report_update(
        &self,
        model: &CausalLm,
        loss: f64,
        updated: &Updated,
        metrics: &mut Metrics,
    ) -> Result<(), LearnError> {
        let mut put = |name: &str, value: f64| {
            metrics.insert(name.to_owned(), value);
        };
        put("loss", loss);
        put("num_tokens", self.tokens_seen as f64);
        put("grad_norm", updated.norm);
        put("learning_rate", updated.learning_rate);
        if let Some(load) = updated.load_max_over_mean {
            put("moe/expert_load_max_over_mean", load);
            put("moe/bias_abs_max", router::bias_abs_max(model)?);
        }
        Ok(())
    }

    pub(crate) fn now(&self) -> Option<Duration> {
        self.clock.as_ref().map(|clock| clock.now())
    }

    /// Records the time since `start` under `timing_s/NAME`. Returns the end of it.
    pub(crate) fn time(
        &self,
        metrics: &mut Metrics,
        name: &str,
        start: Option<Duration>,
    ) -> Option<Duration> {
        let now = self.now()?;
        metrics.insert(
            format!("timing_s/{name}"),
            now.saturating_sub(start?).as_secs_f64(),
        );
        Some(now)
    }
}

/// The hidden states of the rows that predict targets, of those of all tokens.
fn predicting(batch: &MicroBatch, hidden: &Tensor) -> Result<Tensor, LearnError> {
    Ok(match &batch.rows {
        Some(rows) => hidden.f_index_select(0, rows)?,
        None => hidden.shallow_clone(),
    })
}

/// The micro-batch's share of a mean over the `sequences` of an update.
fn share(batch: &MicroBatch, sequences: usize) -> f64 {
    batch.packed.lengths.len() as f64 / sequences.max(1) as f64
}

/// Adds `perf/mfu` of an update in which this rank computed `tokens` tokens, whose time is known,
/// where the device's peak is: six operations for each token and parameter that it uses (PaLM,
/// appendix B, without attention's own products).
pub(crate) fn utilisation(
    trainer: &Trainer,
    model: &CausalLm,
    tokens: usize,
    metrics: &mut Metrics,
) {
    let seconds = metrics.get("timing_s/update").copied();
    if let (Some(peak), Some(seconds)) = (trainer.peak, seconds.filter(|&seconds| seconds > 0.0)) {
        let operations = 6.0 * model.summary().active_parameters as f64 * tokens as f64;
        metrics.insert("perf/mfu".to_owned(), operations / seconds / peak);
    }
}

/// Adds loads of different sizes: a micro-batch without work for a prediction module has no row for
/// it.
fn sum_of_uneven(a: &Tensor, b: &Tensor) -> Result<Tensor, LearnError> {
    let (long, short) = if a.size()[0] > b.size()[0] {
        (a, b)
    } else {
        (b, a)
    };
    Ok(long.f_add(&short.f_constant_pad_nd([0, 0, 0, long.size()[0] - short.size()[0]])?)?)
}

/// Adds a micro-batch's expert load to its update's.
pub(crate) fn add_load(load: &mut Load, more: Load) -> Result<(), LearnError> {
    if let Some(more) = more {
        *load = Some(match load.take() {
            Some(sum) if sum.size() != more.size() => sum_of_uneven(&sum, &more)?,
            Some(sum) => sum.f_add(&more)?,
            None => more.f_to_kind(Kind::Int64)?,
        });
    }
    Ok(())
}
