//! A safetensors file, read as far as its header.
//!
//! The file is the header's length as a little-endian `u64`, the header (JSON: name → dtype, shape,
//! offsets), and the tensors' bytes one behind another.

use crate::weights_error::{Result, WeightsError, wrong};
use r1d_proto::user_file;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Largest header in bytes, the same as in the safetensors library.
const HEADER_MAX_BYTES: u64 = 100_000_000;
/// Bytes of the header's length.
const LENGTH_BYTES: u64 = 8;

/// A tensor's entry in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The format's own name: `F32`, `BF16`, `F8_E4M3`, …
    pub dtype: String,
    /// Size of each dimension; empty for a scalar.
    pub shape: Vec<i64>,
    /// The range of its bytes, counted from the beginning of the file.
    pub bytes: Range<u64>,
}

impl StoredTensor {
    /// Whether it has no values, because a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
}

/// An open file whose header has been read and describes the file as it is.
#[derive(Debug)]
pub struct SafetensorsFile {
    /// The path that the file was opened by, for messages.
    pub path: PathBuf,
    /// The open file, so that the tensors come from the file whose header was read.
    pub file: File,
    /// The tensors by name.
    pub tensors: BTreeMap<String, StoredTensor>,
}

impl SafetensorsFile {
    /// Reads a file's header and checks that the file is as long as the header says, which a
    /// download that was cut off is not.
    pub fn open(path: &Path) -> Result<SafetensorsFile> {
        let unread = |source| WeightsError::Io {
            path: path.into(),
            source,
        };
        let mut file = user_file::open(path).map_err(unread)?;
        let bytes = file.metadata().map_err(unread)?.len();
        let (mut entries, length) = header(path, &mut file, bytes)?;
        entries.sort_by_key(|(_, entry)| entry.data_offsets);
        let (tensors, end) = in_their_places(path, entries, LENGTH_BYTES + length)?;
        let expected = end.saturating_add(LENGTH_BYTES + length);
        if bytes == expected {
            Ok(SafetensorsFile {
                path: path.into(),
                file,
                tensors,
            })
        } else {
            wrong(
                path,
                format!(
                    "has {bytes} bytes, its header says {expected}: it was cut off or changed, \
                     fetch it again"
                ),
            )
        }
    }
}

/// Reads the header of a file of `bytes` bytes: its entries, and its length.
fn header(path: &Path, file: &mut File, bytes: u64) -> Result<(Vec<(String, Entry)>, u64)> {
    let unread = |source| WeightsError::Io {
        path: path.into(),
        source,
    };
    let mut length = [0; LENGTH_BYTES as usize];
    if bytes < LENGTH_BYTES {
        return wrong(
            path,
            "is not a safetensors file, or was cut off while it was written or fetched: fetch \
             it again",
        );
    }
    file.read_exact(&mut length).map_err(unread)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_MAX_BYTES || length > bytes - LENGTH_BYTES {
        return wrong(
            path,
            "is not a safetensors file, or is cut off in its header: fetch it again",
        );
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(unread)?;
    let Header(entries) = match serde_json::from_slice(&text) {
        Ok(header) => header,
        Err(error) => {
            return wrong(
                path,
                format!("has a header that safetensors does not write ({error}): fetch it again"),
            );
        }
    };
    Ok((entries, length))
}

/// The tensors by name, and where the last of them ends. An error unless each lies right behind the
/// one before it; the first begins at `data` in the file.
fn in_their_places(
    path: &Path,
    entries: Vec<(String, Entry)>,
    data: u64,
) -> Result<(BTreeMap<String, StoredTensor>, u64)> {
    let (mut end, mut tensors) = (0, BTreeMap::new());
    for (name, entry) in entries {
        let (start, stop) = entry.data_offsets;
        if start != end || stop < start || entry.bytes().is_some_and(|bytes| stop - start != bytes)
        {
            let problem = format!(
                "has a header whose tensor {name:?} does not lie behind the one before it: \
                 fetch it again"
            );
            return wrong(path, problem);
        }
        end = stop;
        let bytes = data.saturating_add(start)..data.saturating_add(stop);
        let tensor = StoredTensor {
            dtype: entry.dtype,
            shape: entry.shape,
            bytes,
        };
        if tensors.insert(name.clone(), tensor).is_some() {
            return wrong(
                path,
                format!("has a header that names the tensor {name:?} twice: fetch it again"),
            );
        }
    }
    Ok((tensors, end))
}

/// An entry of the header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: (u64, u64),
}

impl Entry {
    /// The bytes that dtype and shape ask for. `None` for a dtype whose width is not known here;
    /// more than any file has for a shape that is invalid.
    fn bytes(&self) -> Option<u64> {
        let width = match self.dtype.as_str() {
            "F64" | "I64" | "U64" | "C64" => 8,
            "F32" | "I32" | "U32" => 4,
            "F16" | "BF16" | "I16" | "U16" => 2,
            "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
            _ => return None,
        };
        let counted = self.shape.iter().try_fold(width, |bytes: u64, &size| {
            bytes.checked_mul(u64::try_from(size).ok()?)
        });
        Some(counted.unwrap_or(u64::MAX))
    }
}

/// The header's entries in their order. JSON allows a name twice, but safetensors does not.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
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
