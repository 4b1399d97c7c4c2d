//! Finds the files of a Hugging Face directory that have its weights, where transformers looks for
//! them.

use crate::weights_error::{Result, WeightsError, wrong};
use r1d_proto::user_file;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// The file that has all weights, which takes precedence over the index.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The file that names the shard of every tensor, if the weights are in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Largest index in bytes: that of DeepSeek-R1's 91,991 tensors has 9 MB.
const INDEX_MAX_BYTES: u64 = 64 << 20;

/// The index file: `weight_map` names the shard of every tensor.
#[derive(Deserialize)]
pub(crate) struct Index {
    pub weight_map: BTreeMap<String, String>,
}

/// The safetensors files that a directory's weights are read from, whatever their extension.
pub(crate) struct Shards {
    pub files: BTreeSet<PathBuf>,
    /// The index that names the files; `None` if there is only one file.
    pub index: Option<Index>,
}

impl Shards {
    /// Finds the single file, which takes precedence as in transformers, or the shards of the
    /// index.
    pub(crate) fn of(dir: &Path) -> Result<Shards> {
        let (whole, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
        if is_there(&whole)? {
            return Ok(Shards {
                files: [whole].into(),
                index: None,
            });
        }
        if !is_there(&index)? {
            return wrong(
                dir,
                format!(
                    "has no {SINGLE_FILE} and no {INDEX_FILE}: name a directory with safetensors \
                     weights"
                ),
            );
        }
        let text = user_file::read(&index, INDEX_MAX_BYTES).map_err(|source| WeightsError::Io {
            path: index.clone(),
            source,
        })?;
        let named: Index = match serde_json::from_slice(&text) {
            Ok(index) => index,
            Err(error) => return wrong(&index, format!("is not an index of shards: {error}")),
        };
        let names: BTreeSet<&String> = named.weight_map.values().collect();
        let files = names
            .into_iter()
            .map(|name| shard(dir, name))
            .collect::<Result<_>>()?;
        Ok(Shards {
            files,
            index: Some(named),
        })
    }
}

/// The path of a shard: a file in the index's directory or below it.
fn shard(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if name.is_empty()
        || Path::new(name)
            .components()
            .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        // A model's directory may come from somebody else, and must not give access to the whole
        // disk.
        return wrong(
            dir,
            format!(
                "shard {name:?}, which {INDEX_FILE} names, is not in the directory: put it there, \
                 and name it so in the index"
            ),
        );
    }
    if is_there(&path)? {
        Ok(path)
    } else {
        wrong(
            dir,
            format!("shard {name:?}, which {INDEX_FILE} names, is missing: fetch it again"),
        )
    }
}

/// All files that determine the directory's weights: those with numbers, and the index that names
/// them.
pub fn weight_files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let Shards { mut files, index } = Shards::of(dir)?;
    files.extend(index.map(|_| dir.join(INDEX_FILE)));
    Ok(files)
}

/// Whether an entry of this name exists. A link to nothing counts: the error comes when it is
/// opened. A path that cannot be examined is an error, and not the same as an absent one.
fn is_there(path: &Path) -> Result<bool> {
    let is_there = path.try_exists().map_err(|source| WeightsError::Io {
        path: path.into(),
        source,
    })?;
    Ok(is_there || path.is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_files_of_the_weights_are_those_that_the_index_names() {
        let dir = tempfile::tempdir().unwrap();
        let index = |map: &str| {
            fs::write(
                dir.path().join(INDEX_FILE),
                format!("{{\"weight_map\": {map}}}"),
            )
            .unwrap()
        };
        let found = || {
            weight_files(dir.path())
                .map(|files| files.into_iter().collect::<Vec<_>>())
                .map_err(|e| e.to_string())
        };
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["part1.bin", "sub/z.st", "consolidated.safetensors"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        index(r#"{"a": "part1.bin", "b": "sub/z.st", "c": "part1.bin"}"#);
        let at = |name: &str| dir.path().join(name);
        assert_eq!(
            found().unwrap(),
            [at(INDEX_FILE), at("part1.bin"), at("sub/z.st")]
        );
        index(r#"{"a": "part1.bin", "b": "sub/y.st"}"#);
        assert!(
            found().unwrap_err().contains(
                "shard \"sub/y.st\", which model.safetensors.index.json names, is missing"
            )
        );
        fs::write(dir.path().parent().unwrap().join("elsewhere.st"), "").unwrap();
        for outside in ["../elsewhere.st", "/dev/zero", "sub/../../elsewhere.st", ""] {
            index(&format!("{{\"a\": {outside:?}}}"));
            let error = found().unwrap_err();
            assert!(
                error.contains("is not in the directory") && error.contains(outside),
                "{error}"
            );
        }
        fs::write(at(SINGLE_FILE), "").unwrap();
        assert_eq!(
            found().unwrap(),
            [at(SINGLE_FILE)],
            "one that is whole wins, as in transformers"
        );
    }
}
