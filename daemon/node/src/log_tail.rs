//! Where to begin to read a log whose last lines are wanted. The file is read backwards from its
//! end, so that the length of the whole log does not matter.

use r1d_link::work::Tail;
use r1d_proto::control::content::LogLine;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes that are read at a time.
const CHUNK_BYTES: u64 = 64 << 10;

/// The offset in bytes of the first line that is wanted. What follows the last line end is being
/// written, and is no line yet.
pub(crate) fn begin(log: &mut (impl Read + Seek), wanted: Tail) -> io::Result<u64> {
    if wanted == Tail::default() {
        return Ok(0);
    }
    let mut at = log.seek(SeekFrom::End(0))?;
    // The bytes from `at` to the end of the last line that was looked at.
    let mut tail: Vec<u8> = Vec::new();
    let (mut lines, mut is_first) = (0, true);
    loop {
        if is_first {
            // Drop what is no line yet.
            if let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') {
                tail.truncate(end + 1);
                is_first = false;
            }
        }
        while !is_first && !tail.is_empty() {
            if wanted.lines == Some(lines) {
                return Ok(at + tail.len() as u64);
            }
            let inner = tail.len() - 1;
            let before = tail.iter().take(inner).rposition(|byte| *byte == b'\n');
            let begin = match before {
                Some(before) => before + 1,
                None if at == 0 => 0,
                None => break,
            };
            if tail.get(begin..).is_some_and(|line| is_older(line, wanted)) {
                return Ok(at + tail.len() as u64);
            }
            lines += 1;
            tail.truncate(begin);
        }
        if at == 0 {
            return Ok(0);
        }
        let length = at.min(CHUNK_BYTES);
        at -= length;
        log.seek(SeekFrom::Start(at))?;
        let mut chunk = Vec::with_capacity(length as usize + tail.len());
        log.take(length).read_to_end(&mut chunk)?;
        chunk.extend_from_slice(&tail);
        tail = chunk;
    }
}

/// Whether the line was written before the wanted time. A damaged line is as old as those around
/// it.
fn is_older(line: &[u8], wanted: Tail) -> bool {
    wanted.since_ms.is_some_and(|since_ms| {
        serde_json::from_slice::<LogLine>(line).is_ok_and(|line| line.at_ms < since_ms)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A log of lines that are `width` bytes wide, one a second, and what begins after them.
    fn log(lines: u64, width: usize, torn: &str) -> Vec<u8> {
        let mut text = String::new();
        for at in 0..lines {
            let line = LogLine {
                at_ms: at * 1000,
                level: "info".into(),
                message: "x".repeat(width + (at % 7) as usize),
            };
            text += &serde_json::to_string(&line).unwrap();
            text.push('\n');
        }
        (text + torn).into_bytes()
    }

    fn naive(log: &[u8], wanted: Tail) -> u64 {
        let mut begins = vec![0];
        begins.extend(
            (0..log.len())
                .filter(|at| log[*at] == b'\n')
                .map(|at| at + 1),
        );
        let end = begins.pop().unwrap();
        let line = |begin: usize| log[begin..].split(|byte| *byte == b'\n').next().unwrap();
        let mut first = end;
        for (count, begin) in begins.into_iter().rev().enumerate() {
            if wanted.lines == Some(count as u64) || is_older(line(begin), wanted) {
                break;
            }
            first = begin;
        }
        first as u64
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        for (lines, width, torn) in [
            (0, 0, ""),
            (0, 0, "{\"at_ms\""),
            (5, 10, ""),
            (5, 10, "{\"at"),
            (3000, 100, ""),
            // Lines that are longer than a chunk.
            (7, 200_000, "{"),
        ] {
            let bytes = log(lines, width, torn);
            for tail in [None, Some(0), Some(1), Some(4), Some(900), Some(5000)] {
                for since_ms in [None, Some(0), Some(2500), Some(4000), Some(1 << 40)] {
                    let wanted = Tail {
                        lines: tail,
                        since_ms,
                    };
                    let found = begin(&mut Cursor::new(&bytes), wanted).unwrap();
                    if wanted == Tail::default() {
                        assert_eq!(found, 0);
                        continue;
                    }
                    assert_eq!(found, naive(&bytes, wanted), "{lines} {width} {wanted:?}");
                }
            }
        }
    }

    /// Counts what is read of a log.
    struct Counted<'a>(Cursor<&'a Vec<u8>>, u64);

    impl Read for Counted<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read(out)?;
            self.1 += read as u64;
            Ok(read)
        }
    }

    impl Seek for Counted<'_> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn a_long_log_is_not_read_to_show_its_end() {
        let bytes = log(100_000, 80, "");
        let mut counted = Counted(Cursor::new(&bytes), 0);
        let wanted = Tail {
            lines: Some(100),
            since_ms: Some(5000),
        };
        begin(&mut counted, wanted).unwrap();
        assert!(counted.1 <= 2 * CHUNK_BYTES, "{} bytes", counted.1);
    }
}
