//! Decodes by r1d's own CUDA kernels, a whole step captured as one graph.
//!
//! The host's share of a step is one launch: ids, positions and draws stay on the device, and the
//! host reads them once for a block of steps. A graph has a fixed number of rows, so there is one
//! for each of a few sizes; rows that are in the graph and not in the request do nothing. Memory
//! and graphs stay for the next request of the same sizes.
//!
//! The cache is in pages: a graph finds a row's by a table, and the cache itself by its address,
//! both of which the host writes between graphs. The records are those of the other way to decode,
//! and so are the uniforms: in float32 both ways draw the same ids.

mod buffers;
mod kernels;
mod products;
mod step;

use crate::error::Result;
use crate::sampling_mask;
use buffers::{Buffers, Memory, Sizes};
use kernels::{Kernels, Shape};
use r1d_kernels::{Gpu, Graph, KernelError, PAGE_TOKENS};
use r1d_model::{
    AttentionParts, Cache, CausalLm, DenseParts, FeedForwardParts, LayerParts, MergedWeights,
    ModelParts, RoundedWeights,
};
use std::collections::BTreeMap;
pub(crate) use step::Drawing;
use step::Step;
use tch::{Kind, Tensor};

/// Requests of different sizes whose memory and graphs are kept: those of training and of an
/// evaluation take turns.
const PLANS_MAX: usize = 2;

/// Kernels that were compiled for models of one shape.
pub(crate) struct Engine {
    gpu: Gpu,
    kernels: Kernels,
    compiled_for: Shape,
    /// Weights as the kernels read them, where that is not as they are.
    copies: Copies,
    /// What requests like those before use, the last one's first.
    plans: Vec<Plan>,
}

/// Copies of weights: with their adapters, and in FP8.
#[derive(Default)]
struct Copies {
    merged: MergedWeights,
    rounded: RoundedWeights,
}

impl Copies {
    /// Makes the copies of the weights as they are now.
    fn refresh(&mut self, model: &CausalLm) -> Result<()> {
        model.merge(&mut self.merged)?;
        Ok(model.round(&mut self.rounded)?)
    }

    fn parts<'a>(&'a self, model: &'a CausalLm, positions: i64) -> Result<Option<ModelParts<'a>>> {
        Ok(model.parts(positions, &self.merged, &self.rounded)?)
    }
}

/// A block of decoding steps as it comes from the host.
pub(crate) struct Block<'a> {
    /// The id that each row feeds first, `[rows]`.
    pub last_ids: &'a [i64],
    /// The tokens that the cache holds of each row, `[rows]`.
    pub positions: &'a [i64],
    /// A uniform of each step and row, `[steps · rows]`.
    pub uniforms: &'a [f64],
    /// The pages of each row, where rows have pages: `[rows]`.
    pub pages: &'a [&'a [u32]],
}

/// What one step of a block drew.
pub(crate) struct DrawnStep {
    /// Ids, `[rows]`.
    pub ids: Vec<i64>,
    /// Their log-probabilities, `[rows]`.
    pub logprobs: Vec<f32>,
    /// Bits of the sets of kept ids, `[rows, words]`; empty unless they are recorded.
    pub kept: Vec<u64>,
    /// Experts, `[rows, moe_layers, K]`; empty unless they are recorded.
    pub experts: Vec<i64>,
}

/// Memory, and the graphs that use it.
struct Plan {
    made_for: MadeFor,
    memory: Memory,
    /// Cosines and sines of all places.
    rotations: Tensor,
    /// Addresses of what the cache has of each layer, int64 `[layers, 1 or 2]`.
    cache: Tensor,
    graphs: BTreeMap<i64, Graph>,
}

/// All that a graph has of a request: another with the same can use it.
#[derive(PartialEq)]
struct MadeFor {
    rows: i64,
    steps: i64,
    /// Most pages of a row.
    row_pages: i64,
    drawing: Drawing,
    /// Addresses of the model's weights.
    addresses: Vec<usize>,
}

/// A request while it decodes.
pub(crate) struct Captured<'a> {
    gpu: &'a Gpu,
    kernels: &'a Kernels,
    shape: Shape,
    parts: ModelParts<'a>,
    plan: &'a mut Plan,
}

/// The rows of the graph that `rows` rows use: a power of two, or a multiple of 64.
fn graph_rows(rows: usize) -> i64 {
    let rows = rows.max(1) as i64;
    if rows <= 64 {
        rows.cast_unsigned().next_power_of_two().cast_signed()
    } else {
        (rows + 63) / 64 * 64
    }
}

impl Engine {
    /// Opens the device and compiles the kernels. The error says why they cannot be used.
    pub(crate) fn open(model: &CausalLm) -> Result<Engine> {
        let mut copies = Copies::default();
        copies.refresh(model)?;
        let parts = copies.parts(model, 1)?.ok_or(KernelError::Model {
            what: "a bias behind attention, or FP8 with adapters, experts or latent attention",
        })?;
        let shape = Shape::of(model, &parts)?;
        let gpu = Gpu::open(model.device())?;
        let kernels = Kernels::compile(&gpu, &shape)?;
        Ok(Engine {
            gpu,
            kernels,
            compiled_for: shape,
            copies,
            plans: Vec::new(),
        })
    }

    /// Gives the memory of copies of weights back until the next request.
    pub(crate) fn release(&mut self) {
        self.copies = Copies::default();
    }

    /// Begins a request whose blocks have at most `steps` steps of `rows` rows, with at most
    /// `capacity` tokens in a row; the cache is in pages. `None` if the kernels are not for this
    /// model.
    pub(crate) fn begin<'a>(
        &'a mut self,
        model: &'a CausalLm,
        cache: &Cache,
        ((rows, steps), capacity): ((usize, usize), i64),
        drawing: Drawing,
    ) -> Result<Option<Captured<'a>>> {
        let row_pages = (capacity + PAGE_TOKENS - 1) / PAGE_TOKENS;
        let Engine {
            gpu,
            kernels,
            compiled_for,
            copies,
            plans,
        } = self;
        copies.refresh(model)?;
        let Some(mut parts) = copies.parts(model, row_pages * PAGE_TOKENS)? else {
            return Ok(None);
        };
        let layers = 0..parts.layers.len();
        let cached: Option<Vec<_>> = layers.map(|layer| cached(cache, layer)).collect();
        let shape = Shape::of(model, &parts)?;
        let (Some(cached), true) = (cached, shape == *compiled_for) else {
            return Ok(None);
        };
        let cached: Vec<i64> = cached.concat();
        let made_for = MadeFor {
            rows: graph_rows(rows),
            steps: steps as i64,
            row_pages,
            drawing,
            addresses: addresses(&parts),
        };
        let plan = match plans.iter().position(|plan| plan.made_for == made_for) {
            Some(at) => plans.remove(at),
            None => {
                // The oldest makes room before the new one takes its memory.
                plans.truncate(PLANS_MAX.saturating_sub(1));
                Plan::new((kernels, shape), &parts, model, made_for)?
            }
        };
        plans.insert(0, plan);
        plans.truncate(PLANS_MAX);
        let Some(plan) = plans.first_mut() else {
            return Ok(None);
        };
        parts.rotations = plan.rotations.shallow_clone();
        let addresses = Tensor::f_from_slice(&cached)?.f_view_as(&plan.cache)?;
        plan.cache.f_copy_(&addresses)?;
        let mut captured = Captured {
            gpu,
            kernels,
            shape,
            parts,
            plan,
        };
        // An error of the kernels shows here, where libtorch's operations can still take over.
        captured.graph(captured.plan.made_for.rows)?;
        Ok(Some(captured))
    }
}

impl Plan {
    /// Takes memory for what it is made for; graphs are captured when they are needed.
    fn new(
        (kernels, shape): (&Kernels, Shape),
        parts: &ModelParts,
        model: &CausalLm,
        made_for: MadeFor,
    ) -> Result<Plan> {
        let MadeFor {
            rows,
            steps,
            row_pages,
            drawing,
            ..
        } = made_for;
        let (vocab, hidden) = parts.lm_head.size2()?;
        let query_rank = parts
            .layers
            .first()
            .and_then(|layer| match &layer.attention {
                AttentionParts::Latent(latent) => latent.query.as_ref(),
                AttentionParts::Grouped(_) => None,
            });
        let query_rank = query_rank.map(|query| query.norm.0.size1()).transpose()?;
        let sizes = Sizes {
            shape,
            hidden,
            vocab,
            dense_width: kernels::dense_width(parts)?,
            query_rank,
            steps,
            row_pages,
            partial: buffers::partial_numbers(kernels, rows, row_pages * PAGE_TOKENS),
            keeps: drawing.keeps && drawing.cut.is_some(),
            recorded_layers: if drawing.records_experts {
                model.config.moe_layers
            } else {
                0
            },
        };
        Ok(Plan {
            memory: Memory::new(sizes, rows, model.device())?,
            rotations: parts.rotations.shallow_clone(),
            cache: Tensor::f_zeros(
                [parts.layers.len() as i64, shape.attention.kinds()],
                (Kind::Int64, model.device()),
            )?,
            graphs: BTreeMap::new(),
            made_for,
        })
    }
}

/// Addresses of what the cache has of a layer.
fn cached(cache: &Cache, layer: usize) -> Option<Vec<i64>> {
    let at = |tensor: &Tensor| address(tensor) as i64;
    if let Some((keys, values)) = cache.keys_and_values(layer) {
        return Some(vec![at(keys), at(values)]);
    }
    Some(vec![at(cache.latents(layer)?)])
}

/// Addresses of all that a graph reads or writes beside its own memory and the cache.
fn addresses(parts: &ModelParts) -> Vec<usize> {
    let around = [parts.embed_tokens, parts.norm.0, parts.lm_head];
    let mut all: Vec<Option<&Tensor>> = around.map(Some).to_vec();
    all.extend(parts.layers.iter().flat_map(tensors));
    let own = all.into_iter();
    let mut all: Vec<usize> = own.map(|tensor| tensor.map_or(0, address)).collect();
    for matrix in parts.layers.iter().flat_map(LayerParts::matrices) {
        if let Some(rounded) = parts.rounded.get(matrix) {
            all.extend([&rounded.values, &rounded.scale, &rounded.wide].map(address));
        }
    }
    all
}

/// The tensors of a layer, each always in the same place.
fn tensors<'a>(layer: &'a LayerParts) -> Vec<Option<&'a Tensor>> {
    let mut all = vec![
        Some(layer.input_norm.0),
        Some(layer.o_proj),
        Some(layer.post_attention_norm.0),
    ];
    match &layer.attention {
        AttentionParts::Grouped(grouped) => {
            let norms = grouped
                .head_norms
                .map(|(query, key)| (query.0, key.0))
                .unzip();
            all.extend([Some(grouped.qkv_proj), grouped.qkv_bias, norms.0, norms.1]);
        }
        AttentionParts::Latent(latent) => {
            let query = latent.query.as_ref();
            all.extend([
                Some(latent.a_proj),
                query.and_then(|query| query.bias),
                query.map(|query| query.norm.0),
                query.map(|query| query.b_proj),
                latent.latent_bias,
                Some(latent.latent_norm.0),
                Some(latent.kv_b_proj),
            ]);
        }
    }
    let dense = |dense: &DenseParts<'a>| [Some(dense.gate_up), Some(dense.down)];
    match &layer.feed_forward {
        FeedForwardParts::Dense(network) => all.extend(dense(network)),
        FeedForwardParts::Experts(experts) => {
            all.extend([Some(experts.router), experts.correction_bias]);
            all.extend([Some(experts.gate_up), Some(experts.down)]);
            all.extend(experts.shared.as_ref().map_or([None, None], dense));
        }
    }
    all
}

fn address(tensor: &Tensor) -> usize {
    tensor.data_ptr().addr()
}

impl Captured<'_> {
    /// Decodes `steps` steps of all rows and draws an id of each.
    pub(crate) fn decode(&mut self, block: &Block, steps: usize) -> Result<Vec<DrawnStep>> {
        let live = block.last_ids.len();
        let rows = graph_rows(live);
        self.graph(rows)?;
        let buffers = self.buffers(rows)?;
        let ints = |values: &[i64]| values.iter().map(|value| *value as i32).collect::<Vec<_>>();
        let fill = |to: &Tensor, from: Tensor| -> Result<()> {
            to.f_narrow(0, 0, from.size1()?)?.f_copy_(&from)?;
            Ok(())
        };
        fill(
            &buffers.last_id,
            Tensor::f_from_slice(&ints(block.last_ids))?,
        )?;
        fill(
            &buffers.position,
            Tensor::f_from_slice(&ints(block.positions))?,
        )?;
        fill(&buffers.live, Tensor::f_from_slice(&[live as i32])?)?;
        let pages = page_table(block.pages)?;
        let (lines, width) = pages.size2()?;
        let table = buffers.page_table.f_narrow(0, 0, lines)?;
        table.f_narrow(1, 0, width)?.f_copy_(&pages)?;
        // The first step counts up to 0.
        let _ = buffers.step.shallow_clone().f_fill_(-1)?;
        let uniforms: Vec<f32> = block.uniforms.iter().map(|u| *u as f32).collect();
        let uniforms = Tensor::f_from_slice(&uniforms)?.f_view([steps as i64, live as i64])?;
        buffers
            .uniforms
            .f_narrow(0, 0, steps as i64)?
            .f_narrow(1, 0, live as i64)?
            .f_copy_(&uniforms)?;
        if let Some(graph) = self.plan.graphs.get(&rows) {
            for _ in 0..steps {
                self.gpu.replay(graph)?;
            }
        }
        drawn(&buffers, steps as i64, live as i64)
    }

    fn buffers(&self, rows: i64) -> Result<Buffers> {
        Ok(self.plan.memory.buffers(rows)?)
    }

    /// Captures the graph of `rows` rows, unless there is one.
    fn graph(&mut self, rows: i64) -> Result<()> {
        if self.plan.graphs.contains_key(&rows) {
            return Ok(());
        }
        // The first run loads what the libraries load when it is needed, which a capture forbids.
        // No row lives in it, so it writes nothing that is read.
        let buffers = self.buffers(rows)?;
        let _ = buffers.live.shallow_clone().f_zero_()?;
        self.step(&buffers)?;
        self.gpu.synchronize()?;
        let graph = self.gpu.capture(|| self.step(&buffers))?;
        self.plan.graphs.insert(rows, graph);
        Ok(())
    }

    /// Launches one step of every row: the token's way through the layers, and the draw.
    fn step(&self, buffers: &Buffers) -> Result<(), KernelError> {
        let step = Step {
            gpu: self.gpu,
            kernels: self.kernels,
            shape: &self.shape,
            parts: &self.parts,
            cache: &self.plan.cache,
            buffers,
            drawing: self.plan.made_for.drawing,
        };
        step.launch()
    }
}

/// The pages of all rows as a table, int32 `[rows, most pages of a row]`; 0 behind a row's last.
fn page_table(pages: &[&[u32]]) -> Result<Tensor> {
    let width = pages.iter().map(|row| row.len()).max().unwrap_or(0);
    let mut table = vec![0i32; pages.len() * width];
    for (line, row) in table.chunks_mut(width.max(1)).zip(pages) {
        let pages = row.iter().map(|page| page.cast_signed());
        line.iter_mut().zip(pages).for_each(|(to, page)| *to = page);
    }
    let shape = [pages.len() as i64, width as i64];
    Ok(Tensor::f_from_slice(&table)?.f_view(shape)?)
}

/// Reads what a block has drawn.
fn drawn(buffers: &Buffers, steps: i64, live: i64) -> Result<Vec<DrawnStep>> {
    let of_live = |tensor: &Tensor| {
        let narrow = tensor.f_narrow(0, 0, steps)?.f_narrow(1, 0, live)?;
        narrow.f_to_device(tch::Device::Cpu)
    };
    let (ids, logprobs) = (of_live(&buffers.ids)?, of_live(&buffers.logprobs)?);
    let kept = if buffers.kept.numel() > 0 {
        Some(of_live(&buffers.kept)?)
    } else {
        None
    };
    let record = buffers.experts.as_ref().map(|experts| &experts.record);
    let experts = match record.filter(|record| record.numel() > 0) {
        Some(record) => Some(of_live(record)?.f_to_kind(Kind::Int64)?),
        None => None,
    };
    let of_step = |step| {
        let experts = match &experts {
            Some(experts) => Vec::try_from(&experts.f_get(step)?.f_reshape([-1])?)?,
            None => Vec::new(),
        };
        let kept = match &kept {
            Some(kept) => sampling_mask::words(&kept.f_get(step)?)?,
            None => Vec::new(),
        };
        Ok(DrawnStep {
            ids: Vec::try_from(&ids.f_get(step)?.f_to_kind(Kind::Int64)?)?,
            logprobs: Vec::try_from(&logprobs.f_get(step)?)?,
            kept,
            experts,
        })
    };
    (0..steps).map(of_step).collect()
}

#[cfg(test)]
mod tests {
    use super::graph_rows;

    #[test]
    fn a_graph_has_room_for_its_rows_and_few_sizes() {
        for rows in 1..=1000 {
            let of_graph = graph_rows(rows);
            assert!(of_graph >= rows as i64 && of_graph < 2 * rows as i64 + 64);
        }
        let sizes: std::collections::BTreeSet<i64> = (1..=256).map(graph_rows).collect();
        assert_eq!(
            Vec::from_iter(sizes),
            [1, 2, 4, 8, 16, 32, 64, 128, 192, 256]
        );
    }
}
