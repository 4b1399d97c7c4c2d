//! A causal language model of any supported architecture: embedding, blocks, final norm, head.

use crate::adapters::Lora;
use crate::attention::{PackedView, are_uneven};
use crate::cache::{Cache, Cached, Chains, Places, each_alone};
use crate::checkpoint::shards::{self, Shards};
use crate::decoder::Decoder;
use crate::error::{ModelError, Result};
use crate::expert_group::ExpertGroup;
use crate::forward::{Context, Noted, Notes, Routing, View};
use crate::init::{OnDevice, Random, Shared, Unfilled};
use crate::matmul::Products;
use crate::merged::MergedWeights;
use crate::mla;
use crate::packed::{AuxLoss, Forward, Output, Packed, Span};
use crate::packed_weights::PackedWeights;
use crate::parts::{LayerParts, ModelParts};
use crate::prediction::PredictionModule;
use crate::rms_norm::RmsNorm;
use crate::rope::Rope;
use crate::rounded::RoundedWeights;
use crate::router;
use crate::tile::{TILE_ROWS, whole_tiles};
use crate::weights::{self, Builder, Initial, Source, Weight};
use r1d_kernels::TrainKernels;
use r1d_shape::{AttentionSizes, Config, EMBEDDING, HEAD, Head, SCORE, Summary};
use r1d_torch::fp8;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Widest head of attention without padding.
const VARLEN_HEAD_DIM_MAX: i64 = 256;

/// The model, with its weights in memory on one device.
pub struct CausalLm {
    /// The shape, as config.json and the weights have it.
    pub config: Config,
    device: Device,
    kind: Kind,
    weights: Vec<Weight>,
    /// The embedding, `[vocab_size, hidden_size]`.
    embed_tokens: Tensor,
    decoder: Decoder,
    norm: RmsNorm,
    /// The output head, `[vocab_size, hidden_size]`, which is the embedding itself if the two are
    /// tied; or the scalar head of a [`crate::SequenceClassifier`].
    lm_head: Tensor,
    rope: Rope,
    lora: Option<Lora>,
    /// The multi-token prediction module; `None` unless the model was loaded with it.
    prediction: Option<PredictionModule>,
    /// Whether the module only drafts ([`CausalLm::freeze_prediction`]).
    prediction_frozen: bool,
    /// Whether linear layers multiply in FP8 ([`CausalLm::set_fp8`]).
    fp8: bool,
    /// r1d's own kernels for passes over whole sequences ([`CausalLm::use_kernels`]).
    kernels: Option<Arc<TrainKernels>>,
    /// The ranks that the experts are shared with; `None`: all are here.
    expert_group: Option<ExpertGroup>,
}

/// What a model is opened with.
#[derive(Clone, Default)]
pub struct Opening {
    /// The multi-token prediction module, which must exist.
    pub prediction: bool,
    /// The ranks that the routed experts are shared with, each of which has some; `None`: all
    /// experts.
    pub expert_group: Option<ExpertGroup>,
}

/// The model's parts, from the builder's tensors.
struct Parts {
    embed_tokens: Tensor,
    decoder: Decoder,
    norm: RmsNorm,
    lm_head: Tensor,
    prediction: Option<PredictionModule>,
}

fn build_parts(config: &Config, weights: &mut Builder) -> Result<Parts> {
    let shape = [config.vocab_size, config.hidden_size];
    let embed_tokens = weights.tensor(EMBEDDING, &shape, Initial::Normal)?;
    let decoder = Decoder::build(config, weights)?;
    let norm = RmsNorm::build(
        weights,
        "model.norm",
        config.hidden_size,
        config.rms_norm_eps,
    )?;
    let lm_head = match config.tie_word_embeddings {
        _ if config.scores => {
            weights.wide_tensor(SCORE, &[1, config.hidden_size], Initial::Normal)?
        }
        true => embed_tokens.shallow_clone(),
        false => weights.tensor(HEAD, &shape, Initial::Normal)?,
    };
    let prediction = if config.runs_prediction_module {
        Some(PredictionModule::build(config, weights)?)
    } else {
        None
    };
    Ok(Parts {
        embed_tokens,
        decoder,
        norm,
        lm_head,
        prediction,
    })
}

/// Lists the names and shapes of all weights without allocating any.
pub(crate) fn weights_of(config: &Config) -> Result<Vec<Weight>> {
    let mut weights = Builder::counting();
    build_parts(config, &mut weights)?;
    Ok(weights.weights)
}

/// A batch padded to the number of rows that the batch-invariant mode needs.
struct Padded {
    ids: Tensor,
    spans: Vec<Span>,
    forced: Option<Tensor>,
}

impl CausalLm {
    pub(crate) fn assemble(
        config: Config,
        source: &mut dyn Source,
        expert_group: Option<&ExpertGroup>,
        device: Device,
        kind: Kind,
    ) -> Result<CausalLm> {
        let mut weights = Builder::new(source, device, kind).in_group(expert_group.cloned());
        let Parts {
            embed_tokens,
            decoder,
            norm,
            lm_head,
            prediction,
        } = build_parts(&config, &mut weights)?;
        let weights = weights.weights;
        let rope = Rope::new(&config.rope, config.blueprint.rotary_dims(), device);
        Ok(CausalLm {
            config,
            device,
            kind,
            weights,
            embed_tokens,
            decoder,
            norm,
            lm_head,
            rope,
            lora: None,
            prediction,
            prediction_frozen: false,
            fp8: false,
            kernels: None,
            expert_group: expert_group.cloned(),
        })
    }

    /// Reads a Hugging Face directory: config.json, then model.safetensors or the shards that its
    /// index lists, straight from the mapped files to `device` as `kind`. Tensors that are missing,
    /// unexpected, or of another shape are errors.
    pub fn load(dir: &Path, device: Device, kind: Kind) -> Result<CausalLm> {
        CausalLm::open(dir, &Opening::default(), device, kind)
    }

    /// Reads a directory like [`Self::load`], with the multi-token prediction module, which must
    /// exist.
    pub fn load_with_prediction(dir: &Path, device: Device, kind: Kind) -> Result<CausalLm> {
        let opening = Opening {
            prediction: true,
            ..Opening::default()
        };
        CausalLm::open(dir, &opening, device, kind)
    }

    /// Reads a directory like [`Self::load`], with or without the multi-token prediction module,
    /// and a shard of the experts or all.
    pub fn open(dir: &Path, opening: &Opening, device: Device, kind: Kind) -> Result<CausalLm> {
        let (config, mut shards) = shards::open(dir)?;
        config.refuse_scores()?;
        let config = if opening.prediction {
            config.with_prediction()?
        } else {
            config
        };
        shards.check(&config, Head::Stored)?;
        CausalLm::assemble(
            config,
            &mut shards,
            opening.expert_group.as_ref(),
            device,
            kind,
        )
    }

    /// Makes random weights: matrices Normal(0, `initializer_range`²), norms 1, biases 0; a
    /// function of seed and config only.
    pub fn init(config_json: &str, seed: u64, device: Device, kind: Kind) -> Result<CausalLm> {
        CausalLm::init_as(config_json, seed, &Opening::default(), device, kind)
    }

    /// Makes random weights like [`Self::init`], with the multi-token prediction module.
    pub fn init_with_prediction(
        config_json: &str,
        seed: u64,
        device: Device,
        kind: Kind,
    ) -> Result<CausalLm> {
        let opening = Opening {
            prediction: true,
            ..Opening::default()
        };
        CausalLm::init_as(config_json, seed, &opening, device, kind)
    }

    /// Makes random weights like [`Self::init`], of what the model is opened with; those of a shard
    /// of the experts are the same as where all are made.
    pub fn init_as(
        config_json: &str,
        seed: u64,
        opening: &Opening,
        device: Device,
        kind: Kind,
    ) -> Result<CausalLm> {
        let mut config = Config::parse(config_json)?;
        if opening.prediction {
            config = config.with_prediction()?;
        }
        config.refuse_scores()?;
        let mut random = Random {
            seed,
            standard_deviation: config.initializer_range,
        };
        CausalLm::assemble(
            config,
            &mut random,
            opening.expert_group.as_ref(),
            device,
            kind,
        )
    }

    /// Makes random weights like [`Self::init`], but by the device's own generator, for
    /// measurements: billions of parameters in seconds.
    pub fn init_on_device(config_json: &str, device: Device, kind: Kind) -> Result<CausalLm> {
        let config = Config::parse(config_json)?;
        config.refuse_scores()?;
        let mut random = OnDevice {
            device,
            standard_deviation: config.initializer_range,
        };
        CausalLm::assemble(config, &mut random, None, device, kind)
    }

    /// A model with the same weights in its own storage, whose weights need no gradients at first.
    /// If the model has adapters, only they are copied: the weights that they adapt are frozen, and
    /// shared.
    pub fn deep_copy(&self) -> Result<CausalLm> {
        let Some(lora) = &self.lora else {
            let mut copy = self.assembled_like(self.config.clone(), &mut Unfilled)?;
            copy.copy_from(self)?;
            copy.fp8 = self.fp8;
            copy.kernels = self.kernels.clone();
            return Ok(copy);
        };
        let mut source = Shared(self.weights.iter());
        let mut copy = self.assembled_like(self.config.clone(), &mut source)?;
        copy.lora = Some(lora.copy()?);
        copy.fp8 = self.fp8;
        copy.kernels = self.kernels.clone();
        Ok(copy)
    }

    /// A model in the same place, with the same shard of the experts.
    pub(crate) fn assembled_like(
        &self,
        config: Config,
        source: &mut dyn Source,
    ) -> Result<CausalLm> {
        CausalLm::assemble(
            config,
            source,
            self.expert_group.as_ref(),
            self.device,
            self.kind,
        )
    }

    /// The ranks that the experts are shared with; `None` if all are here.
    pub fn expert_group(&self) -> Option<&ExpertGroup> {
        self.expert_group.as_ref()
    }

    /// Copies weights and buffers of `other`, a model of the same shape, into this model's own
    /// storage; if it has adapters, only the adapters.
    pub fn copy_from(&self, other: &CausalLm) -> Result<()> {
        match (&self.lora, &other.lora) {
            (Some(own), Some(others)) => weights::copy(own.weights(), others.weights()),
            _ => weights::copy(&self.weights, &other.weights),
        }
    }

    /// Reads weights and buffers from a directory that [`Self::save`] wrote for a model of this
    /// shape, into this model's own storage: a tensor at a time, so that there is no second model
    /// in memory. Names, shapes and dtypes are checked before anything is written; after an error
    /// that comes later the weights are neither the old nor the new ones.
    pub fn restore(&self, dir: &Path) -> Result<()> {
        let mut shards = Shards::open(dir, self.config.fp8_block)?;
        let pieces = || {
            self.weights
                .iter()
                .flat_map(|weight| weight.pieces.iter().map(move |piece| (weight, piece)))
        };
        shards.check(&self.config, Head::Stored)?;
        tch::no_grad(|| pieces().try_for_each(|(weight, piece)| shards.fill(piece, &weight.tensor)))
    }

    /// Dtype of the weights; buffers and scalar heads may be wider.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Device that holds the weights.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether the model was loaded with its multi-token prediction module.
    pub fn predicts(&self) -> bool {
        self.prediction.is_some()
    }

    /// Packs the matrices for decoding on the CPU, where it pays after a few steps; it needs the
    /// matrices' memory once more. Experts are not packed, because each gets few tokens. The result
    /// is empty on a GPU.
    pub fn pack(&self) -> Result<PackedWeights<'_>> {
        let on_cpu = self.device() == Device::Cpu;
        let weights = self.matrix_weights().filter(|_| on_cpu);
        PackedWeights::of(weights.map(|weight| &weight.tensor))
    }

    pub(crate) fn prediction(&self) -> Option<&PredictionModule> {
        self.prediction.as_ref()
    }

    /// Counts of the model's parameters, from its shape.
    pub fn summary(&self) -> Summary {
        self.config.summary()
    }

    /// The trained tensors in a fixed order, as they are in memory: projections of one input fused,
    /// experts stacked; [`Self::save`] separates them again. If the model has adapters, only these.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let named = |weights: &[Weight]| {
            weights
                .iter()
                .map(|w| (w.name.clone(), w.tensor.shallow_clone()))
                .collect()
        };
        self.lora
            .as_ref()
            .map_or_else(|| self.named(true), |lora| named(lora.weights()))
    }

    /// The tensors that are not trained: the routers' correction biases, float32.
    pub fn buffers(&self) -> Vec<(String, Tensor)> {
        self.named(false)
    }

    fn named(&self, trained: bool) -> Vec<(String, Tensor)> {
        let chosen = self
            .weights
            .iter()
            .filter(|w| w.trained == trained && !(trained && self.frozen(w)));
        chosen
            .map(|w| (w.name.clone(), w.tensor.shallow_clone()))
            .collect()
    }

    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The matrices that rows are multiplied with, except the experts'.
    pub(crate) fn matrix_weights(&self) -> impl Iterator<Item = &Weight> {
        let only_looked_up = |w: &Weight| w.name == EMBEDDING && !self.config.tie_word_embeddings;
        self.weights
            .iter()
            .filter(move |w| w.trained && w.shape.len() == 2 && !only_looked_up(w))
    }

    fn frozen(&self, weight: &Weight) -> bool {
        self.prediction_frozen && self.config.of_prediction(&weight.name)
    }

    /// Excludes the multi-token prediction module from training, so that it only drafts.
    pub fn freeze_prediction(&mut self) {
        self.prediction_frozen = true;
    }

    /// Sets whether linear layers of bfloat16 models multiply in FP8 in every pass, if
    /// [`r1d_torch::fp8::takes`] their weights; gradients stay in bfloat16. The head, the routers
    /// and MLA's up-projection of keys and values do not change.
    pub fn set_fp8(&mut self, on: bool) {
        self.fp8 = on;
    }

    /// Whether linear layers multiply in FP8 ([`Self::set_fp8`]).
    pub fn is_fp8(&self) -> bool {
        self.fp8
    }

    /// Makes passes over whole sequences use r1d's own kernels, where they know the shapes. The
    /// weights must be bfloat16 on a GPU. Batch-invariant passes do not use them.
    pub fn use_kernels(&mut self, kernels: Arc<TrainKernels>) {
        self.kernels = Some(kernels);
    }

    /// The kernels of [`Self::use_kernels`].
    pub fn kernels(&self) -> Option<&Arc<TrainKernels>> {
        self.kernels.as_ref()
    }

    /// The kernels of [`Self::use_kernels`] and the output head `[vocab_size, hidden_size]`, where
    /// logits are nothing but the product with it.
    pub fn plain_head(&self) -> Option<(&Arc<TrainKernels>, &Tensor)> {
        let adapted = self.lora.as_ref();
        let is_plain = self.lm_head.kind() == Kind::BFloat16
            && !adapted.is_some_and(|lora| lora.adapts(&self.lm_head));
        Some((self.kernels.as_ref().filter(|_| is_plain)?, &self.lm_head))
    }

    /// Sets whether trained weights get gradients in passes; if the model has adapters, only these
    /// do.
    pub fn set_requires_grad(&self, on: bool) {
        for weight in self.weights.iter().filter(|w| w.trained && !self.frozen(w)) {
            let _ = weight.tensor.set_requires_grad(on && self.lora.is_none());
        }
        for weight in self.lora.iter().flat_map(Lora::weights) {
            let _ = weight.tensor.set_requires_grad(on);
        }
    }

    /// Whether the embedding gets gradients.
    pub(crate) fn trains_embedding(&self) -> bool {
        self.lora.is_none()
    }

    /// The first block with something to train; the number of blocks if only the head has.
    pub(crate) fn lowest_trained_block(&self) -> usize {
        match &self.lora {
            None => 0,
            Some(lora) => lora.lowest_block().unwrap_or(self.blocks()),
        }
    }

    /// Writes W + s · B A of all adapted weights into the copies of `merged`, and makes those that
    /// are missing. They do not follow the adapters: merge again when these have changed.
    pub fn merge(&self, merged: &mut MergedWeights) -> Result<()> {
        let Some(lora) = &self.lora else {
            return Ok(());
        };
        let weights = self.weights.iter().map(|weight| &weight.tensor);
        tch::no_grad(|| merged.fill(lora, weights))
    }

    /// Rounds the weights that are multiplied in FP8 into the copies of `rounded`, and makes those
    /// that are missing; round again when the weights have changed. Layers with latent attention or
    /// experts have none.
    pub fn round(&self, rounded: &mut RoundedWeights) -> Result<()> {
        let layers = self.decoder.layers().filter(|_| self.fp8);
        let of_layers = layers.iter().flatten().flat_map(LayerParts::plain_matrices);
        tch::no_grad(|| rounded.fill(of_layers))
    }

    /// The model's tensors, with rotations of `positions` positions at least, and the copies of
    /// [`Self::merge`] in the place of adapted weights; beside them those of [`Self::round`].
    /// `None` unless whole heads rotate and products are without a bias behind attention, without
    /// an adapter that is not merged, and without a product in FP8 whose weight is not rounded.
    pub fn parts<'a>(
        &'a self,
        positions: i64,
        merged: &'a MergedWeights,
        rounded: &'a RoundedWeights,
    ) -> Result<Option<ModelParts<'a>>> {
        let attention = &self.config.blueprint.attention;
        let whole_heads = match attention {
            AttentionSizes::Grouped(sizes) => self.config.blueprint.rotary_dims() == sizes.head_dim,
            AttentionSizes::Latent(_) => true,
        };
        let rounds_adapted = self.fp8 && self.lora.is_some();
        let plain = !(self.config.scores || rounds_adapted);
        let Some(layers) = self.decoder.layers().filter(|_| plain && whole_heads) else {
            return Ok(None);
        };
        let is_rounded = |layer: &LayerParts| {
            let matrices = layer.matrices().into_iter();
            let mut of_fp8 = matrices.filter(|matrix| fp8::takes(matrix));
            of_fp8.all(|matrix| rounded.get(matrix).is_some())
        };
        if self.fp8 && !layers.iter().all(is_rounded) {
            return Ok(None);
        }
        let mut parts = ModelParts {
            attention,
            embed_tokens: &self.embed_tokens,
            layers,
            norm: self.norm.parts(),
            lm_head: &self.lm_head,
            rotations: self.rope.table(positions)?,
            rounded,
        };
        if let Some(lora) = &self.lora {
            for matrix in parts.matrices_mut() {
                match merged.get(matrix) {
                    Some(copy) => *matrix = copy,
                    None if lora.adapts(matrix) => return Ok(None),
                    None => (),
                }
            }
        }
        Ok(Some(parts))
    }

    pub(crate) fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    pub(crate) fn set_lora(&mut self, lora: Option<Lora>) {
        self.lora = lora;
    }

    /// Runs whole sequences side by side.
    pub fn forward(&self, batch: &Packed, options: &Forward) -> Result<Output> {
        let (ids, context) = self.packed(batch, None, options)?;
        self.run(&ids, &context)
    }

    /// Runs sequences like [`Self::forward`] and leaves them in the cache: sequence i in every slot
    /// of `slots[i]`, so that a group of completions shares one prefill.
    pub fn prefill(
        &self,
        batch: &Packed,
        slots: &[Vec<i64>],
        cache: &mut Cache,
        options: &Forward,
    ) -> Result<Output> {
        check_cache(cache, options)?;
        let chains = each_alone(slots);
        let (ids, context) = self.packed(batch, Some((cache, &chains)), options)?;
        self.begin_pass()?;
        self.run(&ids, &context)
    }

    /// Runs sequences like [`Self::prefill`] and leaves them in pages, which are slots of the
    /// cache: sequence i in those of `pages[i]`, one behind the other.
    pub fn prefill_pages(
        &self,
        batch: &Packed,
        pages: &[Vec<i64>],
        cache: &mut Cache,
        options: &Forward,
    ) -> Result<Output> {
        check_cache(cache, options)?;
        let chains: Vec<_> = pages.iter().map(|pages| vec![pages.clone()]).collect();
        let (ids, context) = self.packed(batch, Some((cache, &chains)), options)?;
        self.begin_pass()?;
        self.run(&ids, &context)
    }

    /// Prepares a pass over whole sequences as `options` want it. Returns the ids and the context.
    pub(crate) fn packed<'a>(
        &'a self,
        batch: &Packed,
        cache: Option<(&'a mut Cache, &[Chains])>,
        options: &Forward<'a>,
    ) -> Result<(Tensor, Context<'a>)> {
        let tokens = batch.check()?;
        if !batch.prefixes.is_empty() && (cache.is_some() || options.aux_loss.wanted()) {
            let message = "a pass that fills a cache or wants the balance loss reads every \
                           sequence whole: leave out the prefixes";
            return Err(ModelError::Input(message.into()));
        }
        self.check_forced(tokens, options)?;
        let fills_cache = cache.is_some();
        let (ids, mut context) = self.whole(batch, cache, options)?;
        let routing = &mut context.routing;
        routing.record = options.record_experts;
        routing.count = options.count_experts && !fills_cache;
        routing.counted = if routing.count {
            every_token(batch, self.device)?
        } else {
            None
        };
        routing.balance = self.balance(batch, options)?;
        Ok((ids, context))
    }

    /// Prepares a pass over whole sequences, which it leaves in the cache if there is one. Returns
    /// the ids, with padding in batch-invariant mode, and the context. Notes of its routing are not
    /// asked for yet.
    pub(crate) fn whole<'a>(
        &'a self,
        batch: &Packed,
        cache: Option<(&'a mut Cache, &[Chains])>,
        options: &Forward<'a>,
    ) -> Result<(Tensor, Context<'a>)> {
        check_threads(options)?;
        let tokens = batch.ids.size1()?;
        let Padded { ids, spans, forced } = pad_packed(batch, tokens, options)?;
        let unpadded = self.attends_unpadded(cache.is_some(), options);
        let packed = if unpadded && are_uneven(&spans) {
            PackedView::unpadded(&spans, self.device)?
        } else {
            PackedView::new(&spans, options.invariant, self.kind, self.device)?
        };
        let packed = if cache.is_none() && self.kernels.is_some() && !options.invariant {
            packed.for_training()
        } else {
            packed
        };
        let rotation = self
            .rope
            .rotation(&packed.positions, packed.longest - 1, self.kind)?;
        let cached = match cache {
            Some((cache, chains)) => {
                // Sequences that only pad the batch go to no slot.
                let mut chains = chains.to_vec();
                chains.resize(chains.len() + spans.len() - batch.lengths.len(), Vec::new());
                let lengths: Vec<i64> = spans.iter().map(Span::length).collect();
                Some(Cached::prefill(cache, &lengths, &chains, self.device)?)
            }
            None => None,
        };
        let routing = Routing {
            forced,
            tokens,
            stands_by: options.stands_by,
            ..Routing::default()
        };
        Ok((
            ids,
            Context {
                products: self.products(options),
                kernels: self.kernels.as_ref().filter(|_| !options.invariant),
                rotation,
                view: View::Packed { packed, cached },
                routing,
            },
        ))
    }

    /// Whether attention over sequences of various lengths needs no padding.
    fn attends_unpadded(&self, fills_cache: bool, options: &Forward) -> bool {
        let head_dim = match &self.config.blueprint.attention {
            AttentionSizes::Grouped(sizes) => Some(sizes.head_dim),
            // Keys and values have one width where r1d's own kernels make them.
            AttentionSizes::Latent(_) if fills_cache => None,
            AttentionSizes::Latent(sizes) => mla::heads_of(sizes).map(|heads| heads.width()),
        };
        let takes = |head_dim: i64| head_dim % 8 == 0 && head_dim <= VARLEN_HEAD_DIM_MAX;
        head_dim.is_some_and(takes) && self.kernels.is_some() && !options.invariant
    }

    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_embedding(
            &self.embed_tokens,
            ids,
            self.config.padding_index.unwrap_or(-1),
            false,
            false,
        )?)
    }

    /// Decodes one token for each slot, or several if the slots are [`SlotSet::repeated`]: `ids`
    /// int64 `[B]`.
    ///
    /// [`SlotSet::repeated`]: crate::SlotSet::repeated
    pub fn decode(
        &self,
        ids: &Tensor,
        places: &Places,
        cache: &mut Cache,
        options: &Forward,
    ) -> Result<Output> {
        self.check_forced(ids.size1()?, options)?;
        let (ids, mut context) = self.step(ids, places, cache, options)?;
        context.routing.record = options.record_experts;
        self.begin_pass()?;
        self.run(&ids, &context)
    }

    /// Prepares a decoding pass. Returns its ids, with padding in batch-invariant mode, and the
    /// context. Notes of its routing are not asked for yet.
    pub(crate) fn step<'a>(
        &'a self,
        ids: &Tensor,
        places: &Places,
        cache: &'a mut Cache,
        options: &Forward<'a>,
    ) -> Result<(Tensor, Context<'a>)> {
        let Places {
            slots,
            positions,
            max_position,
        } = *places;
        check_cache(cache, options)?;
        check_threads(options)?;
        let tokens = ids.size1()?;
        if tokens == 0 || slots.count() != tokens || positions.size1()? != tokens {
            let message = format!(
                "decode of {tokens} ids, {} slots and {:?} positions: equally many, and one at \
                 least",
                slots.count(),
                positions.size()
            );
            return Err(ModelError::Input(message));
        }
        // The last row is repeated: it writes the same bits to the same place.
        let rows = repeated_rows(tokens, options, self.device)?;
        let pad = |t: &Tensor| -> Result<Tensor> {
            Ok(rows
                .as_ref()
                .map_or_else(|| Ok(t.shallow_clone()), |rows| t.f_index_select(0, rows))?)
        };
        let (ids, positions) = (pad(ids)?, pad(positions)?);
        let slots = rows
            .as_ref()
            .map_or_else(|| Ok(slots.same()), |rows| slots.rows(rows))?;
        let forced = options.forced_experts.map(pad).transpose()?;
        let cached = Cached::step(
            cache,
            &Places {
                slots: &slots,
                positions: &positions,
                max_position,
            },
        )?;
        let rotation = self.rope.rotation(&positions, max_position, self.kind)?;
        let routing = Routing {
            forced,
            tokens,
            ..Routing::default()
        };
        let view = View::Step {
            seen: cached.seen(self.kind)?,
            cached,
        };
        Ok((
            ids,
            Context {
                products: self.products(options),
                kernels: None,
                rotation,
                view,
                routing,
            },
        ))
    }

    /// The inputs of the balance losses for a batch; `None` unless they are wanted.
    pub(crate) fn balance(
        &self,
        batch: &Packed,
        options: &Forward,
    ) -> Result<Option<(Tensor, AuxLoss)>> {
        if !options.aux_loss.wanted() {
            return Ok(None);
        }
        Ok(Some((
            Tensor::f_from_slice(&batch.lengths)?.f_to_device(self.device)?,
            options.aux_loss,
        )))
    }

    fn products<'a>(&'a self, options: &Forward<'a>) -> Products<'a> {
        Products::of(options, self.lora.as_ref(), self.fp8)
    }

    fn run(&self, ids: &Tensor, context: &Context) -> Result<Output> {
        let mut hidden = self.embed(ids)?;
        let mut noted = Noted::default();
        for layer in 0..self.blocks() {
            let (after, notes) = self.block(layer, hidden, context)?;
            noted.add(notes)?;
            hidden = after;
        }
        self.output(&hidden, context, noted)
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.config.num_hidden_layers as usize
    }

    /// Runs one block of a pass, which does not change the context: it may be run again.
    pub(crate) fn block(
        &self,
        layer: usize,
        hidden: Tensor,
        context: &Context,
    ) -> Result<(Tensor, Notes)> {
        let after = self.decoder.block(layer, hidden, context)?;
        r1d_torch::work::moved(0);
        Ok(after)
    }

    /// The output of a pass whose last block returned `hidden`.
    pub(crate) fn output(
        &self,
        hidden: &Tensor,
        context: &Context,
        noted: Noted,
    ) -> Result<Output> {
        let tokens = context.routing.tokens;
        let experts = noted.experts()?.filter(|_| context.routing.record);
        let hidden = hidden.shallow_clone();
        let (_, normed) = self.norm.behind_sum(hidden, None, context.kernels)?;
        Ok(Output {
            hidden: normed.f_narrow(0, 0, tokens)?,
            experts: experts
                .map(|experts| experts.f_narrow(0, 0, tokens))
                .transpose()?,
            load: noted.load()?,
            aux_loss: noted.balance_loss(),
        })
    }

    /// Applies the output head: `[N, hidden_size]` → float32 `[N, vocab_size]`. `options` must be
    /// those of the pass that made the hidden states.
    pub fn logits(&self, hidden: &Tensor, options: &Forward) -> Result<Tensor> {
        // A scalar head is float32 whatever the model is, because neighbouring values differ by
        // less than bfloat16's precision.
        let logits = self.products(options).wide().linear(
            &hidden.f_to_kind(self.lm_head.kind())?,
            &self.lm_head,
            None,
        )?;
        Ok(if self.kind == Kind::Double {
            logits
        } else {
            logits.f_to_kind(Kind::Float)?
        })
    }

    /// Makes an empty cache of `slots` sequences of up to `capacity` tokens. An `invariant` one
    /// serves passes with [`Forward::invariant`], and only those.
    pub fn cache(&self, slots: i64, capacity: i64, invariant: bool) -> Result<Cache> {
        let rows = self.config.blueprint.cached_rows(invariant);
        Cache::new(
            self.config.cached_layers(),
            &rows,
            slots,
            capacity,
            invariant,
            (self.kind, self.device),
        )
    }

    /// Balances the experts without a loss: `load` `[moe_layers, E]` are the tokens that each
    /// expert got over an optimiser step's whole batch ([`Output::load`], summed; that of
    /// [`Self::predict`] behind the others), `gamma` is the step of the correction biases.
    pub fn update_router_bias(&self, load: &Tensor, gamma: f64) -> Result<()> {
        let mut biases = self.decoder.router_biases();
        let of_module = self
            .prediction
            .as_ref()
            .and_then(PredictionModule::router_bias);
        biases.extend(
            of_module.filter(|_| load.size().first() == Some(&(self.config.moe_layers + 1))),
        );
        let rows = if biases.is_empty() {
            self.config.moe_layers
        } else {
            biases.len() as i64
        };
        let expected = [rows, self.config.experts];
        if load.size() != expected {
            return Err(ModelError::Input(format!(
                "expert load of shape {:?}, expected {expected:?}",
                load.size()
            )));
        }
        for (layer, bias) in (0..).zip(biases) {
            router::update_correction_bias(bias, &load.f_select(0, layer)?, gamma)?;
        }
        Ok(())
    }

    fn check_forced(&self, tokens: i64, options: &Forward) -> Result<()> {
        let Some(forced) = options.forced_experts else {
            return Ok(());
        };
        let expected = [
            tokens,
            self.config.moe_layers,
            self.config.experts_per_token,
        ];
        if forced.size() != expected || forced.kind() != Kind::Int64 {
            return Err(ModelError::Input(format!(
                "forced experts are {:?} {:?}, expected Int64 {expected:?}",
                forced.kind(),
                forced.size()
            )));
        }
        Ok(())
    }
}

/// The indices of all tokens of all sequences; `None` unless some sequences share a beginning.
fn every_token(batch: &Packed, device: Device) -> Result<Option<Tensor>> {
    if batch.prefixes.is_empty() {
        return Ok(None);
    }
    let tokens: Vec<i64> = batch.spans().iter().flat_map(Span::tokens).collect();
    Ok(Some(Tensor::f_from_slice(&tokens)?.f_to_device(device)?))
}

fn check_cache(cache: &Cache, options: &Forward) -> Result<()> {
    if cache.invariant != options.invariant {
        let message = "the cache and the pass must both be batch-invariant, or neither";
        return Err(ModelError::Invariant(message.into()));
    }
    Ok(())
}

/// Refuses the batch-invariant mode with several threads: they would split the rows of a product in
/// a way that depends on their number.
fn check_threads(options: &Forward) -> Result<()> {
    match r1d_torch::runtime::threads() {
        threads if options.invariant && threads != 1 => Err(ModelError::Invariant(format!(
            "libtorch runs {threads} threads, only 1 gives equal bits: start the worker with \
             --threads 1"
        ))),
        _ => Ok(()),
    }
}

/// Pads a batch to whole tiles of tokens in batch-invariant mode, by a sequence of id 0.
fn pad_packed(batch: &Packed, tokens: i64, options: &Forward) -> Result<Padded> {
    let missing = if options.invariant {
        whole_tiles(tokens, TILE_ROWS) - tokens
    } else {
        0
    };
    let mut spans = batch.spans();
    if missing == 0 {
        let forced = options.forced_experts.map(Tensor::shallow_clone);
        return Ok(Padded {
            ids: batch.ids.shallow_clone(),
            spans,
            forced,
        });
    }
    spans.push(Span {
        prefix: 0..0,
        own: tokens..tokens + missing,
    });
    let ids = batch.ids.f_constant_pad_nd([0, missing])?;
    let rows = repeated_rows(tokens, options, batch.ids.device())?;
    let forced = match (options.forced_experts, rows) {
        (Some(forced), Some(rows)) => Some(forced.f_index_select(0, &rows)?),
        _ => None,
    };
    Ok(Padded { ids, spans, forced })
}

/// The rows `0, 1, …, n − 1, n − 1, …` up to whole tiles in batch-invariant mode; `None` if no row
/// is needed.
fn repeated_rows(rows: i64, options: &Forward, device: Device) -> Result<Option<Tensor>> {
    if !options.invariant || rows % TILE_ROWS == 0 {
        return Ok(None);
    }
    let index: Vec<i64> = (0..whole_tiles(rows, TILE_ROWS))
        .map(|row| row.min(rows - 1))
        .collect();
    Ok(Some(Tensor::f_from_slice(&index)?.f_to_device(device)?))
}
