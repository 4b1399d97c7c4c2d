//! Prefill: brings whole prompts into the cache, and keeps what their samples need of them.

use crate::error::Result;
use crate::row::narrow_expert;
use crate::schedule::Changes;
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

/// Brings the prompts that `changes` asks for into their slots.
pub(crate) fn bring(
    model: &CausalLm,
    cache: &mut Cache,
    options: &Forward,
    groups: &[Group],
    changes: &Changes,
    drafts: bool,
    prompts: &mut Prompts,
) -> Result<()> {
    for (group, from, to) in &changes.copies {
        let moves: Vec<_> = to.iter().map(|to| (*from as i64, *to as i64)).collect();
        cache.copy(&moves, groups[*group].prompt_ids.len() as i64)?;
    }
    let mut rest = changes.prefills.as_slice();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(batch_size(rest, groups));
        prefill(model, cache, options, groups, batch, drafts, prompts)?;
        rest = after;
    }
    Ok(())
}

/// The number of prompts that fit one prefill, at least 1.
fn batch_size(prefills: &[(usize, Vec<usize>)], groups: &[Group]) -> usize {
    let mut longest = 0;
    let fits = |(count, (group, _)): (usize, &(usize, Vec<usize>))| {
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

fn prefill(
    model: &CausalLm,
    cache: &mut Cache,
    options: &Forward,
    groups: &[Group],
    batch: &[(usize, Vec<usize>)],
    drafts: bool,
    prompts: &mut Prompts,
) -> Result<()> {
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
    let slots: Vec<Vec<i64>> = batch
        .iter()
        .map(|(_, slots)| slots.iter().map(|slot| *slot as i64).collect())
        .collect();
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
    let output = model.prefill(&packed, &slots, cache, options)?;
    if drafts {
        prefill_drafts(model, cache, options, &packed, &output.hidden, &slots)?;
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
