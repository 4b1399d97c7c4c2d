//! The files of `plugin score`: one JSON object a line ([`r1d_rewards::line`]). Other fields of a
//! line are left out, with a warning.

use super::PluginError;
use r1d_proto::{shown, user_file};
use r1d_rewards::{Member, line};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

const LINE_BYTES_MAX: u64 = 16 << 20;
/// Largest input, all lines together. All are read before the first is judged, so that a bad line
/// costs no half result.
const INPUT_BYTES_MAX: u64 = 2 << 30;

/// Reads all lines of `path`, or of stdin for `-`. Trailing empty lines are ignored; others are an
/// error, because each line gets one verdict.
pub(super) fn read(path: &Path) -> Result<Vec<Member>, PluginError> {
    let mut unknown = BTreeMap::new();
    let members = lines(path, |number, object| {
        line::member(number, object, &mut unknown)
    })?;
    for (key, number) in unknown {
        eprintln!(
            "warning: {}, line {number}: unknown key `{}` is left out; the keys are {}",
            path.display(),
            shown::quote(&key),
            line::KEYS.join(", ")
        );
    }
    Ok(members)
}

/// Reads each line, numbered from 1, as a JSON object.
pub(super) fn lines<T>(
    path: &Path,
    mut take: impl FnMut(usize, Map<String, Value>) -> Result<T, String>,
) -> Result<Vec<T>, PluginError> {
    let failed = |source| PluginError::Read {
        path: path.into(),
        source,
    };
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(user_file::open(path).map_err(failed)?)
    };
    let mut reader = BufReader::new(source.take(INPUT_BYTES_MAX + 1));
    let (mut taken, mut bytes, mut empty) = (Vec::new(), 0u64, None);
    for number in 1.. {
        let wrong = |problem: String| PluginError::Line {
            path: path.into(),
            line: number,
            problem,
        };
        let mut bytes_of_line = Vec::new();
        let read = reader
            .by_ref()
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut bytes_of_line)
            .map_err(failed)? as u64;
        if read == 0 {
            break;
        }
        bytes += read;
        if read > LINE_BYTES_MAX {
            return Err(wrong(format!("longer than {} MiB", LINE_BYTES_MAX >> 20)));
        }
        if bytes > INPUT_BYTES_MAX {
            return Err(wrong(format!(
                "the file is larger than {} GiB: split it",
                INPUT_BYTES_MAX >> 30
            )));
        }
        let text =
            std::str::from_utf8(&bytes_of_line).map_err(|e| wrong(format!("not UTF-8: {e}")))?;
        // Some editors put a byte order mark before the first line.
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            empty = empty.or(Some(number));
            continue;
        }
        if let Some(empty) = empty {
            return Err(PluginError::Line {
                path: path.into(),
                line: empty,
                problem: "is empty: write a JSON object".into(),
            });
        }
        let object = line::object(text).map_err(wrong)?;
        taken.push(take(number, object).map_err(wrong)?);
    }
    Ok(taken)
}
