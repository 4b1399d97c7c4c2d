//! Weight files of a Hugging Face directory, by their headers alone: whether the model that config.json describes is in them.
//!
//! A safetensors file is `u64` length of the header, the header (JSON: name → dtype, shape, offsets), and the tensors' bytes behind one another.

use crate::config::Config;
use crate::fp8::scale_name;
use crate::tensors::{HEAD, TensorShape};
use r1d_proto::user_file;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub const SINGLE_FILE: &str = "model.safetensors";
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Largest header, as the safetensors library has it, and largest index: that of DeepSeek-R1 has 9 MB.
const HEADER_MAX_BYTES: u64 = 100_000_000;
const INDEX_MAX_BYTES: u64 = 64 << 20;
const FP8: &str = "F8_E4M3";

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {problem}", path.display())]
    Wrong { path: PathBuf, problem: String },
}

type Result<T> = std::result::Result<T, WeightsError>;

fn wrong<T>(path: &Path, problem: impl Into<String>) -> Result<T> {
    Err(WeightsError::Wrong { path: path.into(), problem: problem.into() })
}

/// What a header says of a tensor.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Info {
    /// Bytes that dtype and shape ask for; `None` for a dtype whose width is not known here.
    fn bytes(&self) -> Option<u64> {
        let bits = match self.dtype.as_str() {
            "F64" | "I64" | "U64" | "C64" => 64,
            "F32" | "I32" | "U32" => 32,
            "F16" | "BF16" | "I16" | "U16" => 16,
            "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
            _ => return None,
        };
        self.shape.iter().try_fold(bits / 8, |bytes: u64, &size| bytes.checked_mul(size))
    }

    fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
}

/// Entries in the file's order; JSON allows a name twice, safetensors does not.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let _ = map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads a file's header, and sees that the file is as long as that says: a download that was cut off is not.
fn header(path: &Path) -> Result<Header> {
    let unread = |source| WeightsError::Io { path: path.into(), source };
    let mut file: File = user_file::open(path).map_err(unread)?;
    let bytes = file.metadata().map_err(unread)?.len();
    let mut length = [0; 8];
    if bytes < length.len() as u64 {
        return wrong(path, "is not a safetensors file: fetch it again");
    }
    file.read_exact(&mut length).map_err(unread)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_MAX_BYTES || length > bytes - 8 {
        return wrong(path, "is not a safetensors file, or is cut off in its header: fetch it again");
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(unread)?;
    let mut header: Header = match serde_json::from_slice(&text) {
        Ok(header) => header,
        Err(error) => return wrong(path, format!("has a header that safetensors does not write ({error}): fetch it again")),
    };
    header.0.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in &header.0 {
        let (start, stop) = info.data_offsets;
        if start != end || info.bytes().is_some_and(|bytes| stop.checked_sub(start) != Some(bytes)) || stop < start {
            let problem = format!("has a header whose tensor {name:?} does not lie behind the one before it: fetch it again");
            return wrong(path, problem);
        }
        end = stop;
    }
    let expected = end.saturating_add(8 + length);
    match bytes == expected {
        true => Ok(header),
        false => wrong(path, format!("has {bytes} bytes, its header says {expected}: fetch it again")),
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The directory's files: one that is whole, which wins, or those of the index.
fn files(dir: &Path) -> Result<(Vec<PathBuf>, BTreeMap<String, String>)> {
    let (whole, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
    let is_there = |path: &Path| path.try_exists().map_err(|source| WeightsError::Io { path: path.into(), source });
    if is_there(&whole)? {
        return Ok((vec![whole], BTreeMap::new()));
    }
    if !is_there(&index)? {
        return wrong(dir, format!("has neither {SINGLE_FILE} nor {INDEX_FILE}: name a directory with safetensors weights"));
    }
    let text = user_file::read(&index, INDEX_MAX_BYTES).map_err(|source| WeightsError::Io { path: index.clone(), source })?;
    let Index { weight_map } = match serde_json::from_slice(&text) {
        Ok(index) => index,
        Err(error) => return wrong(&index, format!("is not an index of shards: {error}")),
    };
    let names: BTreeSet<&String> = weight_map.values().collect();
    let mut files = Vec::new();
    for name in names {
        // A shard stands beside its index; a path that leads elsewhere is not followed.
        let path = dir.join(name);
        if Path::new(name).components().count() != 1 || !is_there(&path)? {
            return wrong(dir, format!("shard {name}, which {INDEX_FILE} names, is missing: fetch it again"));
        }
        files.push(path);
    }
    Ok((files, weight_map))
}

/// Every tensor of the model is in the directory's files, in its shape and a dtype that is read, and no other. Values are not looked at.
pub fn check_weights(dir: &Path, config: &Config) -> Result<()> {
    let (files, weight_map) = files(dir)?;
    let mut found = BTreeMap::new();
    for path in &files {
        found.extend(header(path)?.0.into_iter().map(|(name, info)| (name, (path, info))));
    }
    if let Some((name, shard)) = weight_map.iter().find(|(name, _)| !found.contains_key(*name)) {
        return wrong(dir, format!("{INDEX_FILE} says that {shard} has the tensor {name:?}, which is not there: fetch it again"));
    }
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for tensor in config.tensors() {
        let scaled = check_tensor(dir, &found, &tensor)?;
        if scaled {
            let shape = config.fp8_block.scales(&tensor.shape);
            let scale = TensorShape { name: scale_name(&tensor.name), shape, ..tensor.clone() };
            check_tensor(dir, &found, &scale)?;
            wanted.insert(scale.name);
        }
        wanted.insert(tensor.name);
    }
    // A head that is there although config.json ties it has to be one.
    if config.tie_word_embeddings && !config.scores && found.contains_key(HEAD) {
        let shape = vec![config.vocab_size, config.hidden_size];
        check_tensor(dir, &found, &TensorShape { name: HEAD.into(), shape, trained: true, routed: false })?;
    }
    let known = |name: &str, info: &Info| wanted.contains(name) || config.ignores(name) || info.is_empty();
    let left: Vec<&String> = found.iter().filter(|(name, (_, info))| !known(name, info)).map(|(name, _)| name).collect();
    match left.first() {
        None => Ok(()),
        Some(first) => wrong(
            dir,
            format!(
                "{} tensors that the model does not have, the first is {first:?}: config.json and weights do not belong together",
                left.len()
            ),
        ),
    }
}

/// Whether it is stored in FP8, with scales beside it.
fn check_tensor(dir: &Path, found: &BTreeMap<String, (&PathBuf, Info)>, tensor: &TensorShape) -> Result<bool> {
    let TensorShape { name, shape, .. } = tensor;
    let Some((path, info)) = found.get(name) else {
        return wrong(dir, format!("no tensor named {name:?}, which config.json asks for"));
    };
    if !info.shape.iter().copied().eq(shape.iter().map(|&size| size as u64)) {
        return wrong(path, format!("tensor {name:?} has shape {:?}, config.json asks for {shape:?}", info.shape));
    }
    match info.dtype.as_str() {
        "F32" | "F16" | "BF16" | "F64" => Ok(false),
        FP8 if shape.len() == 2 && found.contains_key(&scale_name(name)) => Ok(true),
        FP8 => wrong(dir, format!("no tensor named {:?}, the scales of {name:?}", scale_name(name))),
        other => wrong(
            path,
            format!("tensor {name:?} has dtype {other}, supported are F32, F16, BF16, F64 and, with block scales, {FP8}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = include_str!("../../../configs/models/tiny-deepseek-v3.json");

    fn entry(name: &str, dtype: &str, shape: &[i64], start: u64) -> (String, u64) {
        let width = if dtype == "BF16" { 2 } else { 4 };
        let end = start + width * shape.iter().product::<i64>() as u64;
        (format!("{name:?}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}"), end)
    }

    /// A file of these tensors, with nothing in them.
    fn write(path: &Path, tensors: &[(String, &str, Vec<i64>)]) {
        let (mut entries, mut end) = (Vec::new(), 0);
        for (name, dtype, shape) in tensors {
            let (entry, after) = entry(name, dtype, shape, end);
            entries.push(entry);
            end = after;
        }
        let header = format!("{{{}}}", entries.join(","));
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; end as usize]].concat();
        std::fs::write(path, bytes).unwrap();
    }

    /// Name, dtype and shape of a tensor of a file.
    type Entry = (String, &'static str, Vec<i64>);

    fn model() -> (Config, Vec<Entry>) {
        let config = Config::parse(TINY).unwrap();
        let tensors = config.tensors().into_iter().map(|tensor| (tensor.name, "BF16", tensor.shape)).collect();
        (config, tensors)
    }

    #[test]
    fn what_is_not_the_model_of_config_json_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(SINGLE_FILE);
        let (config, whole) = model();
        let check = |tensors: &[_]| {
            write(&file, tensors);
            check_weights(dir.path(), &config).map_err(|error| error.to_string())
        };
        check(&whole).unwrap();
        let refused = |change: &dyn Fn(&mut Vec<Entry>), words: &[&str]| {
            let mut changed = whole.clone();
            change(&mut changed);
            let error = check(&changed).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        refused(&|all| drop(all.remove(3)), &["no tensor named", &whole[3].0]);
        refused(&|all| all[0].2[0] += 1, &["embed_tokens", "has shape [129, 128], config.json asks for [128, 128]"]);
        refused(&|all| all[1].1 = "I32", &["dtype I32", "BF16"]);
        refused(
            &|all| all.push(("model.vision.weight".into(), "F32", vec![2])),
            &["1 tensors that the model does not have", "vision"],
        );
        // A multi-token prediction module that is not run, an old release's frequencies, and a tensor without a value are left out.
        let mut more = whole.clone();
        more.push((format!("model.layers.{}.eh_proj.weight", config.num_hidden_layers), "F32", vec![1, 2]));
        more.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), "F32", vec![4]));
        more.push(("_extra_state".into(), "F32", vec![0]));
        check(&more).unwrap();
    }

    #[test]
    fn files_that_a_download_left_short_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (config, whole) = model();
        let refusal = || check_weights(dir.path(), &config).unwrap_err().to_string();
        assert!(refusal().contains("neither model.safetensors"));
        let file = dir.path().join(SINGLE_FILE);
        write(&file, &whole);
        let bytes = std::fs::read(&file).unwrap();
        for (length, problem) in
            [(bytes.len() - 1, "its header says"), (200, "cut off in its header"), (5, "not a safetensors file")]
        {
            std::fs::write(&file, &bytes[..length]).unwrap();
            assert!(refusal().contains(problem) && refusal().contains(SINGLE_FILE), "{length}: {}", refusal());
        }
        let mut damaged = bytes.clone();
        let offset = damaged.windows(14).position(|window| window == b"\"data_offsets\"").unwrap();
        damaged[offset + 16] = b'9';
        std::fs::write(&file, &damaged).unwrap();
        assert!(refusal().contains("does not lie behind"), "{}", refusal());
        // The shards of an index likewise.
        std::fs::remove_file(&file).unwrap();
        let index = |map: &str| std::fs::write(dir.path().join(INDEX_FILE), format!("{{\"weight_map\": {map}}}")).unwrap();
        index(r#"{"model.norm.weight": "model-00001-of-00001.safetensors"}"#);
        assert!(refusal().contains("is missing"));
        write(&dir.path().join("model-00001-of-00001.safetensors"), &whole);
        check_weights(dir.path(), &config).unwrap();
        index(r#"{"model.norm.weight": "model-00001-of-00001.safetensors", "other": "model-00001-of-00001.safetensors"}"#);
        assert!(refusal().contains("\"other\", which is not there"), "{}", refusal());
        index(r#"{"model.norm.weight": "../elsewhere.safetensors"}"#);
        assert!(refusal().contains("../elsewhere.safetensors"));
    }
}
