//! Mixture of experts (DeepSeekMoE, Dai et al. 2024): routed experts beside shared ones that every
//! token uses.

use crate::attention::gather_rows;
use crate::dispatch::{self, Dispatch};
use crate::error::Result;
use crate::expert_group::{Arrived, ExpertGroup};
use crate::forward::{Context, Notes};
use crate::fused;
use crate::matmul::Products;
use crate::parts::ExpertParts;
use crate::router::{Choosing, Router};
use crate::swiglu::{SwiGlu, activate};
use crate::tile::{TILE_ROWS, joined, whole_tiles};
use crate::weights::{Builder, Initial, Rows};
use r1d_kernels::{Gating, TrainKernels};
use r1d_shape::ExpertSizes;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Computes y = Σ_{k ∈ chosen} gate_k · E_k(x) + Shared(x).
pub(crate) struct Moe {
    pub router: Router,
    experts: Experts,
    shared: Option<SwiGlu>,
    /// Number of MoE layers before this one.
    moe_layer: i64,
    /// The ranks that the experts are shared with; `None`: all are here.
    group: Option<ExpertGroup>,
}

impl Moe {
    pub(crate) fn build(
        weights: &mut Builder,
        prefix: &str,
        hidden: i64,
        sizes: &ExpertSizes,
        moe_layer: i64,
    ) -> Result<Moe> {
        let ExpertSizes {
            intermediate,
            shared_intermediate,
            rule,
        } = *sizes;
        let router = Router::build(weights, &format!("{prefix}gate."), hidden, rule)?;
        let experts = Experts::build(
            weights,
            &format!("{prefix}experts"),
            rule.experts,
            hidden,
            intermediate,
        )?;
        let shared = match shared_intermediate {
            0 => None,
            width => Some(SwiGlu::build(
                weights,
                &format!("{prefix}shared_experts."),
                hidden,
                width,
            )?),
        };
        Ok(Moe {
            router,
            experts,
            shared,
            moe_layer,
            group: weights.expert_group().cloned(),
        })
    }

    pub(crate) fn parts(&self) -> ExpertParts<'_> {
        ExpertParts {
            rule: self.router.rule,
            router: self.router.weight(),
            correction_bias: self.router.correction_bias.as_ref(),
            gate_up: &self.experts.gate_up,
            down: &self.experts.down,
            shared: self.shared.as_ref().map(SwiGlu::parts),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, context: &Context) -> Result<(Tensor, Notes)> {
        let Context {
            products, routing, ..
        } = context;
        if routing.stands_by {
            return Ok((self.stand_by(x, context)?, Notes::default()));
        }
        let scores = self
            .router
            .scores(x, *products, context.kernels.is_some())?;
        let chosen = match routing.forced(self.moe_layer)? {
            Some(forced) => forced,
            None => self.router.choose(&scores)?,
        };
        if let Some(kernels) = self.kernels(x, context)? {
            return self.forward_fused(kernels, x, (&scores, &chosen), context);
        }
        let gates = self.router.rule.gates(&scores, &chosen)?;
        let dispatch = tch::no_grad(|| Dispatch::new(&chosen, self.router.rule.experts))?;
        let notes = routing.notes(&self.router.rule, &scores, &chosen, &dispatch.ends)?;
        let routed = match &self.group {
            Some(group) => self.exchanged(group, x, &dispatch, &gates, *products)?,
            None => self.experts.forward(x, &dispatch, &gates, *products)?,
        };
        let output = match &self.shared {
            Some(shared) => routed.f_add(&shared.forward(x, context)?)?,
            None => routed,
        };
        Ok((output, notes))
    }

    /// Computes the routed experts' part where their ranks are several.
    fn exchanged(
        &self,
        group: &ExpertGroup,
        x: &Tensor,
        dispatch: &Dispatch,
        gates: &Tensor,
        products: Products,
    ) -> Result<Tensor> {
        let rows = gather_rows(x, &dispatch.token)?;
        let arrived = group.dispatch(self.moe_layer, &rows, dispatch)?;
        let outputs = self.experts.of_arrived(&arrived, products)?;
        let outputs = group.combine(self.moe_layer, &outputs, &arrived)?;
        weighed(&outputs, &dispatch.place, gates, products)
    }

    /// Takes part in the exchanges of a pass for which this rank has no tokens. Returns the shared
    /// experts' part of `x`, on which the routed experts of other ranks' tokens depend by gradients
    /// of 0.
    fn stand_by(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let output = match &self.shared {
            Some(shared) => shared.forward(x, context)?,
            None => x.f_zeros_like()?,
        };
        let Some(group) = &self.group else {
            return Ok(output);
        };
        let rule = &self.router.rule;
        let nothing = Tensor::f_zeros([0, rule.experts_per_token], (Kind::Int64, x.device()))?;
        let dispatch = tch::no_grad(|| Dispatch::new(&nothing, rule.experts))?;
        let arrived = group.dispatch(self.moe_layer, &x.f_narrow(0, 0, 0)?, &dispatch)?;
        let outputs = self.experts.of_arrived(&arrived, context.products)?;
        let back = group.combine(self.moe_layer, &outputs, &arrived)?;
        let none = back.f_sum(back.kind())?;
        Ok(output.f_add(&none)?)
    }

    /// r1d's own kernels, where they know the sizes.
    fn kernels<'a>(
        &self,
        x: &Tensor,
        context: &'a Context,
    ) -> Result<Option<&'a Arc<TrainKernels>>> {
        let rule = &self.router.rule;
        let (_, hidden, intermediate) = self.experts.down.size3()?;
        let knows = TrainKernels::takes_experts(rule.experts, rule.experts_per_token, hidden)
            && intermediate % 8 == 0
            && self.experts.grouped_product_takes(x, context.products);
        Ok(context.kernels.filter(|_| knows && self.group.is_none()))
    }

    /// Computes the same by kernels that read and write each pair's row once between the products.
    fn forward_fused(
        &self,
        kernels: &Arc<TrainKernels>,
        x: &Tensor,
        (scores, chosen): (&Tensor, &Tensor),
        context: &Context,
    ) -> Result<(Tensor, Notes)> {
        let Context {
            products, routing, ..
        } = context;
        let rule = &self.router.rule;
        let gating = Gating {
            normalise: rule.normalise,
            factor: rule.scaling_factor as f32,
        };
        let chosen = chosen.f_contiguous()?;
        let gates = fused::gates(kernels, scores, &chosen, gating)?;
        let places = tch::no_grad(|| kernels.places(&chosen, rule.experts))?;
        let notes = routing.notes(rule, scores, &chosen, &places.ends)?;
        let rows = fused::spread(kernels, x, &places.place)?;
        let Experts { gate_up, down } = &self.experts;
        let between = products.grouped(&rows, gate_up, &places.ends)?;
        let between = fused::silu_mul(kernels, &between)?;
        let rows = products.grouped(&between, down, &places.ends)?;
        let shared = self.shared.as_ref();
        let shared = shared
            .map(|shared| shared.forward(x, context))
            .transpose()?;
        let output = fused::weigh(kernels, &rows, &places.place, &gates, shared.as_ref())?;
        Ok((output, notes))
    }
}

/// E feed-forward networks of one shape.
struct Experts {
    /// Projections to the experts' inner width, gate above up, `[E, 2 · intermediate, hidden]`.
    gate_up: Tensor,
    /// Projections back, `[E, hidden, intermediate]`.
    down: Tensor,
}

impl Experts {
    fn build(
        weights: &mut Builder,
        prefix: &str,
        experts: i64,
        hidden: i64,
        intermediate: i64,
    ) -> Result<Experts> {
        let halves = [
            Rows::new("gate_proj", intermediate),
            Rows::new("up_proj", intermediate),
        ];
        Ok(Experts {
            gate_up: weights.experts(
                prefix,
                "gate_up_proj",
                experts,
                &halves,
                hidden,
                Initial::Normal,
            )?,
            down: weights.experts(
                prefix,
                "down_proj",
                experts,
                &[Rows::new("down_proj", hidden)],
                intermediate,
                Initial::Normal,
            )?,
        })
    }

    /// Computes Σ_k gates[t, k] · E_{chosen[t, k]}(x_t): `[T, hidden]`, the chosen experts, `[T,
    /// K]` → `[T, hidden]`.
    ///
    /// Measured on two cores (8 experts, hidden 128): sorting the tokens by expert and one grouped
    /// product beats a loop of products at every size, and products over all experts from about 16
    /// tokens on.
    fn forward(
        &self,
        x: &Tensor,
        dispatch: &Dispatch,
        gates: &Tensor,
        products: Products,
    ) -> Result<Tensor> {
        let (outputs, place) = self.outputs(x, dispatch, 0, products)?;
        weighed(&outputs, &place, gates, products)
    }

    /// Computes E(row) of rows that came from their tokens' ranks: `[R, hidden]`, in their order.
    fn of_arrived(&self, arrived: &Arrived, products: Products) -> Result<Tensor> {
        if arrived.rows.size()[0] == 0 {
            return Ok(arrived.rows.shallow_clone());
        }
        let experts = self.gate_up.size()[0];
        let dispatch = tch::no_grad(|| Dispatch::new(&arrived.expert, experts))?;
        let (outputs, place) = self.outputs(&arrived.rows, &dispatch, arrived.busiest, products)?;
        gather_rows(&outputs, &place)
    }

    /// Computes the outputs of all pairs. Returns them, and each pair's place among them. Where an
    /// expert's rows are padded, it is to as many as the busiest has, `busiest` at least.
    fn outputs(
        &self,
        x: &Tensor,
        dispatch: &Dispatch,
        busiest: i64,
        products: Products,
    ) -> Result<(Tensor, Tensor)> {
        if !products.tiled() && self.grouped_product_takes(x, products) {
            self.grouped(x, dispatch, products)
        } else {
            self.padded(x, dispatch, busiest, products)
        }
    }

    /// Whether libtorch's grouped product supports this input: its rows must be a multiple of 16
    /// bytes, also between an adapter's two products, and it has no float64.
    fn grouped_product_takes(&self, x: &Tensor, products: Products) -> bool {
        let whole = 16 / x.kind().elt_size_in_bytes() as i64;
        let weights = [&self.gate_up, &self.down];
        let ranks = weights.iter().filter_map(|weight| products.rank(weight));
        let mut widths = weights.iter().map(|weight| weight.size()[2]).chain(ranks);
        x.kind() != Kind::Double && widths.all(|width| width % whole == 0)
    }

    /// Runs one product per layer over the sorted tokens. Returns the outputs of all pairs, and
    /// each pair's place among them.
    fn grouped(
        &self,
        x: &Tensor,
        dispatch: &Dispatch,
        products: Products,
    ) -> Result<(Tensor, Tensor)> {
        let product =
            |rows: &Tensor, weight: &Tensor| products.grouped(rows, weight, &dispatch.ends);
        let hidden = activate(&product(&gather_rows(x, &dispatch.token)?, &self.gate_up)?)?;
        Ok((
            product(&hidden, &self.down)?,
            dispatch.place.shallow_clone(),
        ))
    }

    /// Runs batched products over experts whose rows are padded to the busiest expert's: one
    /// product, or in batch-invariant mode one per tile of rows.
    fn padded(
        &self,
        x: &Tensor,
        dispatch: &Dispatch,
        busiest: i64,
        products: Products,
    ) -> Result<(Tensor, Tensor)> {
        let invariant = products.tiled();
        let (experts, _, hidden) = self.gate_up.size3()?;
        let (token, place, rows) =
            tch::no_grad(|| -> Result<_> {
                let starts = dispatch::starts(&dispatch.ends)?;
                let load = dispatch::load(&dispatch.ends)?;
                let busiest = i64::try_from(load.f_max()?)?.max(busiest);
                let rows = if invariant {
                    whole_tiles(busiest, TILE_ROWS)
                } else {
                    busiest
                };
                let within = Tensor::f_arange(dispatch.token.size()[0], (Kind::Int64, x.device()))?
                    .f_sub(
                        &starts
                            .f_to_kind(Kind::Int64)?
                            .f_index_select(0, &dispatch.expert)?,
                    )?;
                let padded_place = dispatch.expert.f_mul_scalar(rows)?.f_add(&within)?;
                let token = Tensor::f_zeros([experts * rows], (Kind::Int64, x.device()))?
                    .f_scatter_(0, &padded_place, &dispatch.token)?;
                Ok((
                    token,
                    padded_place.f_index_select(0, &dispatch.place)?,
                    rows,
                ))
            })?;
        let product = |rows: &Tensor, weight: &Tensor| products.batched(rows, weight);
        let run =
            |inputs: &Tensor| product(&activate(&product(inputs, &self.gate_up)?)?, &self.down);
        let inputs = gather_rows(x, &token)?.f_view([experts, rows, hidden])?;
        let tiles = inputs.f_split(if invariant { TILE_ROWS } else { rows }, 1)?;
        let outputs = joined(tiles.iter().map(run).collect::<Result<_>>()?, 1)?;
        Ok((outputs.f_view([experts * rows, hidden])?, place))
    }
}

/// Computes Σ_k gates[t, k] · outputs[place[t · K + k]]: the outputs of pairs, `[P, D]` → `[T, D]`.
fn weighed(outputs: &Tensor, place: &Tensor, gates: &Tensor, products: Products) -> Result<Tensor> {
    let (tokens, per_token) = gates.size2()?;
    let outputs = gather_rows(outputs, place)?.f_view([tokens, per_token, -1])?;
    let gates = gates.f_to_kind(outputs.kind())?;
    if products.tiled() {
        in_order(&gates, &outputs)
    } else {
        Ok(gates.f_unsqueeze(1)?.f_bmm(&outputs)?.f_squeeze_dim(1)?)
    }
}

/// Computes Σ_k gates[t, k] · outputs[t, k], one k after the other: `[T, K]`, `[T, K, D]` → `[T,
/// D]`.
fn in_order(gates: &Tensor, outputs: &Tensor) -> Result<Tensor> {
    let term = |k: i64| -> Result<Tensor> {
        Ok(gates.f_narrow(1, k, 1)?.f_mul(&outputs.f_select(1, k)?)?)
    };
    (1..gates.size()[1]).try_fold(term(0)?, |sum, k| Ok(sum.f_add(&term(k)?)?))
}
