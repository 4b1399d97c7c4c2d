//! The metrics of a step, under TRL's names. Sums stay on the device until an update ends.

use crate::LearnError;
use crate::batch::MicroBatch;
use crate::gang::Gang;
use crate::objective;
use crate::tally::{Fold, Tally, count_of};
use crate::trainer::Updated;
use r1d_proto::hyperparameters::Objective;
use r1d_proto::worker::{Metrics, TrainSequence};
use tch::{Device, Kind, Tensor};

/// Reports the lengths of the batch's completions, and the share that reached the limit.
pub(crate) fn completions(sequences: &[TrainSequence]) -> Metrics {
    let lengths = || {
        sequences
            .iter()
            .map(|sequence| sequence.completion_ids.len())
    };
    let count = sequences.len().max(1) as f64;
    let truncated = sequences
        .iter()
        .filter(|sequence| sequence.truncated)
        .count();
    let values = [
        (
            "completions/mean_length",
            lengths().sum::<usize>() as f64 / count,
        ),
        (
            "completions/min_length",
            lengths().min().unwrap_or(0) as f64,
        ),
        (
            "completions/max_length",
            lengths().max().unwrap_or(0) as f64,
        ),
        ("completions/clipped_ratio", truncated as f64 / count),
    ];
    values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// |trainer's − sampler's log-probability| over tokens: sum, greatest, and number of tokens.
pub(crate) struct Difference(pub Tally);

impl Difference {
    pub(crate) fn new(device: Device) -> Difference {
        Difference(Tally::new(&[Fold::Sum, Fold::Max(0.0), Fold::Sum], device))
    }

    pub(crate) fn add(&mut self, ours: &Tensor, theirs: &Tensor) -> Result<(), LearnError> {
        let difference = ours.f_sub(theirs)?.f_abs()?.f_to_kind(Kind::Double)?;
        let (sum, max) = (difference.f_sum(Kind::Double)?, difference.f_max()?);
        self.0.push(&[sum, max, count_of(theirs)?])
    }

    pub(crate) fn report(&self, metrics: &mut Metrics) -> Result<(), LearnError> {
        let total = Vec::<f64>::try_from(self.0.total()?)?;
        let names = ["mean", "max"].map(|of| format!("sampling/sampling_logp_difference/{of}"));
        metrics.extend(
            names
                .into_iter()
                .zip([total[0] / total[2].max(1.0), total[1]]),
        );
        Ok(())
    }
}

/// Sums over the tokens of an update: those of [`objective::Loss`] and Σ entropy; then the smallest
/// and the largest share of a sequence's tokens that the clip held back, at the lower and at the
/// upper bound.
pub(crate) struct MetricSums(Tally);

/// The numbers of [`MetricSums`], folded.
#[derive(Clone, Copy)]
pub(crate) struct HostSums {
    pub loss: f64,
    kl: f64,
    at_low: f64,
    at_high: f64,
    entropy: f64,
    low_min: f64,
    high_max: f64,
}

impl MetricSums {
    pub(crate) fn new(device: Device) -> MetricSums {
        const COLUMNS: &[Fold] = &[
            Fold::Sum,
            Fold::Sum,
            Fold::Sum,
            Fold::Sum,
            Fold::Sum,
            Fold::Min(1.0),
            Fold::Max(0.0),
        ];
        MetricSums(Tally::new(COLUMNS, device))
    }

    /// Adds a micro-batch: its chunks' sums `[4]` and scalar entropies, and
    /// [`objective::Loss::held`] of all its tokens, which are of these sequences.
    pub(crate) fn add(
        &mut self,
        losses: &[Tensor],
        entropies: &[Tensor],
        held: &Tensor,
        sequences: &objective::Sequences,
    ) -> Result<(), LearnError> {
        let losses =
            Tensor::f_stack(losses, 0)?.f_sum_dim_intlist(&[0i64][..], false, Kind::Double)?;
        let entropy = Tensor::f_stack(entropies, 0)?.f_sum(Kind::Double)?;
        let shares = |bound: i64| {
            Ok::<_, LearnError>(
                sequences
                    .means(&held.f_select(0, bound)?)
                    .f_to_kind(Kind::Double)?,
            )
        };
        let (low, high) = (shares(0)?.f_min()?, shares(1)?.f_max()?);
        self.0.push(&[losses, entropy, low, high])
    }

    /// Folds the rows of all ranks, on the device; the first number is the loss.
    pub(crate) fn total(&mut self, gang: Option<&Gang>) -> Result<Tensor, LearnError> {
        self.0.exchange(gang, "metrics", 0)?;
        self.0.total()
    }
}

impl HostSums {
    /// Reads what [`MetricSums::total`] returned.
    pub(crate) fn read(total: &Tensor) -> Result<HostSums, LearnError> {
        let at = |i: i64| total.f_double_value(&[i]);
        Ok(HostSums {
            loss: at(0)?,
            kl: at(1)?,
            at_low: at(2)?,
            at_high: at(3)?,
            entropy: at(4)?,
            low_min: at(5)?,
            high_max: at(6)?,
        })
    }
}

/// The numbers of sequences and tokens of an update.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    /// Sequences that train.
    pub sequences: usize,
    /// Completion tokens of the sequences that train.
    pub tokens: usize,
    /// Sequences of these that were not computed, because their advantage is 0: the clip holds none
    /// of their tokens back.
    pub skipped: usize,
    /// Completion tokens of the sequences that were computed.
    pub computed: usize,
}

/// Sums over updates.
#[derive(Default)]
pub(crate) struct Totals {
    updates: f64,
    tokens: f64,
    computed: f64,
    sequences: f64,
    loss: f64,
    kl: f64,
    at_low: f64,
    at_high: f64,
    entropy: f64,
    low_min: f64,
    high_max: f64,
    norm: f64,
    learning_rate: f64,
    load_max_over_mean: Option<f64>,
}

impl Totals {
    pub(crate) fn add(&mut self, sums: &HostSums, counts: Counts, updated: &Updated) {
        self.updates += 1.0;
        self.tokens += counts.tokens as f64;
        self.computed += counts.computed as f64;
        self.sequences += counts.sequences as f64;
        self.loss += sums.loss;
        self.kl += sums.kl;
        self.at_low += sums.at_low;
        self.at_high += sums.at_high;
        self.entropy += sums.entropy;
        self.low_min += if counts.skipped > 0 {
            0.0
        } else {
            sums.low_min
        };
        self.high_max += sums.high_max;
        self.norm += updated.norm;
        self.learning_rate = updated.learning_rate;
        self.load_max_over_mean = updated.load_max_over_mean.or(self.load_max_over_mean);
    }

    /// Reports the metrics: `loss`, `grad_norm` and the extremes of the clip ratios are means over
    /// updates, `learning_rate` and the load are the last update's, and the rest are means over
    /// tokens (the clip ratios over sequences, at sequence level). `entropy` is over the tokens
    /// that were computed.
    pub(crate) fn report(&self, objective: &Objective, metrics: &mut Metrics) {
        let (updates, tokens) = (self.updates.max(1.0), self.tokens.max(1.0));
        let ratios = if objective::is_sequence_level(objective) {
            self.sequences.max(1.0)
        } else {
            tokens
        };
        let mut put = |name: &str, value: f64| {
            metrics.insert(name.to_owned(), value);
        };
        put("loss", self.loss / updates);
        put("grad_norm", self.norm / updates);
        put("learning_rate", self.learning_rate);
        put("entropy", self.entropy / self.computed.max(1.0));
        put("clip_ratio/low_mean", self.at_low / ratios);
        put("clip_ratio/high_mean", self.at_high / ratios);
        put("clip_ratio/low_min", self.low_min / updates);
        put("clip_ratio/high_max", self.high_max / updates);
        put(
            "clip_ratio/region_mean",
            (self.at_low + self.at_high) / ratios,
        );
        if objective.beta != 0.0 {
            put("kl", self.kl / tokens);
        }
        if let Some(load) = self.load_max_over_mean {
            put("moe/expert_load_max_over_mean", load);
        }
    }
}

/// Reports the tokens that have gone through forward passes.
pub(crate) struct Progress<'a> {
    report: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(report: &'a mut dyn FnMut(u64, u64)) -> Progress<'a> {
        Progress {
            report,
            done: 0,
            total: 0,
        }
    }

    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Counts on from `done` tokens, because those behind them are computed again.
    pub(crate) fn back_to(&mut self, done: u64) {
        self.done = done;
    }

    pub(crate) fn expect(&mut self, total: u64) {
        self.total = total;
    }

    pub(crate) fn add(&mut self, micro: &MicroBatch) {
        self.done += micro.trained_tokens() as u64;
        (self.report)(self.done, self.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::hyperparameters::{ImportanceSamplingLevel, LossType};

    #[test]
    fn clip_extremes_are_those_of_sequences() {
        let mut sums = MetricSums::new(Device::Cpu);
        let sequences = |lengths: &[usize]| objective::Sequences::of(lengths, Device::Cpu).unwrap();
        let held = |rows: [&[f32]; 2]| Tensor::stack(&rows.map(Tensor::from_slice), 0);
        let (losses, entropies) = ([Tensor::from_slice(&[0f64; 4])], [Tensor::from(0f64)]);
        let mut add = |rows, lengths: &[usize]| {
            sums.add(&losses, &entropies, &held(rows), &sequences(lengths))
                .unwrap();
        };
        add([&[1., 1., 0., 1., 1.], &[0., 0., 1., 0., 1.]], &[3, 2]);
        add([&[1., 1.], &[0., 0.]], &[2]);
        let found = HostSums::read(&sums.total(None).unwrap()).unwrap();
        assert!(
            (found.low_min - 2.0 / 3.0).abs() < 1e-6 && (found.high_max - 0.5).abs() < 1e-6,
            "{} {}",
            found.low_min,
            found.high_max
        );
    }

    fn objective() -> Objective {
        Objective {
            loss_type: LossType::Grpo,
            importance_sampling_level: ImportanceSamplingLevel::Token,
            epsilon: 0.2,
            epsilon_high: 0.2,
            beta: 0.04,
            use_bias_correction_kl: false,
            off_policy_mask_threshold: None,
            importance_sampling_correction: None,
            num_iterations: 1,
            num_minibatches: 2,
            mask_truncated_completions: false,
            max_completion_length: 16,
            temperature: 1.0,
            routing_replay: false,
            routing_replay_reference: false,
        }
    }

    #[test]
    fn updates_count_alike_and_tokens_count_alike() {
        let mut totals = Totals::default();
        let updated = |norm, learning_rate, load| Updated {
            norm,
            learning_rate,
            load_max_over_mean: load,
        };
        let sums = |loss, kl, at_low, at_high, entropy| HostSums {
            loss,
            kl,
            at_low,
            at_high,
            entropy,
            low_min: 0.1,
            high_max: 0.4,
        };
        let counts = |tokens, sequences, skipped, computed| Counts {
            tokens,
            sequences,
            skipped,
            computed,
        };
        totals.add(
            &sums(1.0, 6.0, 3.0, 0.0, 30.0),
            counts(30, 2, 0, 30),
            &updated(2.0, 0.1, Some(1.5)),
        );
        totals.add(
            &sums(3.0, 4.0, 1.0, 4.0, 30.0),
            counts(10, 6, 2, 6),
            &updated(6.0, 0.2, Some(1.25)),
        );
        let mut objective = objective();
        let report = |objective: &Objective| {
            let mut metrics = Metrics::new();
            totals.report(objective, &mut metrics);
            metrics
        };
        let expected = [
            ("loss", 2.0),
            ("grad_norm", 4.0),
            ("learning_rate", 0.2),
            ("kl", 0.25),
            ("entropy", 60.0 / 36.0),
            ("clip_ratio/low_mean", 0.1),
            ("clip_ratio/high_mean", 0.1),
            ("clip_ratio/low_min", 0.05),
            ("clip_ratio/high_max", 0.4),
            ("clip_ratio/region_mean", 0.2),
            ("moe/expert_load_max_over_mean", 1.25),
        ];
        assert_eq!(
            report(&objective),
            expected
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        );
        objective.importance_sampling_level = ImportanceSamplingLevel::Sequence;
        objective.beta = 0.0;
        let metrics = report(&objective);
        assert_eq!(
            (
                metrics["clip_ratio/low_mean"],
                metrics["clip_ratio/region_mean"]
            ),
            (0.5, 1.0)
        );
        assert!(!metrics.contains_key("kl"));
    }
}
