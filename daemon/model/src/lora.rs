//! Low-rank adaptation (Hu et al. 2022): a frozen W x becomes W x + s · B A x, s = α / r, and only
//! A and B are trained. Adapters are stored in peft's layout.

use crate::adapters::{Adapter, Lora, LoraSpec};
use crate::causal_lm::CausalLm;
use crate::checkpoint::file_sink::{FileSink, Folder};
use crate::checkpoint::shards::Shards;
use crate::checkpoint::tensors::put_tensors;
use crate::error::{ModelError, Result};
use crate::expert_group::ExpertGroup;
use crate::init::Random;
use crate::weights::{Builder, Initial, Piece, Rows, Source, Weight};
use r1d_proto::user_file;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use tch::Tensor;

/// The file of an adapter's settings, whose existence makes a directory an adapter's.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
const ADAPTER_CONFIG_MAX_BYTES: u64 = 16 << 20;
pub(crate) const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// The end of the name under which peft saves the frozen head too, if the head is adapted.
const FROZEN_HEAD: &str = ".base_layer.weight";
/// The prefix of a module's name in peft.
const PREFIX: &str = "base_model.model.";
/// peft's word for every linear layer except the output head.
pub(crate) const ALL_LINEAR: &str = "all-linear";
const HEAD_MODULE: &str = "lm_head";

/// The fields of adapter_config.json that are read.
#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: i64,
    lora_alpha: f64,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    use_rslora: bool,
    /// All other fields, which may belong to kinds of adapters that are not supported.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Settings that must be absent, null, false or empty, because each changes the adapter or the
/// weights that it adapts.
const REFUSED: &[&str] = &[
    "fan_in_fan_out",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "target_parameters",
    "trainable_token_indices",
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "megatron_config",
];

/// Ways to initialise an adapter that do not change the weights. Other ways change the weights that
/// the adapter must be added to.
const PLAIN_STARTS: &[&str] = &["gaussian", "orthogonal", "eva"];

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// A linear layer that can be adapted, or those of all experts of a layer with one name.
struct Module<'a> {
    /// The layer's name; experts' have no number in theirs.
    name: String,
    weight: &'a Weight,
    /// The layer's piece, or the first expert's.
    piece: &'a Piece,
}

impl Module<'_> {
    /// The part of the name before the layer's own, and that.
    fn split(&self) -> (&str, &str) {
        self.name.rsplit_once('.').unwrap_or(("", &self.name))
    }

    /// Whether it has a layer for each expert.
    fn is_of_experts(&self) -> bool {
        self.piece.expert().is_some()
    }

    /// The name of the tensor on disk that says whether the module is adapted.
    fn first_on_disk(&self) -> String {
        let name = self.piece.name.trim_end_matches(".weight");
        format!("{PREFIX}{name}.lora_A.weight")
    }

    /// Whether the module matches a list of targets, by peft's rules.
    fn is_target(&self, targets: &[String]) -> bool {
        let is_linear = self.name != HEAD_MODULE && !self.is_of_experts();
        targets.iter().any(|target| {
            (target == ALL_LINEAR && is_linear)
                || self.name == *target
                || self
                    .name
                    .strip_suffix(target.as_str())
                    .is_some_and(|rest| rest.ends_with('.'))
        })
    }
}

fn modules(model: &CausalLm) -> Vec<Module<'_>> {
    let pieces = model
        .matrix_weights()
        .flat_map(|weight| weight.pieces.iter().map(move |piece| (weight, piece)));
    // transformers, and so peft, does not count a router's matrix as a linear layer. If some layers
    // have routed experts, peft takes the names of feed-forward matrices to mean only the experts'.
    let mixture = model.config.moe_layers > 0;
    let matrices = pieces.filter_map(|(weight, piece)| {
        let name = piece.name.strip_suffix(".weight")?;
        let excluded = name.ends_with("embed_tokens") || (mixture && name.contains(".mlp."));
        (!excluded).then_some(Module {
            name: name.to_owned(),
            weight,
            piece,
        })
    });
    matrices.chain(expert_modules(model)).collect()
}

/// The experts' layers, one module for all experts of a layer.
fn expert_modules(model: &CausalLm) -> impl Iterator<Item = Module<'_>> {
    let pieces = model.weights().iter().flat_map(|weight| {
        let first = |piece: &&Piece| piece.is_first();
        weight
            .pieces
            .iter()
            .filter(first)
            .map(move |piece| (weight, piece))
    });
    pieces.filter_map(|(weight, piece)| {
        let (numbered, name) = piece.name.strip_suffix(".weight")?.rsplit_once('.')?;
        let (layer, _) = numbered.rsplit_once('.')?;
        Some(Module {
            name: format!("{layer}.{name}"),
            weight,
            piece,
        })
    })
}

impl Lora {
    /// Builds adapters of `chosen` modules, filled by `source`.
    fn build(
        model: &CausalLm,
        chosen: &[&Module<'_>],
        spec: LoraSpec,
        scale: f64,
        source: &mut dyn Source,
    ) -> Result<Lora> {
        let mut builder = Builder::new(source, model.device(), model.kind())
            .in_group(model.expert_group().cloned());
        let mut adapters: HashMap<usize, Vec<Adapter>> = HashMap::new();
        let rank = spec.r;
        for module in chosen {
            let a = builder.weights.len();
            if module.is_of_experts() {
                build_of_experts(&mut builder, module, rank)?;
            } else {
                build_of_matrix(&mut builder, module, rank)?;
            }
            let of_weight = adapters.entry(module.weight.tensor.data_ptr().addr());
            of_weight.or_default().push(Adapter {
                a,
                b: a + 1,
                start: module.piece.start(),
            });
        }
        Ok(Lora {
            spec,
            scale,
            weights: builder.weights,
            adapters,
        })
    }

    fn module_names(&self) -> impl Iterator<Item = &str> {
        let pieces = self.weights.iter().flat_map(|weight| &weight.pieces);
        pieces.filter_map(|piece| {
            piece
                .name
                .strip_prefix(PREFIX)?
                .strip_suffix(".lora_A.weight")
        })
    }
}

/// Builds A and B of one matrix.
fn build_of_matrix(builder: &mut Builder, module: &Module<'_>, rank: i64) -> Result<()> {
    let Module { name, piece, .. } = module;
    let prefix = format!("{PREFIX}{name}.");
    let _ = builder.tensor(
        &format!("{prefix}lora_A.weight"),
        &[rank, piece.shape[1]],
        Initial::KaimingUniform,
    )?;
    // B's rows have the order of the weight's.
    let rows = Rows::reordered("lora_B", piece.shape[0], piece.order().map(<[i64]>::to_vec));
    let _ = builder.zero_rows(&prefix, rows, rank)?;
    Ok(())
}

/// Builds A and B of all experts' matrices of one name, stacked; on disk each expert has its own.
fn build_of_experts(builder: &mut Builder, module: &Module<'_>, rank: i64) -> Result<()> {
    let (layer, name) = module.split();
    let ranks = builder.expert_group().map_or(1, ExpertGroup::ranks);
    let (prefix, experts) = (format!("{PREFIX}{layer}"), module.weight.shape[0] * ranks);
    let [rows, columns] = module.piece.shape[..] else {
        return Err(ModelError::Input(format!("`{}` is no matrix", module.name)));
    };
    let mut add = |half: &str, rows: i64, columns: i64, initial| {
        let half = format!("{name}.{half}");
        let stacked = format!("{half}.weight");
        let rows = [Rows::new(&half, rows)];
        builder.experts(&prefix, &stacked, experts, &rows, columns, initial)
    };
    let _ = add("lora_A", rank, columns, Initial::KaimingUniform)?;
    let _ = add("lora_B", rows, rank, Initial::Zeros)?;
    Ok(())
}

impl CausalLm {
    /// Adds fresh adapters with B = 0, so that the model computes the same as before; from now on
    /// they are its only parameters. A is a function of the seed.
    pub fn adapt(&mut self, spec: &LoraSpec, seed: u64) -> Result<()> {
        if spec.r < 1 || !(spec.lora_alpha.is_finite() && spec.lora_alpha > 0.0) {
            return Err(ModelError::Input(format!(
                "an adapter of rank {} and alpha {}: both must be above 0",
                spec.r, spec.lora_alpha
            )));
        }
        let all = modules(self);
        for target in &spec.target_modules {
            if !all
                .iter()
                .any(|module| module.is_target(std::slice::from_ref(target)))
            {
                return Err(ModelError::Input(format!(
                    "no linear layer is named `{target}`: this model has {}",
                    known(&all)
                )));
            }
        }
        let chosen: Vec<_> = all
            .iter()
            .filter(|module| module.is_target(&spec.target_modules))
            .collect();
        if chosen.is_empty() {
            return Err(ModelError::Input(format!(
                "the adapter has no target: name some of {}",
                known(&all)
            )));
        }
        let mut random = Random {
            seed,
            standard_deviation: 0.0,
        };
        let lora = Lora::build(
            self,
            &chosen,
            spec.clone(),
            spec.lora_alpha / spec.r as f64,
            &mut random,
        )?;
        self.set_lora(Some(lora));
        Ok(())
    }

    /// Reads adapters from a directory in peft's layout. An error names the setting that this
    /// release does not support.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let lora = self.read_adapter(dir)?;
        self.set_lora(Some(lora));
        Ok(())
    }

    /// Reads adapters like [`Self::load_adapter`], but into the storage of existing adapters of the
    /// same shape, a tensor at a time.
    pub fn restore_adapter(&self, dir: &Path) -> Result<()> {
        let mut shards = Shards::open_file(dir, ADAPTER_FILE)?;
        let own = self.lora().map(Lora::weights).unwrap_or_default();
        let pieces = || {
            own.iter()
                .flat_map(|weight| weight.pieces.iter().map(move |piece| (weight, piece)))
        };
        pieces().try_for_each(|(_, piece)| shards.find(piece))?;
        let names = names(own, self.expert_group());
        shards.refuse_others(|name| names.contains(name) || name.ends_with(FROZEN_HEAD))?;
        tch::no_grad(|| pieces().try_for_each(|(weight, piece)| shards.fill(piece, &weight.tensor)))
    }

    fn read_adapter(&self, dir: &Path) -> Result<Lora> {
        let (config, scale) = read_config(dir)?;
        let mut shards = Shards::open_file(dir, ADAPTER_FILE)?;
        let all = modules(self);
        let has = |module: &&Module<'_>| shards.holds(&module.first_on_disk());
        let chosen: Vec<_> = all.iter().filter(has).collect();
        let lora = Lora::build(self, &chosen, config, scale, &mut shards)?;
        let names = names(&lora.weights, self.expert_group());
        shards.refuse_others(|name| names.contains(name) || name.ends_with(FROZEN_HEAD))?;
        Ok(lora)
    }

    /// The settings of the model's adapters; `None` if it has none.
    pub fn adapter(&self) -> Option<&LoraSpec> {
        self.lora().map(|lora| &lora.spec)
    }

    /// Writes the adapters into `dir`, which must exist, in peft's layout.
    pub fn save_adapter(&self, dir: &Path, base_model: &str) -> Result<()> {
        self.put_adapter(&mut Folder::of(dir), Path::new(""), base_model)
    }

    /// Puts the files that [`Self::save_adapter`] writes into the folder `within` of a sink. Where
    /// ranks share the experts, all of an expert group call it, and the first puts the files.
    pub fn put_adapter(
        &self,
        sink: &mut dyn FileSink,
        within: &Path,
        base_model: &str,
    ) -> Result<()> {
        let Some(lora) = self.lora() else {
            return Err(ModelError::Input("the model has no adapter to save".into()));
        };
        let group = self.expert_group();
        let mut tensors = Vec::new();
        for weight in &lora.weights {
            let is_of_experts = weight.pieces.iter().any(|piece| piece.expert().is_some());
            tensors.extend(tch::no_grad(|| match group.filter(|_| is_of_experts) {
                Some(group) => of_all_experts(weight, group),
                None => read(weight),
            })?);
        }
        if group.is_some_and(|group| group.rank() > 0) {
            return Ok(());
        }
        let text =
            serde_json::to_string_pretty(&Written::new(lora, base_model)).unwrap_or_default();
        sink.put_file(&within.join(ADAPTER_CONFIG_FILE), (text + "\n").as_bytes())?;
        put_tensors(sink, &within.join(ADAPTER_FILE), &tensors)
    }
}

/// The tensors of a weight of adapters, as they are on disk.
fn read(weight: &Weight) -> Result<Vec<(String, Tensor)>> {
    let read = |piece: &Piece| Ok((piece.name.clone(), piece.read(&weight.tensor)?));
    weight.pieces.iter().map(read).collect()
}

/// The pieces of a weight of adapters as the rank `rank` of the group has them, where this rank has
/// those of its own experts.
fn pieces_of<'a>(
    weight: &'a Weight,
    group: &ExpertGroup,
    rank: i64,
) -> impl Iterator<Item = Piece> + 'a {
    let away = (rank - group.rank()) * weight.shape[0];
    let of_rank = move |piece: &Piece| match piece.expert() {
        Some(expert) => piece.of_expert(expert + away),
        None => piece.clone(),
    };
    weight.pieces.iter().map(of_rank)
}

/// The tensors of a weight of adapters of which each rank of the group has its experts'; none on
/// any rank but the first.
fn of_all_experts(weight: &Weight, group: &ExpertGroup) -> Result<Vec<(String, Tensor)>> {
    let whole = group.gathered("adapters", &weight.tensor)?;
    let mut tensors = Vec::new();
    if group.rank() > 0 {
        return Ok(tensors);
    }
    for (rank, stack) in (0..group.ranks()).zip(whole.f_split(weight.shape[0], 0)?) {
        for piece in pieces_of(weight, group, rank) {
            tensors.push((piece.name.clone(), piece.read(&stack)?));
        }
    }
    Ok(tensors)
}

/// The names on disk of adapters, also of experts that other ranks have.
fn names(weights: &[Weight], group: Option<&ExpertGroup>) -> HashSet<String> {
    let of_weight = |weight: &Weight| -> Vec<String> {
        match group {
            Some(group) => (0..group.ranks())
                .flat_map(|rank| pieces_of(weight, group, rank))
                .map(|piece| piece.name)
                .collect(),
            None => weight
                .pieces
                .iter()
                .map(|piece| piece.name.clone())
                .collect(),
        }
    };
    weights.iter().flat_map(of_weight).collect()
}

fn known(modules: &[Module<'_>]) -> String {
    let last: BTreeSet<&str> = modules
        .iter()
        .filter_map(|module| module.name.rsplit('.').next())
        .collect();
    last.into_iter().collect::<Vec<_>>().join(", ")
}

fn read_config(dir: &Path) -> Result<(LoraSpec, f64)> {
    let path = dir.join(ADAPTER_CONFIG_FILE);
    let text =
        user_file::read_text(&path, ADAPTER_CONFIG_MAX_BYTES).map_err(ModelError::io(&path))?;
    let bad = |message: String| ModelError::BadFile {
        path: path.clone(),
        message,
    };
    let config: AdapterConfig = serde_json::from_str(&text)
        .map_err(|e| bad(format!("not an adapter's configuration: {e}")))?;
    let refused = [
        (
            "peft_type",
            config.peft_type != "LORA",
            config.peft_type.clone(),
        ),
        (
            "bias",
            config.bias.as_deref().is_some_and(|bias| bias != "none"),
            config.bias.clone().unwrap_or_default(),
        ),
    ];
    let of_another_kind = REFUSED
        .iter()
        .filter_map(|key| Some((*key, config.others.get(*key)?)))
        .find(|(_, value)| says_something(value));
    let start = config
        .others
        .get("init_lora_weights")
        .and_then(Value::as_str)
        .filter(|start| !PLAIN_STARTS.contains(start));
    let found = refused
        .into_iter()
        .find(|(_, refused, _)| *refused)
        .map(|(key, _, found)| (key, found));
    let found = found.or_else(|| of_another_kind.map(|(key, value)| (key, value.to_string())));
    let found = found.or_else(|| start.map(|start| ("init_lora_weights", format!("\"{start}\""))));
    if let Some((key, found)) = found {
        return Err(bad(format!(
            "`{key}` is {found}, which is not supported: plain LoRA adapters of linear layers are"
        )));
    }
    if config.r < 1 {
        return Err(bad(format!(
            "`r` is {}, expected a whole number of at least 1",
            config.r
        )));
    }
    let target_modules = match config.target_modules {
        Value::Array(targets) => targets
            .iter()
            .filter_map(|target| target.as_str().map(str::to_owned))
            .collect(),
        Value::String(target) => vec![target],
        _ => Vec::new(),
    };
    let rank = config.r as f64;
    let scale = config.lora_alpha / if config.use_rslora { rank.sqrt() } else { rank };
    Ok((
        LoraSpec {
            r: config.r,
            lora_alpha: scale * rank,
            target_modules,
        },
        scale,
    ))
}

/// The fields of adapter_config.json that are written.
#[derive(Serialize)]
struct Written<'a> {
    peft_type: &'static str,
    task_type: &'static str,
    base_model_name_or_path: &'a str,
    r: i64,
    lora_alpha: f64,
    lora_dropout: f64,
    bias: &'static str,
    /// The modules' whole names.
    target_modules: Vec<&'a str>,
    fan_in_fan_out: bool,
    inference_mode: bool,
}

impl<'a> Written<'a> {
    fn new(lora: &'a Lora, base_model_name_or_path: &'a str) -> Written<'a> {
        Written {
            peft_type: "LORA",
            task_type: "CAUSAL_LM",
            base_model_name_or_path,
            r: lora.spec.r,
            lora_alpha: lora.spec.lora_alpha,
            lora_dropout: 0.0,
            bias: "none",
            target_modules: lora.module_names().collect(),
            fan_in_fan_out: false,
            inference_mode: true,
        }
    }
}
