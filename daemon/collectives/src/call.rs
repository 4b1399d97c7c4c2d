//! What a collective is called with, and what ranks tell each other before it: a header to each, so
//! that calls which do not match are an error on all ranks, instead of wrong bytes or a rank that
//! waits. The header also says how many rows come, so that a receiver need not know.

use crate::backend::BackendError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tch::{Device, Tensor};

/// Bytes of a call's name that travel; of a longer one, only its beginning.
const NAME_BYTES_MAX: usize = 64;
/// Dimensions of a tensor that a collective takes.
pub const DIMENSIONS_MAX: usize = 8;
/// Bytes of a header as it travels, padded. A call's parts are bounded, so it fits.
pub(crate) const HEADER_BYTES: usize = 256;

/// The name and the deadline of one call. The name says what the call is for; it is the same on all
/// ranks.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What the call is for, as `why` shows it: `layer 3: dispatch`.
    pub name: &'a str,
    /// How long the call may take, from when this rank makes it.
    pub within: Duration,
}

impl<'a> Call<'a> {
    /// A call of this name with this deadline.
    pub fn new(name: &'a str, within: Duration) -> Call<'a> {
        Call { name, within }
    }
}

/// What moves between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Each rank has rows for each other.
    AllToAll,
    /// Each rank has rows that all get.
    AllGather,
    /// One rank has a tensor that all get.
    Broadcast {
        /// The rank that has it.
        root: usize,
    },
    /// Nothing moves.
    Barrier,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::AllToAll => f.write_str("all-to-all"),
            Operation::AllGather => f.write_str("all-gather"),
            Operation::Broadcast { root } => write!(f, "broadcast from rank {root}"),
            Operation::Barrier => f.write_str("barrier"),
        }
    }
}

/// What has to be the same on all ranks of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The call's number in its group, from 1.
    pub sequence: u64,
    /// The call's name.
    pub name: String,
    /// What moves.
    pub operation: Operation,
    /// The dtype, by tch's name.
    pub kind: String,
    /// The shape of a row, or of the whole tensor in a broadcast.
    pub row: Vec<i64>,
    /// Whether the tensor is on a GPU, where another transport may carry it.
    pub on_gpu: bool,
}

impl Signature {
    /// The signature of a call. The name is cut to what travels.
    pub(crate) fn new(
        sequence: u64,
        name: &str,
        operation: Operation,
        tensor: Option<&Tensor>,
        row: &[i64],
    ) -> Signature {
        let end = (0..=name.len().min(NAME_BYTES_MAX))
            .rev()
            .find(|at| name.is_char_boundary(*at));
        Signature {
            sequence,
            name: name[..end.unwrap_or(0)].to_owned(),
            operation,
            kind: tensor.map_or(String::new(), |t| format!("{:?}", t.kind())),
            row: row.to_vec(),
            on_gpu: tensor.is_some_and(|t| t.device() != Device::Cpu),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signature {
            sequence,
            name,
            operation,
            kind,
            row,
            on_gpu,
        } = self;
        let place = if *on_gpu { " on a GPU" } else { "" };
        write!(f, "`{name}` (call {sequence}: {operation}")?;
        match operation {
            Operation::Barrier => f.write_str(")"),
            Operation::Broadcast { .. } => write!(f, " of {kind} {row:?}{place})"),
            _ => write!(f, " of {kind} rows {row:?}{place})"),
        }
    }
}

/// What a rank tells another before a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The call that the sender makes.
    pub(crate) signature: Signature,
    /// Rows that the sender has for the receiver.
    pub(crate) rows: i64,
}

impl Header {
    pub(crate) fn encode(&self) -> Result<[u8; HEADER_BYTES], BackendError> {
        let mut out = [0; HEADER_BYTES];
        postcard::to_slice(self, &mut out)
            .map_err(|e| BackendError(format!("a header cannot be encoded: {e}")))?;
        Ok(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, BackendError> {
        // The padding is left over.
        postcard::take_from_bytes(bytes)
            .map(|(header, _)| header)
            .map_err(|e| BackendError(format!("a header cannot be read: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_header_fits_and_comes_back() {
        let name = format!("{}ü{}", "x".repeat(NAME_BYTES_MAX - 1), "y".repeat(500));
        let row = [i64::MAX; DIMENSIONS_MAX];
        let root = usize::MAX;
        let mut signature = Signature::new(
            u64::MAX,
            &name,
            Operation::Broadcast { root },
            Some(&Tensor::from_slice(&[1f32])),
            &row,
        );
        assert_eq!(signature.name, "x".repeat(NAME_BYTES_MAX - 1));
        signature.kind = "Float8e4m3fnuz".to_owned();
        signature.on_gpu = true;
        let header = Header {
            signature,
            rows: i64::MAX,
        };
        let encoded = header.encode().unwrap();
        assert_eq!(Header::decode(&encoded).unwrap(), header);
    }

    #[test]
    fn a_call_reads_as_a_person_would_say_it() {
        let tensor = Tensor::from_slice(&[1f32]);
        let shown = |operation, row: &[i64]| {
            Signature::new(7, "layer 3: dispatch", operation, Some(&tensor), row).to_string()
        };
        assert_eq!(
            shown(Operation::AllToAll, &[64]),
            "`layer 3: dispatch` (call 7: all-to-all of Float rows [64])"
        );
        assert_eq!(
            shown(Operation::Broadcast { root: 2 }, &[3, 64]),
            "`layer 3: dispatch` (call 7: broadcast from rank 2 of Float [3, 64])"
        );
        let mut on_gpu = Signature::new(
            7,
            "layer 3: dispatch",
            Operation::AllGather,
            Some(&tensor),
            &[4],
        );
        on_gpu.on_gpu = true;
        assert_eq!(
            on_gpu.to_string(),
            "`layer 3: dispatch` (call 7: all-gather of Float rows [4] on a GPU)"
        );
        assert_eq!(
            shown(Operation::Barrier, &[]),
            "`layer 3: dispatch` (call 7: barrier)"
        );
    }
}
