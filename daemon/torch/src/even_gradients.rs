//! Gradients of causal attention by cuDNN, the same bits each time.
//!
//! libtorch asks cuDNN for the gradients of queries by atomic additions, whose order differs from
//! run to run. Here cuDNN is given the operations themselves (Dao 2023, algorithm 2) without such a
//! sum, so that it writes the scores' gradients out, bfloat16 `[B, H, L, L]`, and multiplies by
//! them once more. Its engine for FlashAttention's backward takes exactly this graph.

use crate::cudnn::{
    AT_LEAST, BFLOAT16, Cudnn, EXPONENTIAL, FLOAT32, Graph, Layout, MULTIPLY, Node, Place, Plan,
    Raw, Result, SELECT, SUBTRACT, failed,
};
use std::cell::RefCell;
use tch::{Kind, TchError, Tensor};

/// Most memory of the scores' gradients; longer sequences do without.
const WORKSPACE_MAX_BYTES: i64 = 2 << 30;
/// Plans that are kept: each shape has its own, which takes half a second to make.
const PLANS_MAX: usize = 32;

/// The layouts of the tensors that a plan is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shapes {
    query: Layout,
    key: Layout,
    value: Layout,
    out: Layout,
    gradient: Layout,
    of_query: Layout,
    of_key: Layout,
    of_value: Layout,
}

/// The tensors of a graph that are not inside of it.
struct Ends {
    /// The tensors of [`Shapes`], in order, then each query's log-normaliser and its Σ dO · O.
    memory: [Node; 10],
    /// The scores' factor, 1, and what hidden scores are.
    numbers: [Node; 3],
}

impl Ends {
    fn new(graph: &mut Graph, shapes: &Shapes, rows: Layout) -> Result<Ends> {
        let layouts = [
            shapes.query,
            shapes.key.transposed(),
            shapes.value.transposed(),
            shapes.out,
            shapes.gradient,
            shapes.of_query,
            shapes.of_key,
            shapes.of_value,
        ];
        let mut memory = [Node::default(); 10];
        for (node, layout) in memory.iter_mut().zip(layouts) {
            *node = graph.tensor(layout, BFLOAT16, Place::Memory)?;
        }
        for node in memory.iter_mut().skip(layouts.len()) {
            *node = graph.tensor(rows, FLOAT32, Place::Memory)?;
        }
        let numbers = [graph.number()?, graph.number()?, graph.number()?];
        Ok(Ends { memory, numbers })
    }
}

/// Describes the gradients of softmax(scale · q kᵀ) v, where a query sees the keys up to itself.
fn gradients(graph: &mut Graph, shapes: &Shapes) -> Result<Ends> {
    let [batch, heads, length, _] = shapes.query.sizes;
    let rows = Layout::dense([batch, heads, length, 1]);
    let scores = Layout::dense([batch, heads, length, length]);
    let ends = Ends::new(graph, shapes, rows)?;
    let [
        query,
        key,
        value,
        out,
        gradient,
        of_query,
        of_key,
        of_value,
        lse,
        deltas,
    ] = ends.memory;
    let [scale, one, hidden] = ends.numbers;

    // D = Σ dO · O of each query.
    let products = graph.pointwise(
        MULTIPLY,
        &[gradient, out],
        Layout::dense(shapes.query.sizes),
    )?;
    let sums = graph.inside(rows, FLOAT32)?;
    graph.sum(products, sums)?;
    graph.multiply(sums, one, deltas)?;

    // P = exp(scale · q kᵀ − lse).
    let x = graph.inside(scores, FLOAT32)?;
    graph.matmul(query, key, x)?;
    let x = graph.pointwise(MULTIPLY, &[x, scale], scores)?;
    let x = graph.pointwise(SUBTRACT, &[x, lse], scores)?;
    let (of_queries, of_keys) = (graph.index(2, x, scores)?, graph.index(3, x, scores)?);
    let sees = graph.pointwise(AT_LEAST, &[of_queries, of_keys], scores)?;
    let x = graph.pointwise(SELECT, &[x, hidden, sees], scores)?;
    let weights = graph.pointwise(EXPONENTIAL, &[x], scores)?;

    // dV = Pᵀ dO, dS = scale · P · (dO vᵀ − D), dK = dSᵀ q, dQ = dS k.
    of_keys_and_values(graph, shapes, (weights, gradient), of_value)?;
    let x = graph.inside(scores, FLOAT32)?;
    graph.matmul(gradient, value, x)?;
    let x = graph.pointwise(SUBTRACT, &[x, deltas], scores)?;
    let x = graph.pointwise(MULTIPLY, &[x, weights], scores)?;
    let of_scores = graph.pointwise(MULTIPLY, &[x, scale], scores)?;
    of_keys_and_values(graph, shapes, (of_scores, query), of_key)?;
    let keys = graph.reshape(key, shapes.key, FLOAT32)?;
    graph.matmul(of_scores, keys, of_query)?;
    Ok(ends)
}

/// to = xᵀ by, added over the query heads of a key head.
fn of_keys_and_values(
    graph: &mut Graph,
    shapes: &Shapes,
    (x, by): (Node, Node),
    to: Node,
) -> Result<()> {
    let sizes @ [batch, heads, length, _] = shapes.query.sizes;
    let turned = Layout::dense([batch, heads, length, length]).transposed();
    let x = graph.reshape(x, turned, BFLOAT16)?;
    if shapes.key.sizes[1] == heads {
        return graph.matmul(x, by, to);
    }
    let of_heads = graph.inside(Layout::dense(sizes), BFLOAT16)?;
    graph.matmul(x, by, of_heads)?;
    graph.sum(of_heads, to)
}

/// What a thread keeps: a handle, and plans, the last one's first; `None` where cuDNN has no
/// engine.
struct Kept {
    handle: Option<Raw>,
    plans: Vec<(Shapes, Option<(Plan, Ends)>)>,
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { handle: None, plans: Vec::new() }) };
}

impl Kept {
    /// Makes the plan for these shapes the first one.
    fn plan(&mut self, shapes: Shapes) -> Result<Option<&(Plan, Ends)>> {
        let cudnn = Cudnn::get()?;
        let handle = match self.handle {
            Some(handle) => handle,
            None => *self.handle.insert(cudnn.handle()?),
        };
        let plan = match self
            .plans
            .iter()
            .position(|(made_for, _)| *made_for == shapes)
        {
            Some(at) => self.plans.remove(at),
            None => (shapes, planned(cudnn, handle, &shapes)),
        };
        self.plans.insert(0, plan);
        self.plans.truncate(PLANS_MAX);
        Ok(self.plans.first().and_then(|(_, plan)| plan.as_ref()))
    }
}

/// The plan for these shapes. Where cuDNN refuses them, FlashAttention 2 does the same, slower;
/// that is told once for each.
fn planned(cudnn: &'static Cudnn, handle: Raw, shapes: &Shapes) -> Option<(Plan, Ends)> {
    let mut graph = Graph::new(cudnn);
    let planned = gradients(&mut graph, shapes).and_then(|ends| {
        let plan = graph.plan(handle)?;
        Ok(plan.map(|plan| (plan, ends)))
    });
    planned.unwrap_or_else(|error| {
        tracing::warn!("gradients of attention are FlashAttention 2's: {error}");
        None
    })
}

/// Whether the scores' gradients of these queries `[B, H, L, d]` fit where they are written out.
fn fits(query: &Layout) -> bool {
    let [batch, heads, length, _] = query.sizes;
    let padded = (length + 127) / 128 * 128;
    batch * heads * padded * padded * 2 <= WORKSPACE_MAX_BYTES
}

fn of_torch(error: TchError) -> crate::TorchError {
    failed(error)
}

/// Computes the gradients of q, k and v of causal attention over sequences of one length from that
/// of `out`: `query`, `out` and `gradient` `[B, H, L, d]`, `key` and `value` `[B, Hk, L, d]`
/// bfloat16, `lse` float32 `[B, H, L]`, the logarithm of each query's normaliser. `None` where
/// cuDNN has no engine for them, or they take too much memory.
pub(crate) fn causal_gradients(
    gradient: &Tensor,
    [query, key, value]: [&Tensor; 3],
    (out, lse): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Option<[Tensor; 3]>> {
    if !fits(&Layout::of(query)?) {
        return Ok(None);
    }
    let gradient = match gradient.stride().last() {
        Some(1) => gradient.shallow_clone(),
        _ => gradient.f_contiguous().map_err(of_torch)?,
    };
    let like = |tensor: &Tensor| tensor.f_empty_like().map_err(of_torch);
    let (of_query, of_key, of_value) = (like(query)?, like(key)?, like(value)?);
    let (lse, deltas) = (lse.f_contiguous().map_err(of_torch)?, like(lse)?);
    let shapes = Shapes {
        query: Layout::of(query)?,
        key: Layout::of(key)?,
        value: Layout::of(value)?,
        out: Layout::of(out)?,
        gradient: Layout::of(&gradient)?,
        of_query: Layout::of(&of_query)?,
        of_key: Layout::of(&of_key)?,
        of_value: Layout::of(&of_value)?,
    };
    let memory = [
        query, key, value, out, &gradient, &of_query, &of_key, &of_value, &lse, &deltas,
    ];
    let numbers = [scale as f32, 1.0, f32::NEG_INFINITY];
    let ran = KEPT.with_borrow_mut(|kept| {
        let Some((plan, ends)) = kept.plan(shapes)? else {
            return Ok(false);
        };
        let workspace = Tensor::f_empty([plan.workspace_bytes], (Kind::Uint8, query.device()));
        let workspace = workspace.map_err(of_torch)?;
        let memory = ends.memory.into_iter().zip(memory.map(Tensor::data_ptr));
        let numbers = numbers
            .each_ref()
            .map(|one| std::ptr::from_ref(one).cast_mut().cast());
        let all: Vec<(Node, Raw)> = memory
            .chain(ends.numbers.into_iter().zip(numbers))
            .collect();
        // SAFETY: the plan was made for these layouts, and all of them live through the call; what
        // the device does later is before what uses their memory next, on the same stream.
        unsafe { plan.run(&all, workspace.data_ptr()) }.map(|()| true)
    })?;
    Ok(ran.then_some([of_query, of_key, of_value]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_scores_gradients_is_limited() {
        let fit = |batch, length| fits(&Layout::dense([batch, 12, length, 128]));
        assert!(fit(8, 2048) && fit(4, 4096));
        assert!(!fit(2, 12_288) && !fit(2, 1 << 15));
    }
}
