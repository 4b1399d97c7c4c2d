//! Decodes by r1d's own CUDA kernels, a whole step captured as one graph.
//!
//! The host's share of a step is one launch: ids, positions and draws stay on the device, and the
//! host reads them once for a block of steps. A graph has a fixed number of rows, so there is one
//! for each of a few sizes; rows that are in the graph and not in the request do nothing.
//!
//! The schedule, the cache and the records are those of the other way to decode, and so are the
//! uniforms: in float32 both ways draw the same ids.

use crate::error::Result;
use crate::sampling_mask;
use r1d_kernels::{
    AttentionSizes, Cut, DecodeKernels, Draw, Few, Gpu, Graph, KernelError, Rotation, kept_bytes,
};
use r1d_model::{Cache, CausalLm, DenseLayer, DenseParts};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Kernels that were compiled for models of one dtype and shape of attention.
pub(crate) struct Engine {
    gpu: Gpu,
    kernels: DecodeKernels,
    compiled_for: (Kind, AttentionSizes),
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
#[derive(Clone, Copy)]
pub(crate) struct Drawing {
    /// Temperature of the distribution; 0 is greedy.
    pub temperature: f32,
    /// What top-k and top-p cut off; `None` if nothing.
    pub cut: Option<Cut>,
    /// Whether the sets of kept ids are recorded.
    pub keeps: bool,
}

/// A request while it decodes.
pub(crate) struct Captured<'a> {
    engine: &'a Engine,
    parts: DenseParts<'a>,
    cache: Vec<(Tensor, Tensor)>,
    buffers: Buffers,
    graphs: BTreeMap<i64, Graph>,
    drawing: Drawing,
    steps: i64,
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
    /// Opens the device and compiles the kernels. `None` if there are none for this model.
    pub(crate) fn open(model: &CausalLm) -> Result<Option<Engine>> {
        let Some(parts) = model.dense_parts(1)? else {
            return Ok(None);
        };
        let (kind, sizes) = (model.kind(), sizes_of(&parts));
        let (vocab, hidden) = parts.lm_head.size2()?;
        if !DecodeKernels::takes(kind, sizes, hidden, parts.intermediate, vocab) {
            return Ok(None);
        }
        let gpu = Gpu::open(model.device())?;
        let kernels = DecodeKernels::compile(&gpu, kind, sizes)?;
        Ok(Some(Engine {
            gpu,
            kernels,
            compiled_for: (kind, sizes),
        }))
    }

    /// Begins a request whose blocks have at most `steps` steps of `rows` rows. `None` if the
    /// kernels are not for this model.
    pub(crate) fn begin<'a>(
        &'a self,
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
        let Some(parts) = model.dense_parts(places)? else {
            return Ok(None);
        };
        let slots: Option<Vec<_>> = (0..parts.layers.len()).map(held).collect();
        let (Some(slots), true) = (slots, (model.kind(), sizes_of(&parts)) == self.compiled_for)
        else {
            return Ok(None);
        };
        let steps = steps as i64;
        let rows = graph_rows(rows);
        let kept = match drawing.cut {
            Some(_) if drawing.keeps => steps * rows * kept_bytes(model.config.vocab_size),
            _ => 0,
        };
        let buffers = self.buffers(&parts, model, (rows, places, steps), kept)?;
        Ok(Some(Captured {
            engine: self,
            parts,
            cache: slots,
            buffers,
            graphs: BTreeMap::new(),
            drawing,
            steps,
        }))
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
        // Fewer rows are cut into more parts.
        let partial = (0..)
            .map(|power| 1i64 << power)
            .take_while(|&fewer| fewer < rows)
            .chain([rows])
            .map(|fewer| {
                let parts = self.kernels.parts(fewer, places);
                self.kernels.partial_numbers(fewer, parts)
            })
            .max()
            .unwrap_or(0);
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

impl Captured<'_> {
    /// Decodes `steps` steps of all rows and draws an id of each: row i lives in slot i.
    pub(crate) fn decode(&mut self, block: &Block, steps: usize) -> Result<Vec<DrawnStep>> {
        let live = block.last_ids.len();
        let rows = graph_rows(live);
        let buffers = self.buffers.narrow(rows, self.steps)?;
        if !self.graphs.contains_key(&rows) {
            let graph = self.capture(&buffers)?;
            self.graphs.insert(rows, graph);
        }
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
        let _ = self.buffers.step.f_zero_()?;
        let uniforms: Vec<f32> = block.uniforms.iter().map(|u| *u as f32).collect();
        let uniforms = Tensor::f_from_slice(&uniforms)?.f_view([steps as i64, live as i64])?;
        buffers
            .uniforms
            .f_narrow(0, 0, steps as i64)?
            .f_narrow(1, 0, live as i64)?
            .f_copy_(&uniforms)?;
        if let Some(graph) = self.graphs.get(&rows) {
            for _ in 0..steps {
                self.engine.gpu.replay(graph)?;
            }
        }
        self.drawn(&buffers, steps as i64, live as i64)
    }

    /// Reads what a block has drawn.
    fn drawn(&self, buffers: &Buffers, steps: i64, live: i64) -> Result<Vec<DrawnStep>> {
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

    fn capture(&self, buffers: &Buffers) -> Result<Graph> {
        // The first run loads what the libraries load when it is needed, which a capture forbids.
        // No row lives in it, so it writes nothing that is read.
        let _ = self.buffers.live.shallow_clone().f_zero_()?;
        let gpu = &self.engine.gpu;
        self.step(buffers)?;
        gpu.synchronize()?;
        Ok(gpu.capture(|| self.step(buffers))?)
    }

    /// Launches one step of every row: the token's way through the layers, and the draw.
    fn step(&self, buffers: &Buffers) -> Result<(), KernelError> {
        let Engine { gpu, kernels, .. } = self.engine;
        let parts = &self.parts;
        kernels.embed(gpu, &buffers.last_id, parts.embed_tokens, &buffers.hidden)?;
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
        if let Some(cut) = self.drawing.cut {
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
            temperature: self.drawing.temperature,
            limits: self.drawing.cut.map(|_| &buffers.limits),
            kept: (buffers.kept.numel() > 0).then_some(&buffers.kept),
        };
        kernels.draw(gpu, &buffers.logits, &draw)?;
        kernels.advance(gpu, &buffers.step)
    }

    /// h += Attention(Norm(h)); h += FeedForward(Norm(h)).
    fn layer(
        &self,
        layer: &DenseLayer,
        (keys, values): &(Tensor, Tensor),
        buffers: &Buffers,
    ) -> Result<(), KernelError> {
        let Engine { gpu, kernels, .. } = self.engine;
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
            kernels.few(
                gpu,
                &Few::Normed(norm, epsilon),
                hidden,
                layer.qkv_proj,
                qkv,
            )?;
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
        kernels.rotate_and_store(gpu, qkv, &rotation, query, keys, values)?;
        let parts = kernels.parts(query.size2()?.0, keys.size4()?.2);
        kernels.attend(
            gpu,
            query,
            (keys, values),
            &buffers.position,
            &buffers.live,
            (partial, parts),
            attended,
        )?;
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
