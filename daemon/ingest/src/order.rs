//! Chooses the rows of a step by a pure function, so that a resumed job takes the same ones, and
//! keeps the order of an epoch, so that it is not made again for each step.

use crate::ahead::{Ahead, OrderKey};
use crate::file::{SetError, ids, private_file};
use crate::permutation::{self, MakesOrders};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Salt that separates the order of rows from other uses of the job's seed.
pub(crate) const ROWS: u64 = 0x726f_7773;
/// Most rows of an order that is kept in memory, in 4 MiB; a longer one is kept in a file.
const IN_MEMORY_ROWS_MAX: u64 = 1 << 20;
/// Most bytes of all orders that are kept in memory, and in files; the one in use stays anyway.
const MEMORY_BYTES_MAX: u64 = 32 << 20;
const FILES_BYTES_MAX: u64 = 4 << 30;
const ROW_BYTES: u64 = 4;
/// The next epoch's order is made ahead in the last part of so many of an epoch.
const AHEAD_PART: u64 = 8;
/// Fewer rows are ordered in less than a millisecond, and not ahead.
const AHEAD_ROWS_MIN: u64 = 1 << 14;

/// The inputs of a stage's order.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The job's seed.
    pub seed: u64,
    /// Index of the stage in the job.
    pub stage: u32,
    /// Whether each epoch has an order of its own; otherwise rows keep the data set's order.
    pub shuffle: bool,
}

/// Why the rows of a step cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The set cannot be read.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The order of a long epoch cannot be kept on the disk.
    #[error("cannot keep the order of an epoch: {0}")]
    Order(#[from] io::Error),
}

/// The orders of epochs that are in use, shared by all jobs.
#[derive(Clone, Debug)]
pub struct Orders(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// The directory in which long orders are kept.
    dir: PathBuf,
    /// Who makes these: the order of ten million rows takes 40 MB while it is made.
    maker: Arc<dyn MakesOrders>,
    /// The orders, the one that was used last at the end.
    orders: Mutex<Vec<(OrderKey, Arc<EpochOrder>)>>,
    /// Held while an order is made: one at a time is in memory.
    making: Mutex<()>,
    ahead: Ahead,
}

/// The order of the rows of one epoch.
#[derive(Debug)]
pub(crate) enum EpochOrder {
    Memory(Vec<u32>),
    /// A file without a name: it goes with the daemon, and nobody else can change it.
    File(File, u64),
}

impl Orders {
    /// Keeps long orders in nameless files of `dir`, which `maker` writes.
    pub fn new(dir: &Path, maker: Arc<dyn MakesOrders>) -> Orders {
        Orders(Arc::new(Known {
            dir: dir.into(),
            maker,
            orders: Mutex::default(),
            making: Mutex::default(),
            ahead: Ahead::default(),
        }))
    }

    /// The rows of step `step` (from 0): the next `rows_per_step` of an endless stream of epochs,
    /// each a new permutation of `0..len` (or the rows in order, without `shuffle`). Epochs follow
    /// each other without a gap: no row is left out, and the last step of an epoch is as long as
    /// the others. Blocks: makes the order of an epoch once, unless it was made
    /// [ahead](Orders::prepare), as that of the next epoch is towards an epoch's end. Errors are of
    /// the disk that keeps long orders.
    pub fn rows_of_step(
        &self,
        order: Order,
        step: u64,
        rows_per_step: u64,
        len: u64,
    ) -> io::Result<Vec<u64>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let first = step * rows_per_step;
        let (mut at, end) = (first, first + rows_per_step);
        let mut rows = Vec::new();
        while at < end {
            let (epoch, place) = (at / len, at % len);
            let count = (len - place).min(end - at);
            if order.shuffle {
                let known = self.epoch(ROWS, order, epoch, len)?;
                rows.extend(known.rows(place..place + count)?);
            } else {
                rows.extend(place..place + count);
            }
            at += count;
        }
        if order.shuffle && end % len >= len - len / AHEAD_PART {
            self.make_ahead(key(ROWS, order, end / len + 1, len));
        }
        Ok(rows)
    }

    /// The order of an epoch of `len` rows or documents, by what `salt` stands for.
    pub(crate) fn epoch(
        &self,
        salt: u64,
        order: Order,
        epoch: u64,
        len: u64,
    ) -> io::Result<Arc<EpochOrder>> {
        self.of_key(key(salt, order, epoch, len))
    }

    /// The order of this key, which is made if it is not known.
    pub(crate) fn of_key(&self, key: OrderKey) -> io::Result<Arc<EpochOrder>> {
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let _one = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let made = Arc::new(EpochOrder::make(&key, &self.0.dir, &*self.0.maker)?);
        let mut orders = self.orders();
        orders.push((key, made.clone()));
        shorten(&mut orders);
        Ok(made)
    }

    fn orders(&self) -> MutexGuard<'_, Vec<(OrderKey, Arc<EpochOrder>)>> {
        self.0.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the order of the epoch that step `step` begins in, if that takes long, on another
    /// thread. [`Orders::rows_of_step`] gives the same rows without it, later.
    pub fn prepare(&self, order: Order, step: u64, rows_per_step: u64, len: u64) {
        if let Some(epoch) = step.saturating_mul(rows_per_step).checked_div(len)
            && order.shuffle
        {
            self.make_ahead(key(ROWS, order, epoch, len));
        }
    }

    pub(crate) fn make_ahead(&self, key: OrderKey) {
        let [.., len] = key;
        if len < AHEAD_ROWS_MIN || self.known(&key).is_some() || !self.0.ahead.add(key) {
            return;
        }
        let orders = self.clone();
        let thread = std::thread::Builder::new().name("orders".into());
        let started = thread.spawn(move || {
            while let Some(key) = orders.0.ahead.next() {
                // Who asks for its rows tries again, and gets the error.
                let _ = orders.of_key(key);
            }
        });
        if started.is_err() {
            // What waits is made when it is asked for.
            while self.0.ahead.next().is_some() {}
        }
    }

    pub(crate) fn known(&self, key: &OrderKey) -> Option<Arc<EpochOrder>> {
        let mut orders = self.orders();
        let place = orders.iter().position(|(known, _)| known == key)?;
        let found = orders.remove(place);
        let known = found.1.clone();
        orders.push(found);
        Some(known)
    }
}

/// The key of an epoch's order of `len` rows.
pub(crate) fn key(salt: u64, order: Order, epoch: u64, len: u64) -> OrderKey {
    [salt, order.seed, order.stage as u64, epoch, len]
}

/// Forgets the orders that were not used for longest, until the rest is within the limits.
fn shorten(orders: &mut Vec<(OrderKey, Arc<EpochOrder>)>) {
    let (mut memory, mut files) = (0, 0);
    let last = orders.len().saturating_sub(1);
    let stays: Vec<bool> = (orders.iter().enumerate().rev())
        .map(|(index, (_, order))| {
            let (used, max) = match &**order {
                EpochOrder::Memory(_) => (&mut memory, MEMORY_BYTES_MAX),
                EpochOrder::File(..) => (&mut files, FILES_BYTES_MAX),
            };
            *used += order.len() * ROW_BYTES;
            index == last || *used <= max
        })
        .collect();
    let mut stays = stays.into_iter().rev();
    orders.retain(|_| stays.next().unwrap_or(true));
}

impl EpochOrder {
    fn make(key: &OrderKey, dir: &Path, maker: &dyn MakesOrders) -> io::Result<EpochOrder> {
        let [.., len] = *key;
        if len <= IN_MEMORY_ROWS_MAX {
            return Ok(EpochOrder::Memory(permutation::rows_of(key)?));
        }
        let file = nameless_file(dir)?;
        maker.make_order(key, &file)?;
        Ok(EpochOrder::File(file, len))
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> u64 {
        match self {
            EpochOrder::Memory(rows) => rows.len() as u64,
            EpochOrder::File(_, len) => *len,
        }
    }

    /// The rows at these places of the epoch.
    pub(crate) fn rows(&self, places: Range<u64>) -> io::Result<Vec<u64>> {
        match self {
            EpochOrder::Memory(rows) => {
                let rows = rows.get(places.start as usize..places.end as usize);
                Ok(rows
                    .unwrap_or_default()
                    .iter()
                    .map(|row| u64::from(*row))
                    .collect())
            }
            EpochOrder::File(file, _) => {
                let mut bytes = vec![0; ((places.end - places.start) * ROW_BYTES) as usize];
                file.read_exact_at(&mut bytes, places.start * ROW_BYTES)?;
                Ok(ids(&bytes).into_iter().map(u64::from).collect())
            }
        }
    }
}

/// Creates an empty file that has no name any more.
pub(crate) fn nameless_file(dir: &Path) -> io::Result<File> {
    static FILES: AtomicU64 = AtomicU64::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".order.{}-{number}.part", std::process::id()));
    let file = private_file(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::InThisProcess;

    const LEN: u64 = 20_000;

    fn order(seed: u64) -> Order {
        Order {
            seed,
            stage: 0,
            shuffle: true,
        }
    }

    /// Waits until the order is known, without asking for it.
    fn wait(orders: &Orders, key: &OrderKey) {
        for _ in 0..1 << 24 {
            if orders.known(key).is_some() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("nobody makes the order");
    }

    #[test]
    fn what_will_be_wanted_is_made_before_it_is_asked_for() {
        let orders = Orders::new(&std::env::temp_dir(), Arc::new(InThisProcess));
        let of = |seed, epoch| key(ROWS, order(seed), epoch, LEN);
        orders.prepare(order(1), 2 * LEN / 10, 10, LEN);
        wait(&orders, &of(1, 2));
        // Towards the end of an epoch, and not before.
        orders.rows_of_step(order(2), LEN / 20, 10, LEN).unwrap();
        assert!(orders.0.ahead.next().is_none());
        assert!(orders.known(&of(2, 1)).is_none());
        orders
            .rows_of_step(order(2), LEN / 10 - 5, 10, LEN)
            .unwrap();
        wait(&orders, &of(2, 1));
        let ahead = orders.rows_of_step(order(2), LEN / 10, 10, LEN).unwrap();
        let anew = Orders::new(&std::env::temp_dir(), Arc::new(InThisProcess));
        assert_eq!(
            anew.rows_of_step(order(2), LEN / 10, 10, LEN).unwrap(),
            ahead
        );
    }
}
