//! Reads rows of JSON files: one object a line, one list of objects, or objects one after the other
//! over several lines; plain, or compressed as .gz or .zst.

use crate::error::DataError;
use crate::json::{Json, JsonError};
use crate::naming;
use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Most bytes of one line (`LIM-1`).
pub const LINE_BYTES_MAX: u64 = 256 << 20;
/// Most bytes of a file that is not JSON lines, which is in memory as a whole (`LIM-1`).
pub const DOCUMENT_BYTES_MAX: u64 = 2 << 30;
const HEAD: u64 = naming::HEAD_BYTES as u64;

const CUT: &str = "not JSON: the list is not closed: the file is cut off";

/// How a file is compressed, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip, `.gz`.
    Gzip,
    /// Zstandard, `.zst`.
    Zstd,
}

/// Reads the members of a gzip file, one after the other. Zeros behind a member are skipped, as in
/// gzip and Python: archives and tapes pad with them. `None` after the end.
struct Gzip<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let read = member.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.0.take().map(GzDecoder::into_inner) else {
                break;
            };
            loop {
                let bytes = rest.fill_buf()?;
                let (zeros, length) = (
                    bytes.iter().take_while(|byte| **byte == 0).count(),
                    bytes.len(),
                );
                rest.consume(zeros);
                if length == 0 {
                    return Ok(0);
                }
                if zeros < length {
                    break;
                }
            }
            self.0 = Some(GzDecoder::new(rest));
        }
        Ok(0)
    }
}

/// Calls `take` with every object and its line, from 1. At most `bytes_max` bytes are read from a
/// compressed file.
pub fn read(
    path: &Path,
    file: impl Read,
    compression: Compression,
    bytes_max: u64,
    mut take: impl FnMut(u64, Json) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let at = |line: u64, problem: String| DataError::Row {
        path: path.into(),
        line,
        problem,
    };
    let mut reader = opened(path, file, compression, bytes_max)?;
    let (mut number, mut bytes, mut any) = (0u64, 0u64, false);
    loop {
        let mut line = Vec::new();
        let read = reader
            .by_ref()
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut line)
            .map_err(|e| DataError::read(path, e))? as u64;
        if read == 0 {
            return Ok(());
        }
        (number, bytes) = (number + 1, bytes + read);
        let is_document = !any && line.trim_ascii_start().starts_with(b"[");
        if read > LINE_BYTES_MAX && !is_document {
            let problem = format!("a line of more than {} MiB", LINE_BYTES_MAX >> 20);
            return Err(at(number, problem));
        }
        if bytes > bytes_max {
            return Err(too_large(path, bytes_max));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let text = if is_document {
            String::new()
        } else {
            String::from_utf8(std::mem::take(&mut line))
                .map_err(|_| at(number, "not UTF-8".into()))?
        };
        match Json::parse(&text) {
            Ok(value) if !is_document => {
                any = true;
                let value = object(value).map_err(|problem| at(number, problem))?;
                take(number, value)?;
            }
            Err(error) if !is_document && (any || !error.is_cut) => {
                let before = text.get(..error.at).unwrap_or_default();
                return Err(at(number, described(&error, before)));
            }
            _ => {
                // The text is a list, or an object over several lines.
                let begun = if is_document { line } else { text.into_bytes() };
                let all = rest(path, begun, reader, DOCUMENT_BYTES_MAX.min(bytes_max))?;
                return document(path, &all, number, take);
            }
        }
    }
}

/// Opens a file of text behind its byte order mark, which some editors put before the first line.
/// A file that is known to be something else is refused.
fn opened<'a>(
    path: &Path,
    file: impl Read + 'a,
    compression: Compression,
    bytes_max: u64,
) -> Result<impl BufRead + 'a, DataError> {
    let failed = |e| DataError::read(path, e);
    let plain: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(Gzip(Some(GzDecoder::new(BufReader::new(file))))),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
    };
    let mut reader = BufReader::new(plain.take(bytes_max.saturating_add(1)));
    // The first look does not consume: the head is read again before the rest.
    let mut head = Vec::new();
    reader
        .by_ref()
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(failed)?;
    if let Some(what) = naming::instead(&head) {
        return Err(DataError::Instead {
            path: path.into(),
            what,
        });
    }
    let mark = if head.starts_with("\u{feff}".as_bytes()) {
        3
    } else {
        0
    };
    let head = head.split_off(mark);
    Ok(BufReader::new(std::io::Cursor::new(head).chain(reader)))
}

/// The whole text that has `begun`, of at most `bytes_max` bytes.
fn rest(
    path: &Path,
    mut begun: Vec<u8>,
    reader: impl Read,
    bytes_max: u64,
) -> Result<Vec<u8>, DataError> {
    let left = bytes_max.saturating_add(1);
    reader
        .take(left.saturating_sub(begun.len() as u64))
        .read_to_end(&mut begun)
        .map_err(|e| DataError::read(path, e))?;
    if begun.len() as u64 > bytes_max {
        return Err(too_large(path, bytes_max));
    }
    Ok(begun)
}

fn too_large(path: &Path, bytes_max: u64) -> DataError {
    let limit = format!(
        "more than {} MiB of JSON come out of it: write it as JSON lines, in several files",
        bytes_max >> 20
    );
    DataError::Row {
        path: path.into(),
        line: 1,
        problem: limit,
    }
}

/// Reads a list of objects, or objects one after the other. `first` is the number of the text's
/// first line.
fn document(
    path: &Path,
    bytes: &[u8],
    first: u64,
    mut take: impl FnMut(u64, Json) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let row = |line: u64, problem: String| DataError::Row {
        path: path.into(),
        line,
        problem,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        row(
            first + before.iter().filter(|byte| **byte == b'\n').count() as u64,
            "not UTF-8".into(),
        )
    })?;
    let mut place = Place {
        text,
        at: 0,
        line: first,
    };
    let is_list = place.next() == Some('[');
    if is_list {
        place.advance(1);
    }
    let mut is_first = true;
    while place
        .goes_on(is_list, is_first)
        .map_err(|problem| row(place.line, problem))?
    {
        is_first = false;
        let rest = place.text.get(place.at..).unwrap_or_default();
        let (value, length) = Json::parse_first(rest).map_err(|error| {
            let before = up_to_the_mistake(rest, &error);
            row(
                place.line + before.matches('\n').count() as u64,
                described(&error, before),
            )
        })?;
        let line = place.line;
        place.advance(length);
        let value = object(value).map_err(|problem| {
            row(
                line,
                if is_list {
                    format!("a list with {problem}")
                } else {
                    problem
                },
            )
        })?;
        take(line, value)?;
    }
    Ok(())
}

/// A place in a text of several lines.
struct Place<'a> {
    text: &'a str,
    at: usize,
    line: u64,
}

impl Place<'_> {
    fn advance(&mut self, bytes: usize) {
        let passed = self.text.get(self.at..self.at + bytes).unwrap_or_default();
        self.line += passed.matches('\n').count() as u64;
        self.at += bytes;
    }

    /// The next character that is not white space.
    fn next(&mut self) -> Option<char> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start_matches([' ', '\n', '\r', '\t']).len();
        self.advance(blank);
        self.text.get(self.at..)?.chars().next()
    }

    fn column(&self) -> usize {
        let before = self.text.get(..self.at).unwrap_or_default();
        before.rsplit('\n').next().map_or(0, str::len) + 1
    }

    /// Goes to the next object, past what stands between it and the one before. False at the end.
    /// An error says what stands there instead.
    fn goes_on(&mut self, is_list: bool, is_first: bool) -> Result<bool, String> {
        match self.next() {
            None if is_list => Err(CUT.into()),
            None => Ok(false),
            Some(']') if is_list => {
                self.advance(1);
                match self.next() {
                    None => Ok(false),
                    Some(_) => Err(format!(
                        "more follows the list of rows: a file is one list of objects, or an \
                         object a line (column {})",
                        self.column()
                    )),
                }
            }
            Some(',') if is_list && !is_first => {
                self.advance(1);
                match self.next() {
                    None => Err(CUT.into()),
                    Some(_) => Ok(true),
                }
            }
            Some(_) if is_list && !is_first => Err(format!(
                "not JSON: expected `,` or `]` at column {}",
                self.column()
            )),
            Some(_) => Ok(true),
        }
    }
}

/// The text before an error. What is missing at the end of a line is found missing only on a later
/// one, where the next row may begin: the error is at that line's end then.
fn up_to_the_mistake<'a>(text: &'a str, error: &JsonError) -> &'a str {
    let before = text.get(..error.at).unwrap_or_default();
    match before.rsplit_once('\n') {
        Some((_, begun)) if begun.trim().is_empty() => before.trim_end(),
        _ => before,
    }
}

/// The problem and its column, given the text before it.
fn described(error: &JsonError, before: &str) -> String {
    let column = before.rsplit('\n').next().map_or(0, str::len) + 1;
    format!("not JSON: {} at column {column}", error.problem)
}

fn object(value: Json) -> Result<Json, String> {
    match value {
        Json::Object(_) => Ok(value),
        other => Err(format!(
            "{}, expected a JSON object per row (columns by name)",
            other.kind()
        )),
    }
}
