//! Routed experts on several ranks (expert parallelism; GShard, Lepikhin et al. 2020): each rank of
//! an expert group has a shard of every layer's experts. A token's rank sends it to the ranks
//! that have its experts, these send their outputs back, and the token's rank weighs and adds them.
//!
//! ```text
//! x ─▶ rows, sorted by expert ─▶ all-to-all ─▶ rows of this rank's experts, by source ─▶ E(row)
//! y ◀─ weighed, in slot order ◀─ all-to-all ◀──────────────────────────────────────────────┘
//! ```
//!
//! A row's way does not depend on where its experts are, so where a product gives each row the same
//! bits beside any others (batch-invariant mode), the output's bits are those of one rank. The
//! gradients travel the same ways back.
//!
//! Every layer's exchanges are of the whole group: its ranks go through the same passes in the same
//! order. A rank that has no tokens for a pass goes through it with [`crate::Forward::stands_by`].
//! In training every rank knows what the others have. In sampling nobody does, so before each pass
//! the ranks agree on whether there is one.

use crate::dispatch::{self, Dispatch};
use crate::error::{ModelError, Result};
use r1d_collectives::Call;
use r1d_collectives::exchange::SharedGroup;
use r1d_torch::runtime;
use std::ops::Range;
use std::time::Duration;
use tch::{Kind, Tensor};

/// The name of a parameter that is a stack of routed experts has this.
const STACK: &str = ".experts.";

/// Whether a parameter is of routed experts, of which a rank of an expert group has its own.
pub fn is_of_experts(parameter: &str) -> bool {
    parameter.contains(STACK)
}

/// The ranks that have every expert once, as one of them sees them. Its place in the process group
/// is the number of its shard.
#[derive(Clone)]
pub struct ExpertGroup {
    group: SharedGroup,
    rank: i64,
    ranks: i64,
    within: Duration,
}

/// Rows that a rank got for its experts.
pub(crate) struct Arrived {
    /// The rows `[R, hidden]`, source by source, of each sorted by expert.
    pub rows: Tensor,
    /// The expert of each row among this rank's, int64 `[R, 1]`.
    pub expert: Tensor,
    /// The rows of each source.
    counts: Vec<i64>,
    /// The most rows that one of all experts gets from one source.
    pub busiest: i64,
}

impl ExpertGroup {
    /// The group over the ranks of a process group; each of its calls may take so long.
    pub fn new(group: SharedGroup, within: Duration) -> ExpertGroup {
        let (rank, ranks) = {
            let group = group.lock();
            (group.rank() as i64, group.size() as i64)
        };
        ExpertGroup {
            group,
            rank,
            ranks,
            within,
        }
    }

    /// The experts of a layer that this rank has, of `all`.
    pub(crate) fn shard(&self, all: i64) -> Result<Range<i64>> {
        if all % self.ranks != 0 {
            return Err(ModelError::Input(format!(
                "{all} experts do not divide into {} shards: set `expert` to a divisor of {all}",
                self.ranks
            )));
        }
        let each = all / self.ranks;
        Ok(self.rank * each..(self.rank + 1) * each)
    }

    /// Number of ranks.
    pub(crate) fn ranks(&self) -> i64 {
        self.ranks
    }

    /// This rank's number.
    pub(crate) fn rank(&self) -> i64 {
        self.rank
    }

    /// The numbers that the ranks give, summed.
    pub fn sum(&self, name: &str, own: i64) -> Result<i64> {
        let own = Tensor::f_from_slice(&[own])?;
        let call = Call::new(name, self.within);
        let all = self.group.lock().all_gather(call, &own)?;
        let all = Vec::<i64>::try_from(all.rows)?;
        Ok(all.into_iter().fold(0, i64::wrapping_add))
    }

    /// The layers of all ranks' stacks, one behind the other: those of all experts.
    pub(crate) fn gathered(&self, name: &str, stack: &Tensor) -> Result<Tensor> {
        let call = Call::new(name, self.within);
        Ok(self
            .group
            .lock()
            .all_gather(call, &stack.f_contiguous()?)?
            .rows)
    }

    /// Agrees on whether there is another pass: whether any rank has tokens for one.
    pub(crate) fn has_pass(&self, own: bool) -> Result<bool> {
        Ok(self.sum("whether a rank has tokens", own.into())? > 0)
    }

    /// Brings rows `[pairs, hidden]`, sorted by expert, to the ranks that have the experts; the
    /// dispatch is over all experts. `layer` is the MoE layer's number.
    pub(crate) fn dispatch(
        &self,
        layer: i64,
        rows: &Tensor,
        dispatch: &Dispatch,
    ) -> Result<Arrived> {
        let (load, sent, busiest) = tch::no_grad(|| self.announce(layer, dispatch))?;
        let name = format!("experts {layer}: dispatch");
        let rows = with_gradient(rows)?;
        let call = Call::new(&name, self.within);
        let received = self.group.all_to_all(call, &rows, &sent)?;
        let expert = tch::no_grad(|| -> Result<Tensor> {
            let each = load.size()[1];
            let own = Tensor::f_arange(each, (Kind::Int64, load.device()))?;
            let of_rows = own
                .f_repeat([self.ranks])?
                .f_repeat_interleave_self_tensor(&load.f_reshape([-1])?, 0, None)?;
            Ok(of_rows.f_unsqueeze(1)?.f_to_device(rows.device())?)
        })?;
        Ok(Arrived {
            rows: received.rows,
            expert,
            counts: received.counts,
            busiest,
        })
    }

    /// Tells every rank how many rows come for each of its experts. Returns these, int64 `[ranks,
    /// experts of a rank]`, the rows that go to each rank, and the most that one expert gets from
    /// one source.
    fn announce(&self, layer: i64, dispatch: &Dispatch) -> Result<(Tensor, Vec<i64>, i64)> {
        let load = dispatch::load(&dispatch.ends)?.f_to_kind(Kind::Int64)?;
        let load = load
            .f_to_device(tch::Device::Cpu)?
            .f_view([self.ranks, -1])?;
        let busiest = load
            .f_max()?
            .f_view([1, 1])?
            .f_expand([self.ranks, 1], false)?;
        let sent = Vec::<i64>::try_from(load.f_sum_dim_intlist(1, false, Kind::Int64)?)?;
        let name = format!("experts {layer}: loads");
        let each = load.size()[1];
        let told = Tensor::f_cat(&[&load, &busiest], 1)?;
        let call = Call::new(&name, self.within);
        let one_each = vec![1; self.ranks as usize];
        let heard = self.group.lock().all_to_all(call, &told, &one_each)?.rows;
        let busiest = i64::try_from(heard.f_select(1, each)?.f_max()?)?;
        let load = heard.f_narrow(1, 0, each)?;
        Ok((load, sent, busiest))
    }

    /// Brings the experts' outputs, in the order in which their rows arrived, back to where these
    /// came from, in the order in which they were sent.
    pub(crate) fn combine(
        &self,
        layer: i64,
        outputs: &Tensor,
        arrived: &Arrived,
    ) -> Result<Tensor> {
        let name = format!("experts {layer}: combine");
        let call = Call::new(&name, self.within);
        Ok(self.group.all_to_all(call, outputs, &arrived.counts)?.rows)
    }
}

/// Rows that need gradients wherever operations are recorded. Whether the rows themselves do, may
/// differ between ranks; whether gradients are exchanged must not.
fn with_gradient(rows: &Tensor) -> Result<Tensor> {
    if rows.requires_grad() || !runtime::is_recording() {
        return Ok(rows.shallow_clone());
    }
    Ok(rows.f_detach()?.set_requires_grad(true))
}
