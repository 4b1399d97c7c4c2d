//! Packs texts that are judged by the hidden state of one token each into one forward pass.

use crate::LearnError;
use crate::batch::MicroBatch;
use r1d_model::Packed;
use std::ops::Range;
use tch::{Device, Tensor};

/// The fed tokens of a text: a beginning that neighbours may share, and the rest. The last token of
/// both together is the one that is read.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub beginning: &'a [u32],
    pub rest: &'a [u32],
}

impl<'a> Text<'a> {
    /// Takes the first `length` ids of both together.
    pub(crate) fn cut(beginning: &'a [u32], rest: &'a [u32], length: usize) -> Text<'a> {
        match length.checked_sub(beginning.len()) {
            Some(own) => Text {
                beginning,
                rest: &rest[..own.min(rest.len())],
            },
            None => Text {
                beginning: &beginning[..length],
                rest: &[],
            },
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.beginning.len() + self.rest.len()
    }
}

/// Builds a pass whose rows are the last tokens of the texts, in order; it has no targets. With
/// `share`, neighbours with the same beginning have it fed once.
pub(crate) fn micro_batch(
    texts: &[Text],
    share: bool,
    device: Device,
) -> Result<MicroBatch, LearnError> {
    let (mut ids, mut lengths, mut prefixes, mut rows) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut shared: Option<(&[u32], Range<i64>)> = None;
    for text in texts {
        let start = ids.len() as i64;
        let prefix = match &shared {
            Some((beginning, tokens)) if share && *beginning == text.beginning => tokens.clone(),
            _ => {
                shared = Some((text.beginning, start..start + text.beginning.len() as i64));
                ids.extend(text.beginning.iter().map(|&id| i64::from(id)));
                0..0
            }
        };
        ids.extend(text.rest.iter().map(|&id| i64::from(id)));
        let end = ids.len() as i64;
        rows.push(if end > start { end } else { prefix.end } - 1);
        if end > start {
            lengths.push(end - start);
            prefixes.push(prefix);
        }
    }
    if prefixes.iter().all(Range::is_empty) {
        prefixes.clear();
    }
    let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
    Ok(MicroBatch {
        kept: None,
        packed: Packed {
            ids: tensor(&ids)?,
            lengths,
            prefixes,
        },
        rows: Some(tensor(&rows)?),
        targets: tensor(&[])?,
        forced_experts: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn the_last_token_is_read_wherever_the_beginning_stands() {
        let texts = [
            Text {
                beginning: &[1, 2],
                rest: &[3],
            },
            Text {
                beginning: &[1, 2],
                rest: &[4, 5],
            },
            Text {
                beginning: &[1, 2],
                rest: &[],
            },
            Text {
                beginning: &[9],
                rest: &[],
            },
        ];
        let shared = micro_batch(&texts, true, Device::Cpu).unwrap();
        assert_eq!(values(&shared.packed.ids), [1, 2, 3, 4, 5, 9]);
        assert_eq!(
            (shared.packed.lengths, shared.packed.prefixes),
            (vec![3, 2, 1], vec![0..0, 0..2, 0..0])
        );
        assert_eq!(values(&shared.rows.unwrap()), [2, 4, 1, 5]);
        let apart = micro_batch(&texts, false, Device::Cpu).unwrap();
        assert_eq!(
            (apart.packed.lengths, apart.packed.prefixes),
            (vec![3, 4, 2, 1], vec![])
        );
        assert_eq!(values(&apart.rows.unwrap()), [2, 6, 8, 9]);
    }

    #[test]
    fn a_text_may_end_within_its_beginning() {
        let cut = |length| {
            let text = Text::cut(&[1, 2], &[3, 4], length);
            (text.beginning.to_vec(), text.rest.to_vec())
        };
        assert_eq!(cut(1), (vec![1], vec![]));
        assert_eq!(cut(3), (vec![1, 2], vec![3]));
        assert_eq!(cut(4), (vec![1, 2], vec![3, 4]));
    }
}
