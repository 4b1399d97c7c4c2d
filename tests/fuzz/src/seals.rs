//! Makes the checksums of mutated bytes right again: damage that a checksum finds is the same for
//! every input, and what is decoded behind it is what a fuzzer is for.

use r1d_proto::frame::{Format, HEADER_BYTES, MAGIC, VERSION};

/// Bytes that the checksum of a segment's header covers, in version 2 and since, as drawn in
/// `store::segment`; the checksum and four more bytes follow, and then the records.
const COVERED_BYTES: [usize; 2] = [88, 96];
const TAIL_BYTES: usize = 8;
const RECORD_HEADER_BYTES: usize = 8;

/// The bytes as the payload of a whole frame.
pub fn frame(format: Format, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend(MAGIC);
    bytes.extend([VERSION, format as u8, 0, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(crc32c::crc32c(payload).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// The bytes as a journal segment whose header's checksum and records' checksums are right.
pub fn segment(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    let covered_bytes = COVERED_BYTES[usize::from(bytes.get(4) != Some(&2))];
    if let Some((covered, rest)) = sealed.split_at_mut_checked(covered_bytes)
        && let Some(checksum) = rest.get_mut(..4)
    {
        checksum.copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
    }
    let mut rest = sealed
        .get_mut(covered_bytes + TAIL_BYTES..)
        .unwrap_or_default();
    while let Some((head, behind)) = rest.split_at_mut_checked(RECORD_HEADER_BYTES) {
        let (length, checksum) = head.split_at_mut(4);
        let bytes = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        // The last record reaches to the end if its length says more.
        let bytes = bytes.min(behind.len());
        length.copy_from_slice(&(bytes as u32).to_le_bytes());
        let (payload, later) = behind.split_at_mut(bytes);
        let crc = crc32c::crc32c_append(crc32c::crc32c(length), payload);
        checksum.copy_from_slice(&crc.to_le_bytes());
        rest = later;
    }
    sealed
}
