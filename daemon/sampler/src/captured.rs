//! Decodes by r1d's own CUDA kernels, a whole step captured as one graph.
//!
//! The host's share of a step is one launch: ids, positions and draws stay on the device, and the
//! host reads them once for a block of steps. A graph has a fixed number of rows, so there is one
//! for each of a few sizes; rows that are in the graph and not in the request do nothing. Memory
//! and graphs stay for the next request of the same sizes.
//!
//! The schedule, the cache and the records are those of the other way to decode, and so are the
//! uniforms: in float32 both ways draw the same ids.

use crate::error::Result;
use crate::sampling_mask;
use r1d_kernels::{
    AttentionSizes, Cut, DecodeKernels, Draw, Few, Gpu, Graph, KernelError, Rotation, Scratch,
    kept_bytes,
};
use r1d_model::{Cache, CausalLm, DenseLayer, DenseParts};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Requests of different sizes whose memory and graphs are kept: those of training and of an
/// evaluation take turns.
const PLANS_MAX: usize = 2;

/// Kernels that were compiled for models of one dtype and shape of attention.
pub(crate) struct Engine {
    gpu: Gpu,
    kernels: DecodeKernels,
    compiled_for: (Kind, AttentionSizes),
    /// What requests like those before use, the last one's first.
    plans: Vec<Plan>,
}

/// A block of decoding steps as it comes from the host.
pub(crate) struct Block<'a> {
    /// The id that each row feeds first, `[rows]`.
    pub last_ids: &'a [i64],
    /// The tokens that each row's slot holds, `[rows]`.
    pub positions: &'a [i64],
    /// A uniform of each step and row, `[steps · rows]`.
    pub uniforms: &'a [f64],
}

/// What one step of a block drew.
pub(crate) struct DrawnStep {
    /// Ids, `[rows]`.
    pub ids: Vec<i64>,
    /// Their log-probabilities, `[rows]`.
    pub logprobs: Vec<f32>,
    /// Bits of the sets of kept ids, `[rows, words]`; empty unless they are recorded.
    pub kept: Vec<u64>,
}

/// How a request draws.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Drawing {
    /// Temperature of the distribution; 0 is greedy.
    pub temperature: f32,
    /// What top-k and top-p cut off; `None` if nothing.
    pub cut: Option<Cut>,
    /// Whether the sets of kept ids are recorded.
    pub keeps: bool,
}

/// Memory, and the graphs that use it.
struct Plan {
    made_for: MadeFor,
    buffers: Buffers,
    /// Cosines and sines of all places.
    rotations: Tensor,
    graphs: BTreeMap<i64, Graph>,
}

/// All that a graph has of a request: another with the same can use it.
#[derive(PartialEq)]
struct MadeFor {
    rows: i64,
    steps: i64,
    /// Places of a slot.
    places: i64,
    drawing: Drawing,
    /// Addresses of the model's weights and of the cache.
    addresses: Vec<usize>,
}

/// A request while it decodes.
pub(crate) struct Captured<'a> {
    gpu: &'a Gpu,
    kernels: &'a DecodeKernels,
    parts: DenseParts<'a>,
    cache: Vec<(Tensor, Tensor)>,
    plan: &'a mut Plan,
}

/// Memory of the largest graph; a smaller one uses the beginning of each.
struct Buffers {
    hidden: Tensor,
    normed: Tensor,
    qkv: Tensor,
    query: Tensor,
    attended: Tensor,
    partial: Tensor,
    gate_up: Tensor,
    activated: Tensor,
    logits: Tensor,
    uniforms: Tensor,
    ids: Tensor,
    logprobs: Tensor,
    kept: Tensor,
    limits: Tensor,
    last_id: Tensor,
    position: Tensor,
    live: Tensor,
    step: Tensor,
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

fn sizes_of(parts: &DenseParts) -> AttentionSizes {
    AttentionSizes {
        heads: parts.attention.heads,
        key_heads: parts.attention.key_value_heads,
        head_dim: parts.attention.head_dim,
    }
}

impl Engine {
    /// Opens the device and compiles the kernels. The error says why they cannot be used.
    pub(crate) fn open(model: &CausalLm) -> Result<Engine> {
        let parts = model.dense_parts(1)?.ok_or(KernelError::Model {
            what: "latent attention, experts, adapters or FP8",
        })?;
        let (kind, sizes) = (model.kind(), sizes_of(&parts));
        let (vocab, hidden) = parts.lm_head.size2()?;
        if !DecodeKernels::takes(kind, sizes, hidden, parts.intermediate, vocab) {
            return Err(KernelError::Model {
                what: "these sizes of heads and layers",
            }
            .into());
        }
        let gpu = Gpu::open(model.device())?;
        let kernels = DecodeKernels::compile(&gpu, kind, sizes)?;
        Ok(Engine {
            gpu,
            kernels,
            compiled_for: (kind, sizes),
            plans: Vec::new(),
        })
    }

    /// Begins a request whose blocks have at most `steps` steps of `rows` rows. `None` if the
    /// kernels are not for this model.
    pub(crate) fn begin<'a>(
        &'a mut self,
        model: &'a CausalLm,
        cache: &Cache,
        (rows, steps): (usize, usize),
        drawing: Drawing,
    ) -> Result<Option<Captured<'a>>> {
        let held = |layer| {
            let (keys, values) = cache.keys_and_values(layer)?;
            Some((keys.shallow_clone(), values.shallow_clone()))
        };
        let Some(first) = held(0) else {
            return Ok(None);
        };
        let places = first.0.size4()?.2;
        let Some(mut parts) = model.dense_parts(places)? else {
            return Ok(None);
        };
        let slots: Option<Vec<_>> = (0..parts.layers.len()).map(held).collect();
        let (Some(slots), true) = (slots, (model.kind(), sizes_of(&parts)) == self.compiled_for)
        else {
            return Ok(None);
        };
        let made_for = MadeFor {
            rows: graph_rows(rows),
            steps: steps as i64,
            places,
            drawing,
            addresses: addresses(&parts, &slots),
        };
        let plan = match self.plans.iter().position(|plan| plan.made_for == made_for) {
            Some(at) => self.plans.remove(at),
            None => {
                // The oldest makes room before the new one takes its memory.
                self.plans.truncate(PLANS_MAX.saturating_sub(1));
                self.plan(&parts, model, made_for)?
            }
        };
        self.plans.insert(0, plan);
        self.plans.truncate(PLANS_MAX);
        let Some(plan) = self.plans.first_mut() else {
            return Ok(None);
        };
        parts.rotations = plan.rotations.shallow_clone();
        let mut captured = Captured {
            gpu: &self.gpu,
            kernels: &self.kernels,
            parts,
            cache: slots,
            plan,
        };
        // An error of the kernels shows here, where libtorch's operations can still take over.
        captured.graph(captured.plan.made_for.rows)?;
        Ok(Some(captured))
    }

    fn plan(&self, parts: &DenseParts, model: &CausalLm, made_for: MadeFor) -> Result<Plan> {
        let MadeFor {
            rows,
            steps,
            places,
            drawing,
            ..
        } = made_for;
        let kept = match drawing.cut {
            Some(_) if drawing.keeps => steps * rows * kept_bytes(model.config.vocab_size),
            _ => 0,
        };
        Ok(Plan {
            buffers: self.buffers(parts, model, (rows, places, steps), kept)?,
            rotations: parts.rotations.shallow_clone(),
            graphs: BTreeMap::new(),
            made_for,
        })
    }

    fn buffers(
        &self,
        parts: &DenseParts,
        model: &CausalLm,
        (rows, places, steps): (i64, i64, i64),
        kept: i64,
    ) -> Result<Buffers> {
        let zeros = |shape: &[i64], kind| Tensor::f_zeros(shape, (kind, model.device()));
        let AttentionSizes {
            heads,
            key_heads,
            head_dim,
        } = sizes_of(parts);
        let (vocab, hidden) = parts.lm_head.size2()?;
        let kind = model.kind();
        let partial = self.kernels.attention().partial_numbers(rows, places);
        Ok(Buffers {
            hidden: zeros(&[rows, hidden], kind)?,
            normed: zeros(&[rows, hidden], kind)?,
            qkv: zeros(&[rows, (heads + 2 * key_heads) * head_dim], Kind::Float)?,
            query: zeros(&[rows, heads * head_dim], kind)?,
            attended: zeros(&[rows, heads * head_dim], kind)?,
            partial: zeros(&[partial], Kind::Float)?,
            gate_up: zeros(&[rows, 2 * parts.intermediate], kind)?,
            activated: zeros(&[rows, parts.intermediate], kind)?,
            logits: zeros(&[rows, vocab], kind)?,
            uniforms: zeros(&[steps * rows], Kind::Float)?,
            ids: zeros(&[steps * rows], Kind::Int)?,
            logprobs: zeros(&[steps * rows], Kind::Float)?,
            kept: zeros(&[kept], Kind::Uint8)?,
            limits: zeros(&[rows], Kind::Float)?,
            last_id: zeros(&[rows], Kind::Int)?,
            position: zeros(&[rows], Kind::Int)?,
            live: zeros(&[1], Kind::Int)?,
            step: zeros(&[1], Kind::Int)?,
        })
    }
}

impl Buffers {
    /// The part that a graph of `rows` rows uses.
    fn narrow(&self, rows: i64, steps: i64) -> Result<Buffers> {
        let first = |tensor: &Tensor| tensor.f_narrow(0, 0, rows);
        let by_step = |tensor: &Tensor| tensor.f_narrow(0, 0, steps * rows)?.f_view([steps, rows]);
        let bytes = kept_bytes(self.logits.size2()?.1);
        let kept = if self.kept.numel() > 0 {
            let kept = self.kept.f_narrow(0, 0, steps * rows * bytes)?;
            kept.f_view([steps, rows, bytes])?
        } else {
            self.kept.shallow_clone()
        };
        Ok(Buffers {
            hidden: first(&self.hidden)?,
            normed: first(&self.normed)?,
            qkv: first(&self.qkv)?,
            query: first(&self.query)?,
            attended: first(&self.attended)?,
            partial: self.partial.shallow_clone(),
            gate_up: first(&self.gate_up)?,
            activated: first(&self.activated)?,
            logits: first(&self.logits)?,
            uniforms: by_step(&self.uniforms)?,
            ids: by_step(&self.ids)?,
            logprobs: by_step(&self.logprobs)?,
            kept,
            limits: first(&self.limits)?,
            last_id: first(&self.last_id)?,
            position: first(&self.position)?,
            live: self.live.shallow_clone(),
            step: self.step.shallow_clone(),
        })
    }
}

/// Addresses of all that a graph reads or writes beside its own memory.
fn addresses(parts: &DenseParts, cache: &[(Tensor, Tensor)]) -> Vec<usize> {
    let of_layer = |layer: &DenseLayer| {
        let norms = layer
            .head_norms
            .map(|(query, key)| (query.0, key.0))
            .unzip();
        let always = [
            layer.input_norm.0,
            layer.qkv_proj,
            layer.o_proj,
            layer.post_attention_norm.0,
            layer.gate_up,
            layer.down,
        ];
        let sometimes = [layer.qkv_bias, norms.0, norms.1];
        let all = always.map(Some).into_iter().chain(sometimes);
        all.map(|tensor| tensor.map_or(0, address))
            .collect::<Vec<_>>()
    };
    let around = [parts.embed_tokens, parts.norm.0, parts.lm_head];
    let of_cache = cache.iter().flat_map(|(keys, values)| [keys, values]);
    let mut addresses: Vec<usize> = around.into_iter().chain(of_cache).map(address).collect();
    addresses.extend(parts.layers.iter().flat_map(of_layer));
    addresses
}

fn address(tensor: &Tensor) -> usize {
    tensor.data_ptr().addr()
}

impl Captured<'_> {
    /// Decodes `steps` steps of all rows and draws an id of each: row i lives in slot i.
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
        self.plan.buffers.narrow(rows, self.plan.made_for.steps)
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
        let Captured {
            gpu,
            kernels,
            parts,
            ..
        } = self;
        let ids = (&buffers.last_id, &buffers.step);
        kernels.embed(gpu, ids, parts.embed_tokens, &buffers.hidden)?;
        for (layer, cache) in parts.layers.iter().zip(&self.cache) {
            self.layer(layer, cache, buffers)?;
        }
        let (norm, epsilon) = parts.norm;
        let (rows, width) = buffers.hidden.size2()?;
        if kernels.takes_few(rows, width) {
            let few = Few::Plain(norm, epsilon);
            kernels.few(gpu, &few, &buffers.hidden, parts.lm_head, &buffers.logits)?;
        } else {
            kernels.rms_norm(gpu, &buffers.hidden, norm, epsilon, &buffers.normed)?;
            gpu.linear(&buffers.normed, parts.lm_head, &buffers.logits)?;
        }
        let Drawing {
            temperature, cut, ..
        } = self.plan.made_for.drawing;
        if let Some(cut) = cut {
            kernels.threshold(gpu, &buffers.logits, &buffers.live, cut, &buffers.limits)?;
        }
        let draw = Draw {
            uniforms: &buffers.uniforms,
            step: &buffers.step,
            live: &buffers.live,
            last_id: &buffers.last_id,
            position: &buffers.position,
            ids: &buffers.ids,
            logprobs: &buffers.logprobs,
            temperature,
            limits: cut.map(|_| &buffers.limits),
            kept: (buffers.kept.numel() > 0).then_some(&buffers.kept),
        };
        kernels.draw(gpu, &buffers.logits, &draw)
    }

    /// h += Attention(Norm(h)); h += FeedForward(Norm(h)).
    fn layer(
        &self,
        layer: &DenseLayer,
        (keys, values): &(Tensor, Tensor),
        buffers: &Buffers,
    ) -> Result<(), KernelError> {
        let Captured { gpu, kernels, .. } = self;
        let Buffers {
            hidden,
            normed,
            qkv,
            query,
            attended,
            partial,
            ..
        } = buffers;
        let (rows, width) = hidden.size2()?;
        let few = kernels.takes_few(rows, width);
        let (norm, epsilon) = layer.input_norm;
        if few {
            let normed = Few::Normed(norm, epsilon);
            kernels.few(gpu, &normed, hidden, layer.qkv_proj, qkv)?;
        } else {
            kernels.rms_norm(gpu, hidden, norm, epsilon, normed)?;
            gpu.linear(normed, layer.qkv_proj, qkv)?;
        }
        let rotation = Rotation {
            bias: layer.qkv_bias,
            norms: layer
                .head_norms
                .map(|((query, epsilon), (key, _))| (query, key, epsilon)),
            table: &self.parts.rotations,
            position: &buffers.position,
            live: &buffers.live,
        };
        let scratch = Scratch { query, partial };
        let attention = kernels.attention();
        attention.run(gpu, qkv, &rotation, (keys, values), &scratch, attended)?;
        let (norm, epsilon) = layer.post_attention_norm;
        if few {
            kernels.few(gpu, &Few::Added, attended, layer.o_proj, hidden)?;
            let gated = Few::Gated(norm, epsilon);
            kernels.few(gpu, &gated, hidden, layer.gate_up, &buffers.activated)?;
            return kernels.few(gpu, &Few::Added, &buffers.activated, layer.down, hidden);
        }
        gpu.add_linear(attended, layer.o_proj, hidden)?;
        kernels.rms_norm(gpu, hidden, norm, epsilon, normed)?;
        gpu.linear(normed, layer.gate_up, &buffers.gate_up)?;
        kernels.silu_mul(gpu, &buffers.gate_up, &buffers.activated)?;
        gpu.add_linear(&buffers.activated, layer.down, hidden)
    }
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
    let of_step = |step| {
        let kept = match &kept {
            Some(kept) => sampling_mask::words(&kept.f_get(step)?)?,
            None => Vec::new(),
        };
        Ok(DrawnStep {
            ids: Vec::try_from(&ids.f_get(step)?.f_to_kind(Kind::Int64)?)?,
            logprobs: Vec::try_from(&logprobs.f_get(step)?)?,
            kept,
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
