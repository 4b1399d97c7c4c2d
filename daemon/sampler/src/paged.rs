//! Rows whose cache is in pages: they start, are put back, and come back.

use crate::error::Result;
use crate::paged_schedule::PagedSchedule;
use crate::row::Row;
use crate::sampler::Run;
use crate::schedule::Place;
use r1d_model::{Forward, ModelError, Packed};
use tch::Tensor;

impl Run<'_> {
    /// Gives rows and pages that are free to waiting samples, and puts rows back where pages are
    /// too few. Returns the rows that started.
    pub(crate) fn turn_over_pages(
        &mut self,
        schedule: &mut PagedSchedule,
        ended: &[usize],
    ) -> Result<Vec<usize>> {
        let held = |row: &Row| row.position() as usize;
        let tokens: Vec<usize> = self.rows.iter().map(held).collect();
        let turn = schedule.turn_over(ended, &tokens, self.look_every);
        let mut prompts = std::mem::take(&mut self.prompts);
        let brought = (self.prefill()).pages(&turn.prefills, &turn.copies, &mut prompts);
        self.prompts = prompts;
        brought?;
        let tables = schedule.tables();
        for (at, place) in &turn.resumed {
            let row = self.come_back(*place, tables[*at])?;
            self.seat(*at, row);
        }
        for (at, place) in &turn.started {
            self.start(*at, *place);
        }
        for &(from, to) in &turn.moves {
            self.rows.swap(from, to);
        }
        for row in self.rows.drain(turn.live..).filter(|row| !row.ended()) {
            self.put_back.insert(row.sample(), row);
        }
        Ok(turn.started.iter().map(|(row, _)| *row).collect())
    }

    /// Takes a row that was put back, and computes all of its tokens into its pages, by the experts
    /// that they took. Its next ids are drawn by the same uniforms, from keys that differ from the
    /// earlier ones by rounding.
    fn come_back(&mut self, place: Place, pages: &[u32]) -> Result<Row> {
        let group = &self.request.groups[place.group];
        let sample = (place.group, group.samples[place.sample]);
        let missing = || ModelError::Input(format!("sample {sample:?} was not put back"));
        let row = self.put_back.remove(&sample).ok_or_else(missing)?;
        let fed = row.fed(&group.prompt_ids);
        let (tokens, device) = (fed.len() as i64, self.model.device());
        let experts = match row.experts() {
            [] => None,
            experts => {
                let experts: Vec<i64> = experts.iter().map(|expert| i64::from(*expert)).collect();
                let shape = [tokens, self.model.config.moe_layers, -1];
                let experts = Tensor::f_from_slice(&experts)?.f_view(shape)?;
                Some(experts.f_to_device(device)?)
            }
        };
        let options = Forward {
            record_experts: false,
            forced_experts: experts.as_ref(),
            ..self.options
        };
        let ids = Tensor::f_from_slice(&fed)?.f_to_device(device)?;
        let packed = Packed::new(ids, vec![tokens]);
        let pages = [pages.iter().map(|page| i64::from(*page)).collect()];
        let _ = (self.model).prefill_pages(&packed, &pages, self.cache, &options)?;
        Ok(row)
    }
}
