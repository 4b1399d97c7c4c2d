//! The sampler's loop.

use crate::captured::{Block, Captured, Drawing, Engine};
use crate::draw::Draw;
use crate::drawn::{Drawn, Looked};
use crate::error::{Result, SamplerError};
use crate::paged_schedule::{PagedSchedule, PagedSizes};
use crate::prompts::{Prefill, Prompts};
use crate::request::{self, Limits, Needed};
use crate::row::Row;
use crate::sampling_mask::Packer;
use crate::schedule::{Changes, Place, Schedule};
use crate::scheduler::Scheduler;
use r1d_kernels::PAGE_TOKENS;
use r1d_model::{Cache, CausalLm, Fault, Forward, Output, Places, kept_logprobs};
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::{Generate, Metrics, Slots};
use r1d_proto::world::SharedClock;
use r1d_torch::spans::span;
use std::collections::BTreeMap;
use tch::{Device, Tensor};

/// Decode steps between two reads of the drawn ids by the host. Reading is free on the CPU; on a
/// GPU it waits for the device, and the tokens that a row draws between its end and the read are
/// discarded.
const LOOK_EVERY_STEPS_CPU: usize = 1;
const LOOK_EVERY_STEPS_CUDA: usize = 16;

/// Draws completions from a policy by continuous batching over fixed slots. It owns the cache; the
/// policy comes with each request, so new weights cost nothing.
pub struct Sampler {
    cache: Cache,
    slots: Slots,
    invariant: bool,
    speculative: bool,
    look_every: usize,
    clock: SharedClock,
    /// Whether the kernels may be used.
    own_kernels: bool,
    /// The kernels, once a request could use them.
    engine: Option<Engine>,
}

/// One request while it runs.
pub(crate) struct Run<'a> {
    pub model: &'a CausalLm,
    pub request: &'a Generate,
    draw: Draw,
    /// Decodes by r1d's own kernels; `None` where libtorch's operations do.
    captured: Option<Captured<'a>>,
    /// Packs the sampling masks; `None` if the request does not keep them.
    packer: Option<Packer>,
    pub options: Forward<'a>,
    pub cache: &'a mut Cache,
    speculative: bool,
    pub look_every: usize,
    /// Row `i` decodes in slot `i`, or in the `i`th line of the page table.
    pub rows: Vec<Row>,
    /// Rows that gave up their pages, by their samples.
    pub put_back: BTreeMap<(usize, u32), Row>,
    pub prompts: Prompts,
    pub count: Count,
}

/// Counts of a finished request, for its metrics.
#[derive(Default)]
pub(crate) struct Count {
    pub tokens: u64,
    pub decode_steps: u64,
    pub decode_rows: u64,
    /// Drafted ids that were compared with the drawn ones.
    pub drafts: u64,
    /// Drafted ids that were equal to the drawn ones.
    pub accepted_drafts: u64,
    /// Rows that were put back because pages were too few.
    pub preemptions: u64,
}

impl Sampler {
    /// Allocates the cache on the model's device; each request cuts it into slots of its own
    /// length, or into pages where r1d's own kernels decode. `invariant` is the batch-invariant
    /// mode (`ROLL-1`), which needs one libtorch thread.
    pub fn new(
        model: &CausalLm,
        slots: Slots,
        invariant: bool,
        clock: SharedClock,
    ) -> Result<Sampler> {
        if slots.fitting(1) == 0 {
            return Err(SamplerError::Slots {
                count: slots.count,
                tokens: slots.tokens,
            });
        }
        let cache = model.cache(
            1,
            i64::try_from(slots.tokens).unwrap_or(i64::MAX),
            invariant,
        )?;
        let look_every = if model.device() == Device::Cpu {
            LOOK_EVERY_STEPS_CPU
        } else {
            LOOK_EVERY_STEPS_CUDA
        };
        Ok(Sampler {
            cache,
            slots,
            invariant,
            speculative: false,
            look_every,
            clock,
            own_kernels: model.device().is_cuda() && !invariant,
            engine: None,
        })
    }

    /// Gives the memory of the cache and of merged weights on a GPU to what else needs it, until
    /// the next request. On a CPU it is kept, because the system would have to map it again page by
    /// page.
    pub fn release(&mut self) -> Result<()> {
        if self.cache.device().is_cuda() {
            self.cache.release()?;
        }
        if let Some(engine) = &mut self.engine {
            engine.release();
        }
        Ok(())
    }

    /// Sets whether r1d's own kernels decode where there are some; else libtorch's operations do.
    pub fn with_own_kernels(self, own_kernels: bool) -> Sampler {
        Sampler {
            own_kernels: self.own_kernels && own_kernels,
            ..self
        }
    }

    /// Whether a request has decoded by r1d's own kernels.
    pub fn uses_own_kernels(&self) -> bool {
        self.own_kernels && self.engine.is_some()
    }

    /// Opens the kernels before the first request that can use them. Where they cannot be used,
    /// libtorch's operations do the same, slower; that is told once.
    fn open_engine(&mut self, model: &CausalLm) {
        if !self.own_kernels || self.speculative || self.engine.is_some() {
            return;
        }
        match Engine::open(model) {
            Ok(engine) => self.engine = Some(engine),
            Err(error) => {
                unused(&error);
                self.own_kernels = false;
            }
        }
    }

    /// Sets whether the model's multi-token prediction module drafts a token ahead, so that a step
    /// decodes up to two tokens. The drawn ids stay the same.
    pub fn with_speculation(self, speculative: bool) -> Sampler {
        Sampler {
            speculative,
            ..self
        }
    }

    /// Runs the whole request. Calls `completed` with each completion as it ends, and `progress`
    /// with the tokens drawn and the most that the request may still come to.
    ///
    /// Metrics: `timing_s/sampling`, `perf/sampling_throughput` (completion tokens per second),
    /// `perf/sampling_rows` (mean rows of a decode step), `perf/draft_acceptance_rate` if drafts
    /// were made, and `perf/sampling_preemptions` if rows had to give up their pages. After an
    /// error the sampler is ready for another request.
    pub fn generate(
        &mut self,
        model: &CausalLm,
        request: &Generate,
        completed: &mut dyn FnMut(Rollout),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Metrics> {
        let needed = request::check(
            request,
            Limits {
                vocab_size: model.config.vocab_size,
                cache: self.slots,
            },
        )?;
        if self.speculative && !model.predicts() {
            return Err(SamplerError::NoPredictionModule);
        }
        let started = self.clock.now();
        let packed = if self.invariant {
            None
        } else {
            Some(model.pack()?)
        };
        let packer = request
            .sampling
            .keep_sampling_mask
            .then(|| Packer::new(model.device()))
            .transpose()?;
        let draw = Draw::new(&request.sampling);
        self.open_engine(model);
        let drawing = drawing(model, request, &draw);
        if !self.own_kernels {
            self.engine = None;
        }
        let capacity = i64::try_from(needed.capacity).unwrap_or(i64::MAX);
        let captured = match &mut self.engine {
            Some(engine) if self.own_kernels && !self.speculative => {
                let _ = self.cache.cut_into_pages(PAGE_TOKENS)?;
                let blocks = (needed.rows as usize, self.look_every);
                let begun = engine.begin(model, &self.cache, (blocks, capacity), drawing);
                unless_unused(begun, &mut self.own_kernels)?
            }
            _ => None,
        };
        if captured.is_none() {
            self.cache.cut(needed.slots.into(), capacity)?;
        }
        let mut run = Run {
            model,
            request,
            draw,
            captured,
            packer,
            options: Forward {
                invariant: self.invariant,
                packed: packed.as_ref(),
                record_experts: drawing.records_experts,
                ..Forward::default()
            },
            cache: &mut self.cache,
            speculative: self.speculative,
            look_every: self.look_every,
            rows: vec![],
            put_back: BTreeMap::new(),
            prompts: Prompts::new(),
            count: Count::default(),
        };
        // The deterministic algorithms are not needed here, and they would turn every write to the
        // cache into a sort: no place is written twice, and sums are taken in one order
        // (draw::cumulative).
        let sample = || r1d_torch::runtime::inference(|| run.run(needed, completed, progress));
        if let Err(error) = r1d_torch::runtime::without_deterministic(sample)?? {
            // Values that are not finite would affect other rows through masked places, because 0 ·
            // NaN is not 0.
            self.cache.clear()?;
            return Err(error);
        }
        let seconds = self.clock.now().saturating_sub(started).as_secs_f64();
        Ok(run.count.metrics(seconds))
    }
}

/// How the request draws, and what it records.
fn drawing(model: &CausalLm, request: &Generate, draw: &Draw) -> Drawing {
    Drawing {
        temperature: request.sampling.temperature,
        cut: draw.cut(model.config.vocab_size),
        keeps: request.sampling.keep_sampling_mask,
        records_experts: request.record_experts && model.config.moe_layers > 0,
    }
}

/// Where the kernels failed to begin, or found no memory for their buffers, libtorch's operations
/// decode from now on.
fn unless_unused<'a>(
    begun: Result<Option<Captured<'a>>>,
    own_kernels: &mut bool,
) -> Result<Option<Captured<'a>>> {
    match begun {
        Err(error) if error.fault() == Fault::Machine => {
            unused(&error);
            *own_kernels = false;
            Ok(None)
        }
        begun => begun,
    }
}

fn unused(why: &dyn std::error::Error) {
    tracing::warn!("r1d's own kernels are not used, libtorch's operations decode: {why}");
}

impl Count {
    fn metrics(&self, seconds: f64) -> Metrics {
        let share = |a: u64, b: f64| if b > 0.0 { a as f64 / b } else { 0.0 };
        let mut metrics = Metrics::from([
            ("timing_s/sampling".into(), seconds),
            (
                "perf/sampling_throughput".into(),
                share(self.tokens, seconds),
            ),
            (
                "perf/sampling_rows".into(),
                share(self.decode_rows, self.decode_steps as f64),
            ),
        ]);
        if self.drafts > 0 {
            let _ = metrics.insert(
                "perf/draft_acceptance_rate".into(),
                share(self.accepted_drafts, self.drafts as f64),
            );
        }
        if self.preemptions > 0 {
            let preemptions = self.preemptions as f64;
            let _ = metrics.insert("perf/sampling_preemptions".into(), preemptions);
        }
        metrics
    }
}

impl Run<'_> {
    fn run(
        &mut self,
        needed: Needed,
        completed: &mut dyn FnMut(Rollout),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let mut schedule = self.schedule(needed);
        let mut ended = vec![];
        loop {
            let started = span("prefill", || self.turn_over(&mut schedule, &ended))?;
            if self.rows.is_empty() {
                self.count.preemptions = schedule.preemptions();
                return Ok(self.model.stand_by(&self.options)?);
            }
            self.draw_first(&started)?;
            if self.speculative {
                self.draft_first(&started)?;
            }
            self.prompts.retain(|group, _| schedule.waits(*group));
            // A completion of one token gives up its slot before the others continue.
            if !started.iter().any(|slot| self.rows[*slot].ended()) {
                span("decode", || {
                    if self.speculative {
                        self.decode_pairs()
                    } else {
                        self.decode(&schedule)
                    }
                })?;
            }
            ended = (0..self.rows.len())
                .filter(|slot| self.rows[*slot].ended())
                .collect();
            for &slot in &ended {
                if let Some(rollout) = self.rows[slot].take_rollout(self.request) {
                    completed(rollout);
                }
            }
            let (done, total) = self.progress(schedule.waiting());
            progress(done, total);
        }
    }

    fn schedule(&self, needed: Needed) -> Scheduler {
        let groups = &self.request.groups;
        let samples: Vec<usize> = groups.iter().map(|group| group.samples.len()).collect();
        if self.captured.is_none() {
            return Scheduler::Slots(Schedule::new(needed.slots as usize, &samples));
        }
        let prompts = groups.iter().map(|group| group.prompt_ids.len()).collect();
        let sizes = PagedSizes {
            rows: needed.rows as usize,
            pages: u32::try_from(self.cache.slots).unwrap_or(u32::MAX),
            page_tokens: PAGE_TOKENS as usize,
            completion_max: self.request.sampling.max_completion_length as usize,
        };
        Scheduler::Pages(PagedSchedule::new(sizes, prompts, &samples))
    }

    fn turn_over(&mut self, schedule: &mut Scheduler, ended: &[usize]) -> Result<Vec<usize>> {
        match schedule {
            Scheduler::Slots(schedule) => self.turn_over_slots(schedule, ended),
            Scheduler::Pages(schedule) => self.turn_over_pages(schedule, ended),
        }
    }

    /// Gives the slots that ended to waiting samples. Returns the slots that started.
    fn turn_over_slots(&mut self, schedule: &mut Schedule, ended: &[usize]) -> Result<Vec<usize>> {
        let changes = schedule.turn_over(ended);
        let mut prompts = std::mem::take(&mut self.prompts);
        let brought = self.prefill().slots(&changes, &mut prompts);
        self.prompts = prompts;
        brought?;
        for (slot, place) in &changes.started {
            self.start(*slot, *place);
        }
        self.close(&changes)?;
        Ok(changes.started.iter().map(|(slot, _)| *slot).collect())
    }

    /// What prompts are computed by.
    pub(crate) fn prefill(&mut self) -> Prefill<'_> {
        Prefill {
            model: self.model,
            cache: self.cache,
            options: &self.options,
            groups: &self.request.groups,
            drafts: self.speculative,
        }
    }

    /// Starts a sample, whose prompt is there.
    pub(crate) fn start(&mut self, at: usize, place: Place) {
        let sample = self.request.groups[place.group].samples[place.sample];
        let experts = self.prompts[&place.group].experts.clone();
        self.seat(at, Row::new(self.request, place.group, sample, experts));
    }

    /// Puts a row in a row's place, or behind the last.
    pub(crate) fn seat(&mut self, at: usize, row: Row) {
        if at < self.rows.len() {
            self.rows[at] = row;
        } else {
            self.rows.push(row);
        }
    }

    /// Moves rows into the holes that ended rows leave.
    fn close(&mut self, changes: &Changes) -> Result<()> {
        if !changes.moves.is_empty() {
            let longest = changes
                .moves
                .iter()
                .map(|(from, _)| self.rows[*from].position())
                .max()
                .unwrap_or(0);
            let moves: Vec<_> = changes
                .moves
                .iter()
                .map(|(from, to)| (*from as i64, *to as i64))
                .collect();
            self.cache.copy(&moves, longest)?;
        }
        for &(from, to) in &changes.moves {
            self.rows.swap(from, to);
        }
        self.rows.truncate(changes.live);
        Ok(())
    }

    /// Draws the first id of each completion that starts, from its prompt's logits.
    fn draw_first(&mut self, started: &[usize]) -> Result<()> {
        if started.is_empty() {
            return Ok(());
        }
        let logits: Vec<&Tensor> = started
            .iter()
            .map(|slot| &self.prompts[&self.rows[*slot].group].logits)
            .collect();
        let seed = self.request.sampling.seed;
        let uniforms: Vec<f64> = started
            .iter()
            .map(|slot| self.rows[*slot].uniform(seed, 0))
            .collect();
        let uniforms = Tensor::f_from_slice(&uniforms)?.f_to_device(self.model.device())?;
        let drawn = self
            .draw(&Tensor::f_stack(&logits, 0)?, &uniforms, None)?
            .look()?;
        for (i, &slot) in started.iter().enumerate() {
            drawn.push(i, &mut self.rows[slot], &self.request.sampling)?;
        }
        self.count.tokens += started.len() as u64;
        Ok(())
    }

    /// Runs up to `look_every` decode steps of all rows, and then reads what they drew. In between,
    /// everything stays on the device.
    fn decode(&mut self, schedule: &Scheduler) -> Result<()> {
        let rows = self.rows.len();
        let sampling = &self.request.sampling;
        let left = self
            .rows
            .iter()
            .map(|row| sampling.max_completion_length as usize - row.tokens())
            .min()
            .unwrap_or(0);
        let steps = left.min(self.look_every);
        let uniforms: Vec<f64> = (0..steps)
            .flat_map(|step| {
                self.rows
                    .iter()
                    .map(move |row| row.uniform(sampling.seed, row.tokens() + step))
            })
            .collect();
        let positions: Vec<i64> = self.rows.iter().map(Row::position).collect();
        let last_ids: Vec<i64> = self.rows.iter().map(Row::last_id).collect();
        self.count.decode_steps += steps as u64;
        self.count.decode_rows += (steps * rows) as u64;
        let block = Block {
            last_ids: &last_ids,
            positions: &positions,
            uniforms: &uniforms,
            pages: &schedule.tables(),
        };
        let looked = match &mut self.captured {
            Some(captured) => {
                let vocab_size = self.model.config.vocab_size as u32;
                let drawn = captured.decode(&block, steps)?;
                drawn
                    .into_iter()
                    .map(|step| Looked::of_step(step, vocab_size))
                    .collect()
            }
            None => self.decode_block(&block, steps)?,
        };
        looked.into_iter().try_for_each(|looked| self.take(looked))
    }

    /// Runs a block of steps by libtorch's operations.
    fn decode_block(&mut self, block: &Block, steps: usize) -> Result<Vec<Looked>> {
        let (rows, device) = (block.last_ids.len(), self.model.device());
        let uniforms = Tensor::f_from_slice(block.uniforms)?
            .f_view([steps as i64, rows as i64])?
            .f_to_device(device)?;
        let longest = block.positions.iter().copied().max().unwrap_or(0);
        let slots = self.cache.select(&(0..rows as i64).collect::<Vec<_>>())?;
        let mut positions = Tensor::f_from_slice(block.positions)?.f_to_device(device)?;
        let mut ids = Tensor::f_from_slice(block.last_ids)?.f_to_device(device)?;

        let mut drawn_steps = Vec::with_capacity(steps);
        for step in 0..steps {
            if step > 0 {
                positions = positions.f_add_scalar(1)?;
            }
            let output = self.model.decode(
                &ids,
                &Places {
                    slots: &slots,
                    positions: &positions,
                    max_position: longest + step as i64,
                },
                self.cache,
                &self.options,
            )?;
            let drawn = self.draw(
                &self.model.logits(&output.hidden, &self.options)?,
                &uniforms.f_get(step as i64)?,
                Some(output),
            )?;
            ids = drawn.ids.shallow_clone();
            drawn_steps.push(drawn);
        }
        drawn_steps.iter().map(Drawn::look).collect()
    }

    /// Gives the ids that one step drew to the rows that still live.
    fn take(&mut self, drawn: Looked) -> Result<()> {
        for (i, row) in self
            .rows
            .iter_mut()
            .enumerate()
            .filter(|(_, row)| !row.ended())
        {
            drawn.push(i, row, &self.request.sampling)?;
            self.count.tokens += 1;
        }
        Ok(())
    }

    /// Draws ids: `logits` [B, V] float32, `uniforms` [B] → ids [B].
    pub(crate) fn draw_ids(&self, logits: &Tensor, uniforms: &Tensor) -> Result<Tensor> {
        Ok(self.draw.ids(logits, uniforms)?)
    }

    /// Draws ids like [`Self::draw_ids`], and computes everything that is recorded of them.
    pub(crate) fn draw(
        &self,
        logits: &Tensor,
        uniforms: &Tensor,
        output: Option<Output>,
    ) -> Result<Drawn> {
        let (ids, kept) = self.draw.draw(logits, uniforms)?;
        let kept = self
            .packer
            .as_ref()
            .and_then(|packer| Some((packer, kept?)));
        let logprobs = kept_logprobs(
            logits,
            &ids,
            self.draw.logprob_temperature(),
            kept.as_ref().map(|(_, kept)| kept),
        )?;
        let kept = kept.map(|(packer, kept)| packer.pack(&kept)).transpose()?;
        let vocab_size = logits.size2()?.1 as u32;
        Ok(Drawn {
            ids,
            logprobs,
            experts: output.and_then(|output| output.experts),
            kept,
            vocab_size,
        })
    }

    /// The tokens drawn so far, and the most that the request may come to.
    fn progress(&self, waiting: usize) -> (u64, u64) {
        let longest = u64::from(self.request.sampling.max_completion_length);
        let rows = self.rows.iter().chain(self.put_back.values());
        let live: u64 = rows
            .filter(|row| !row.ended())
            .map(|row| longest - row.tokens() as u64)
            .sum();
        (
            self.count.tokens,
            self.count.tokens + live + waiting as u64 * longest,
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::tiny::*;

    /// Steps past the end of some rows leave no trace in the records.
    #[test]
    fn looking_less_often_changes_nothing() {
        for (config, speculative) in [
            (QWEN2, false),
            (DEEPSEEK_V3, false),
            (DEEPSEEK_V3_MTP, true),
        ] {
            let model = model(config);
            let request = request(6, 4);
            let mut sampler = sampler(&model, 5, true).with_speculation(speculative);
            let expected = generate(&mut sampler, &model, &request);
            for look_every in [3, 16] {
                sampler.look_every = look_every;
                assert_eq!(
                    generate(&mut sampler, &model, &request),
                    expected,
                    "a look every {look_every} steps, {config}"
                );
            }
        }
    }
}
