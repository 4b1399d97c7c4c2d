//! Prefill: brings whole prompts into the cache, and keeps what their samples need of them.

use crate::error::Result;
use crate::row::narrow_expert;
use crate::schedule::Changes;
use r1d_kernels::PAGE_TOKENS;
use r1d_model::{Cache, CausalLm, Forward, Packed};
use r1d_proto::worker::Group;
use std::collections::BTreeMap;
use tch::Tensor;

/// Most tokens of one prefill, padding included (`LIM-1`): it bounds the memory of its attention
/// scores, which is this times heads times the longest prompt. A single prompt may be longer.
const PREFILL_TOKENS_MAX: usize = 8192;

/// The results of a prompt's prefill, kept while samples of it wait.
pub(crate) struct Prompt {
    /// Logits of the completion's first id, float32 `[V]`.
    pub logits: Tensor,
    /// Experts of the prompt's tokens, `[prompt tokens, moe_layers, K]`; empty for dense models.
    pub experts: Vec<u16>,
    /// Hidden state of the last token, `[hidden_size]`, for the first draft.
    pub hidden: Tensor,
}

/// Prompts by the index of their group in the request.
pub(crate) type Prompts = BTreeMap<usize, Prompt>;

/// The places that a prefill leaves prompts in.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// Each in all of its slots.
    Slots,
    /// Each in its pages.
    Pages,
}

/// What prompts are computed by.
pub(crate) struct Prefill<'a> {
    pub model: &'a CausalLm,
    pub cache: &'a mut Cache,
    pub options: &'a Forward<'a>,
    pub groups: &'a [Group],
    /// Whether the prediction module's attention is to know the prompts too.
    pub drafts: bool,
}

impl Prefill<'_> {
    /// Brings the prompts that `changes` asks for into their slots.
    pub(crate) fn slots(&mut self, changes: &Changes, prompts: &mut Prompts) -> Result<()> {
        for (group, from, to) in &changes.copies {
            let moves: Vec<_> = to.iter().map(|to| (*from as i64, *to as i64)).collect();
            let length = self.groups[*group].prompt_ids.len() as i64;
            self.cache.copy(&moves, length)?;
        }
        let slots = |slots: &Vec<usize>| slots.iter().map(|slot| *slot as i64).collect();
        let prefills = changes.prefills.iter();
        let prefills: Vec<_> = prefills.map(|(group, to)| (*group, slots(to))).collect();
        self.all(&prefills, Target::Slots, prompts)
    }

    /// Brings prompts into their pages, and then whole pages into others.
    pub(crate) fn pages(
        &mut self,
        prefills: &[(usize, Vec<u32>)],
        copies: &[(u32, u32)],
        prompts: &mut Prompts,
    ) -> Result<()> {
        let pages = |pages: &Vec<u32>| pages.iter().map(|page| i64::from(*page)).collect();
        let prefills = prefills.iter();
        let prefills: Vec<_> = prefills.map(|(group, to)| (*group, pages(to))).collect();
        self.all(&prefills, Target::Pages, prompts)?;
        if copies.is_empty() {
            return Ok(());
        }
        let copies = copies.iter();
        let copies: Vec<_> = copies
            .map(|(from, to)| (i64::from(*from), i64::from(*to)))
            .collect();
        Ok(self.cache.copy(&copies, PAGE_TOKENS)?)
    }

    fn all(
        &mut self,
        prefills: &[(usize, Vec<i64>)],
        target: Target,
        prompts: &mut Prompts,
    ) -> Result<()> {
        let mut rest = prefills;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch_size(rest, self.groups));
            self.batch(batch, target, prompts)?;
            rest = after;
        }
        Ok(())
    }

    fn batch(
        &mut self,
        batch: &[(usize, Vec<i64>)],
        target: Target,
        prompts: &mut Prompts,
    ) -> Result<()> {
        let (model, options, groups) = (self.model, self.options, self.groups);
        let prompt_ids = |group: &usize| &groups[*group].prompt_ids;
        let ids: Vec<i64> = batch
            .iter()
            .flat_map(|(group, _)| prompt_ids(group))
            .map(|id| i64::from(*id))
            .collect();
        let lengths: Vec<i64> = batch
            .iter()
            .map(|(group, _)| prompt_ids(group).len() as i64)
            .collect();
        let places: Vec<Vec<i64>> = batch.iter().map(|(_, places)| places.clone()).collect();
        let last: Vec<i64> = lengths
            .iter()
            .scan(-1, |end, length| {
                Some({
                    *end += length;
                    *end
                })
            })
            .collect();

        let packed = Packed::new(
            Tensor::f_from_slice(&ids)?.f_to_device(model.device())?,
            lengths,
        );
        let output = match target {
            Target::Slots => model.prefill(&packed, &places, self.cache, options)?,
            Target::Pages => model.prefill_pages(&packed, &places, self.cache, options)?,
        };
        if self.drafts {
            self.prefill_drafts(&packed, &output.hidden, &places)?;
        }
        let last = Tensor::f_from_slice(&last)?.f_to_device(model.device())?;
        let hidden = output.hidden.f_index_select(0, &last)?;
        let logits = model.logits(&hidden, options)?;
        let experts = match &output.experts {
            Some(experts) => Vec::<i64>::try_from(&experts.f_reshape([-1])?)?,
            None => vec![],
        };
        let per_token = experts.len() / ids.len();
        let mut first = 0;
        for (i, (group, _)) in batch.iter().enumerate() {
            let after = first + packed.lengths[i] as usize * per_token;
            let experts = experts[first..after]
                .iter()
                .map(|expert| narrow_expert(*expert))
                .collect::<Result<Vec<u16>>>()?;
            prompts.insert(
                *group,
                Prompt {
                    logits: logits.f_get(i as i64)?,
                    experts,
                    hidden: hidden.f_get(i as i64)?,
                },
            );
            first = after;
        }
        Ok(())
    }

    /// Brings the prompts into the cache of the prediction module's attention, for
    /// [`crate::speculate`]: `hidden` are the hidden states of a prefill of `prompts`, which are in
    /// `slots`.
    fn prefill_drafts(
        &mut self,
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
        let with_next = Tensor::f_from_slice(&with_next)?.f_to_device(self.model.device())?;
        let next = Packed::new(
            prompts.ids.f_index_select(0, &with_next.f_add_scalar(1)?)?,
            lengths,
        );
        let options = Forward {
            record_experts: false,
            ..*self.options
        };
        Ok(self.model.prefill_prediction(
            &hidden.f_index_select(0, &with_next)?,
            &next,
            &targets,
            self.cache,
            &options,
        )?)
    }
}

/// The number of prompts that fit one prefill, at least 1.
fn batch_size(prefills: &[(usize, Vec<i64>)], groups: &[Group]) -> usize {
    let mut longest = 0;
    let fits = |(count, (group, _)): (usize, &(usize, Vec<i64>))| {
        longest = groups[*group].prompt_ids.len().max(longest);
        longest * (count + 1) <= PREFILL_TOKENS_MAX
    };
    prefills
        .iter()
        .enumerate()
        .map(fits)
        .take_while(|fits| *fits)
        .count()
        .max(1)
}
