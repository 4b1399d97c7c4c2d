//! Draws one id per row from logits and one uniform per row.
//!
//! 1. **temperature** — `p = softmax(logits / temperature)`; 0 is greedy: the first id of the
//!    largest logit.
//! 2. **top-k** — ids less likely than the k-th likeliest go. Ties with the k-th stay, so that no
//!    order of ids decides.
//! 3. **top-p** — the likeliest ids whose mass reaches `top_p` of what step 2 left stay (Holtzman
//!    et al. 2020), the one that crosses the border and its ties included, so at least one.
//! 4. **inverse CDF** — the first id, in vocabulary order, whose cumulative mass is greater than
//!    `u · total`.
//!
//! The cumulative mass is taken in two levels, blocks of [`BLOCK_IDS`] and ids inside the chosen
//! block, which reads the probabilities once and sums in a fixed order. Edges: `u` is in [0, 1)
//! with 24 bits, so `u · total < total` strictly in float64 and some id is always greater;
//! "greater" rather than "greater or equal" means that an id of probability 0 adds nothing and is
//! never the first, at `u = 0` and at the largest `u` alike. Between the levels the remainder is
//! rescaled to the block's own float64 sum, which moves a border by less than 1e-6 of the block's
//! mass.
//!
//! Every operation works row by row, so a row's id does not depend on the other rows (`ROLL-1`).

use r1d_kernels::Cut;
use r1d_proto::hyperparameters::Sampling;
use tch::{Device, Kind, TchError, Tensor};

/// Ids per block of the two-level cumulative sum: near the square root of the vocabularies in use
/// (8 k to 150 k).
const BLOCK_IDS: i64 = 128;
/// Ids that top-p sorts first on the CPU. The widths after it grow by [`WIDTH_GROWTH`] until every
/// row's mass is reached. On a GPU all ids are sorted at once, because to read the mass would wait
/// for all work that was queued on the device before.
const WIDTH_FIRST_IDS: i64 = 64;
const WIDTH_GROWTH: i64 = 8;
/// The largest float64 below 1.
const BELOW_ONE: f64 = 1.0 - f64::EPSILON / 2.0;

/// How ids are drawn, the same for all rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Draw {
    temperature: f64,
    top_k: i64,
    top_p: f64,
}

impl Draw {
    /// Makes a draw of settings that have passed [`crate::request::check`].
    pub(crate) fn new(sampling: &Sampling) -> Draw {
        Draw {
            temperature: f64::from(sampling.temperature),
            top_k: i64::from(sampling.top_k),
            top_p: f64::from(sampling.top_p),
        }
    }

    pub(crate) fn greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// What top-k and top-p cut off a vocabulary of this size; `None` if nothing.
    pub(crate) fn cut(&self, vocab: i64) -> Option<Cut> {
        let top_k = if self.top_k < vocab { self.top_k } else { 0 };
        (!self.greedy() && (top_k > 0 || self.top_p < 1.0)).then_some(Cut {
            temperature: self.temperature as f32,
            top_k: top_k as i32,
            top_p: self.top_p as f32,
        })
    }

    /// The temperature of the behaviour log-probabilities: the draw's own, or 1 for greedy
    /// decoding, whose distribution has no finite logarithms.
    pub(crate) fn logprob_temperature(&self) -> f64 {
        if self.greedy() { 1.0 } else { self.temperature }
    }

    /// Draws ids: `logits` [B, V] float32, `uniforms` [B] float64 in [0, 1) → ids [B] int64. A row
    /// with a NaN gets an arbitrary valid id.
    pub(crate) fn ids(&self, logits: &Tensor, uniforms: &Tensor) -> Result<Tensor, TchError> {
        Ok(self.draw(logits, uniforms)?.0)
    }

    /// Draws ids like [`Self::ids`]. Returns also the ids that steps 2 and 3 left, [B, V] bool;
    /// `None` if neither step is needed. A row with a NaN has none left.
    pub(crate) fn draw(
        &self,
        logits: &Tensor,
        uniforms: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>), TchError> {
        if self.greedy() {
            return Ok((logits.f_argmax(-1, false)?, None));
        }
        let scaled = if self.temperature == 1.0 {
            logits.shallow_clone()
        } else {
            logits.f_div_scalar(self.temperature)?
        };
        let mut probabilities = scaled.f_softmax(-1, Kind::Float)?;
        let vocab = logits.size()[1];
        let mut kept = None;
        if self.top_k > 0 && self.top_k < vocab {
            let (likeliest, _) = probabilities.f_topk(self.top_k, -1, true, true)?;
            (probabilities, kept) =
                keep_from(&probabilities, &likeliest.f_narrow(-1, self.top_k - 1, 1)?)?;
        }
        if self.top_p < 1.0 {
            let first_ids = if probabilities.device() == Device::Cpu {
                WIDTH_FIRST_IDS
            } else {
                vocab
            };
            (probabilities, kept) = keep_from(
                &probabilities,
                &self.nucleus_threshold(&probabilities, first_ids)?,
            )?;
        }
        Ok((inverse_cdf(&probabilities, uniforms)?, kept))
    }

    /// The smallest probability inside the nucleus, [B, 1]. The host reads from the device only if
    /// `first_ids` are not all ids.
    fn nucleus_threshold(
        &self,
        probabilities: &Tensor,
        first_ids: i64,
    ) -> Result<Tensor, TchError> {
        let vocab = probabilities.size()[1];
        let border = probabilities
            .f_sum_dim_intlist([-1i64].as_slice(), true, Kind::Double)?
            .f_mul_scalar(self.top_p)?;
        let mut width = first_ids.min(vocab);
        loop {
            let (likeliest, _) = if width == vocab {
                probabilities.f_sort(-1, true)?
            } else {
                probabilities.f_topk(width, -1, true, true)?
            };
            // An id is inside if the mass of the likelier ones has not reached the border yet. A
            // prefix sum has the same bits at every width, so a row's threshold does not depend on
            // the width that the other rows need.
            let reached = cumulative(&likeliest)?;
            let inside = reached.f_lt_tensor(&border)?.f_sum_dim_intlist(
                [-1i64].as_slice(),
                true,
                Kind::Int64,
            )?;
            let wide_enough = width == vocab || i64::try_from(inside.f_max()?)? < width;
            if wide_enough {
                return likeliest.f_gather(-1, &inside.f_clamp_max(width - 1)?, false);
            }
            width = (width * WIDTH_GROWTH).min(vocab);
        }
    }
}

/// Sets ids below the row's threshold [B, 1] to 0, and returns also which ids are left. A nucleus'
/// threshold is above 0, so the ids that top-k set to 0 are not among them.
fn keep_from(
    probabilities: &Tensor,
    threshold: &Tensor,
) -> Result<(Tensor, Option<Tensor>), TchError> {
    let kept = probabilities.f_ge_tensor(threshold)?;
    Ok((probabilities.f_mul(&kept)?, Some(kept)))
}

/// Draws by inverse CDF: `weights` [B, V] ≥ 0, not all 0; `uniforms` [B] float64 → ids [B].
fn inverse_cdf(weights: &Tensor, uniforms: &Tensor) -> Result<Tensor, TchError> {
    let (rows, vocab) = weights.size2()?;
    let blocks = (vocab + BLOCK_IDS - 1) / BLOCK_IDS;
    let short = blocks * BLOCK_IDS - vocab;
    let weights = if short > 0 {
        weights.f_constant_pad_nd([0, short])?
    } else {
        weights.shallow_clone()
    };
    let weights = weights.f_view([rows, blocks, BLOCK_IDS])?;
    let uniforms = uniforms.f_view([rows, 1])?;

    let sums = weights.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?;
    let reached = cumulative(&sums)?;
    let target = reached.f_narrow(-1, blocks - 1, 1)?.f_mul(&uniforms)?;
    let block = first_greater(&reached, &target)?;
    let sum = sums.f_gather(-1, &block, false)?;
    let before = reached.f_gather(-1, &block, false)?.f_sub(&sum)?;
    // The share of the block that lies below the target; rounding may put it outside [0, 1).
    let share = target
        .f_sub(&before)?
        .f_div(&sum)?
        .f_clamp(0.0, BELOW_ONE)?;

    let inside = weights
        .f_gather(
            1,
            &block
                .f_unsqueeze(-1)?
                .f_expand([rows, 1, BLOCK_IDS], false)?,
            false,
        )?
        .f_squeeze_dim(1)?;
    let reached = cumulative(&inside)?;
    let target = reached.f_narrow(-1, BLOCK_IDS - 1, 1)?.f_mul(&share)?;
    let id = block
        .f_mul_scalar(BLOCK_IDS)?
        .f_add(&first_greater(&reached, &target)?)?;
    id.f_clamp(0, vocab - 1)?.f_view([rows])
}

/// Prefix sums of each row, float64 `[B, n]`, always in the same order. On a GPU libtorch scans a
/// tensor of one row in pieces, whose sums it adds in the order in which they are ready, which
/// differs from run to run (seen on an H200 with one row, never with two).
fn cumulative(weights: &Tensor) -> Result<Tensor, TchError> {
    let (rows, width) = weights.size2()?;
    if rows == 1 && weights.device() != Device::Cpu {
        weights
            .f_expand([2, width], false)?
            .f_cumsum(-1, Kind::Double)?
            .f_narrow(0, 0, 1)
    } else {
        weights.f_cumsum(-1, Kind::Double)
    }
}

/// The index of each row's first element that is greater than the row's `target` [B, 1] → [B, 1].
fn first_greater(cumulative: &Tensor, target: &Tensor) -> Result<Tensor, TchError> {
    let last = cumulative.size()[1] - 1;
    target
        .f_contiguous()?
        .f_searchsorted::<&Tensor>(cumulative, false, true, "right", None)?
        .f_clamp_max(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The uniform's largest value.
    const LARGEST: f64 = 1.0 - 1.0 / (1u64 << 24) as f64;

    fn draw(temperature: f32, top_k: u32, top_p: f32) -> Draw {
        Draw::new(&Sampling {
            temperature,
            top_p,
            top_k,
            keep_sampling_mask: false,
            max_completion_length: 1,
            stop_ids: vec![],
            seed: 0,
        })
    }

    fn logits(rows: &[&[f32]]) -> Tensor {
        let probabilities: Vec<f32> = rows.concat();
        Tensor::from_slice(&probabilities)
            .view([rows.len() as i64, -1])
            .log()
    }

    fn ids(draw: Draw, logits: &Tensor, uniforms: &[f64]) -> Vec<i64> {
        draw.ids(logits, &Tensor::from_slice(uniforms))
            .unwrap()
            .try_into()
            .unwrap()
    }

    /// Ids that a fine sweep of uniforms reaches, with their shares.
    fn shares(draw: Draw, probabilities: &[f32]) -> Vec<f64> {
        let n = 4096;
        let uniforms: Vec<f64> = (0..n).map(|i| (i as f64 + 0.5) / n as f64).collect();
        let logits = logits(&[probabilities])
            .expand([n, probabilities.len() as i64], false)
            .contiguous();
        let mut shares = vec![0.0; probabilities.len()];
        for id in ids(draw, &logits, &uniforms) {
            shares[id as usize] += 1.0 / n as f64;
        }
        shares
    }

    fn assert_shares(draw: Draw, probabilities: &[f32], expected: &[f64]) {
        let shares = shares(draw, probabilities);
        for (id, (share, expected)) in shares.iter().zip(expected).enumerate() {
            assert!(
                (share - expected).abs() < 1e-3,
                "id {id}: {shares:?}, expected {expected:?}"
            );
            assert!(
                *expected > 0.0 || *share == 0.0,
                "id {id} has no probability: {shares:?}"
            );
        }
    }

    #[test]
    fn plain_sampling_follows_the_probabilities() {
        assert_shares(
            draw(1.0, 0, 1.0),
            &[0.1, 0.0, 0.4, 0.25, 0.25],
            &[0.1, 0.0, 0.4, 0.25, 0.25],
        );
    }

    #[test]
    fn temperature_is_a_power_of_the_probabilities() {
        assert_shares(
            draw(0.5, 0, 1.0),
            &[0.2, 0.3, 0.5],
            &[0.04 / 0.38, 0.09 / 0.38, 0.25 / 0.38],
        );
    }

    #[test]
    fn top_k_keeps_the_likeliest_and_ties_with_the_last_of_them() {
        assert_shares(draw(1.0, 1, 1.0), &[0.2, 0.5, 0.3], &[0.0, 1.0, 0.0]);
        assert_shares(draw(1.0, 2, 1.0), &[0.2, 0.5, 0.3], &[0.0, 0.625, 0.375]);
        assert_shares(draw(1.0, 2, 1.0), &[0.25, 0.5, 0.25], &[0.25, 0.5, 0.25]);
        assert_shares(draw(1.0, 9, 1.0), &[0.2, 0.5, 0.3], &[0.2, 0.5, 0.3]);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        assert_shares(draw(1.0, 0, 0.5), &[0.1, 0.6, 0.3], &[0.0, 1.0, 0.0]);
        assert_shares(
            draw(1.0, 0, 0.61),
            &[0.1, 0.6, 0.3],
            &[0.0, 0.6 / 0.9, 0.3 / 0.9],
        );
        assert_shares(draw(1.0, 0, 0.001), &[0.1, 0.6, 0.3], &[0.0, 1.0, 0.0]);
        // Both ids at the border stay.
        assert_shares(draw(1.0, 0, 0.6), &[0.25, 0.5, 0.25], &[0.25, 0.5, 0.25]);
    }

    #[test]
    fn top_p_is_a_share_of_what_top_k_left() {
        // top-k leaves 0.4 and 0.3; 0.55 of 0.7 is less than 0.4, so one id stays.
        assert_shares(
            draw(1.0, 2, 0.55),
            &[0.1, 0.4, 0.3, 0.2],
            &[0.0, 1.0, 0.0, 0.0],
        );
    }

    #[test]
    fn what_is_left_is_told_and_is_what_can_be_drawn() {
        let told = |draw: Draw, probabilities: &[f32]| -> Option<Vec<bool>> {
            let (_, kept) = draw
                .draw(&logits(&[probabilities]), &Tensor::from_slice(&[0.5]))
                .unwrap();
            kept.map(|kept| kept.view([-1]).try_into().unwrap())
        };
        let probabilities = [0.1, 0.4, 0.3, 0.2];
        for (draw, expected) in [
            (draw(1.0, 0, 1.0), None),
            (draw(0.0, 2, 0.5), None),
            (draw(1.0, 9, 1.0), None),
            (draw(1.0, 2, 1.0), Some([false, true, true, false])),
            (draw(1.0, 0, 0.85), Some([false, true, true, true])),
            (draw(1.0, 0, 0.999), Some([true; 4])),
            (draw(1.0, 2, 0.55), Some([false, true, false, false])),
            // All ids that top-k left are left.
            (draw(1.0, 2, 0.999), Some([false, true, true, false])),
        ] {
            assert_eq!(
                told(draw, &probabilities),
                expected.map(Vec::from),
                "{draw:?}"
            );
            if let Some(kept) = expected {
                let drawn: Vec<bool> = shares(draw, &probabilities)
                    .iter()
                    .map(|share| *share > 0.0)
                    .collect();
                assert_eq!(drawn, kept, "{draw:?}");
            }
        }
        assert_eq!(
            told(draw(1.0, 2, 0.9), &[0.5, f32::NAN, 0.5]),
            Some(vec![false; 3])
        );
    }

    #[test]
    fn a_flat_row_widens_the_nucleus_and_leaves_its_neighbour_alone() {
        let vocab = 1000;
        let flat = vec![1.0 / vocab as f32; vocab];
        let mut peaked = vec![0.0; vocab];
        (peaked[7], peaked[900]) = (0.75, 0.25);
        let draw = draw(1.0, 0, 0.9);
        let alone = ids(draw, &logits(&[&peaked]), &[0.8]);
        assert_eq!(alone, [900]);
        let both = ids(draw, &logits(&[&flat, &peaked]), &[0.9995, 0.8]);
        assert_eq!(both, [999, 900], "all ids of a flat row tie, so all stay");
    }

    /// Compares the CPU's way to a nucleus, which widens, with the GPU's, which sorts all ids at
    /// once.
    #[test]
    fn sorting_all_ids_finds_the_nucleus_that_widening_finds() {
        let (rows, vocab) = (9, 5000i64);
        let noise = (Tensor::arange(rows * vocab, (Kind::Float, Device::Cpu)) * 0.77)
            .sin()
            .view([rows, vocab]);
        // The rows go from flat to peaked, with ties as in bfloat16 logits.
        let sharpness = Tensor::arange(rows, (Kind::Float, Device::Cpu)).view([rows, 1]) * 3.0;
        let probabilities = (noise * sharpness)
            .to_kind(Kind::BFloat16)
            .to_kind(Kind::Float)
            .softmax(-1, Kind::Float);
        for top_p in [0.01, 0.5, 0.95, 0.9999] {
            let draw = draw(1.0, 0, top_p);
            let [looking, at_once] = [WIDTH_FIRST_IDS, vocab]
                .map(|ids| draw.nucleus_threshold(&probabilities, ids).unwrap());
            assert_eq!(looking, at_once, "top_p {top_p}");
        }
    }

    #[test]
    fn the_ends_of_the_uniform_never_pick_an_id_without_probability() {
        for vocab in [5usize, 128, 129, 1000] {
            for middle in [1, vocab / 2, vocab - 2] {
                let mut probabilities = vec![0.0; vocab];
                probabilities[middle] = 1.0;
                for draw in [draw(1.0, 0, 1.0), draw(0.7, 3, 1.0), draw(1.3, 0, 0.95)] {
                    let picked = ids(
                        draw,
                        &logits(&[&probabilities, &probabilities]),
                        &[0.0, LARGEST],
                    );
                    assert_eq!(picked, [middle as i64; 2], "vocab {vocab}, {draw:?}");
                }
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equal_maxima() {
        assert_eq!(
            ids(
                draw(0.0, 0, 1.0),
                &logits(&[&[0.1, 0.4, 0.4, 0.1], &[0.7, 0.1, 0.1, 0.1]]),
                &[0.9, 0.9]
            ),
            [1, 0]
        );
    }

    #[test]
    fn borders_agree_with_a_cumulative_sum_in_one_level() {
        let vocab = 3000i64;
        let logits = (Tensor::arange(vocab, (Kind::Float, tch::Device::Cpu)) * 1.7)
            .sin()
            .view([1, vocab])
            * 3.0;
        let cumulative: Vec<f64> = logits
            .to_kind(Kind::Double)
            .softmax(-1, Kind::Double)
            .cumsum(-1, Kind::Double)
            .view([-1])
            .try_into()
            .unwrap();
        for i in 0..500 {
            let u = (i as f64 + 0.5) / 500.0;
            let id = ids(draw(1.0, 0, 1.0), &logits, &[u])[0] as usize;
            let below = if id == 0 { 0.0 } else { cumulative[id - 1] };
            assert!(
                below - 1e-6 <= u && u < cumulative[id] + 1e-6,
                "u {u}: id {id} spans {below}..{}",
                cumulative[id]
            );
        }
    }

    #[test]
    fn a_row_is_drawn_alike_alone_and_among_others() {
        let (rows, vocab) = (37i64, 777i64);
        let logits = (Tensor::arange(rows * vocab, (Kind::Float, tch::Device::Cpu)) * 0.77)
            .sin()
            .view([rows, vocab])
            * 4.0;
        let uniforms: Vec<f64> = (0..rows).map(|i| (i as f64 * 0.618) % 1.0).collect();
        for draw in [
            draw(1.0, 0, 1.0),
            draw(0.8, 50, 1.0),
            draw(1.2, 0, 0.9),
            draw(0.6, 20, 0.95),
            draw(0.0, 0, 1.0),
        ] {
            let together = ids(draw, &logits, &uniforms);
            for row in 0..rows {
                let alone = ids(
                    draw,
                    &logits.narrow(0, row, 1),
                    &uniforms[row as usize..][..1],
                );
                assert_eq!(alone[0], together[row as usize], "row {row}, {draw:?}");
            }
        }
    }
}
