//! Packs the ids that top-k and top-p left, on their way to the record: one bit per id while they
//! are on the device, so that the host reads an eighth of a byte for each.

use crate::error::Result;
use tch::{Device, Kind, Tensor};

/// Ids of one word on the host.
const WORD_IDS: i64 = u64::BITS as i64;
const BYTE_IDS: i64 = u8::BITS as i64;

/// Packs sets of kept ids on a device.
pub(crate) struct Packer {
    /// The value of each bit, uint8 `[8]`.
    bits: Tensor,
}

impl Packer {
    pub(crate) fn new(device: Device) -> Result<Packer> {
        let bits: Vec<u8> = (0..u8::BITS).map(|bit| 1 << bit).collect();
        Ok(Packer {
            bits: Tensor::f_from_slice(&bits)?.f_to_device(device)?,
        })
    }

    /// Packs bool `[B, V]` into uint8 `[B, bytes]`, whole words a row: bit i of byte j is id 8j +
    /// i.
    pub(crate) fn pack(&self, kept: &Tensor) -> Result<Tensor> {
        let (rows, vocab) = kept.size2()?;
        let short = (-vocab).rem_euclid(WORD_IDS);
        let kept = if short > 0 {
            kept.f_constant_pad_nd([0, short])?
        } else {
            kept.shallow_clone()
        };
        let bytes = kept
            .f_view([rows, (vocab + short) / BYTE_IDS, BYTE_IDS])?
            .f_mul(&self.bits)?;
        Ok(bytes.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Uint8)?)
    }
}

/// Reads [`Packer::pack`]'s rows, one behind the other, on the host.
pub(crate) fn words(packed: &Tensor) -> Result<Vec<u64>> {
    let bytes = Vec::<u8>::try_from(&packed.f_reshape([-1])?)?;
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << u8::BITS | u64::from(*byte))
    };
    Ok(bytes.chunks(size_of::<u64>()).map(word).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::sampling_mask::SamplingMask;
    use r1d_proto::world::counter_hash;

    #[test]
    fn every_id_keeps_its_place() {
        let packer = Packer::new(Device::Cpu).unwrap();
        for vocab in [1, 7, 8, 63, 64, 65, 130, 1000i64] {
            let rows: Vec<Vec<bool>> = (0..5)
                .map(|row| {
                    (0..vocab)
                        .map(|id| {
                            id == row % vocab
                                || counter_hash(&[row as u64, id as u64])
                                    .is_multiple_of(row as u64 + 2)
                        })
                        .collect()
                })
                .collect();
            let packed = packer
                .pack(&Tensor::from_slice(&rows.concat()).view([5, vocab]))
                .unwrap();
            let words = words(&packed).unwrap();
            for (row, words) in rows.iter().zip(words.chunks(words.len() / 5)) {
                let mut kept = SamplingMask::default();
                assert!(kept.push(words, vocab as u32));
                let token = kept.tokens().next().unwrap();
                let mut read = vec![token.is_whole(); vocab as usize];
                token
                    .runs()
                    .for_each(|run| read[run.start as usize..run.end as usize].fill(true));
                assert_eq!(&read, row, "{vocab} ids");
            }
        }
    }
}
