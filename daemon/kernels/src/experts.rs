//! A mixture of experts in a decoding step: the router, and the products of the experts that it
//! chose, without a look by the host in between.

use crate::code::{Code, Source};
use crate::decode::of_dtype;
use crate::driver::{Arguments, Function, Launch};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::operands::{Operands, address};
use tch::{Kind, Tensor};

const ROUTER: Source = ("router.cu", include_str!("../cuda/router.cu"));
const GENERAL: Source = ("experts.cu", include_str!("../cuda/experts.cu"));
const TENSOR_CORES: Source = ("experts_mma.cu", include_str!("../cuda/experts_mma.cu"));
const EXPERTS_MAX: i64 = 1024;
/// A warp's lanes: groups, and experts of a token.
const LANES: i64 = 32;
const ROUTE_THREADS: u32 = 32;
const SORT_THREADS: u32 = 1024;
const COMBINE_THREADS: u32 = 256;
const GENERAL_THREADS: u32 = 256;
/// Blocks that share a token's products with one expert.
const GENERAL_BLOCKS: u32 = 16;
const WARPS: u32 = 4;
/// Columns of the result that a warp takes where gates are applied, and where not.
const GATE_COLUMNS: u32 = 16;
const DOWN_COLUMNS: u32 = 32;
/// Numbers that a warp multiplies at a time.
const COLUMNS: i64 = 64;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// The sigmoid of each logit.
    Sigmoid,
    /// The softmax over all experts.
    Softmax,
    /// The softmax of logits that were rounded to the model's dtype.
    SoftmaxOfNarrow,
}

/// How a token's experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// How logits become scores.
    pub scores: Scores,
    /// Groups of equal size that the experts are divided into.
    pub groups: i64,
    /// Groups that the experts of one token may come from.
    pub groups_per_token: i64,
    /// The score of a group is the sum of this many of its best experts, 1 or 2.
    pub best_of_group: i64,
    /// Gates of a token sum to 1 before the factor.
    pub normalise: bool,
    /// The factor of all gates.
    pub factor: f32,
}

/// Sizes of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertSizes {
    /// Routed experts (E).
    pub experts: i64,
    /// Experts of a token (K).
    pub per_token: i64,
    /// Width of the hidden states (D).
    pub hidden: i64,
    /// Width between an expert's products (I).
    pub intermediate: i64,
}

impl ExpertSizes {
    /// Whether there are kernels for these sizes and this routing.
    pub fn are_known(&self, routing: &Routing) -> bool {
        let grouped = routing.groups_per_token < routing.groups;
        (1..=EXPERTS_MAX).contains(&self.experts)
            && (1..=LANES.min(self.experts)).contains(&self.per_token)
            && self.hidden % 8 == 0
            && (!grouped
                || (routing.groups <= LANES
                    && self.experts % routing.groups == 0
                    && matches!(routing.best_of_group, 1 | 2)))
    }

    fn are_for_tensor_cores(&self, kind: Kind) -> bool {
        kind == Kind::BFloat16 && self.hidden % COLUMNS == 0 && self.intermediate % COLUMNS == 0
    }
}

/// What a router decided for each row.
pub struct Choice<'a> {
    /// Experts, int32 `[B, K]`, the best first.
    pub chosen: &'a Tensor,
    /// Their weights, float32 `[B, K]`.
    pub gates: &'a Tensor,
    /// Pairs of row and slot by their experts, int32 `[B · K]`.
    pub order: &'a Tensor,
    /// The place at which each expert's pairs begin, int32 `[E + 1]`.
    pub starts: &'a Tensor,
}

/// The kernels of one dtype, shape and routing.
pub struct Experts {
    kind: Kind,
    sizes: ExpertSizes,
    routing: Routing,
    route: Function,
    sort: Function,
    combine: Function,
    /// Products before and behind the activation, by the blocks of a multiprocessor.
    products: Vec<(Function, Function)>,
    on_tensor_cores: bool,
    /// The code of the functions.
    _code: Code,
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for Experts {}

impl Experts {
    /// Blocks on a multiprocessor that the products on the tensor cores are compiled for: with more
    /// of them each has fewer registers.
    pub const BLOCKS: [usize; 2] = [3, 4];

    /// Compiles the kernels of these sizes, of which [`ExpertSizes::are_known`] said that there
    /// are.
    pub fn compile(gpu: &Gpu, kind: Kind, sizes: ExpertSizes, routing: Routing) -> Result<Experts> {
        let definitions = [of_dtype(kind), format!("EXPERTS={}", sizes.experts)];
        let on_tensor_cores = sizes.are_for_tensor_cores(kind);
        let text = if on_tensor_cores {
            TENSOR_CORES
        } else {
            GENERAL
        };
        let code = Code::compile(gpu, &[ROUTER, text], &definitions)?;
        let pair = |of: &str| {
            let [gate, down] = ["gate", "down"].map(|what| code.find(&format!("{what}_{of}")));
            Ok((gate?, down?))
        };
        let products = if on_tensor_cores {
            let of_blocks = Experts::BLOCKS
                .iter()
                .map(|blocks| pair(&blocks.to_string()));
            of_blocks.collect::<Result<_>>()?
        } else {
            vec![pair("any")?]
        };
        Ok(Experts {
            kind,
            sizes,
            routing,
            route: code.find("route")?,
            sort: code.find("sort_by_expert")?,
            combine: code.find("combine")?,
            products,
            on_tensor_cores,
            _code: code,
        })
    }

    /// The blocks for `rows` rows, of [`Self::BLOCKS`]: where an expert has few pairs, only the
    /// reads of its weights count, which more registers help.
    pub fn blocks(&self, rows: i64) -> usize {
        if rows * self.sizes.per_token < self.sizes.experts {
            3
        } else {
            4
        }
    }

    /// Chooses and weighs each row's experts: `logits` float32 `[B, E]`, `bias` float32 `[E]` of
    /// the choice, `live` and `step` int32 `[1]`. `record` int32 `[steps, B, layers · K]`, if there
    /// is one, takes the experts of the step as those of the given layer.
    pub fn route(
        &self,
        gpu: &Gpu,
        (logits, bias): (&Tensor, Option<&Tensor>),
        (live, step): (&Tensor, &Tensor),
        choice: &Choice,
        record: Option<(&Tensor, i64)>,
    ) -> Result<()> {
        let ExpertSizes {
            experts, per_token, ..
        } = self.sizes;
        let operands = Operands::of("route");
        let rows = logits.size2()?.0;
        operands.are(logits, Kind::Float, &[rows, experts])?;
        if let Some(bias) = bias {
            operands.are(bias, Kind::Float, &[experts])?;
        }
        operands.are(live, Kind::Int, &[1])?;
        operands.are(step, Kind::Int, &[1])?;
        self.check(&operands, choice, rows)?;
        let (record_at, stride) = match record {
            Some((record, layer)) => {
                let (steps, _, stride) = record.size3()?;
                operands.are(record, Kind::Int, &[steps, rows, stride])?;
                if (layer + 1) * per_token > stride {
                    return operands.refuse(format!("layer {layer} of {record:?}"));
                }
                (
                    address(record) + 4 * (layer * per_token).cast_unsigned(),
                    stride,
                )
            }
            None => (0, 0),
        };
        let Routing {
            scores,
            groups,
            groups_per_token,
            best_of_group,
            normalise,
            factor,
        } = self.routing;
        let arguments = Arguments::new()
            .address(address(logits))
            .address(bias.map_or(0, address))
            .address(address(live))
            .address(address(step))
            .address(address(choice.chosen))
            .address(address(choice.gates))
            .address(record_at)
            .int(stride as i32)
            .int(per_token as i32)
            .int(groups as i32)
            .int(groups_per_token as i32)
            .int(best_of_group as i32)
            .int(scores as i32)
            .int(i32::from(normalise))
            .float(factor);
        let launch = Launch::of_rows(rows, ROUTE_THREADS);
        gpu.stream().launch(self.route, launch, arguments)?;
        if !self.on_tensor_cores {
            return Ok(());
        }
        let arguments = Arguments::new()
            .address(address(choice.chosen))
            .address(address(live))
            .address(address(choice.order))
            .address(address(choice.starts))
            .int(per_token as i32);
        let launch = Launch::of_rows(1, SORT_THREADS);
        gpu.stream().launch(self.sort, launch, arguments)
    }

    /// Runs each row through its experts: `x` `[B, D]`, `gate_up` `[E, 2 · I, D]`, gate above up,
    /// `down` `[E, D, I]` → `outputs` `[B · K, D]`, down(silu(gate x) · up x). `between` `[B · K,
    /// I]` holds nothing between calls. `blocks` is one of [`Self::BLOCKS`].
    pub fn run(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        (gate_up, down): (&Tensor, &Tensor),
        (choice, live, blocks): (&Choice, &Tensor, usize),
        (between, outputs): (&Tensor, &Tensor),
    ) -> Result<()> {
        let ExpertSizes {
            experts,
            per_token,
            hidden,
            intermediate,
        } = self.sizes;
        let operands = Operands::of("experts");
        let rows = x.size2()?.0;
        operands.are(x, self.kind, &[rows, hidden])?;
        operands.are(gate_up, self.kind, &[experts, 2 * intermediate, hidden])?;
        operands.are(down, self.kind, &[experts, hidden, intermediate])?;
        operands.are(between, self.kind, &[rows * per_token, intermediate])?;
        operands.are(outputs, self.kind, &[rows * per_token, hidden])?;
        operands.are(live, Kind::Int, &[1])?;
        self.check(&operands, choice, rows)?;
        let at = Experts::BLOCKS.iter().position(|one| *one == blocks);
        let Some((first, second)) = self
            .products
            .get(at.unwrap_or(0).min(self.products.len() - 1))
        else {
            return operands.refuse(format!("no products for {blocks} blocks"));
        };
        let (order, middle) = if self.on_tensor_cores {
            (choice.order, choice.starts)
        } else {
            (choice.chosen, live)
        };
        let arguments = |x: &Tensor, weight: &Tensor, y: &Tensor, inner: i64, outer: i64| {
            let arguments = Arguments::new().address(address(x));
            let arguments = if self.on_tensor_cores {
                arguments
                    .address(address(weight))
                    .address(address(order))
                    .address(address(middle))
            } else {
                arguments
                    .address(address(order))
                    .address(address(middle))
                    .address(address(weight))
            };
            arguments
                .address(address(y))
                .int(per_token as i32)
                .int(inner as i32)
                .int(outer as i32)
        };
        let gate = arguments(x, gate_up, between, hidden, intermediate);
        gpu.stream()
            .launch(*first, self.launch(rows, intermediate, GATE_COLUMNS), gate)?;
        let back = arguments(between, down, outputs, intermediate, hidden);
        gpu.stream()
            .launch(*second, self.launch(rows, hidden, DOWN_COLUMNS), back)
    }

    fn launch(&self, rows: i64, outer: i64, columns: u32) -> Launch {
        if self.on_tensor_cores {
            return Launch {
                grid: [
                    (outer as u32).div_ceil(columns * WARPS),
                    self.sizes.experts as u32,
                    1,
                ],
                threads: 32 * WARPS,
                shared_bytes: 0,
            };
        }
        Launch {
            grid: [(rows * self.sizes.per_token) as u32, GENERAL_BLOCKS, 1],
            threads: GENERAL_THREADS,
            shared_bytes: 0,
        }
    }

    /// Adds to `hidden` `[B, D]` the experts' `outputs` `[B · K, D]` in their weights, and what
    /// `shared` `[B, D]` experts gave.
    pub fn combine(
        &self,
        gpu: &Gpu,
        (outputs, shared): (&Tensor, Option<&Tensor>),
        (choice, live): (&Choice, &Tensor),
        hidden: &Tensor,
    ) -> Result<()> {
        let operands = Operands::of("combine");
        let (rows, width) = hidden.size2()?;
        let per_token = self.sizes.per_token;
        operands.are(hidden, self.kind, &[rows, self.sizes.hidden])?;
        operands.are(outputs, self.kind, &[rows * per_token, width])?;
        if let Some(shared) = shared {
            operands.are(shared, self.kind, &[rows, width])?;
        }
        operands.are(live, Kind::Int, &[1])?;
        self.check(&operands, choice, rows)?;
        let arguments = Arguments::new()
            .address(address(outputs))
            .address(address(choice.gates))
            .address(shared.map_or(0, address))
            .address(address(live))
            .address(address(hidden))
            .int(per_token as i32)
            .int(width as i32);
        let launch = Launch::of_rows(rows, COMBINE_THREADS);
        gpu.stream().launch(self.combine, launch, arguments)
    }

    fn check(&self, operands: &Operands, choice: &Choice, rows: i64) -> Result<()> {
        let ExpertSizes {
            experts, per_token, ..
        } = self.sizes;
        operands.are(choice.chosen, Kind::Int, &[rows, per_token])?;
        operands.are(choice.gates, Kind::Float, &[rows, per_token])?;
        operands.are(choice.order, Kind::Int, &[rows * per_token])?;
        operands.are(choice.starts, Kind::Int, &[experts + 1])
    }
}
