//! Packs documents into sequences: they follow each other as a stream of tokens, in an order of
//! each epoch's own, and a sequence is a part of the stream. Neither the documents nor the stream
//! are in memory.

use crate::file::{SetError, TokenSet, ids};
use crate::order::{EpochOrder, Order, Orders, StepError, key};
use std::sync::{Arc, Mutex, PoisonError};

/// Salt that separates the order of documents from other uses of the job's seed.
const DOCUMENTS: u64 = 0x646f_6373;
/// Documents between two places of the stream that are remembered.
const STRIDE: u64 = 64;
/// Documents whose lengths are read at a time.
const READ_RECORDS: u64 = 1 << 16;
const ID_BYTES: u64 = 4;
/// The next epoch's order is made ahead when so great a part of an epoch is left.
const AHEAD_PART: u64 = 8;

/// A pretrain stage's documents.
#[derive(Debug)]
pub(crate) struct Documents {
    set: Arc<TokenSet>,
    /// Tokens of a sequence.
    length: u64,
    /// The epoch at hand.
    epoch: Mutex<Option<Arc<Stream>>>,
}

/// The order of an epoch's documents, and where every [`STRIDE`]th begins in its stream of tokens.
#[derive(Debug)]
struct Stream {
    epoch: u64,
    order: Arc<EpochOrder>,
    starts: Vec<u64>,
}

impl Documents {
    pub(crate) fn new(set: Arc<TokenSet>, max_length: u32) -> Documents {
        Documents {
            set,
            length: max_length.into(),
            epoch: Mutex::default(),
        }
    }

    /// Tokens of all documents.
    pub(crate) fn tokens(&self) -> u64 {
        self.set.data_bytes() / ID_BYTES
    }

    /// Whole sequences of an epoch.
    pub(crate) fn sequences(&self) -> u64 {
        self.tokens() / self.length.max(1)
    }

    /// The sequence at `position` of an endless stream of epochs.
    pub(crate) fn sequence(
        &self,
        position: u64,
        order: Order,
        orders: &Orders,
    ) -> Result<Vec<u32>, StepError> {
        let (epoch, start) = (
            position / self.sequences(),
            position % self.sequences() * self.length,
        );
        if !order.shuffle {
            let bytes = start * ID_BYTES..(start + self.length) * ID_BYTES;
            return Ok(ids(&self.set.data(bytes)?));
        }
        let stream = self.stream(epoch, order, orders)?;
        let sequences = self.sequences();
        if position % sequences == sequences - 1 - sequences / AHEAD_PART {
            orders.make_ahead(key(DOCUMENTS, order, epoch + 1, self.set.len()));
        }
        self.read(&stream, start)
    }

    /// Makes the order of the epoch of the sequence at `position` ahead.
    pub(crate) fn prepare(&self, position: u64, order: Order, orders: &Orders) {
        if order.shuffle {
            let epoch = position / self.sequences().max(1);
            orders.make_ahead(key(DOCUMENTS, order, epoch, self.set.len()));
        }
    }

    fn stream(&self, epoch: u64, order: Order, orders: &Orders) -> Result<Arc<Stream>, StepError> {
        let mut current = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = current.as_ref().filter(|stream| stream.epoch == epoch) {
            return Ok(stream.clone());
        }
        let order = orders.epoch(DOCUMENTS, order, epoch, self.set.len())?;
        let starts = self.starts(&order)?;
        let stream = Arc::new(Stream {
            epoch,
            order,
            starts,
        });
        *current = Some(stream.clone());
        Ok(stream)
    }

    /// The token that every [`STRIDE`]th document begins at. The lengths of all documents are in
    /// memory while this is made.
    fn starts(&self, order: &EpochOrder) -> Result<Vec<u64>, StepError> {
        let documents = self.set.len();
        let mut lengths: Vec<u32> = Vec::with_capacity(documents as usize);
        let mut before = 0;
        for first in (0..documents).step_by(READ_RECORDS as usize) {
            for end in self.set.ends(first, READ_RECORDS.min(documents - first))? {
                lengths.push(((end - before) / ID_BYTES) as u32);
                before = end;
            }
        }
        let (mut starts, mut tokens) = (Vec::new(), 0);
        for first in (0..documents).step_by(READ_RECORDS as usize) {
            let places = first..documents.min(first + READ_RECORDS);
            for (place, document) in places.clone().zip(order.rows(places)?) {
                if place.is_multiple_of(STRIDE) {
                    starts.push(tokens);
                }
                tokens += u64::from(lengths.get(document as usize).copied().unwrap_or(0));
            }
        }
        Ok(starts)
    }

    /// The tokens of a sequence that begins at token `start` of the stream.
    fn read(&self, stream: &Stream, start: u64) -> Result<Vec<u32>, StepError> {
        let stride = stream
            .starts
            .partition_point(|at| *at <= start)
            .saturating_sub(1);
        let mut skip = start - stream.starts.get(stride).copied().unwrap_or(start);
        let mut sequence = Vec::with_capacity(self.length as usize);
        let mut place = stride as u64 * STRIDE;
        while (sequence.len() as u64) < self.length {
            let places = place..self.set.len().min(place + STRIDE);
            if places.is_empty() {
                return Err(self.set.fault("its documents end too early").into());
            }
            place = places.end;
            for document in stream.order.rows(places)? {
                let wanted = self.length - sequence.len() as u64;
                self.add(document, &mut skip, wanted, &mut sequence)?;
            }
        }
        Ok(sequence)
    }

    /// Adds at most `wanted` tokens of a document behind the first `skip` of the stream.
    fn add(
        &self,
        document: u64,
        skip: &mut u64,
        wanted: u64,
        sequence: &mut Vec<u32>,
    ) -> Result<(), SetError> {
        if wanted == 0 {
            return Ok(());
        }
        let range = self.set.range(document)?;
        let tokens = (range.end - range.start) / ID_BYTES;
        let skipped = tokens.min(*skip);
        *skip -= skipped;
        let taken = (tokens - skipped).min(wanted);
        let first = range.start + skipped * ID_BYTES;
        sequence.extend(ids(&self.set.data(first..first + taken * ID_BYTES)?));
        Ok(())
    }
}
