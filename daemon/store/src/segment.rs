//! The bytes of a journal segment. All integers are little endian.
//!
//! ```text
//!  0        4         6          8         12        20           24         88       92      96
//!  +--------+---------+----------+---------+---------+------------+----------+--------+-------+---
//!  | "R1DJ" | version | reserved | stage   | step    | job length | job id,  | crc32c | zero  | records
//!  |        | u16     | u16      | u32     | u64     | u32        | 64 bytes | u32    | u32   |  …
//!  +--------+---------+----------+---------+---------+------------+----------+--------+-------+---
//!                                                                  crc32c of bytes 0..88
//!
//!  record:  | length u32 | crc32c u32 | payload: an Entry in postcard |
//!           crc32c of the length's bytes and the payload
//! ```
//!
//! The checksum covers the length too: a run of zeros, which a crash can leave at the end of a
//! file, is no record.

use crate::entry::Entry;
use r1d_proto::ids::{JOB_ID_MAX_BYTES, JobId};

pub(crate) const MAGIC: [u8; 4] = *b"R1DJ";
/// Version of the format; 2 added the kept ids of each completion.
pub(crate) const VERSION: u16 = 2;
pub(crate) const HEADER_BYTES: usize = 96;
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Largest payload of a record, in bytes.
pub(crate) use r1d_proto::rollout::RECORD_MAX_BYTES;

/// The job, stage and step whose rollouts a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub job: JobId,
    pub stage: u32,
    pub step: u64,
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
        let crc = crc32c::crc32c(&bytes[..88]);
        bytes[88..92].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let word = |at: usize| {
            bytes
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_le_bytes)
                .ok_or(BadHeader::Torn)
        };
        let covered = bytes.get(..88).ok_or(BadHeader::Torn)?;
        if bytes.len() < HEADER_BYTES
            || covered[..4] != MAGIC
            || crc32c::crc32c(covered) != word(88)?
        {
            return Err(BadHeader::Torn);
        }
        let version = (word(4)? & 0xffff) as u16;
        if version != VERSION {
            return Err(BadHeader::OtherRelease(version));
        }
        let job = covered
            .get(24..24 + word(20)? as usize)
            .ok_or(BadHeader::Torn)?;
        let job = JobId(String::from_utf8_lossy(job).into_owned());
        Ok(Header {
            job,
            stage: word(8)?,
            step: word(12)? as u64 | (word(16)? as u64) << 32,
        })
    }
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

/// Reads the whole records of a segment in order, and the offset at which they end: the file's
/// length unless what follows is torn.
pub(crate) fn records(bytes: &[u8]) -> (Vec<Record<'_>>, usize) {
    let mut found = Vec::new();
    let mut offset = HEADER_BYTES;
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
        }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_seen() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for bit in 0..92 * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), Err(BadHeader::Torn), "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes[..95]), Err(BadHeader::Torn));
    }

    #[test]
    fn a_later_version_is_told_from_a_torn_header() {
        let mut bytes = header().encode();
        bytes[4..6].copy_from_slice(&9u16.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..88]);
        bytes[88..92].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(BadHeader::OtherRelease(9)));
    }

    #[test]
    fn zeros_after_the_header_are_no_records() {
        let mut bytes = header().encode().to_vec();
        bytes.resize(HEADER_BYTES + 64, 0);
        let (found, end) = records(&bytes);
        assert!(found.is_empty());
        assert_eq!(end, HEADER_BYTES);
    }
}
