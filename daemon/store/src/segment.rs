//! The bytes of a journal segment. All integers are little endian.
//!
//! ```text
//!  0        4         6          8       12      20           24         88      96       100 104
//!  +--------+---------+----------+-------+-------+------------+----------+-------+--------+-----+--
//!  | "R1DJ" | version | reserved | stage | step  | job length | job id,  | epoch | crc32c | 0   | …
//!  |        | u16     | u16      | u32   | u64   | u32        | 64 bytes | u64   | u32    | u32 |
//!  +--------+---------+----------+-------+-------+------------+----------+-------+--------+-----+--
//!                                                                          crc32c of bytes 0..96
//!
//!  from byte 104 on the records:
//!  record:  | length u32 | crc32c u32 | payload: an Entry in postcard |
//!           crc32c of the length's bytes and the payload
//! ```
//!
//! The epoch is that of the attempt that writes the segment. Version 2 had none: crc32c and zero
//! follow the job's id, and the records begin at byte 96.
//!
//! The checksum covers the length too: a run of zeros, which a crash can leave at the end of a
//! file, is no record.

use crate::entry::Entry;
use r1d_proto::ids::{JOB_ID_MAX_BYTES, JobId};

pub(crate) const MAGIC: [u8; 4] = *b"R1DJ";
/// Version of the format; 2 added the kept ids of each completion, 3 the epoch.
pub(crate) const VERSION: u16 = 3;
/// The oldest version that is read; its segments are of epoch 0.
pub(crate) const OLDEST_VERSION: u16 = 2;
/// Bytes that a header's checksum covers, by version: all before the checksum.
const COVERED_BYTES: usize = 96;
const COVERED_BYTES_2: usize = 88;
/// Bytes of a checksum and of the zeros behind it.
const TAIL_BYTES: usize = 8;
pub(crate) const HEADER_BYTES: usize = COVERED_BYTES + TAIL_BYTES;
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Largest payload of a record, in bytes.
pub(crate) use r1d_proto::rollout::RECORD_MAX_BYTES;

/// The job, stage and step whose rollouts a segment holds, and the attempt that writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub job: JobId,
    pub stage: u32,
    pub step: u64,
    pub epoch: u64,
}

/// Why the first bytes of a segment are no header of this release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// The header is cut short or overwritten.
    Torn,
    /// The header is whole, but has the version of another release.
    OtherRelease(u16),
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        let job = self.job.0.as_bytes();
        let length = job.len().min(JOB_ID_MAX_BYTES);
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.stage.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.step.to_le_bytes());
        bytes[20..24].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[24..24 + length].copy_from_slice(&job[..length]);
        bytes[88..COVERED_BYTES].copy_from_slice(&self.epoch.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..COVERED_BYTES]);
        bytes[COVERED_BYTES..COVERED_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of a segment, and the offset at which its records begin.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Header, usize), BadHeader> {
        let version = u16::from_le_bytes(array(bytes, 4)?);
        let covered = match version {
            VERSION => whole(bytes, COVERED_BYTES)?,
            OLDEST_VERSION => whole(bytes, COVERED_BYTES_2)?,
            _ => {
                // Other releases have one of the two headers, as far as this one knows.
                whole(bytes, COVERED_BYTES).or_else(|_| whole(bytes, COVERED_BYTES_2))?;
                return Err(BadHeader::OtherRelease(version));
            }
        };
        let length = u32::from_le_bytes(array(covered, 20)?) as usize;
        let job = covered.get(24..24 + length).ok_or(BadHeader::Torn)?;
        let epoch = match version {
            VERSION => u64::from_le_bytes(array(covered, 88)?),
            _ => 0,
        };
        let header = Header {
            job: JobId(String::from_utf8_lossy(job).into_owned()),
            stage: u32::from_le_bytes(array(covered, 8)?),
            step: u64::from_le_bytes(array(covered, 12)?),
            epoch,
        };
        Ok((header, covered.len() + TAIL_BYTES))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], BadHeader> {
    let found = bytes
        .get(at..at + N)
        .and_then(|found| found.try_into().ok());
    found.ok_or(BadHeader::Torn)
}

/// The first `count` bytes of a header, if they are whole: they fit the checksum behind them.
fn whole(bytes: &[u8], count: usize) -> Result<&[u8], BadHeader> {
    let covered = bytes.get(..count).ok_or(BadHeader::Torn)?;
    let is_whole = bytes.len() >= count + TAIL_BYTES
        && covered.starts_with(&MAGIC)
        && crc32c::crc32c(covered) == u32::from_le_bytes(array(bytes, count)?);
    is_whole.then_some(covered).ok_or(BadHeader::Torn)
}

/// Appends one framed record to `bytes`; returns the payload's length and checksum, or as an error
/// its length if that is over the limit.
pub(crate) fn push_record(bytes: &mut Vec<u8>, entry: &Entry) -> Result<(u32, u32), usize> {
    // Encoding into memory fails for no type that an entry holds.
    let payload = postcard::to_stdvec(entry).map_err(|_| usize::MAX)?;
    if payload.len() > RECORD_MAX_BYTES {
        return Err(payload.len());
    }
    let length = payload.len() as u32;
    let crc = checksum(length, &payload);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok((length, crc))
}

fn checksum(length: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), payload)
}

/// One record read back.
pub(crate) struct Record<'a> {
    /// Offset of its frame in the file.
    pub offset: usize,
    /// Length and checksum of the payload, as [`push_record`] returned them.
    pub print: (u32, u32),
    pub payload: &'a [u8],
}

/// Reads the whole records of a segment in order from where its header ends, and the offset at
/// which they end: the file's length unless what follows is torn.
pub(crate) fn records(bytes: &[u8], start: usize) -> (Vec<Record<'_>>, usize) {
    let mut found = Vec::new();
    let mut offset = start;
    while let Some(record) = record_at(bytes, offset) {
        offset += RECORD_HEADER_BYTES + record.payload.len();
        found.push(record);
    }
    (found, offset.min(bytes.len()))
}

fn record_at(bytes: &[u8], offset: usize) -> Option<Record<'_>> {
    let head = bytes.get(offset..offset + RECORD_HEADER_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?);
    let crc = u32::from_le_bytes(head[4..].try_into().ok()?);
    if length as usize > RECORD_MAX_BYTES {
        return None;
    }
    let start = offset + RECORD_HEADER_BYTES;
    let payload = bytes.get(start..start + length as usize)?;
    (checksum(length, payload) == crc).then_some(Record {
        offset,
        print: (length, crc),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            job: JobId("7qx".into()),
            stage: 2,
            step: 1 << 40 | 5,
            epoch: 1 << 33 | 7,
        }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_seen() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok((header(), HEADER_BYTES)));
        for bit in 0..100 * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), Err(BadHeader::Torn), "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes[..103]), Err(BadHeader::Torn));
    }

    #[test]
    fn other_versions_are_told_from_a_torn_header() {
        for (version, covered) in [(1u16, 88), (9, 88), (9, 96)] {
            let mut bytes = header().encode();
            bytes[4..6].copy_from_slice(&version.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..covered]);
            bytes[covered..covered + 4].copy_from_slice(&crc.to_le_bytes());
            let expected = BadHeader::OtherRelease(version);
            assert_eq!(Header::decode(&bytes), Err(expected));
        }
    }

    #[test]
    fn zeros_after_the_header_are_no_records() {
        let mut bytes = header().encode().to_vec();
        bytes.resize(HEADER_BYTES + 64, 0);
        let (found, end) = records(&bytes, HEADER_BYTES);
        assert!(found.is_empty());
        assert_eq!(end, HEADER_BYTES);
    }
}
