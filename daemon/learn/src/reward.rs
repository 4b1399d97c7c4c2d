//! Trains reward models, which give one score for a text: from pairs of which one is preferred
//! (helpfulness) or from labels (safety).

use crate::last_token::{self, Text};
use crate::preference::{pairwise_loss, pointwise_loss};
use crate::tally::{Fold, Tally};
use crate::trainer::{Load, Passed, Trainer, add_load};
use crate::{LearnError, batch, packing};
use r1d_model::{Forward, SequenceClassifier};
use r1d_proto::worker::{Labelled, Metrics, Pair, RewardBatch, TrainReward};
use r1d_torch::work;
use tch::{Device, Tensor};

/// Texts that share a loss: a pair's two, chosen first, or a labelled one.
type Unit<'a> = Vec<Text<'a>>;

impl Trainer {
    /// Updates a reward model once; the trainer must be one of `scorer.model()`.
    ///
    /// The loss is that of [`preference`](crate::preference), a mean over the pairs or texts of the
    /// whole batch. `batch.step` is the place in the learning-rate schedule. Metrics are those of
    /// TRL's `RewardTrainer`; for labelled texts the accuracy is the share whose score is on the
    /// right side of 0, and there is no margin.
    pub fn train_reward(
        &mut self,
        scorer: &SequenceClassifier,
        batch: &TrainReward,
    ) -> Result<Metrics, LearnError> {
        self.smaller_once(scorer.model().device(), |trainer| {
            trainer.train_reward_whole(scorer, batch)
        })
    }

    fn train_reward_whole(
        &mut self,
        scorer: &SequenceClassifier,
        batch: &TrainReward,
    ) -> Result<Metrics, LearnError> {
        let clock = self.now();
        let model = scorer.model();
        let units = units(scorer, &batch.batch)?;
        let texts: usize = units.iter().map(Vec::len).sum();
        let lengths: Vec<usize> = units
            .iter()
            .map(|unit| unit.iter().map(Text::tokens).sum())
            .collect();
        let length = |unit: usize| lengths[unit];
        let pack = |items: &[usize], budget| packing::best_fit_of(items, &length, budget);
        let all: Vec<usize> = (0..units.len()).collect();
        let division = self.divide(&all, &length, &pack);
        self.begin_update(&division)?;
        let mut losses = Tally::new(&[Fold::Sum], model.device());
        // A row for each score, in the order in which they are computed.
        let mut scores = Vec::new();
        let mut load = None;
        for turn in division.turns() {
            for group in &turn.micro_batches {
                if group.is_empty() {
                    self.stand_by(model, false)?;
                    continue;
                }
                let own: Vec<Text> = group
                    .iter()
                    .flat_map(|&index| units[index].iter().copied())
                    .collect();
                let loss = |values: &Tensor| loss(&batch.batch, group, values, model.device());
                let of_update = (texts, &loss as &LossOfValues);
                let (values, loss, own) = self.texts_micro_batch(scorer, &own, of_update)?;
                losses.push(&[loss])?;
                scores.push(values);
                add_load(&mut load, own)?;
                work::moved(group.len() as u64);
            }
            self.optimiser.end_leaf(turn.of)?;
        }
        losses.exchange(self.gang.as_ref(), "metrics", 0)?;
        let loss = losses.total()?.f_select(0, 0)?;
        let updated = self.finish_update(model, batch.step, batch.step, &loss, load)?;
        self.tokens_seen += lengths.iter().sum::<usize>() as i64;

        let scores = self.everywhere("scores", model.device(), &scores)?;
        let scores = Vec::<f32>::try_from(scores)?;
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let order: Vec<usize> = division.in_order().collect();
        let mut metrics = measures(&batch.batch, &scores, &order);
        self.report_update(model, loss.f_double_value(&[])?, &updated, &mut metrics)?;
        self.time(&mut metrics, "update", clock);
        Ok(metrics)
    }

    /// Adds the gradients of a micro-batch of texts; the update is over `texts` texts. Returns
    /// their scores, `[texts]`, their loss and their load.
    fn texts_micro_batch(
        &mut self,
        scorer: &SequenceClassifier,
        own: &[Text],
        (texts, loss): (usize, &LossOfValues),
    ) -> Result<(Tensor, Tensor, Load), LearnError> {
        let model = scorer.model();
        let share = !self.aux_loss(model).wanted();
        let micro = last_token::micro_batch(own, share, model.device())?;
        let Passed {
            hidden,
            output,
            blocks,
        } = self.forward(model, &micro)?;
        let aux = self.aux_share(
            output.aux_loss.as_ref().map(Tensor::shallow_clone),
            &micro,
            texts,
        )?;
        let load = output.load.as_ref().map(Tensor::shallow_clone);
        let options = Forward {
            invariant: self.invariant,
            ..Forward::default()
        };
        let values = scorer.values(&hidden, &options)?;
        let loss = loss(&values)?;
        let whole = aux.map_or_else(|| Ok(loss.shallow_clone()), |aux| loss.f_add(&aux))?;
        r1d_torch::runtime::backward(&whole)?;
        self.optimiser.accumulate()?;
        self.through_blocks(blocks, &micro, texts)?;
        Ok((values.f_detach()?, loss.f_detach()?, load))
    }
}

/// The loss of a micro-batch's values.
type LossOfValues<'a> = dyn Fn(&Tensor) -> Result<Tensor, LearnError> + 'a;

/// Checks the batch's texts and cuts each at the token that is scored.
fn units<'a>(
    scorer: &SequenceClassifier,
    batch: &'a RewardBatch,
) -> Result<Vec<Unit<'a>>, LearnError> {
    let text = |beginning: &'a [u32], rest: &'a [u32]| {
        let length = scorer.scored_length(&[beginning, rest].concat());
        Text::cut(beginning, rest, length)
    };
    let vocab_size = scorer.model().config.vocab_size;
    let units: Vec<Unit> = match batch {
        RewardBatch::Pairs {
            pairs,
            center_rewards_coefficient,
        } => {
            if !(center_rewards_coefficient.is_finite() && *center_rewards_coefficient >= 0.0) {
                let message = format!(
                    "center_rewards_coefficient = {center_rewards_coefficient}: expected 0 or more"
                );
                return Err(LearnError::Request(message));
            }
            batch::check_pairs(pairs, vocab_size)?;
            pairs
                .iter()
                .map(|pair| {
                    [&pair.chosen_ids, &pair.rejected_ids]
                        .map(|ids| text(&pair.prompt_ids, ids))
                        .to_vec()
                })
                .collect()
        }
        RewardBatch::Labelled(items) => {
            batch::check_labelled(items, vocab_size)?;
            items
                .iter()
                .map(|item| vec![text(&[], &item.ids)])
                .collect()
        }
    };
    if units.is_empty() {
        return Err(LearnError::Request(
            "the batch of a reward model is empty".to_owned(),
        ));
    }
    Ok(units)
}

/// The loss of the batch's units `group`, from their `values` `[texts]`.
fn loss(
    batch: &RewardBatch,
    group: &[usize],
    values: &Tensor,
    device: Device,
) -> Result<Tensor, LearnError> {
    let tensor = |of: &dyn Fn(usize) -> f32| -> Result<Tensor, LearnError> {
        let flat: Vec<f32> = group.iter().map(|&index| of(index)).collect();
        Ok(Tensor::f_from_slice(&flat)?.f_to_device(device)?)
    };
    Ok(match batch {
        RewardBatch::Pairs {
            pairs,
            center_rewards_coefficient,
        } => {
            let sides = values.f_view([-1, 2])?;
            let (chosen, rejected) = (sides.f_select(1, 0)?, sides.f_select(1, 1)?);
            let margin = tensor(&|index| pairs[index].margin)?;
            pairwise_loss(
                &chosen,
                &rejected,
                &margin,
                *center_rewards_coefficient,
                pairs.len() as f64,
            )
        }
        RewardBatch::Labelled(items) => pointwise_loss(
            values,
            &tensor(&|index| items[index].label)?,
            items.len() as f64,
        ),
    })
}

/// The metrics of `scores` of the units in `order`, one after the other.
fn measures(batch: &RewardBatch, scores: &[f64], order: &[usize]) -> Metrics {
    let count = scores.len().max(1) as f64;
    let mut found = vec![
        (
            "min_reward",
            scores.iter().copied().fold(f64::INFINITY, f64::min),
        ),
        ("mean_reward", scores.iter().sum::<f64>() / count),
        (
            "max_reward",
            scores.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ),
    ];
    let units = order.len().max(1) as f64;
    let share = |right: usize| right as f64 / units;
    match batch {
        RewardBatch::Pairs { .. } => {
            let margins = || scores.chunks_exact(2).map(|pair| pair[0] - pair[1]);
            found.push((
                "accuracy",
                share(margins().filter(|&margin| margin > 0.0).count()),
            ));
            found.push(("margin", margins().sum::<f64>() / units));
        }
        RewardBatch::Labelled(items) => {
            let right =
                |(score, index): (&f64, &usize)| (*score > 0.0) == (items[*index].label >= 0.5);
            found.push((
                "accuracy",
                share(scores.iter().zip(order).filter(|&both| right(both)).count()),
            ));
        }
    }
    found
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The share of pairs whose chosen completion has the higher score, for pairs that were not trained
/// on. At 0.5 the model separates nothing.
pub fn pair_accuracy(scorer: &SequenceClassifier, pairs: &[Pair]) -> Result<f64, LearnError> {
    batch::check_pairs(pairs, scorer.model().config.vocab_size)?;
    let texts: Vec<Vec<u32>> = pairs
        .iter()
        .flat_map(|pair| {
            [&pair.chosen_ids, &pair.rejected_ids].map(|ids| [&pair.prompt_ids[..], ids].concat())
        })
        .collect();
    let scores = scorer.score(&texts)?;
    Ok(scores
        .chunks_exact(2)
        .filter(|pair| pair[0] > pair[1])
        .count() as f64
        / pairs.len().max(1) as f64)
}

/// The share of texts whose score is on the right side of 0.
pub fn label_accuracy(scorer: &SequenceClassifier, items: &[Labelled]) -> Result<f64, LearnError> {
    batch::check_labelled(items, scorer.model().config.vocab_size)?;
    let texts: Vec<&[u32]> = items.iter().map(|item| &item.ids[..]).collect();
    let scores = scorer.score(&texts)?;
    let right = |(score, item): (&f32, &Labelled)| (*score > 0.0) == (item.label >= 0.5);
    Ok(
        scores.iter().zip(items).filter(|&both| right(both)).count() as f64
            / items.len().max(1) as f64,
    )
}
