//! Numbers for the metrics: a row for each micro-batch or chunk, folded over all of a step's, on
//! all ranks. Rows are folded one after the other, so that the result does not depend on which rank
//! has which as long as their order is the same. They stay on the device until they are read.

use crate::LearnError;
use crate::gang::Gang;
use tch::{Device, Kind, Tensor};

/// How the values of a column become one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fold {
    /// Their sum.
    Sum,
    /// The least of them and of this number.
    Min(f64),
    /// The greatest of them and of this number.
    Max(f64),
}

/// Rows of float64 numbers, and how each column is folded.
pub(crate) struct Tally {
    columns: &'static [Fold],
    rows: Vec<Tensor>,
    device: Device,
}

impl Tally {
    /// No rows yet.
    pub(crate) fn new(columns: &'static [Fold], device: Device) -> Tally {
        Tally {
            columns,
            rows: Vec::new(),
            device,
        }
    }

    /// Adds a row by its scalars and vectors, one after the other.
    pub(crate) fn push(&mut self, numbers: &[Tensor]) -> Result<(), LearnError> {
        let flat = |numbers: &Tensor| numbers.f_reshape([-1])?.f_to_kind(Kind::Double);
        let flat = numbers.iter().map(flat).collect::<Result<Vec<_>, _>>()?;
        self.rows.push(Tensor::f_cat(&flat, 0)?.f_detach()?);
        Ok(())
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Forgets the rows behind the first `length`.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.rows.truncate(length);
    }

    /// Replaces the rows behind the first `length` by those of all ranks, rank by rank. A gang does
    /// so wherever ranks have added rows of their own, before others come behind them.
    pub(crate) fn exchange(
        &mut self,
        gang: Option<&Gang>,
        name: &str,
        length: usize,
    ) -> Result<(), LearnError> {
        let Some(gang) = gang else { return Ok(()) };
        let own = self.rows.split_off(length);
        let own = if own.is_empty() {
            Tensor::f_zeros([0, self.columns.len() as i64], (Kind::Double, self.device))?
        } else {
            Tensor::f_stack(&own, 0)?
        };
        let all = gang.all_gather(name, &own)?.rows;
        self.rows.extend(all.f_unbind(0)?);
        Ok(())
    }

    /// Folds each column over all rows, in their order: float64 `[columns]`.
    pub(crate) fn total(&self) -> Result<Tensor, LearnError> {
        let first = self.columns.iter().map(|fold| match fold {
            Fold::Sum => 0.0,
            Fold::Min(number) | Fold::Max(number) => *number,
        });
        let first = Tensor::f_from_slice(&first.collect::<Vec<f64>>())?.f_to_device(self.device)?;
        let [mut sum, mut min, mut max] = [(); 3].map(|()| first.shallow_clone());
        let has = |wanted: fn(&Fold) -> bool| self.columns.iter().any(wanted);
        let (has_min, has_max) = (
            has(|fold| matches!(fold, Fold::Min(_))),
            has(|fold| matches!(fold, Fold::Max(_))),
        );
        for row in &self.rows {
            sum = sum.f_add(row)?;
            if has_min {
                min = min.f_minimum(row)?;
            }
            if has_max {
                max = max.f_maximum(row)?;
            }
        }
        let columns = (0..).zip(self.columns).map(|(at, fold)| match fold {
            Fold::Sum => sum.f_select(0, at),
            Fold::Min(_) => min.f_select(0, at),
            Fold::Max(_) => max.f_select(0, at),
        });
        Ok(Tensor::f_stack(
            &columns.collect::<Result<Vec<_>, _>>()?,
            0,
        )?)
    }
}

/// The number of elements, a float64 scalar on their device.
pub(crate) fn count_of(values: &Tensor) -> Result<Tensor, LearnError> {
    let options = (Kind::Double, values.device());
    Ok(Tensor::f_full([0i64; 0], values.numel() as f64, options)?)
}
