//! Writes directories that appear whole or not at all (`CKP-1`).
//!
//! A directory is filled under another name beside its own, every file is synced and hashed into
//! manifest.json, and one rename makes it visible:
//!
//! ```text
//! { "format": 1, "files": [ { "path": "config.json", "bytes": 812, "sha256": "9f2c…" }, … ] }
//! paths relative, sorted, '/'
//! ```

use super::is_there;
use crate::error::{ModelError, Result};
use crate::lora::{ADAPTER_CONFIG_FILE, ADAPTER_FILE};
use r1d_proto::user_file;
use r1d_store::{Disk, PartialDir, create_dir};
use r1d_torch::work;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const MANIFEST_FILE: &str = "manifest.json";
const MANIFEST_FORMAT: u32 = 1;
/// Largest manifest in bytes: one of 100,000 files.
const MANIFEST_MAX_BYTES: u64 = 16 << 20;
const READ_BUFFER_BYTES: usize = 1 << 20;

/// Files beside a model's weights that its copies need.
const CARRIED_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
];

/// Folder of named chat templates beside chat_template.jinja; the template for rows with tools is
/// one of them.
const TEMPLATES_FOLDER: &str = "additional_chat_templates";

/// The files that a checkpoint directory must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// SHA-256 of manifest.json itself, hex.
    pub sha256: String,
    /// Every other file, sorted by path.
    pub files: Vec<ManifestEntry>,
}

/// A file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Path relative to the directory, with `/` between its parts.
    pub path: String,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the contents, hex.
    pub sha256: String,
}

#[derive(Serialize, Deserialize)]
struct ManifestFile {
    format: u32,
    files: Vec<ManifestEntry>,
}

/// Runs `fill` on a fresh directory beside `dir`, writes its manifest, syncs everything and renames
/// it to `dir`, which must not exist. An error leaves nothing behind; what a crash leaves behind is
/// removed by the next try. `fill` may have errors of its own.
pub fn write_directory_atomically<E: From<ModelError>>(
    dir: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<Manifest, E> {
    let exists = || {
        std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "the directory exists already: choose another or remove it",
        )
    };
    if is_there(dir)? {
        return Err(ModelError::io(dir)(exists()).into());
    }
    let partial = PartialDir::create(&Disk, dir).map_err(ModelError::io(dir))?;
    fill(partial.path())?;
    let manifest = seal(partial.path())?;
    partial.place().map_err(ModelError::io(dir))?;
    Ok(manifest)
}

fn seal(dir: &Path) -> Result<Manifest> {
    sync_files(dir)?;
    let files = files_below(dir)?.into_iter();
    let files = files.map(|path| entry(dir, path));
    let files = files.collect::<Result<Vec<_>>>()?;
    let path = dir.join(MANIFEST_FILE);
    let text = serde_json::to_string_pretty(&ManifestFile {
        format: MANIFEST_FORMAT,
        files: files.clone(),
    })
    .map_err(|e| ModelError::Manifest {
        path: path.clone(),
        message: e.to_string(),
    })?;
    std::fs::write(&path, &text).map_err(ModelError::io(&path))?;
    sync(&path)?;
    Ok(Manifest {
        sha256: hex(&Sha256::digest(text.as_bytes())),
        files,
    })
}

/// Checks that every file of the manifest exists with its hash, and that there is no other file.
pub fn verify_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST_FILE);
    let text =
        user_file::read(&path, MANIFEST_MAX_BYTES).map_err(|source| lost(dir, &path, source))?;
    let damaged = |path: &Path, message: String| ModelError::Manifest {
        path: path.to_owned(),
        message,
    };
    let ManifestFile { format, files } = serde_json::from_slice(&text)
        .map_err(|e| damaged(&path, format!("not a manifest ({e})")))?;
    if format != MANIFEST_FORMAT {
        return Err(damaged(
            &path,
            format!("format {format}, this release reads {MANIFEST_FORMAT}"),
        ));
    }
    let found = files_below(dir)?;
    for expected in &files {
        let path = dir.join(&expected.path);
        if !found.contains(&expected.path) {
            return Err(damaged(
                &path,
                "the manifest lists it, but it is not there".into(),
            ));
        }
        let actual = entry(dir, expected.path.clone())?;
        if actual.bytes != expected.bytes {
            return Err(damaged(
                &path,
                format!(
                    "{} bytes, the manifest says {}",
                    actual.bytes, expected.bytes
                ),
            ));
        }
        if actual.sha256 != expected.sha256 {
            return Err(damaged(
                &path,
                format!(
                    "SHA-256 {}, the manifest says {}",
                    actual.sha256, expected.sha256
                ),
            ));
        }
    }
    if let Some(extra) = found
        .iter()
        .find(|path| files.iter().all(|entry| entry.path != **path))
    {
        return Err(damaged(
            &dir.join(extra),
            "the manifest does not list it".into(),
        ));
    }
    Ok(Manifest {
        sha256: hex(&Sha256::digest(&text)),
        files,
    })
}

/// The error of a file that is not there: the directory lacks it if the folder that holds the
/// directory exists. If that folder is missing too, so is the disk, which is an I/O error.
fn lost(dir: &Path, path: &Path, source: std::io::Error) -> ModelError {
    let folder = dir
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if source.kind() == std::io::ErrorKind::NotFound && is_there(folder).is_ok_and(|there| there) {
        return ModelError::Manifest {
            path: path.to_owned(),
            message: "it is not there".into(),
        };
    }
    ModelError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Whether a directory is one that [`write_directory_atomically`] wrote.
pub fn has_manifest(dir: &Path) -> Result<bool> {
    is_there(&dir.join(MANIFEST_FILE))
}

/// Size of all files of a directory in bytes, to report the progress of reading it.
pub fn bytes_below(dir: &Path) -> Result<u64> {
    let size = |path: String| {
        let path = dir.join(path);
        Ok(std::fs::metadata(&path)
            .map_err(ModelError::io(&path))?
            .len())
    };
    files_below(dir)?.into_iter().map(size).sum()
}

/// Copies tokenizer, templates and generation settings, as far as `from` has them.
pub fn carry_files(from: &Path, to: &Path) -> Result<()> {
    carry(CARRIED_FILES, from, to)?;
    let (from, to) = (from.join(TEMPLATES_FOLDER), to.join(TEMPLATES_FOLDER));
    if !is_there(&from)? {
        return Ok(());
    }
    create_dir(&Disk, &to).map_err(ModelError::io(&to))?;
    for entry in std::fs::read_dir(&from).map_err(ModelError::io(&from))? {
        let name = entry.map_err(ModelError::io(&from))?.file_name();
        if Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "jinja")
        {
            copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

/// Copies an adapter in peft's layout.
pub fn carry_adapter(from: &Path, to: &Path) -> Result<()> {
    carry(&[ADAPTER_CONFIG_FILE, ADAPTER_FILE], from, to)
}

fn carry(names: &[&str], from: &Path, to: &Path) -> Result<()> {
    for name in names {
        let source = from.join(name);
        if is_there(&source)? {
            copy(&source, &to.join(name))?;
            work::moved(0);
        }
    }
    Ok(())
}

/// Copies a file's contents. The copy has the mode that the umask gives a new file: who may read a
/// job's model does not depend on whose tokenizer it started from.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut file = user_file::open(from).map_err(ModelError::io(from))?;
    // If the disk is full, it is the copy's disk, so the error names the copy.
    let copied = File::create(to).and_then(|mut to| std::io::copy(&mut file, &mut to));
    copied.map(drop).map_err(ModelError::io(to))
}

/// Syncs all files below `dir`.
pub(super) fn sync_files(dir: &Path) -> Result<()> {
    for path in files_below(dir)? {
        sync(&dir.join(&path))?;
        work::moved(0);
    }
    Ok(())
}

/// Paths of all files below `dir` except the manifest, sorted.
pub(super) fn files_below(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for folder in folders_below(dir)? {
        for path in children(&folder)? {
            if path.is_dir() {
                continue;
            }
            let relative = path.strip_prefix(dir).unwrap_or(&path);
            let parts: Vec<_> = relative
                .components()
                .map(|part| part.as_os_str().to_string_lossy())
                .collect();
            files.push(parts.join("/"));
        }
    }
    files.retain(|path| path != MANIFEST_FILE);
    files.sort();
    Ok(files)
}

/// `dir` and the folders below it, innermost last.
fn folders_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![dir.to_owned()];
    let mut next = 0;
    while next < folders.len() {
        let inner = children(&folders[next])?;
        folders.extend(inner.into_iter().filter(|path| path.is_dir()));
        next += 1;
    }
    Ok(folders)
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(dir).map_err(ModelError::io(dir))?;
    read.map(|entry| entry.map(|e| e.path()).map_err(ModelError::io(dir)))
        .collect()
}

fn entry(dir: &Path, path: String) -> Result<ManifestEntry> {
    let full = dir.join(&path);
    let mut file = user_file::open(&full).map_err(ModelError::io(&full))?;
    let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; READ_BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(ModelError::io(&full))? {
            0 => {
                return Ok(ManifestEntry {
                    path,
                    bytes,
                    sha256: hex(&hasher.finalize()),
                });
            }
            read => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
                work::moved(read as u64);
            }
        }
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(ModelError::io(path))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
