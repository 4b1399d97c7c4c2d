//! The wire format of every stream: unix sockets today, QUIC streams between nodes later.
//!
//! ```text
//!  0        4        5        6          8                12               16
//!  +--------+--------+--------+----------+----------------+----------------+---------------
//!  | "R1D\0"| version| format | reserved | length u32 LE  | crc32c u32 LE  | payload …
//!  +--------+--------+--------+----------+----------------+----------------+---------------
//! ```
//! `format` is 0 for postcard, 1 for JSON. `length` counts the payload, at most
//! [`LENGTH_MAX_BYTES`] (`LIM-1`); `crc32c` covers the payload. Nothing of a payload is decoded
//! before its length and checksum are right.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"R1D\0";
/// Version of the format; a side refuses every other one.
pub const VERSION: u8 = 1;
/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 16;
/// Largest payload, in bytes. A worker's request that is longer is sent as several frames
/// ([`crate::parts`]).
pub const LENGTH_MAX_BYTES: u32 = 256 << 20;

/// Encoding of a payload; both sides of a stream agree on one beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Postcard: compact and without names, for r1d and its workers.
    Postcard = 0,
    /// JSON: for r1d and r1ctl.
    Json = 1,
}

/// Why a frame was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended between two frames: the other side has ended or closed it.
    #[error("the other side closed the stream")]
    Closed,
    /// Reading or writing failed, or the stream ended inside a frame.
    #[error("stream error: {0}")]
    Io(#[from] std::io::Error),
    /// The stream does not begin with [`MAGIC`] but with these bytes: the other side does not speak
    /// this protocol.
    #[error("not an r1d frame: starts with {0:02x?}")]
    Magic([u8; 4]),
    /// The other side writes this version of the format: run the same release on both.
    #[error(
        "frame version {0}, this side speaks {VERSION}: run the same release of r1d, r1ctl and \
         r1d-worker"
    )]
    Version(u8),
    /// The payload is in the encoding of this number, not in the stream's: the socket is probably
    /// one for another protocol.
    #[error("frame format {0} is not the one expected here")]
    Format(u8),
    /// The payload has this many bytes, more than [`LENGTH_MAX_BYTES`].
    #[error("frame of {0} bytes, the limit is {LENGTH_MAX_BYTES}")]
    TooLong(u64),
    /// The payload is longer than the reader of this stream accepts.
    #[error("frame of {length} bytes, the limit of this stream is {limit}")]
    OverLimit {
        /// Length of the payload by its header, in bytes.
        length: u32,
        /// The reader's limit, in bytes.
        limit: u32,
    },
    /// The payload was damaged on its way.
    #[error("frame checksum {found:08x}, its header says {expected:08x}")]
    Checksum {
        /// CRC-32C by the header.
        expected: u32,
        /// CRC-32C of the payload that arrived.
        found: u32,
    },
    /// The payload is whole but not a message of the expected type: usually another release sent
    /// it.
    #[error("frame payload does not decode: {0}")]
    Decode(String),
    /// A message cannot be encoded: it has a value that the format cannot hold.
    #[error("message does not encode: {0}")]
    Encode(String),
}

/// Encodes a message as a whole frame, header and payload.
pub fn encode<T: Serialize>(format: Format, message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0u8; HEADER_BYTES];
    match format {
        Format::Postcard => {
            bytes = postcard::to_extend(message, bytes)
                .map_err(|e| FrameError::Encode(e.to_string()))?
        }
        Format::Json => serde_json::to_writer(&mut bytes, message)
            .map_err(|e| FrameError::Encode(e.to_string()))?,
    }
    let length = bytes.len() - HEADER_BYTES;
    if length as u64 > LENGTH_MAX_BYTES as u64 {
        return Err(FrameError::TooLong(length as u64));
    }
    let crc = crc32c::crc32c(&bytes[HEADER_BYTES..]);
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[5] = format as u8;
    bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Reads the payload's length and checksum from a header.
fn header(bytes: &[u8; HEADER_BYTES], format: Format) -> Result<(u32, u32), FrameError> {
    let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    if bytes[4] != VERSION {
        return Err(FrameError::Version(bytes[4]));
    }
    if bytes[5] != format as u8 {
        return Err(FrameError::Format(bytes[5]));
    }
    let length = word(&bytes[8..12]);
    if length > LENGTH_MAX_BYTES {
        return Err(FrameError::TooLong(length as u64));
    }
    Ok((length, word(&bytes[12..16])))
}

fn check(bytes: &[u8], crc: u32) -> Result<(), FrameError> {
    match crc32c::crc32c(bytes) {
        found if found != crc => Err(FrameError::Checksum {
            expected: crc,
            found,
        }),
        _ => Ok(()),
    }
}

/// Decodes the message in a payload whose checksum is right.
pub fn decode<T: DeserializeOwned>(format: Format, bytes: &[u8]) -> Result<T, FrameError> {
    match format {
        Format::Postcard => {
            postcard::from_bytes(bytes).map_err(|e| FrameError::Decode(e.to_string()))
        }
        Format::Json => {
            serde_json::from_slice(bytes).map_err(|e| FrameError::Decode(e.to_string()))
        }
    }
}

/// Sends one message and flushes the stream.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    format: Format,
    message: &T,
) -> Result<(), FrameError> {
    let bytes = encode(format, message)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

/// Receives one message. Not cancel-safe: give it a task of its own.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    format: Format,
) -> Result<T, FrameError> {
    read_within(stream, format, LENGTH_MAX_BYTES).await
}

/// Receives one message whose payload has at most `limit` bytes: a longer one is refused before
/// memory is allocated for it. Not cancel-safe, like [`read`].
pub async fn read_within<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    format: Format,
    limit: u32,
) -> Result<T, FrameError> {
    decode(format, &read_payload(stream, format, limit).await?)
}

/// Receives the payload of one frame, at most `limit` bytes, and compares its checksum, for a
/// caller that decodes elsewhere ([`decode`]).
pub async fn read_payload(
    stream: &mut (impl AsyncRead + Unpin),
    format: Format,
    limit: u32,
) -> Result<Vec<u8>, FrameError> {
    let mut head = [0u8; HEADER_BYTES];
    // An end of stream between frames is a close; one inside a frame is an error.
    if stream.read(&mut head[..1]).await? == 0 {
        return Err(FrameError::Closed);
    }
    stream.read_exact(&mut head[1..]).await?;
    let (length, crc) = header(&head, format)?;
    if length > limit {
        return Err(FrameError::OverLimit { length, limit });
    }
    let mut bytes = vec![0u8; length as usize];
    stream.read_exact(&mut bytes).await?;
    check(&bytes, crc)?;
    Ok(bytes)
}

/// Receives one message like [`read`], on a thread without a runtime.
pub fn read_blocking<T: DeserializeOwned>(
    stream: &mut impl std::io::Read,
    format: Format,
) -> Result<T, FrameError> {
    let mut head = [0u8; HEADER_BYTES];
    if stream.read(&mut head[..1])? == 0 {
        return Err(FrameError::Closed);
    }
    stream.read_exact(&mut head[1..])?;
    let (length, crc) = header(&head, format)?;
    let mut bytes = vec![0u8; length as usize];
    stream.read_exact(&mut bytes)?;
    check(&bytes, crc)?;
    decode(format, &bytes)
}

/// Sends one message like [`write`], on a thread without a runtime.
pub fn write_blocking<T: Serialize>(
    stream: &mut impl std::io::Write,
    format: Format,
    message: &T,
) -> Result<(), FrameError> {
    stream.write_all(&encode(format, message)?)?;
    stream.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_in_both_formats() {
        for format in [Format::Postcard, Format::Json] {
            let message = (7u32, "seven".to_string(), vec![0.1f32, f32::MIN_POSITIVE]);
            let bytes = encode(format, &message).unwrap();
            let back: (u32, String, Vec<f32>) = read_blocking(&mut &bytes[..], format).unwrap();
            assert_eq!(back, message);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = encode(Format::Postcard, &(1u64, "text")).unwrap();
        for bit in 0..bytes.len() * 8 {
            if (48..64).contains(&bit) {
                continue; // the reserved bytes
            }
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                read_blocking::<(u64, String)>(&mut &bad[..], Format::Postcard).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut bytes = encode(Format::Json, &1).unwrap();
        bytes[8..12].copy_from_slice(&(LENGTH_MAX_BYTES + 1).to_le_bytes());
        assert!(matches!(
            read_blocking::<u32>(&mut &bytes[..], Format::Json),
            Err(FrameError::TooLong(_))
        ));
    }

    #[test]
    fn the_end_of_a_stream_is_a_close_only_between_frames() {
        let bytes = encode(Format::Json, &1).unwrap();
        assert!(matches!(
            read_blocking::<u32>(&mut &bytes[..0], Format::Json),
            Err(FrameError::Closed)
        ));
        assert!(matches!(
            read_blocking::<u32>(&mut &bytes[..9], Format::Json),
            Err(FrameError::Io(_))
        ));
    }
}
