//! Hugging Face directories, as far as can be told without a tensor: what is missing or cut short is found before a job is accepted.

use crate::materials::MaterialsError;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

/// Weight files of a Hugging Face directory: one file, which wins, or an index and all the shards that it names.
pub fn check_weights(dir: &Path) -> Result<(), MaterialsError> {
    let wrong = |problem: String| Err(MaterialsError::Weights { path: dir.into(), problem });
    let (whole, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if whole.is_file() {
        return check_length(&whole);
    }
    if !index.exists() {
        return wrong(
            "has neither model.safetensors nor model.safetensors.index.json: name a directory with safetensors weights".into(),
        );
    }
    let text = std::fs::read_to_string(&index).map_err(|source| MaterialsError::Model { path: index.clone(), source })?;
    let parsed: serde_json::Value = match serde_json::from_str(&text) {
        Ok(parsed) => parsed,
        Err(error) => return wrong(format!("model.safetensors.index.json is not JSON: {error}")),
    };
    let Some(map) = parsed["weight_map"].as_object() else {
        return wrong("model.safetensors.index.json has no `weight_map`".into());
    };
    let shards: BTreeSet<&str> = map.values().filter_map(|shard| shard.as_str()).collect();
    match shards.iter().find(|shard| !dir.join(shard).is_file()) {
        Some(missing) => wrong(format!("shard {missing}, which model.safetensors.index.json names, is missing: fetch it again")),
        None => shards.iter().try_for_each(|shard| check_length(&dir.join(shard))),
    }
}

/// What a model answers with when a reward asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// A scalar head: transformers' `…ForSequenceClassification` with one label.
    Number,
    /// A language model.
    Text,
}

/// By the architecture that config.json names; one that names none is a language model, as when it is trained.
pub fn gives(dir: &Path) -> Result<Gives, MaterialsError> {
    let wrong = |problem: String| Err(MaterialsError::Weights { path: dir.into(), problem });
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|source| MaterialsError::Model { path: path.clone(), source })?;
    let config: serde_json::Value = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(error) => return wrong(format!("config.json is not JSON: {error}")),
    };
    match config["architectures"][0].as_str() {
        None => return Ok(Gives::Text),
        Some(architecture) if architecture.ends_with("ForCausalLM") => return Ok(Gives::Text),
        Some(architecture) if architecture.ends_with("ForSequenceClassification") => {}
        Some(other) => {
            return wrong(format!(
                "is {other:?}, which gives rewards neither a number nor text: name a …ForSequenceClassification with one label, or a …ForCausalLM"
            ));
        }
    }
    // As transformers writes them, and its default.
    let labels =
        config["num_labels"].as_u64().or_else(|| config["id2label"].as_object().map(|labels| labels.len() as u64)).unwrap_or(2);
    match labels {
        1 => Ok(Gives::Number),
        labels => wrong(format!("has {labels} labels, and a reward model has one")),
    }
}

/// A safetensors file is as long as its header says: 8 bytes of the header's length, the header, the tensors behind one another. One that a
/// download left short is found now, and not when the job gets a device.
fn check_length(file: &Path) -> Result<(), MaterialsError> {
    const HEADER_MAX_BYTES: u64 = 100_000_000;
    let unread = |source| MaterialsError::Model { path: file.into(), source };
    let wrong = |problem: &str| Err(MaterialsError::Weights { path: file.into(), problem: format!("{problem}: fetch it again") });
    let mut opened = std::fs::File::open(file).map_err(unread)?;
    let bytes = opened.metadata().map_err(unread)?.len();
    let mut length = [0; 8];
    if bytes < 8 {
        return wrong("is not a safetensors file");
    }
    opened.read_exact(&mut length).map_err(unread)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_MAX_BYTES || length > bytes - 8 {
        return wrong("is not a safetensors file, or is cut off in its header");
    }
    let mut header = vec![0; length as usize];
    opened.read_exact(&mut header).map_err(unread)?;
    let Ok(serde_json::Value::Object(header)) = serde_json::from_slice(&header) else {
        return wrong("has a header that is not JSON");
    };
    let ends = header.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    let expected = ends.max().unwrap_or(0).saturating_add(8 + length);
    match bytes == expected {
        true => Ok(()),
        false => wrong(&format!("has {bytes} bytes, its header says {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one tensor, with so many bytes missing at its end.
    fn weights(missing: usize) -> Vec<u8> {
        let header = br#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
        let mut bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
        bytes.truncate(bytes.len() - missing);
        bytes
    }

    #[test]
    fn weights_that_a_download_left_short_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = || check_weights(dir.path()).unwrap_err().to_string();
        assert!(refusal().contains("neither model.safetensors"));
        let file = dir.path().join("model.safetensors");
        std::fs::write(&file, weights(0)).unwrap();
        assert!(check_weights(dir.path()).is_ok());
        for (missing, problem) in [(1, "its header says"), (20, "cut off in its header"), (75, "not a safetensors file")] {
            std::fs::write(&file, weights(missing)).unwrap();
            assert!(refusal().contains(problem) && refusal().contains("model.safetensors"), "{missing}: {}", refusal());
        }
        // The shards of an index likewise; a whole file beside it would win.
        std::fs::remove_file(&file).unwrap();
        let index = r#"{"weight_map": {"w": "model-00001-of-00001.safetensors"}}"#;
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        assert!(refusal().contains("is missing"));
        std::fs::write(dir.path().join("model-00001-of-00001.safetensors"), weights(3)).unwrap();
        assert!(refusal().contains("model-00001-of-00001.safetensors") && refusal().contains("its header says"), "{}", refusal());
        std::fs::write(&file, weights(0)).unwrap();
        assert!(check_weights(dir.path()).is_ok());
    }
}
