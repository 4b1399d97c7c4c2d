//! The file of a token set: records one after another, where each ends, and a checksum of every
//! block.
//!
//! ```text
//! offset  bytes
//!      0      8   magic "R1DTOKEN"
//!      8      4   version of this layout
//!     12      4   CRC-32C of bytes 16..128
//!     16     32   key: SHA-256 of all that the contents depend on
//!     48      8   number of records, R
//!     56      8   bytes of all records, D
//!     64      8   bytes of the facts, F
//!     72      4   CRC-32C of the checksums
//!     76     52   zero
//!    128      D   records
//!          8 * R  end of each record, counted from byte 128
//!              F  facts about the whole set, in postcard
//!          4 * B  CRC-32C of each block of BLOCK_BYTES of what stands between the header and here
//! ```
//!
//! Numbers are little endian. Nothing is synced: a set that a loss of power tore fails its checks
//! and is made again.
//!
//! A set is read with `pread`, not mapped. Its pages are in the page cache either way, once for all
//! jobs; but a file that somebody truncates, or a disk that fails, gives an error here and would be
//! a SIGBUS, the end of the daemon, in a mapping.

use crate::key::Key;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MAGIC: &[u8; 8] = b"R1DTOKEN";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 128;
/// Bytes that one checksum covers: so much is read when a record in it is read first.
const BLOCK_BYTES: u64 = 128 << 10;
const END_BYTES: u64 = 8;
const CHECK_BYTES: u64 = 4;
/// Most bytes of the facts about a set (`LIM-1`).
const FACTS_BYTES_MAX: u64 = 64 << 20;

/// Why a token set cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The system does not read the file.
    #[error("cannot read a token set: {0}")]
    Io(#[from] io::Error),
    /// The file is not what was written. It is made again when the job is opened next.
    #[error("a token set is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes the records of a token set.
pub struct Writer {
    file: BufWriter<File>,
    ends: Vec<u64>,
    bytes: u64,
    blocks: Blocks,
}

/// Checksums of blocks of a stream.
#[derive(Default)]
struct Blocks {
    checks: Vec<u32>,
    current: u32,
    filled: u64,
}

impl Blocks {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (BLOCK_BYTES - self.filled) as usize;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.current = crc32c::crc32c_append(self.current, now);
            self.filled += now.len() as u64;
            if self.filled == BLOCK_BYTES {
                self.close();
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        if self.filled > 0 {
            self.checks.push(self.current);
        }
        (self.current, self.filled) = (0, 0);
    }
}

impl Writer {
    /// Begins a set in an empty file. Without [`Writer::finish`] the file is no token set.
    pub fn new(file: File) -> io::Result<Writer> {
        let mut file = BufWriter::with_capacity(BLOCK_BYTES as usize, file);
        file.write_all(&[0; HEADER_BYTES as usize])?;
        Ok(Writer {
            file,
            ends: Vec::new(),
            bytes: 0,
            blocks: Blocks::default(),
        })
    }

    /// Adds a record.
    pub fn add(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all(record)?;
        self.blocks.add(record);
        self.bytes += record.len() as u64;
        self.ends.push(self.bytes);
        Ok(())
    }

    /// The number of records so far.
    pub fn len(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Writes the rest, and the header last.
    pub fn finish(mut self, key: &Key, facts: &impl Serialize) -> io::Result<()> {
        let facts = postcard::to_stdvec(facts).map_err(io::Error::other)?;
        for end in std::mem::take(&mut self.ends) {
            let end = end.to_le_bytes();
            self.file.write_all(&end)?;
            self.blocks.add(&end);
        }
        let records = (self.blocks.total() - self.bytes) / END_BYTES;
        self.file.write_all(&facts)?;
        self.blocks.add(&facts);
        self.blocks.close();
        let checks: Vec<u8> = self
            .blocks
            .checks
            .iter()
            .flat_map(|check| check.to_le_bytes())
            .collect();
        self.file.write_all(&checks)?;
        let header = Header {
            key: *key,
            records,
            data: self.bytes,
            facts: facts.len() as u64,
            checks: crc32c::crc32c(&checks),
        };
        let file = self.file.into_inner().map_err(|e| e.into_error())?;
        file.write_all_at(&header.encode(), 0)
    }
}

impl Blocks {
    /// Bytes that were added.
    fn total(&self) -> u64 {
        self.checks.len() as u64 * BLOCK_BYTES + self.filled
    }
}

struct Header {
    key: Key,
    records: u64,
    data: u64,
    facts: u64,
    /// The checksum of the checksums.
    checks: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut body = Vec::with_capacity(HEADER_BYTES as usize);
        body.extend(self.key.bytes());
        for number in [self.records, self.data, self.facts] {
            body.extend(number.to_le_bytes());
        }
        body.extend(self.checks.to_le_bytes());
        body.resize(HEADER_BYTES as usize - 16, 0);
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(crc32c::crc32c(&body).to_le_bytes());
        header.extend(body);
        let mut whole = [0; HEADER_BYTES as usize];
        whole.copy_from_slice(&header);
        whole
    }

    /// Reads a header; `None` if it is not one of this version, whole.
    fn decode(bytes: &[u8]) -> Option<Header> {
        let mut fields = Fields::new(bytes);
        if fields.take(8)? != MAGIC || fields.u32()? != VERSION {
            return None;
        }
        let check = fields.u32()?;
        if crc32c::crc32c(fields.rest()) != check {
            return None;
        }
        Some(Header {
            key: Key::from_bytes(fields.take(32)?.try_into().ok()?),
            records: fields.u64()?,
            data: fields.u64()?,
            facts: fields.u64()?,
            checks: fields.u32()?,
        })
    }

    /// Bytes between the header and the checksums; `None` if no file is as long.
    fn body_bytes(&self) -> Option<u64> {
        let ends = self.records.checked_mul(END_BYTES)?;
        self.data.checked_add(ends)?.checked_add(self.facts)
    }
}

/// A token set that is open. Jobs share it, and its file's pages.
#[derive(Debug)]
pub struct TokenSet {
    file: File,
    key: Key,
    records: u64,
    data: u64,
    body: u64,
    facts: Vec<u8>,
    checks: Vec<u32>,
    /// A bit for each block whose checksum was found right.
    verified: Vec<AtomicU64>,
    /// Shared with the folder, which has to know it when the set is closed.
    damaged: Arc<AtomicBool>,
}

impl TokenSet {
    /// Opens a set that must have this key. Reads the header, the facts and the checksums; records
    /// are checked when they are read first.
    pub fn open(file: File, key: &Key) -> Result<TokenSet, SetError> {
        let bytes = file.metadata()?.len();
        if bytes < HEADER_BYTES {
            return Err(SetError::Damaged("it has no whole header"));
        }
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, 0)?;
        let header = Header::decode(&header).ok_or(SetError::Damaged(
            "its header is not one, or of another version",
        ))?;
        if header.key != *key {
            return Err(SetError::Damaged("it is another one"));
        }
        let body = header
            .body_bytes()
            .filter(|_| header.facts <= FACTS_BYTES_MAX);
        let blocks = body.map(|body| body.div_ceil(BLOCK_BYTES));
        let whole = body
            .zip(blocks)
            .and_then(|(body, blocks)| (HEADER_BYTES + CHECK_BYTES * blocks).checked_add(body));
        let (Some(body), Some(blocks), true) = (body, blocks, whole == Some(bytes)) else {
            return Err(SetError::Damaged("it is longer or shorter than it was"));
        };
        let mut checks = vec![0; (blocks * CHECK_BYTES) as usize];
        file.read_exact_at(&mut checks, HEADER_BYTES + body)?;
        if crc32c::crc32c(&checks) != header.checks {
            return Err(SetError::Damaged("its checksums are not as they were"));
        }
        let mut set = TokenSet {
            file,
            key: *key,
            records: header.records,
            data: header.data,
            body,
            facts: Vec::new(),
            checks: ids(&checks),
            verified: (0..blocks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            damaged: Arc::default(),
        };
        set.facts = set.read(body - header.facts..body)?;
        Ok(set)
    }

    /// SHA-256 of all that the set depends on.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The number of records.
    pub fn len(&self) -> u64 {
        self.records
    }

    /// Whether the set has no record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of all records together.
    pub fn data_bytes(&self) -> u64 {
        self.data
    }

    /// Whether a read has found the file other than it was written.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// What [`TokenSet::is_damaged`] tells, also after the set was closed.
    pub(crate) fn damage(&self) -> Arc<AtomicBool> {
        self.damaged.clone()
    }

    /// What is known of the whole set.
    pub fn facts<T: DeserializeOwned>(&self) -> Result<T, SetError> {
        postcard::from_bytes(&self.facts).map_err(|_| self.fault("its facts cannot be read"))
    }

    /// The place of a record among the bytes of all records.
    pub fn range(&self, record: u64) -> Result<Range<u64>, SetError> {
        if record >= self.records {
            return Err(self.fault("it has fewer records than are asked for"));
        }
        let ends = self.data;
        let at = |record: u64| ends + record * END_BYTES;
        let (first, bytes) = match record.checked_sub(1) {
            None => (at(0), self.read(at(0)..at(1))?),
            Some(before) => (at(before), self.read(at(before)..at(record + 1))?),
        };
        let mut fields = Fields::new(&bytes);
        let start = if first == at(record) {
            Some(0)
        } else {
            fields.u64()
        };
        match start.zip(fields.u64()) {
            Some((start, end)) if start <= end && end <= self.data => Ok(start..end),
            _ => Err(self.fault("a record ends before it begins")),
        }
    }

    /// The ends of `count` records from `first` on, among the bytes of all records.
    pub fn ends(&self, first: u64, count: u64) -> Result<Vec<u64>, SetError> {
        if first
            .checked_add(count)
            .is_none_or(|end| end > self.records)
        {
            return Err(self.fault("it has fewer records than are asked for"));
        }
        let at = self.data + first * END_BYTES;
        let bytes = self.read(at..at + count * END_BYTES)?;
        let mut fields = Fields::new(&bytes);
        Ok(std::iter::from_fn(|| fields.u64()).collect())
    }

    /// A record.
    pub fn record(&self, record: u64) -> Result<Vec<u8>, SetError> {
        let range = self.range(record)?;
        self.read(range)
    }

    /// Bytes of the records, which follow each other without a gap.
    pub fn data(&self, range: Range<u64>) -> Result<Vec<u8>, SetError> {
        if range.end > self.data {
            return Err(self.fault("it has fewer bytes than are asked for"));
        }
        self.read(range)
    }

    /// An error of a set whose bytes are right and mean nothing: it is made again.
    pub(crate) fn fault(&self, what: &'static str) -> SetError {
        self.damaged.store(true, Ordering::Relaxed);
        SetError::Damaged(what)
    }

    /// Reads bytes between header and checksums, and checks their blocks.
    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, SetError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        for block in range.start / BLOCK_BYTES..=(range.end - 1) / BLOCK_BYTES {
            self.verify(block)?;
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.read_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn verify(&self, block: u64) -> Result<(), SetError> {
        let (word, bit) = (self.verified.get((block / 64) as usize), 1 << (block % 64));
        if word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0) {
            return Ok(());
        }
        let start = block * BLOCK_BYTES;
        let mut bytes = vec![0; BLOCK_BYTES.min(self.body.saturating_sub(start)) as usize];
        self.read_at(&mut bytes, start)?;
        if self.checks.get(block as usize) != Some(&crc32c::crc32c(&bytes)) {
            return Err(self.fault("a part of it is not as it was written"));
        }
        if let Some(word) = word {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<(), SetError> {
        match self.file.read_exact_at(bytes, HEADER_BYTES + at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.fault("it is shorter than it was"))
            }
            read => Ok(read?),
        }
    }
}

/// Reads numbers one after the other.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// The next `count` token ids.
    pub(crate) fn ids(&mut self, count: u32) -> Option<Vec<u32>> {
        Some(ids(self.take((count as usize).checked_mul(4)?)?))
    }

    /// Everything that was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Token ids, or other numbers of four bytes each.
pub(crate) fn ids(bytes: &[u8]) -> Vec<u32> {
    let (ids, _) = bytes.as_chunks();
    ids.iter().map(|id| u32::from_le_bytes(*id)).collect()
}

/// Token ids of four bytes each, little endian.
pub(crate) fn bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Creates a file that only this user may read, and nobody may write who opens it later.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)
}
