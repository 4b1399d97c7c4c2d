//! TensorBoard event files: scalars by step.
//!
//! ```text
//!  record:  length u64 LE | masked crc32c of length u32 LE | event | masked crc32c of event u32 LE
//!  event (protobuf):  1: wall_time double   2: step int64   3: file_version string   5: summary
//!  summary:           1: value (repeated)   value:  1: tag string   2: simple_value float
//! ```
//! The wall time is when the step was committed, which the ledger has among its metrics: the files
//! are written again from it after a crash, and are the same bytes then.

use r1d_proto::worker::Metrics;
use r1d_runner::metrics::COMMITTED_AT;

pub(crate) const FILE: &str = "events.out.tfevents.0000000000.r1d";

/// The beginning of a file whose first step has these metrics.
pub(crate) fn header(first: &Metrics) -> Vec<u8> {
    let mut event = wall_time(first);
    text(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// The record of one step's metrics.
pub(crate) fn event(step: u64, metrics: &Metrics) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, number) in metrics.iter().filter(|(name, _)| *name != COMMITTED_AT) {
        let mut value = Vec::new();
        text(&mut value, 1, name.as_bytes());
        value.push(2 << 3 | 5);
        value.extend((*number as f32).to_le_bytes());
        text(&mut summary, 1, &value);
    }
    let mut event = wall_time(metrics);
    event.push(2 << 3);
    varint(&mut event, step);
    text(&mut event, 5, &summary);
    record(&event)
}

/// The first field of an event: the time of the commit; 0 for a step of an earlier release, which
/// has none.
fn wall_time(metrics: &Metrics) -> Vec<u8> {
    let seconds = metrics.get(COMMITTED_AT).copied().unwrap_or(0.0);
    [&[1 << 3 | 1][..], &seconds.to_le_bytes()].concat()
}

/// Appends a length-delimited field.
fn text(into: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    into.push(field << 3 | 2);
    varint(into, bytes.len() as u64);
    into.extend(bytes);
}

fn varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let masked = |bytes: &[u8]| {
        crc32c::crc32c(bytes)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
            .to_le_bytes()
    };
    [&length[..], &masked(&length), event, &masked(event)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: `tensorboard.compat.proto` of step 300 with one scalar, and TensorFlow's record
    /// framing, written by hand from the protocol's definition; the version record is the first 40
    /// bytes of any event file.
    #[test]
    fn events_are_framed_protobuf() {
        let metrics = Metrics::from([("loss".into(), 1.5), (COMMITTED_AT.into(), 1_800_000_000.5)]);
        let bytes = event(300, &metrics);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), 8 + 4 + length + 4);
        assert_eq!(
            &bytes[12..12 + length],
            [
                0x09, 0x00, 0x00, 0x20, 0x80, 0x74, 0xd2, 0xda, 0x41, 0x10, 0xac, 0x02, 0x2a, 0x0d,
                0x0a, 0x0b, 0x0a, 0x04, b'l', b'o', b's', b's', 0x15, 0x00, 0x00, 0xc0, 0x3f
            ]
        );
        let header = header(&metrics);
        assert_eq!(header.len(), 40);
        assert_eq!(header[12..21], bytes[12..21]);
        assert!(header.windows(13).any(|w| w == b"brain.Event:2"));
    }
}
