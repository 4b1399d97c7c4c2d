//! Memory of the largest graph; a smaller one uses the beginning of each buffer.

use super::kernels::{AttentionKernels, AttentionShape, Kernels, Shape};
use r1d_kernels::{AttentionSizes, LatentSizes, kept_bytes};
use tch::{Device, Kind, TchError, Tensor};

/// What the sizes of the buffers depend on, beside the rows of a graph.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub shape: Shape,
    pub hidden: i64,
    pub vocab: i64,
    /// Width of the widest dense network.
    pub dense_width: i64,
    /// Width of the compressed query, if it is compressed.
    pub query_rank: Option<i64>,
    /// Steps of a block.
    pub steps: i64,
    /// Most pages of a row.
    pub row_pages: i64,
    /// Numbers of the parts of attention's sums.
    pub partial: i64,
    /// Whether the sets of kept ids are recorded.
    pub keeps: bool,
    /// Layers whose experts are recorded; 0 if none are.
    pub recorded_layers: i64,
}

/// All buffers of the largest graph, in the order in which [`Buffers`] lays them out.
pub(super) struct Memory {
    sizes: Sizes,
    flat: Vec<Tensor>,
}

/// The buffers of a graph.
pub(super) struct Buffers {
    pub hidden: Tensor,
    pub normed: Tensor,
    pub attended: Tensor,
    pub partial: Tensor,
    /// Any dense network's products, of which [`Buffers::of_width`] makes a matrix.
    gate_up: Tensor,
    activated: Tensor,
    pub logits: Tensor,
    pub uniforms: Tensor,
    pub ids: Tensor,
    pub logprobs: Tensor,
    pub kept: Tensor,
    pub limits: Tensor,
    pub last_id: Tensor,
    pub position: Tensor,
    pub live: Tensor,
    pub step: Tensor,
    /// The pages of each row, `[rows, row_pages]`.
    pub page_table: Tensor,
    pub attention: AttentionBuffers,
    pub experts: Option<ExpertBuffers>,
}

pub(super) enum AttentionBuffers {
    Grouped {
        qkv: Tensor,
        query: Tensor,
    },
    Latent {
        /// The compressed query or all heads' queries, latent and rotary key.
        product: Tensor,
        compressed: Tensor,
        /// All heads' queries where they were compressed.
        queries: Tensor,
        /// Queries in the latent space.
        query: Tensor,
        weighed: Tensor,
    },
}

pub(super) struct ExpertBuffers {
    pub logits: Tensor,
    pub chosen: Tensor,
    pub gates: Tensor,
    pub order: Tensor,
    pub starts: Tensor,
    pub between: Tensor,
    pub outputs: Tensor,
    pub shared: Tensor,
    /// Experts by step, row and layer; empty unless they are recorded.
    pub record: Tensor,
}

impl Memory {
    pub(super) fn new(sizes: Sizes, rows: i64, device: Device) -> Result<Memory, TchError> {
        let mut flat = Vec::new();
        let _ = Buffers::lay_out(&sizes, rows, |shape, kind| {
            let zeros = Tensor::f_zeros(shape, (kind, device))?;
            flat.push(zeros.f_view([-1])?);
            Ok(zeros)
        })?;
        Ok(Memory { sizes, flat })
    }

    /// The part that a graph of `rows` rows uses.
    pub(super) fn buffers(&self, rows: i64) -> Result<Buffers, TchError> {
        let mut flat = self.flat.iter();
        Buffers::lay_out(&self.sizes, rows, |shape, _| {
            let numbers = shape.iter().product();
            let one = flat.next().unwrap_or(&self.flat[0]);
            one.f_narrow(0, 0, numbers)?.f_view(shape)
        })
    }
}

impl Buffers {
    /// Takes the buffers one by one, always in the same order.
    fn lay_out(
        sizes: &Sizes,
        rows: i64,
        mut take: impl FnMut(&[i64], Kind) -> Result<Tensor, TchError>,
    ) -> Result<Buffers, TchError> {
        let Sizes {
            hidden,
            vocab,
            dense_width,
            steps,
            ..
        } = *sizes;
        let kind = sizes.shape.kind;
        let attended = match sizes.shape.attention {
            AttentionShape::Grouped(sizes) => sizes.heads * sizes.head_dim,
            AttentionShape::Latent(sizes, _) => sizes.heads * sizes.value,
        };
        let kept = if sizes.keeps { kept_bytes(vocab) } else { 0 };
        Ok(Buffers {
            hidden: take(&[rows, hidden], kind)?,
            normed: take(&[rows, hidden], kind)?,
            attended: take(&[rows, attended], kind)?,
            partial: take(&[sizes.partial], Kind::Float)?,
            gate_up: take(&[rows * 2 * dense_width], kind)?,
            activated: take(&[rows * dense_width], kind)?,
            logits: take(&[rows, vocab], kind)?,
            uniforms: take(&[steps, rows], Kind::Float)?,
            ids: take(&[steps, rows], Kind::Int)?,
            logprobs: take(&[steps, rows], Kind::Float)?,
            kept: take(&[steps, rows, kept], Kind::Uint8)?,
            limits: take(&[rows], Kind::Float)?,
            last_id: take(&[rows], Kind::Int)?,
            position: take(&[rows], Kind::Int)?,
            live: take(&[1], Kind::Int)?,
            step: take(&[1], Kind::Int)?,
            page_table: take(&[rows, sizes.row_pages], Kind::Int)?,
            attention: AttentionBuffers::lay_out(sizes, rows, &mut take)?,
            experts: ExpertBuffers::lay_out(sizes, rows, &mut take)?,
        })
    }

    /// What a dense network of this width uses: gate beside up `[rows, 2 · width]`, and what is
    /// activated `[rows, width]`.
    pub(super) fn of_width(&self, width: i64) -> Result<(Tensor, Tensor), TchError> {
        let rows = self.hidden.size2()?.0;
        let matrix = |flat: &Tensor, width: i64| {
            let part = flat.f_narrow(0, 0, rows * width)?;
            part.f_view([rows, width])
        };
        Ok((
            matrix(&self.gate_up, 2 * width)?,
            matrix(&self.activated, width)?,
        ))
    }
}

impl AttentionBuffers {
    fn lay_out(
        sizes: &Sizes,
        rows: i64,
        take: &mut impl FnMut(&[i64], Kind) -> Result<Tensor, TchError>,
    ) -> Result<AttentionBuffers, TchError> {
        let kind = sizes.shape.kind;
        Ok(match sizes.shape.attention {
            AttentionShape::Grouped(AttentionSizes {
                heads,
                key_heads,
                head_dim,
            }) => AttentionBuffers::Grouped {
                qkv: take(&[rows, (heads + 2 * key_heads) * head_dim], Kind::Float)?,
                query: take(&[rows, heads * head_dim], kind)?,
            },
            AttentionShape::Latent(of_heads, _) => {
                let LatentSizes { heads, latent, .. } = of_heads;
                let (queries, width) = (of_heads.query_width(), of_heads.width());
                let rank = sizes.query_rank.unwrap_or(0);
                let before = sizes.query_rank.unwrap_or(queries);
                AttentionBuffers::Latent {
                    product: take(&[rows, before + width], kind)?,
                    compressed: take(&[rows, rank], kind)?,
                    queries: take(&[rows, if rank > 0 { queries } else { 0 }], kind)?,
                    query: take(&[rows, heads, width], kind)?,
                    weighed: take(&[rows, heads, latent], kind)?,
                }
            }
        })
    }
}

impl ExpertBuffers {
    fn lay_out(
        sizes: &Sizes,
        rows: i64,
        take: &mut impl FnMut(&[i64], Kind) -> Result<Tensor, TchError>,
    ) -> Result<Option<ExpertBuffers>, TchError> {
        let Some((experts, _)) = sizes.shape.experts else {
            return Ok(None);
        };
        let kind = sizes.shape.kind;
        let (count, per_token) = (experts.experts, experts.per_token);
        let pairs = rows * per_token;
        let recorded = sizes.recorded_layers * per_token;
        Ok(Some(ExpertBuffers {
            logits: take(&[rows, count], Kind::Float)?,
            chosen: take(&[rows, per_token], Kind::Int)?,
            gates: take(&[rows, per_token], Kind::Float)?,
            order: take(&[pairs], Kind::Int)?,
            starts: take(&[count + 1], Kind::Int)?,
            between: take(&[pairs, experts.intermediate], kind)?,
            outputs: take(&[pairs, experts.hidden], kind)?,
            shared: take(&[rows, experts.hidden], kind)?,
            record: take(&[sizes.steps, rows, recorded], Kind::Int)?,
        }))
    }
}

/// Numbers of the parts of attention's sums, for any number of rows up to `rows`.
pub(super) fn partial_numbers(kernels: &Kernels, rows: i64, places: i64) -> i64 {
    match &kernels.attention {
        AttentionKernels::Grouped(attention) => attention.partial_numbers(rows, places),
        AttentionKernels::Latent(attention) => attention.partial_numbers(rows, places),
    }
}
