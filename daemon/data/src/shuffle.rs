//! Chooses the rows of a step by a pure function, so that a resumed job takes the same ones.

use r1d_proto::world::counter_permutation;

/// Salt that separates the order of rows from other uses of the job's seed.
const ROWS: u64 = 0x726f_7773;

/// The rows of step `step` (from 0): the next `rows_per_step` of an endless stream of epochs, each
/// a new permutation of `0..len` (or the rows in order, without `shuffle`). Epochs follow each
/// other without a gap: no row is left out, and the last step of an epoch is as long as the others.
pub fn rows_of_step(
    seed: u64,
    stage: u32,
    step: u64,
    rows_per_step: u64,
    len: u64,
    shuffle: bool,
) -> Vec<u64> {
    if len == 0 {
        return Vec::new();
    }
    let first = step * rows_per_step;
    let mut rows = Vec::new();
    let mut epoch: Option<(u64, Vec<usize>)> = None;
    for position in first..first + rows_per_step {
        let (number, place) = (position / len, position % len);
        if !shuffle {
            rows.push(place);
            continue;
        }
        if epoch.as_ref().is_none_or(|(current, _)| *current != number) {
            epoch = Some((
                number,
                counter_permutation(&[ROWS, seed, stage as u64, number], len as usize),
            ));
        }
        if let Some(row) = epoch
            .as_ref()
            .and_then(|(_, order)| order.get(place as usize))
        {
            rows.push(*row as u64);
        }
    }
    rows
}
