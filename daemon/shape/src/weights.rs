//! The weight files of a Hugging Face directory, read as far as their headers, to see whether they
//! have the model of config.json. Control plane and worker both use this module, so neither accepts
//! a model that the other refuses.

use crate::config::Config;
use crate::fp8::{BlockSize, scale_name};
use crate::safetensors::{SafetensorsFile, StoredTensor};
use crate::shards::{INDEX_FILE, Shards};
use crate::tensors::{EMBEDDING, HEAD, SCORE};
use crate::values;
use crate::weights_error::{Result, WeightsError, wrong};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FP8: &str = "F8_E4M3";

/// The files with a model's weights, open, and where each tensor is in them.
#[derive(Debug)]
pub struct WeightFiles {
    dir: PathBuf,
    /// The files, in the order that [`Self::place`] counts them.
    pub files: Vec<SafetensorsFile>,
    /// The file (index into `files`) that has each tensor, and its name there.
    places: BTreeMap<String, (usize, String)>,
}

/// The output head of a model that is about to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The head is among the weights.
    Stored,
    /// Whoever reads the weights adds a scalar head, as transformers adds one to a language model.
    Fresh,
}

impl WeightFiles {
    /// Opens the directory's files, as [`weight_files`](crate::weight_files) finds them.
    pub fn open(dir: &Path) -> Result<WeightFiles> {
        let Shards { files, index } = Shards::of(dir)?;
        let files = WeightFiles::of(dir, files)?;
        let named = index.map_or_else(BTreeMap::new, |index| index.weight_map);
        match named.iter().find(|(name, _)| !files.holds(name)) {
            None => Ok(files),
            Some((name, shard)) => wrong(
                dir,
                format!(
                    "{INDEX_FILE} says that {shard:?} has the tensor {name:?}, which is not \
                     there: fetch it again"
                ),
            ),
        }
    }

    /// Opens one safetensors file of any name.
    pub fn open_file(path: &Path) -> Result<WeightFiles> {
        WeightFiles::of(path.parent().unwrap_or(Path::new("")), [path.into()])
    }

    fn of(dir: &Path, paths: impl IntoIterator<Item = PathBuf>) -> Result<WeightFiles> {
        let files = paths
            .into_iter()
            .map(|path| SafetensorsFile::open(&path))
            .collect::<Result<Vec<_>>>()?;
        let named = |(at, file): (usize, &SafetensorsFile)| -> Vec<(String, (usize, String))> {
            file.tensors
                .keys()
                .map(|name| (name.clone(), (at, name.clone())))
                .collect()
        };
        let places = files.iter().enumerate().flat_map(named).collect();
        Ok(WeightFiles {
            dir: dir.into(),
            files,
            places,
        })
    }

    /// Corrects `config` by what the files have, as transformers does: where config.json ties the
    /// output head to the embedding, and a head is stored whose numbers are not the embedding's,
    /// the head stays on its own; where only the head is stored, it becomes the embedding. Calls
    /// `moved` with the bytes read.
    pub fn agreed(&mut self, mut config: Config, moved: &mut dyn FnMut(u64)) -> Result<Config> {
        if !config.tie_word_embeddings || !self.holds(HEAD) {
            return Ok(config);
        }
        if !self.holds(EMBEDDING) {
            for (head, embedding) in [
                (HEAD.into(), EMBEDDING.into()),
                (scale_name(HEAD), scale_name(EMBEDDING)),
            ] {
                self.places
                    .remove(&head)
                    .and_then(|place| self.places.insert(embedding, place));
            }
        } else if values::differ(
            |name| self.get(name),
            [HEAD, EMBEDDING],
            config.fp8_block,
            moved,
        )? {
            config.untie();
        }
        Ok(config)
    }

    /// Checks that the files have every tensor of the model, in its shape and a dtype that is read,
    /// and no other tensor. Does not read values.
    pub fn check(&self, config: &Config, head: Head) -> Result<()> {
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for tensor in config.tensors() {
            if head == Head::Fresh && tensor.name == SCORE {
                continue;
            }
            if self.find(&tensor.name, &tensor.shape, config.fp8_block)? {
                wanted.insert(scale_name(&tensor.name));
            }
            wanted.insert(tensor.name);
        }
        self.refuse_others(|name| wanted.contains(name) || config.ignores(name))
    }

    /// Checks that every tensor of the files is `known` or has no values.
    pub fn refuse_others(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let others: Vec<&str> = self
            .iter()
            .filter(|(name, tensor)| !known(name) && !tensor.is_empty())
            .map(|(name, _)| name)
            .collect();
        match others.first() {
            None => Ok(()),
            Some(first) => wrong(
                &self.dir,
                format!(
                    "{} tensors that the model does not have, the first is {first:?}: config.json \
                     and weights do not belong together",
                    others.len()
                ),
            ),
        }
    }

    /// Checks that a tensor exists in this shape and a dtype that is read. Returns whether it is
    /// stored in FP8, with scales beside it.
    pub fn find(&self, name: &str, shape: &[i64], block: BlockSize) -> Result<bool> {
        match self.dtype(name, shape, "which config.json asks for")? {
            FP8 => {
                let scale = scale_name(name);
                if shape.len() != 2 {
                    return self.missing(scale, format!("the scales of {name:?}"));
                }
                self.dtype(
                    &scale,
                    &block.scales(shape),
                    &format!("the scales of {name:?}"),
                )
                .map(|_| true)
            }
            _ => Ok(false),
        }
    }

    /// The dtype of a tensor, after a check that it is one that is read and that the shape is this
    /// one.
    fn dtype(&self, name: &str, shape: &[i64], wanted_by: &str) -> Result<&str> {
        let Some((file, stored)) = self.get(name) else {
            return self.missing(name.into(), wanted_by.into());
        };
        if stored.shape != shape {
            return wrong(
                &file.path,
                format!(
                    "tensor {name:?} has shape {:?}, config.json asks for {shape:?}",
                    stored.shape
                ),
            );
        }
        match stored.dtype.as_str() {
            dtype @ ("F32" | "F16" | "BF16" | "F64" | FP8) => Ok(dtype),
            other => wrong(
                &file.path,
                format!(
                    "tensor {name:?} has dtype {other:?}, supported are F32, F16, BF16, F64 and, \
                     with block scales, {FP8}"
                ),
            ),
        }
    }

    fn missing<T>(&self, name: String, wanted_by: String) -> Result<T> {
        Err(WeightsError::Missing {
            dir: self.dir.clone(),
            name,
            wanted_by,
        })
    }

    /// Whether the files have a tensor of this name.
    pub fn holds(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// A tensor and the file that has it; `None` if no file has it.
    pub fn get(&self, name: &str) -> Option<(&SafetensorsFile, &StoredTensor)> {
        let at = self.place(name)?;
        Some((
            self.files.get(at.0)?,
            self.files.get(at.0)?.tensors.get(&at.1)?,
        ))
    }

    /// The index into [`Self::files`] of a tensor, and its name in that file.
    pub fn place(&self, name: &str) -> Option<&(usize, String)> {
        self.places.get(name)
    }

    /// All tensors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.places
            .keys()
            .filter_map(|name| Some((name.as_str(), self.get(name)?.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::SINGLE_FILE;

    fn check_weights(dir: &Path, config: &Config) -> std::result::Result<(), String> {
        let checked = WeightFiles::open(dir).and_then(|files| files.check(config, Head::Stored));
        checked.map_err(|error| error.to_string())
    }

    const TINY: &str = include_str!("../../../configs/models/tiny-deepseek-v3.json");

    fn entry(name: &str, dtype: &str, shape: &[i64], start: u64) -> (String, u64) {
        let width = if dtype == "BF16" { 2 } else { 4 };
        let end = start + width * shape.iter().product::<i64>() as u64;
        (
            format!(
                "{name:?}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\
                 \"data_offsets\":[{start},{end}]}}"
            ),
            end,
        )
    }

    /// Writes a file of these tensors, without values.
    fn write(path: &Path, tensors: &[(String, &str, Vec<i64>)]) {
        let (mut entries, mut end) = (Vec::new(), 0);
        for (name, dtype, shape) in tensors {
            let (entry, after) = entry(name, dtype, shape, end);
            entries.push(entry);
            end = after;
        }
        let header = format!("{{{}}}", entries.join(","));
        let bytes = [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &vec![0; end as usize],
        ]
        .concat();
        std::fs::write(path, bytes).unwrap();
    }

    /// Name, dtype and shape of a file's tensor.
    type Entry = (String, &'static str, Vec<i64>);

    fn model() -> (Config, Vec<Entry>) {
        let config = Config::parse(TINY).unwrap();
        let tensors = config
            .tensors()
            .into_iter()
            .map(|tensor| (tensor.name, "BF16", tensor.shape))
            .collect();
        (config, tensors)
    }

    /// Writes a file of two matrices `[3, 5]` of these numbers, in their dtypes.
    fn heads(path: &Path, embedding: Option<(&str, &[f32])>, head: Option<(&str, &[f32])>) {
        let encoded = |dtype: &str, numbers: &[f32]| -> Vec<u8> {
            let one = |number: &f32| match dtype {
                "BF16" => number.to_le_bytes()[2..].to_vec(),
                "F64" => f64::from(*number).to_le_bytes().to_vec(),
                _ => number.to_le_bytes().to_vec(),
            };
            numbers.iter().flat_map(one).collect()
        };
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for (name, stored) in [(EMBEDDING, embedding), (HEAD, head)] {
            let Some((dtype, numbers)) = stored else {
                continue;
            };
            let start = data.len();
            data.extend(encoded(dtype, numbers));
            entries.push(format!(
                "{name:?}:{{\"dtype\":{dtype:?},\"shape\":[3,5],\"data_offsets\":[{start},{}]}}",
                data.len()
            ));
        }
        let header = format!("{{{}}}", entries.join(","));
        std::fs::write(
            path,
            [
                &(header.len() as u64).to_le_bytes()[..],
                header.as_bytes(),
                &data,
            ]
            .concat(),
        )
        .unwrap();
    }

    #[test]
    fn a_tied_head_is_what_the_files_have() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(SINGLE_FILE);
        let mut config: serde_json::Value = serde_json::from_str(TINY).unwrap();
        config["tie_word_embeddings"] = true.into();
        let tied = Config::parse(&config.to_string()).unwrap();
        let numbers: Vec<f32> = (0..15).map(|i| i as f32 / 4.0 - 1.0).collect();
        let mut last = numbers.clone();
        last[14] += 1.0;
        let minus_zero: Vec<f32> = numbers
            .iter()
            .map(|&x| if x == 0.0 { -0.0 } else { x })
            .collect();
        let agreed = |embedding, head| {
            heads(&file, embedding, head);
            let mut files = WeightFiles::open(dir.path()).unwrap();
            let config = files.agreed(tied.clone(), &mut |_| ()).unwrap();
            (config.tie_word_embeddings, files)
        };
        for (dtype, head, stays) in [
            ("F32", &numbers, true),
            ("BF16", &numbers, true),
            ("F64", &numbers, true),
            ("F32", &minus_zero, true),
            ("F32", &last, false),
            ("F64", &last, false),
        ] {
            let (is_tied, files) = agreed(Some(("F32", &numbers)), Some((dtype, head)));
            assert_eq!(is_tied, stays, "{dtype} {head:?}");
            assert!(files.holds(HEAD) && files.holds(EMBEDDING));
        }
        assert!(agreed(Some(("F32", &numbers)), None).0);
        // A head that is stored alone becomes the embedding.
        let (is_tied, files) = agreed(None, Some(("F32", &numbers)));
        assert!(is_tied && !files.holds(HEAD));
        assert_eq!(files.get(EMBEDDING).unwrap().1.shape, [3, 5]);
    }

    #[test]
    fn a_reward_model_starts_from_weights_without_a_head() {
        let dir = tempfile::tempdir().unwrap();
        let (config, mut tensors) = model();
        tensors.retain(|(name, ..)| name != HEAD);
        write(&dir.path().join(SINGLE_FILE), &tensors);
        let files = WeightFiles::open(dir.path()).unwrap();
        let missing = files.check(&config, Head::Stored).unwrap_err().to_string();
        assert!(
            missing.contains("no tensor named \"lm_head.weight\", which config.json asks for"),
            "{missing}"
        );
        files
            .check(&config.clone().with_score(), Head::Fresh)
            .unwrap();
        let missing = files
            .check(&config.with_score(), Head::Stored)
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("no tensor named \"score.weight\""),
            "{missing}"
        );
    }

    #[test]
    fn what_is_not_the_model_of_config_json_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(SINGLE_FILE);
        let (config, whole) = model();
        let check = |tensors: &[_]| {
            write(&file, tensors);
            check_weights(dir.path(), &config)
        };
        check(&whole).unwrap();
        let refused = |change: &dyn Fn(&mut Vec<Entry>), words: &[&str]| {
            let mut changed = whole.clone();
            change(&mut changed);
            let error = check(&changed).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        refused(
            &|all| drop(all.remove(3)),
            &["no tensor named", &whole[3].0],
        );
        refused(
            &|all| all[0].2[0] += 1,
            &[
                "embed_tokens",
                "has shape [129, 128], config.json asks for [128, 128]",
            ],
        );
        refused(&|all| all[1].1 = "I32", &["dtype \"I32\"", "BF16"]);
        refused(
            &|all| all.push(("model.vision.weight".into(), "F32", vec![2])),
            &["1 tensors that the model does not have", "vision"],
        );
        // A multi-token prediction module that is not run, an old release's frequencies, and a
        // tensor without a value are left out.
        let mut more = whole.clone();
        more.push((
            format!("model.layers.{}.eh_proj.weight", config.num_hidden_layers),
            "F32",
            vec![1, 2],
        ));
        more.push((
            "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
            "F32",
            vec![4],
        ));
        more.push(("_extra_state".into(), "F32", vec![0]));
        check(&more).unwrap();
    }

    #[test]
    fn files_that_a_download_left_short_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (config, whole) = model();
        let refusal = || check_weights(dir.path(), &config).unwrap_err();
        assert!(refusal().contains("no model.safetensors and no"));
        // A hub's cache whose blobs are gone.
        let file = dir.path().join(SINGLE_FILE);
        std::os::unix::fs::symlink("../blobs/6f2a", &file).unwrap();
        assert!(
            refusal()
                .contains("model.safetensors: it is a link to ../blobs/6f2a, where nothing is"),
            "{}",
            refusal()
        );
        std::fs::remove_file(&file).unwrap();
        let file = dir.path().join(SINGLE_FILE);
        write(&file, &whole);
        let bytes = std::fs::read(&file).unwrap();
        for (length, problem) in [
            (bytes.len() - 1, "its header says"),
            (200, "cut off in its header"),
            (5, "not a safetensors file"),
        ] {
            std::fs::write(&file, &bytes[..length]).unwrap();
            assert!(
                refusal().contains(problem) && refusal().contains(SINGLE_FILE),
                "{length}: {}",
                refusal()
            );
        }
        let mut damaged = bytes.clone();
        let offset = damaged
            .windows(14)
            .position(|window| window == b"\"data_offsets\"")
            .unwrap();
        damaged[offset + 16] = b'9';
        std::fs::write(&file, &damaged).unwrap();
        assert!(refusal().contains("does not lie behind"), "{}", refusal());
        // The same holds for the shards of an index.
        std::fs::remove_file(&file).unwrap();
        let index = |map: &str| {
            std::fs::write(
                dir.path().join(INDEX_FILE),
                format!("{{\"weight_map\": {map}}}"),
            )
            .unwrap()
        };
        index(r#"{"model.norm.weight": "model-00001-of-00001.safetensors"}"#);
        assert!(refusal().contains("is missing"));
        write(&dir.path().join("model-00001-of-00001.safetensors"), &whole);
        check_weights(dir.path(), &config).unwrap();
        index(
            r#"{"model.norm.weight": "model-00001-of-00001.safetensors", "other": "model-00001-of-00001.safetensors"}"#,
        );
        assert!(
            refusal().contains("\"other\", which is not there"),
            "{}",
            refusal()
        );
        index(r#"{"model.norm.weight": "../elsewhere.safetensors"}"#);
        assert!(refusal().contains("../elsewhere.safetensors"));
    }
}
