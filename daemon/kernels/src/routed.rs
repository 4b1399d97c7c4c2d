//! The way of a training pass's tokens to their routed experts and back, by `cuda/routed.cu`: what
//! stands between the router's choice and the experts' grouped products.

use crate::driver::{Arguments, Function, Launch};
use crate::error::Result;
use crate::operands::{Operands, address};
use crate::train::{THREADS, TrainKernels, threads_of};
use tch::{Device, Kind, Tensor};

/// Pairs that a block sorts, which is its number of threads too.
const TILE: u32 = 256;
/// A warp's lanes: experts of a token.
const PER_TOKEN_MAX: i64 = 32;
/// Counts of experts that fit into a block's shared memory twice.
const EXPERTS_MAX: i64 = 4096;
const WARP: i64 = 32;

/// The places of pairs of tokens and experts in the order of the experts.
pub struct Places {
    /// The place of each token's pair with each of its experts, int32 `[T, K]`.
    pub place: Tensor,
    /// The end of each expert's pairs, int32 `[E]`.
    pub ends: Tensor,
}

/// How gates come of the chosen experts' scores.
#[derive(Clone, Copy, Debug)]
pub struct Gating {
    /// Whether a token's scores are divided by their sum.
    pub normalise: bool,
    /// The factor of all gates.
    pub factor: f32,
}

impl TrainKernels {
    /// Whether there are kernels for a mixture of `experts` experts of which a token has
    /// `per_token`, between hidden states of `width` numbers.
    pub fn takes_experts(experts: i64, per_token: i64, width: i64) -> bool {
        (1..=EXPERTS_MAX).contains(&experts)
            && (1..=PER_TOKEN_MAX).contains(&per_token)
            && TrainKernels::takes_width(width)
    }

    /// Sorts pairs by their experts, and those of an expert by their tokens: `chosen` int64 `[T,
    /// K]`, each below `experts`.
    pub fn places(&self, chosen: &Tensor, experts: i64) -> Result<Places> {
        let operands = Operands::of("places");
        let (rows, per_token) = chosen.size2()?;
        operands.are(chosen, Kind::Int64, &[rows, per_token])?;
        let pairs = rows * per_token;
        if !TrainKernels::takes_experts(experts, per_token, WARP) || pairs > i64::from(i32::MAX) {
            return operands.refuse(format!("{pairs} pairs of {experts} experts"));
        }
        let tiles = (pairs + i64::from(TILE) - 1) / i64::from(TILE);
        let ints = |shape: &[i64]| Tensor::f_empty(shape, (Kind::Int, chosen.device()));
        let counts = ints(&[tiles, experts])?;
        let places = Places {
            place: ints(&[rows, per_token])?,
            ends: ints(&[experts])?,
        };
        let launch = |arrays: u32| Launch {
            shared_bytes: arrays * 4 * experts as u32,
            ..Launch::of_rows(tiles, TILE)
        };
        let arguments = Arguments::new()
            .address(address(chosen))
            .address(address(&counts))
            .int(pairs as i32)
            .int(experts as i32);
        self.launch(self.count_pairs, launch(1), arguments)?;
        let arguments = Arguments::new()
            .address(address(chosen))
            .address(address(&counts))
            .address(address(&places.place))
            .address(address(&places.ends))
            .int(pairs as i32)
            .int(experts as i32);
        self.launch(self.place_pairs, launch(2), arguments)?;
        Ok(places)
    }

    /// Puts each token's row beside those of its experts: `x` `[T, D]`, `place` int32 `[T, K]` →
    /// `[T · K, D]`.
    pub fn spread(&self, x: &Tensor, place: &Tensor) -> Result<Tensor> {
        let sizes = Sizes::of("spread", x, place)?;
        let rows = sizes.rows(x.device())?;
        let arguments = Arguments::new()
            .address(address(x))
            .address(address(place))
            .address(address(&rows));
        self.launch(self.spread_rows, sizes.launch(), sizes.end(arguments))?;
        Ok(rows)
    }

    /// Computes the gradient of [`Self::spread`]'s operand, the sum of each token's rows: `rows`
    /// `[T · K, D]` → `[T, D]`.
    pub fn spread_backward(&self, rows: &Tensor, place: &Tensor) -> Result<Tensor> {
        let (tokens, _) = place.size2()?;
        let width = rows.size2()?.1;
        let x = Tensor::f_empty([tokens, width], (Kind::BFloat16, rows.device()))?;
        let sizes = Sizes::of("spread_backward", &x, place)?;
        sizes.are_rows(rows)?;
        let arguments = Arguments::new()
            .address(address(rows))
            .address(address(place))
            .address(address(&x));
        self.launch(self.sum_rows, sizes.launch(), sizes.end(arguments))?;
        Ok(x)
    }

    /// Computes Σ_k gates[t, k] · rows[place[t, k]] + more[t]: `rows` `[T · K, D]`, `gates` float32
    /// `[T, K]`, `more` `[T, D]` → `[T, D]`.
    pub fn weigh(
        &self,
        rows: &Tensor,
        place: &Tensor,
        gates: &Tensor,
        more: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (tokens, per_token) = place.size2()?;
        let width = rows.size2()?.1;
        let y = Tensor::f_empty([tokens, width], (Kind::BFloat16, rows.device()))?;
        let sizes = Sizes::of("weigh", &y, place)?;
        sizes.are_rows(rows)?;
        let operands = Operands::of("weigh");
        operands.are(gates, Kind::Float, &[tokens, per_token])?;
        if let Some(more) = more {
            operands.are(more, Kind::BFloat16, &[tokens, width])?;
        }
        let arguments = Arguments::new()
            .address(address(rows))
            .address(address(place))
            .address(address(gates))
            .address(more.map_or(0, address))
            .address(address(&y));
        self.launch(self.weigh_rows, sizes.launch(), sizes.end(arguments))?;
        Ok(y)
    }

    /// Computes the gradients of [`Self::weigh`] from that of its result, `[T, D]`: that of the
    /// gates, and in the place of `rows` theirs.
    pub fn weigh_backward(
        &self,
        gradient: &Tensor,
        rows: &Tensor,
        place: &Tensor,
        gates: &Tensor,
    ) -> Result<Tensor> {
        let sizes = Sizes::of("weigh_backward", gradient, place)?;
        sizes.are_rows(rows)?;
        Operands::of("weigh_backward").are(gates, Kind::Float, &place.size())?;
        let of_gates = gates.f_empty_like()?;
        let arguments = Arguments::new()
            .address(address(gradient))
            .address(address(place))
            .address(address(gates))
            .address(address(rows))
            .address(address(&of_gates));
        let function = self.weigh_rows_backward;
        self.launch(function, sizes.launch(), sizes.end(arguments))?;
        Ok(of_gates)
    }

    /// Computes the gates of the chosen experts: `scores` float32 `[T, E]`, `chosen` int64 `[T, K]`
    /// → float32 `[T, K]`.
    pub fn gates(&self, scores: &Tensor, chosen: &Tensor, gating: Gating) -> Result<Tensor> {
        check_scores(scores, chosen)?;
        let gates = Tensor::f_empty(chosen.size(), (Kind::Float, scores.device()))?;
        let arguments = Arguments::new()
            .address(address(scores))
            .address(address(chosen))
            .address(address(&gates));
        self.launch_gating(self.weigh_experts, arguments, (scores, chosen), gating)?;
        Ok(gates)
    }

    /// Computes the gradient of the scores of [`Self::gates`], `[T, E]`, from that of the gates.
    pub fn gates_backward(
        &self,
        gradient: &Tensor,
        scores: &Tensor,
        chosen: &Tensor,
        gating: Gating,
    ) -> Result<Tensor> {
        check_scores(scores, chosen)?;
        Operands::of("gates_backward").are(gradient, Kind::Float, &chosen.size())?;
        let of_scores = scores.f_empty_like()?;
        let arguments = Arguments::new()
            .address(address(gradient))
            .address(address(scores))
            .address(address(chosen))
            .address(address(&of_scores));
        let function = self.weigh_experts_backward;
        self.launch_gating(function, arguments, (scores, chosen), gating)?;
        Ok(of_scores)
    }

    fn launch_gating(
        &self,
        function: Function,
        arguments: Arguments,
        (scores, chosen): (&Tensor, &Tensor),
        gating: Gating,
    ) -> Result<()> {
        let (rows, experts) = scores.size2()?;
        let arguments = arguments
            .int(rows as i32)
            .int(experts as i32)
            .int(chosen.size2()?.1 as i32)
            .int(i32::from(gating.normalise))
            .float(gating.factor);
        let tokens = i64::from(THREADS) / WARP;
        let launch = Launch::of_rows((rows + tokens - 1) / tokens, THREADS);
        self.launch(function, launch, arguments)
    }
}

fn check_scores(scores: &Tensor, chosen: &Tensor) -> Result<()> {
    let operands = Operands::of("gates");
    let ((rows, experts), (_, per_token)) = (scores.size2()?, chosen.size2()?);
    if !TrainKernels::takes_experts(experts, per_token, WARP) {
        return operands.refuse(format!("{per_token} of {experts} experts"));
    }
    operands.are(scores, Kind::Float, &[rows, experts])?;
    operands.are(chosen, Kind::Int64, &[rows, per_token])
}

/// Sizes of tokens and pairs, for kernels whose blocks have a token.
struct Sizes {
    operands: Operands,
    tokens: i64,
    per_token: i64,
    width: i64,
}

impl Sizes {
    /// Those of `x` `[T, D]` and `place` int32 `[T, K]`.
    fn of(operation: &'static str, x: &Tensor, place: &Tensor) -> Result<Sizes> {
        let operands = Operands::of(operation);
        let ((tokens, width), (_, per_token)) = (x.size2()?, place.size2()?);
        if !TrainKernels::takes_experts(1, per_token, width) {
            return operands.refuse(format!("{per_token} experts, rows of {width} numbers"));
        }
        operands.are(x, Kind::BFloat16, &[tokens, width])?;
        operands.are(place, Kind::Int, &[tokens, per_token])?;
        Ok(Sizes {
            operands,
            tokens,
            per_token,
            width,
        })
    }

    fn rows(&self, device: Device) -> Result<Tensor> {
        let shape = [self.tokens * self.per_token, self.width];
        Ok(Tensor::f_empty(shape, (Kind::BFloat16, device))?)
    }

    fn are_rows(&self, rows: &Tensor) -> Result<()> {
        let shape = [self.tokens * self.per_token, self.width];
        self.operands.are(rows, Kind::BFloat16, &shape)
    }

    fn launch(&self) -> Launch {
        Launch::of_rows(self.tokens, threads_of(self.width))
    }

    fn end(&self, arguments: Arguments) -> Arguments {
        arguments.int(self.per_token as i32).int(self.width as i32)
    }
}
