//! Tensors from files into live memory, whoever wrote them: the ranks of a gang share tensors, each
//! saves what it has, and a gang of another layout, or a single worker, reads what it needs.

use super::tensors::{MappedFile, kind_of};
use crate::error::{ModelError, Result};
use r1d_shape::{SafetensorsFile, StoredTensor};
use r1d_torch::work;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use tch::Tensor;

/// Bytes that [`restore_tensors`] copies at a time.
const RESTORE_BYTES: usize = 64 << 20;

/// The name of a part of a tensor, flat, from the element `first` on.
pub fn part_name(tensor: &str, first: i64) -> String {
    format!("{tensor}:{first}")
}

/// The tensor that a name is of, and the part's first element; `None` for a whole tensor.
fn parsed(name: &str) -> (&str, Option<i64>) {
    match name.rsplit_once(':') {
        Some((tensor, first)) => match first.parse() {
            Ok(first) => (tensor, Some(first)),
            Err(_) => (name, None),
        },
        None => (name, None),
    }
}

/// A tensor of a file, whole or a part.
struct Saved<'a> {
    mapped: &'a MappedFile,
    name: &'a str,
    stored: &'a StoredTensor,
    /// Its elements in the whole tensor.
    elements: Range<i64>,
    is_whole: bool,
}

/// Elements that are copied from a file to live memory.
struct Transfer<'a> {
    from: &'a Saved<'a>,
    to: &'a Tensor,
    /// The elements in the whole tensor, and the number of the first one that is live.
    elements: Range<i64>,
    live_from: i64,
}

/// Reads named tensors into live memory, each into the tensor beside its name, one after the other:
/// at most a part of a file is in memory. Names of [`part_name`] stand for parts, in the files and
/// in memory; how a tensor is cut may differ. All elements of `live` must be in the files with the
/// same dtype, and in the same shape where both are whole, which is checked before anything is
/// written. What is in several files is read from the first of them; other tensors are ignored.
pub fn restore_tensors(files: &[&Path], live: &[(String, Tensor)]) -> Result<()> {
    let opened = files.iter().map(|path| SafetensorsFile::open(path));
    let opened = opened.collect::<std::result::Result<Vec<_>, _>>()?;
    let mapped = opened.iter().map(MappedFile::of);
    let mapped = mapped.collect::<Result<Vec<_>>>()?;
    let mut saved: HashMap<&str, Vec<Saved>> = HashMap::new();
    for (file, mapped) in opened.iter().zip(&mapped) {
        for (name, stored) in &file.tensors {
            let (tensor, first) = parsed(name);
            let start = first.unwrap_or(0);
            let elements = start..start + stored.shape.iter().product::<i64>();
            saved.entry(tensor).or_default().push(Saved {
                mapped,
                name,
                stored,
                elements,
                is_whole: first.is_none(),
            });
        }
    }
    let path = files.first().copied().unwrap_or(Path::new(""));
    let copies = live.iter().map(|(name, tensor)| {
        let (of, _) = parsed(name);
        copies(name, tensor, saved.get(of).map_or(&[], Vec::as_slice)).map_err(|message| {
            ModelError::BadFile {
                path: path.to_owned(),
                message,
            }
        })
    });
    let copies = copies.collect::<Result<Vec<_>>>()?;
    copies.iter().flatten().try_for_each(Transfer::carry_out)
}

/// What has to be copied to make up a live tensor.
fn copies<'a>(
    name: &str,
    to: &'a Tensor,
    saved: &'a [Saved<'a>],
) -> std::result::Result<Vec<Transfer<'a>>, String> {
    let (_, first) = parsed(name);
    let live_from = first.unwrap_or(0);
    let end = live_from + to.numel() as i64;
    let wanted = || format!("{:?} {:?} is to be restored", to.kind(), to.size());
    let fits = |own: &&Saved| {
        kind_of(&own.stored.dtype) == Some(to.kind())
            && !(own.is_whole && first.is_none() && own.stored.shape != to.size())
    };
    if let Some(own) = saved.iter().find(|own| !fits(own)) {
        let StoredTensor { dtype, shape, .. } = own.stored;
        return Err(format!(
            "tensor `{name}` is {dtype} {shape:?}, and {}",
            wanted()
        ));
    }
    if saved.is_empty() {
        return Err(format!("tensor `{name}` is not there, and {}", wanted()));
    }
    let (mut found, mut at) = (Vec::new(), live_from);
    while at < end {
        let Some(from) = saved.iter().find(|own| own.elements.contains(&at)) else {
            return Err(format!(
                "element {at} of tensor `{name}` is not there, and {}",
                wanted()
            ));
        };
        let elements = at..from.elements.end.min(end);
        at = elements.end;
        found.push(Transfer {
            from,
            to,
            elements,
            live_from,
        });
    }
    Ok(found)
}

impl Transfer<'_> {
    fn carry_out(&self) -> Result<()> {
        let Saved {
            mapped,
            name,
            stored,
            elements: has,
            ..
        } = self.from;
        mapped.with(name, stored, |disk| {
            let (to, from) = (self.to.f_detach()?.f_view([-1])?, disk.f_view([-1])?);
            let width = to.kind().elt_size_in_bytes();
            let most = (RESTORE_BYTES / width) as i64;
            for start in self.elements.clone().step_by(most as usize) {
                let count = (self.elements.end - start).min(most);
                let part = from.f_narrow(0, start - has.start, count)?;
                to.f_narrow(0, start - self.live_from, count)?
                    .f_copy_(&part)?;
                work::moved(count as u64 * width as u64);
            }
            Ok(())
        })
    }
}
