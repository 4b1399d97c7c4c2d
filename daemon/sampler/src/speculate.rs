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

use crate::drawn::{Drawn, Looked};
use crate::error::Result;
use crate::row::Row;
use crate::sampler::Run;
use r1d_model::Places;
use tch::{Kind, Tensor};

/// Most tokens that a step draws for a row.
const PAIR: usize = 2;

/// One step's draws, on the device: the first id of every row, then the second id of every row.
struct Pairs {
    drawn: Drawn,
    /// Whether the first id was the draft, so that the second one counts: int64 `[B]`, 1 or 0.
    accepted: Tensor,
}

/// What the next step is fed, on the device: int64 `[B]` each.
struct Fed {
    /// Each row's last id.
    ids: Tensor,
    /// The draft of the id behind it.
    drafts: Tensor,
    positions: Tensor,
    /// The number of ids that the row has drawn in this block.
    taken: Tensor,
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
        let mut fed = Fed {
            ids: self.of_rows(Row::last_id)?,
            drafts: self.of_rows(|row| row.draft)?,
            positions: self.of_rows(Row::position)?,
            taken: Tensor::f_zeros([rows as i64], (Kind::Int64, device))?,
        };
        let longest = self.rows.iter().map(Row::position).max().unwrap_or(0);
        let slots = self
            .cache
            .select(&(0..rows as i64).collect::<Vec<_>>())?
            .repeated(PAIR as i64)?;

        let mut block = Vec::with_capacity(steps);
        for step in 0..steps {
            let positions = Tensor::f_cat(&[&fed.positions, &fed.positions.f_add_scalar(1)?], 0)?;
            let places = Places {
                slots: &slots,
                positions: &positions,
                max_position: longest + (PAIR * step) as i64 + 1,
            };
            block.push(self.pair_step(&mut fed, &places, &uniforms)?);
        }
        for pairs in block {
            self.take_pairs(pairs.drawn.look()?, Vec::try_from(&pairs.accepted)?)?;
        }
        self.note_drafts(0..rows, &fed.drafts)?;
        self.count.decode_steps += steps as u64;
        self.count.decode_rows += (steps * rows) as u64;
        Ok(())
    }

    /// A number of every row, on the device.
    fn of_rows(&self, of: fn(&Row) -> i64) -> Result<Tensor> {
        let host: Vec<i64> = self.rows.iter().map(of).collect();
        Ok(Tensor::f_from_slice(&host)?.f_to_device(self.model.device())?)
    }

    /// Decodes each row's last id and its draft at `places`, and makes the next drafts. `uniforms`
    /// are those of all tokens that the block may draw, `[B, tokens]`.
    fn pair_step(
        &mut self,
        fed: &mut Fed,
        places: &Places<'_>,
        uniforms: &Tensor,
    ) -> Result<Pairs> {
        let (model, rows) = (self.model, self.rows.len() as i64);
        let ids = Tensor::f_cat(&[&fed.ids, &fed.drafts], 0)?;
        let output = model.decode(&ids, places, self.cache, &self.options)?;
        let of_pair = Tensor::f_stack(&[&fed.taken, &fed.taken.f_add_scalar(1)?], 1)?;
        let uniform = uniforms
            .f_gather(1, &of_pair, false)?
            .f_transpose(0, 1)?
            .f_reshape([-1])?;
        let hidden = output.hidden.shallow_clone();
        let logits = model.logits(&hidden, &self.options)?;
        let drawn = self.draw(&logits, &uniform, Some(output))?;
        let accepted = drawn
            .ids
            .f_narrow(0, 0, rows)?
            .f_eq_tensor(&fed.drafts)?
            .f_to_kind(Kind::Int64)?;

        // The rows' last ids: the second ones where they are accepted.
        let row = Tensor::f_arange(rows, (Kind::Int64, model.device()))?;
        let last = row.f_add(&accepted.f_mul_scalar(rows)?)?;
        let further = model.draft(&hidden, &drawn.ids, places, self.cache, &self.options)?;
        let advance = accepted.f_add_scalar(1)?;
        fed.taken = fed.taken.f_add(&advance)?;
        fed.positions = fed.positions.f_add(&advance)?;
        fed.ids = drawn.ids.f_index_select(0, &last)?;
        let logits = model.logits(&further.f_index_select(0, &last)?, &self.options)?;
        let next = uniforms
            .f_gather(1, &fed.taken.f_unsqueeze(1)?, false)?
            .f_squeeze_dim(1)?;
        fed.drafts = self.draw_ids(&logits, &next)?;
        Ok(Pairs { drawn, accepted })
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
