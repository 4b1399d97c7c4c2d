//! A model that gives numbers instead of text: the trunk of any architecture under a scalar head,
//! transformers' `…ForSequenceClassification` with one label. A reward model scores a sequence at
//! its last token; PPO's value model gives a value for every token.

use crate::causal_lm::CausalLm;
use crate::checkpoint;
use crate::checkpoint::shards::Shards;
use crate::error::{ModelError, Result};
use crate::expert_group::ExpertGroup;
use crate::init::Random;
use crate::packed::{Forward, Packed};
use crate::weights::{Piece, Source};
use r1d_shape::{Config, Head, SCORE, ShapeError};
use r1d_torch::work;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Most tokens of one pass of [`SequenceClassifier::score`]; a longer sequence gets a pass of its
/// own.
const PASS_TOKENS: usize = 1 << 14;

/// A reward model or a value model.
pub struct SequenceClassifier {
    /// The trunk, with the scalar head as its output head.
    model: CausalLm,
    /// Whether [`Self::score`] runs in batch-invariant mode, in which a score depends on its own
    /// sequence only. The mode needs one libtorch thread.
    pub invariant: bool,
}

impl SequenceClassifier {
    /// Reads a directory that [`Self::save`] or transformers wrote, like [`CausalLm::load`].
    pub fn open(dir: &Path, device: Device, kind: Kind) -> Result<SequenceClassifier> {
        let (config, mut shards) = checkpoint::shards::open(dir)?;
        if !config.scores {
            let message = format!(
                "`architectures` is \"{}\", which gives no score: name the directory of a reward \
                 model",
                config.architecture
            );
            let problem = Box::new(ShapeError::Config(message));
            return Err(ShapeError::InDirectory {
                dir: dir.to_owned(),
                problem,
            }
            .into());
        }
        SequenceClassifier::read(config, &mut shards, None, None, (device, kind))
    }

    /// Reads a directory like [`Self::open`]. If it has no scalar head, a fresh one is made,
    /// Normal(0, `initializer_range`²) by `seed`.
    pub fn start(
        dir: &Path,
        seed: u64,
        expert_group: Option<&ExpertGroup>,
        device: Device,
        kind: Kind,
    ) -> Result<SequenceClassifier> {
        let (config, mut shards) = checkpoint::shards::open(dir)?;
        let fresh = (!config.scores).then_some(seed);
        let config = config.with_score();
        SequenceClassifier::read(config, &mut shards, fresh, expert_group, (device, kind))
    }

    fn read(
        config: Config,
        shards: &mut Shards,
        fresh: Option<u64>,
        expert_group: Option<&ExpertGroup>,
        (device, kind): (Device, Kind),
    ) -> Result<SequenceClassifier> {
        shards.check(
            &config,
            if fresh.is_some() {
                Head::Fresh
            } else {
                Head::Stored
            },
        )?;
        let fresh = fresh.map(|seed| Random {
            seed,
            standard_deviation: config.initializer_range,
        });
        let mut source = Started {
            trunk: shards,
            fresh,
        };
        Ok(SequenceClassifier::of(CausalLm::assemble(
            config,
            &mut source,
            expert_group,
            device,
            kind,
        )?))
    }

    /// Makes random weights like [`CausalLm::init`], from a config.json of either kind.
    pub fn init(
        config_json: &str,
        seed: u64,
        expert_group: Option<&ExpertGroup>,
        device: Device,
        kind: Kind,
    ) -> Result<SequenceClassifier> {
        let config = Config::parse(config_json)?.with_score();
        let mut random = Random {
            seed,
            standard_deviation: config.initializer_range,
        };
        Ok(SequenceClassifier::of(CausalLm::assemble(
            config,
            &mut random,
            expert_group,
            device,
            kind,
        )?))
    }

    /// Puts a fresh head over a copy of a model's trunk, without its adapters.
    pub fn over(model: &CausalLm, seed: u64) -> Result<SequenceClassifier> {
        let config = model.config.clone().with_score();
        let mut source = HeadAlone(Random {
            seed,
            standard_deviation: config.initializer_range,
        });
        let scorer = model.assembled_like(config, &mut source)?;
        tch::no_grad(|| {
            for weight in scorer
                .weights()
                .iter()
                .filter(|weight| weight.name != SCORE)
            {
                let from = model
                    .weights()
                    .iter()
                    .find(|other| other.name == weight.name && other.shape == weight.shape);
                let from = from.ok_or_else(|| {
                    ModelError::Input(format!("the model has no tensor `{}`", weight.name))
                })?;
                weight.tensor.shallow_clone().f_copy_(&from.tensor)?;
                work::moved(0);
            }
            Ok(SequenceClassifier::of(scorer))
        })
    }

    fn of(model: CausalLm) -> SequenceClassifier {
        SequenceClassifier {
            model,
            invariant: false,
        }
    }

    /// A copy with the same weights in its own storage.
    pub fn deep_copy(&self) -> Result<SequenceClassifier> {
        Ok(SequenceClassifier {
            model: self.model.deep_copy()?,
            invariant: self.invariant,
        })
    }

    /// Copies the weights of `other`, which has the same shape, into this one's own storage.
    pub fn copy_from(&self, other: &SequenceClassifier) -> Result<()> {
        self.model.copy_from(&other.model)
    }

    /// Trunk and head, which a trainer updates and a checkpoint holds.
    pub fn model(&self) -> &CausalLm {
        &self.model
    }

    /// Writes the model like [`CausalLm::save`]; transformers' `AutoModelForSequenceClassification`
    /// can read it.
    pub fn save(&self, dir: &Path, shard_bytes: u64) -> Result<()> {
        self.model.save(dir, shard_bytes)
    }

    /// Applies the head: hidden states `[N, hidden_size]` of a pass with `options` → float32 `[N]`
    /// (float64 in a float64 model).
    pub fn values(&self, hidden: &Tensor, options: &Forward) -> Result<Tensor> {
        Ok(self.model.logits(hidden, options)?.f_squeeze_dim(1)?)
    }

    /// The number of tokens up to the one at which a sequence is scored. As in transformers it is
    /// the last that is not `pad_token_id`, or else the first.
    pub fn scored_length(&self, ids: &[u32]) -> usize {
        let padding = self.model.config.padding_index;
        let last = ids.iter().rposition(|&id| Some(i64::from(id)) != padding);
        last.map_or(1, |last| last + 1).min(ids.len())
    }

    /// The score of each sequence, in order, without gradients.
    pub fn score<Ids: AsRef<[u32]>>(&self, sequences: &[Ids]) -> Result<Vec<f32>> {
        let ids: Vec<&[u32]> = sequences.iter().map(AsRef::as_ref).collect();
        for (index, ids) in ids.iter().enumerate() {
            let vocab_size = self.model.config.vocab_size;
            match ids.iter().find(|&&id| i64::from(id) >= vocab_size) {
                Some(id) => {
                    let message = format!(
                        "sequence {index}: id {id} is beyond the model's vocabulary of {vocab_size}"
                    );
                    return Err(ModelError::Input(message));
                }
                None if ids.is_empty() => {
                    return Err(ModelError::Input(format!(
                        "sequence {index} has no ids to score"
                    )));
                }
                None => {}
            }
        }
        // Neighbours have similar lengths, which attention pads least.
        let mut order: Vec<(usize, &[u32])> = ids
            .iter()
            .map(|ids| &ids[..self.scored_length(ids)])
            .enumerate()
            .collect();
        order.sort_by_key(|(index, ids)| (std::cmp::Reverse(ids.len()), *index));
        let mut scores = vec![0.0; sequences.len()];
        let mut rest = &order[..];
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |(_, ids): &&(usize, &[u32])| {
                tokens += ids.len();
                tokens <= PASS_TOKENS
            };
            let (pass, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            let found = tch::no_grad(|| self.pass(pass))?;
            pass.iter()
                .zip(found)
                .for_each(|((index, _), score)| scores[*index] = score);
            rest = later;
            work::moved(pass.iter().map(|(_, ids)| ids.len() as u64).sum());
        }
        Ok(scores)
    }

    fn pass(&self, sequences: &[(usize, &[u32])]) -> Result<Vec<f32>> {
        let ids: Vec<i64> = sequences
            .iter()
            .flat_map(|(_, ids)| ids.iter().map(|&id| i64::from(id)))
            .collect();
        let lengths: Vec<i64> = sequences.iter().map(|(_, ids)| ids.len() as i64).collect();
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end - 1)
        });
        let ends: Vec<i64> = ends.collect();
        let tensor =
            |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(self.model.device());
        let options = Forward {
            invariant: self.invariant,
            ..Forward::default()
        };
        let hidden = self
            .model
            .forward(&Packed::new(tensor(&ids)?, lengths), &options)?
            .hidden;
        let scores = self.values(&hidden.f_index_select(0, &tensor(&ends)?)?, &options)?;
        Ok(Vec::try_from(scores.f_to_kind(Kind::Float)?)?)
    }
}

/// Fills a model from a directory's tensors, and its head from `fresh` if that is given.
struct Started<'a> {
    trunk: &'a mut Shards,
    fresh: Option<Random>,
}

impl Source for Started<'_> {
    fn fill(&mut self, piece: &Piece, memory: &Tensor) -> Result<()> {
        match &mut self.fresh {
            Some(random) if piece.name == SCORE => random.fill(piece, memory),
            _ => self.trunk.fill(piece, memory),
        }
    }
}

/// Fills only the head, and leaves the trunk uninitialised.
struct HeadAlone(Random);

impl Source for HeadAlone {
    fn fill(&mut self, piece: &Piece, memory: &Tensor) -> Result<()> {
        if piece.name == SCORE {
            self.0.fill(piece, memory)
        } else {
            Ok(())
        }
    }
}
