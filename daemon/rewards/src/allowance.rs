//! What one call may cost, and the store that holds it to that.

use crate::abandoned::Abandoned;
use crate::completion::Completion;
use crate::engine::Engine;
use crate::limits::{self, Budget};
use crate::memory::Memory;
use std::time::Duration;
use wasmtime::{Store, UpdateDeadline};

/// What a call may cost.
#[derive(Clone, Copy)]
pub(crate) struct Allowance {
    interpreted: bool,
    pub fuel: u64,
    pub wall: Duration,
    memory_bytes: usize,
    /// Bytes that the guest may hand to the host.
    hostcall_bytes: usize,
    /// Id of the first completion, for log lines.
    pub first_id: u64,
}

impl Allowance {
    pub(crate) fn of_one(limits: &Budget, completion: &Completion) -> Allowance {
        Allowance::of(limits, std::slice::from_ref(completion))
    }

    /// The allowance for judging these completions in one call. Limits are per completion: the fuel
    /// of a group adds up, its memory grows by the other completions' input. A call without
    /// completions counts as one.
    pub(crate) fn of(limits: &Budget, completions: &[Completion]) -> Allowance {
        let fuel = completions.iter().fold(0u64, |fuel, completion| {
            fuel.saturating_add(limits.fuel_for(input_bytes(completion)))
        });
        let fuel = if completions.is_empty() {
            limits.fuel_for(0)
        } else {
            fuel
        };
        let others = completions.get(1..).unwrap_or_default();
        Allowance {
            interpreted: limits.interpreted,
            fuel,
            wall: limits.wall_for(fuel),
            memory_bytes: limits.memory_bytes_with(others.iter().map(input_bytes).sum()),
            hostcall_bytes: limits.hostcall_bytes + others.len() * limits::HOSTCALL_BYTES_PER_ITEM,
            first_id: completions.first().map_or(0, |completion| completion.id),
        }
    }

    /// Adds fuel for input besides the completions.
    pub(crate) fn with_input(self, limits: &Budget, bytes: usize) -> Allowance {
        let fuel = self.fuel.saturating_add(limits.fuel_for_more(bytes));
        Allowance {
            fuel,
            wall: limits.wall_for(fuel),
            ..self
        }
    }

    /// Adds room for questions, which quote the completion.
    pub(crate) fn with_quotes_of(self, completion: &Completion) -> Allowance {
        let quotes = input_bytes(completion).saturating_mul(limits::HOSTCALL_QUOTES_MAX);
        Allowance {
            hostcall_bytes: self.hostcall_bytes.saturating_add(quotes),
            ..self
        }
    }

    /// The allowance of a plugin that judges nothing yet: what its job allows, up to the limits of
    /// loading.
    pub(crate) fn for_loading(self) -> Allowance {
        let fuel_max = if self.interpreted {
            limits::INTERPRETED_LOAD_FUEL_MAX
        } else {
            limits::LOAD_FUEL_MAX
        };
        let wall_max = Duration::from_millis(limits::LOAD_WALL_MS_MAX);
        Allowance {
            fuel: self.fuel.min(fuel_max),
            wall: self.wall.min(wall_max),
            ..self
        }
    }

    pub(crate) fn with_longer_wall(self) -> Allowance {
        Allowance {
            wall: self.wall.saturating_mul(limits::WALL_RETRY_FACTOR as u32),
            ..self
        }
    }
}

fn input_bytes(completion: &Completion) -> usize {
    let optional =
        [&completion.reference, &completion.meta].map(|text| text.as_ref().map_or(0, String::len));
    completion.prompt.len() + completion.text.len() + optional.iter().sum::<usize>()
}

/// Makes a store for one call; with `abandoned`, the call ends when that is set.
pub(crate) fn store(
    engine: &Engine,
    allowed: Allowance,
    abandoned: Option<&Abandoned>,
) -> wasmtime::Result<Store<Memory>> {
    let memory = Memory::new(allowed.memory_bytes);
    let mut store = Store::try_new(engine.wasm(allowed.interpreted), memory)?;
    store.limiter(|memory| memory);
    store.set_fuel(allowed.fuel)?;
    store.set_hostcall_fuel(allowed.hostcall_bytes);
    // One tick more, because the first may come at once.
    let ticks = allowed.wall.as_millis() as u64 / limits::TICK_MS + 1;
    match abandoned.cloned() {
        None => store.set_epoch_deadline(ticks),
        Some(abandoned) => {
            let mut left = ticks;
            store.set_epoch_deadline(1);
            store.epoch_deadline_callback(move |_| {
                left = left.saturating_sub(1);
                Ok(if left == 0 || abandoned.is_set() {
                    UpdateDeadline::Interrupt
                } else {
                    UpdateDeadline::Continue(1)
                })
            });
        }
    }
    Ok(store)
}
