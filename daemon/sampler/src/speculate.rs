//! Self-speculative decoding: the model's multi-token prediction module (DeepSeek-V3 2.2) drafts
//! the id behind the one that is fed next, and both go through one decode step.
//!
//! A draft is accepted if it is the very id that the policy draws in its place, from its own logits
//! and with the place's own uniform. The drawn ids are therefore the same as without drafts, to the
//! last bit in the batch-invariant mode and up to rounding in the others, in which a pass of more
//! rows may round differently; only the number of steps is smaller. The module draws its guess with
//! the same uniform too, so that two distributions which are nearly alike nearly always agree.
//!
//! A slot's second token of a step is written to the cache where the next step writes again if that
//! token is not accepted. The module's own keys are the cache's last layer.

use crate::error::Result;
use crate::row::Row;
use crate::sampler::{Looked, Run};
use r1d_model::{Cache, CausalLm, Forward, Packed, Places};
use tch::{Kind, Tensor};

/// Most tokens that a step draws for a row.
const PAIR: usize = 2;

/// Brings the prompts into the cache of the module's attention: `hidden` are the hidden states of a
/// prefill of `prompts`, which are in `slots`.
pub(crate) fn prefill(
    model: &CausalLm,
    cache: &mut Cache,
    options: &Forward,
    prompts: &Packed,
    hidden: &Tensor,
    slots: &[Vec<i64>],
) -> Result<()> {
    // A prompt's last token waits for the id behind it.
    let (mut with_next, mut lengths, mut targets) = (vec![], vec![], vec![]);
    let mut start = 0;
    for (&length, slots) in prompts.lengths.iter().zip(slots) {
        with_next.extend(start..start + length - 1);
        if length > 1 {
            lengths.push(length - 1);
            targets.push(slots.clone());
        }
        start += length;
    }
    if lengths.is_empty() {
        return Ok(());
    }
    let with_next = Tensor::f_from_slice(&with_next)?.f_to_device(model.device())?;
    let next = Packed::new(
        prompts.ids.f_index_select(0, &with_next.f_add_scalar(1)?)?,
        lengths,
    );
    let options = Forward {
        record_experts: false,
        ..*options
    };
    Ok(model.prefill_prediction(
        &hidden.f_index_select(0, &with_next)?,
        &next,
        &targets,
        cache,
        &options,
    )?)
}

/// One step's draws, on the device: the first id of every row, then the second id of every row.
struct Pairs {
    drawn: crate::sampler::Drawn,
    /// Whether the first id was the draft, so that the second one counts: int64 `[B]`, 1 or 0.
    accepted: Tensor,
}

impl Run<'_> {
    /// Makes the first draft of rows that start: their first id is drawn, and follows the prompt's
    /// last token.
    pub(crate) fn draft_first(&mut self, started: &[usize]) -> Result<()> {
        if started.is_empty() {
            return Ok(());
        }
        let device = self.model.device();
        let rows: Vec<&Row> = started.iter().map(|slot| &self.rows[*slot]).collect();
        let hidden: Vec<&Tensor> = rows
            .iter()
            .map(|row| &self.prompts[&row.group].hidden)
            .collect();
        let ids: Vec<i64> = rows.iter().map(|row| row.last_id()).collect();
        let positions: Vec<i64> = rows.iter().map(|row| row.position() - 1).collect();
        let seed = self.request.sampling.seed;
        let uniforms: Vec<f64> = rows
            .iter()
            .map(|row| row.uniform(seed, row.tokens()))
            .collect();
        let longest = positions.iter().copied().max().unwrap_or(0);
        let slots = self
            .cache
            .select(&started.iter().map(|slot| *slot as i64).collect::<Vec<_>>())?;
        let on_device = |host: &[i64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(host)?.f_to_device(device)?)
        };
        let hidden = self.model.draft(
            &Tensor::f_stack(&hidden, 0)?,
            &on_device(&ids)?,
            &Places {
                slots: &slots,
                positions: &on_device(&positions)?,
                max_position: longest,
            },
            self.cache,
            &self.options,
        )?;
        let uniforms = Tensor::f_from_slice(&uniforms)?.f_to_device(device)?;
        let drafts = self.draw_ids(&self.model.logits(&hidden, &self.options)?, &uniforms)?;
        self.note_drafts(started.iter().copied(), &drafts)
    }

    fn note_drafts(&mut self, slots: impl Iterator<Item = usize>, drafts: &Tensor) -> Result<()> {
        for (slot, draft) in slots.zip(Vec::<i64>::try_from(drafts)?) {
            self.rows[slot].draft = draft;
        }
        Ok(())
    }

    /// Decodes like [`Self::decode`], with each row's last id and its draft in one step.
    pub(crate) fn decode_pairs(&mut self) -> Result<()> {
        let rows = self.rows.len();
        let sampling = &self.request.sampling;
        let left = self
            .rows
            .iter()
            .map(|row| sampling.max_completion_length as usize - row.tokens())
            .min()
            .unwrap_or(0);
        // If a row has one token left to draw in its last step, its draft takes the slot's last
        // place.
        let steps = left.div_ceil(PAIR).min(self.look_every);
        let device = self.model.device();
        // The last draft needs one place more than the ids that may be drawn.
        let ahead = PAIR * steps + 1;
        let uniforms: Vec<f64> = self
            .rows
            .iter()
            .flat_map(|row| (0..ahead).map(|i| row.uniform(sampling.seed, row.tokens() + i)))
            .collect();
        let uniforms = Tensor::f_from_slice(&uniforms)?
            .f_view([rows as i64, ahead as i64])?
            .f_to_device(device)?;
        let of_rows = |of: fn(&Row) -> i64| -> Result<Tensor> {
            Ok(
                Tensor::f_from_slice(&self.rows.iter().map(of).collect::<Vec<_>>())?
                    .f_to_device(device)?,
            )
        };
        let longest = self.rows.iter().map(Row::position).max().unwrap_or(0);
        let (mut ids, mut drafts, mut positions) = (
            of_rows(Row::last_id)?,
            of_rows(|row| row.draft)?,
            of_rows(Row::position)?,
        );
        let slots = self
            .cache
            .select(&(0..rows as i64).collect::<Vec<_>>())?
            .repeated(PAIR as i64)?;
        let row = Tensor::f_arange(rows as i64, (Kind::Int64, device))?;
        // The number of ids that each row has drawn in this block.
        let mut taken = row.f_zeros_like()?;

        let mut block = Vec::with_capacity(steps);
        for step in 0..steps {
            let fed = Tensor::f_cat(&[&ids, &drafts], 0)?;
            let of_pairs = Tensor::f_cat(&[&positions, &positions.f_add_scalar(1)?], 0)?;
            let places = Places {
                slots: &slots,
                positions: &of_pairs,
                max_position: longest + (PAIR * step) as i64 + 1,
            };
            let output = self
                .model
                .decode(&fed, &places, self.cache, &self.options)?;
            let of_pair = Tensor::f_stack(&[&taken, &taken.f_add_scalar(1)?], 1)?;
            let uniform = uniforms
                .f_gather(1, &of_pair, false)?
                .f_transpose(0, 1)?
                .f_reshape([-1])?;
            let hidden = output.hidden.shallow_clone();
            let drawn = self.draw(
                &self.model.logits(&hidden, &self.options)?,
                &uniform,
                Some(output),
            )?;
            let accepted = drawn
                .ids
                .f_narrow(0, 0, rows as i64)?
                .f_eq_tensor(&drafts)?
                .f_to_kind(Kind::Int64)?;

            // The rows' last ids: the second ones where they are accepted.
            let last = row.f_add(&accepted.f_mul_scalar(rows as i64)?)?;
            let further =
                self.model
                    .draft(&hidden, &drawn.ids, &places, self.cache, &self.options)?;
            let advance = accepted.f_add_scalar(1)?;
            taken = taken.f_add(&advance)?;
            positions = positions.f_add(&advance)?;
            ids = drawn.ids.f_index_select(0, &last)?;
            let logits = self
                .model
                .logits(&further.f_index_select(0, &last)?, &self.options)?;
            drafts = self.draw_ids(
                &logits,
                &uniforms
                    .f_gather(1, &taken.f_unsqueeze(1)?, false)?
                    .f_squeeze_dim(1)?,
            )?;
            block.push(Pairs { drawn, accepted });
        }
        for pairs in block {
            self.take_pairs(pairs.drawn.look()?, Vec::try_from(&pairs.accepted)?)?;
        }
        self.note_drafts(0..rows, &drafts)?;
        self.count.decode_steps += steps as u64;
        self.count.decode_rows += (steps * rows) as u64;
        Ok(())
    }

    /// Gives the ids that one step drew to the rows that still live.
    fn take_pairs(&mut self, drawn: Looked, accepted: Vec<i64>) -> Result<()> {
        let rows = self.rows.len();
        for (i, row) in self.rows.iter_mut().enumerate() {
            for (place, at) in [i, rows + i].into_iter().enumerate() {
                if row.ended() || (place > 0 && accepted[i] == 0) {
                    break;
                }
                drawn.push(at, row, &self.request.sampling)?;
                self.count.tokens += 1;
                // A completion's last id needs no draft.
                if place == 0 && !row.ended() {
                    self.count.drafts += 1;
                    self.count.accepted_drafts += accepted[i] as u64;
                }
            }
        }
        Ok(())
    }
}
