//! The engine: how guests are compiled and where their instances live.
//!
//! Instances come from a pool of fixed slots with copy-on-write memories, so a fresh instance costs
//! microseconds and no two completions ever share one. Instances of guests with an interpreter
//! inside are allocated on demand: they have more memories, tables and instances than every slot
//! could hold, and the cost of mapping is small beside the interpreter's. A caller of guest code
//! holds an [`InstancePermit`]: there are as many as slots, and while any is held an OS thread
//! advances wasmtime's epoch counter (not an attempt's epoch), by which the wall-clock backstop
//! counts. Loading has permits of its own, so a plugin
//! that is slow to accept its configuration does not delay judging.

use crate::abandoned::Abandoned;
use crate::error::RewardError;
use crate::gate::{Gate, Pass};
use crate::limits;
use sha2::{Digest, Sha256};
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Number of core instances of a guest in the pool; those of memories and tables follow. A guest
/// written for the SDK has one of each.
const POOLED_CORE_INSTANCES_MAX: u32 = 8;
const POOLED_MEMORIES_MAX: u32 = 2;
const POOLED_TABLES_MAX: u32 = 4;
/// Bytes of a slot's memory that are zeroed and kept between completions instead of being returned
/// to the kernel.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;
/// Bytes of the host's stack for a guest's calls. CPython needs this much to notice its own
/// recursion before it would end in a trap: with 512 KiB a memoised function (`lru_cache`) got no
/// further than 300 calls deep.
const GUEST_STACK_BYTES: usize = 4 << 20;
/// Bytes of stack for the host's own functions around and below a guest's.
const HOST_STACK_BYTES: usize = 1 << 20;
pub(crate) const STACK_BYTES: usize = GUEST_STACK_BYTES + HOST_STACK_BYTES;

/// Number of guests without an interpreter that are called for loading at a time, and of guests
/// with one. The latter take a hundred times as long at worst, so the others do not wait for them.
const LOADS_MAX: u32 = 2;

/// Why a guest is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It gives a verdict.
    Judging,
    /// It describes itself, takes a configuration, or is tried on cases.
    Loading,
}

pub(crate) struct Engine {
    pooled: wasmtime::Engine,
    on_demand: wasmtime::Engine,
    judging: Gate,
    loading: Gate,
    loading_interpreted: Gate,
    running: Arc<Running>,
}

impl Engine {
    /// Opens the engine. `judging` is the number of instances that judge at the same time.
    pub(crate) fn open(judging: u32) -> Result<Engine, RewardError> {
        let slots = judging.saturating_add(2 * LOADS_MAX);
        let pooled =
            wasmtime::Engine::new(config().allocation_strategy(pool(slots))).map_err(|e| {
                let gib = u64::from(slots * POOLED_MEMORIES_MAX) * u64::from(limits::MEMORY_MB_MAX)
                    / 1024;
                RewardError::Engine(format!(
                    "{e:#} (it reserves about {gib} GiB of address space: see `ulimit -v`, or use \
                     fewer reward threads)"
                ))
            })?;
        let running = Arc::new(Running {
            state: Mutex::new(State {
                count: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let on_demand = compiler()?;
        let (weak, ticking) = ([pooled.weak(), on_demand.weak()], running.clone());
        std::thread::Builder::new()
            .name("reward-epoch".into())
            .spawn(move || tick(&weak, &ticking))
            .map_err(|e| RewardError::Engine(format!("cannot start a thread: {e}")))?;
        let [loading, loading_interpreted] = [Gate::new(LOADS_MAX), Gate::new(LOADS_MAX)];
        Ok(Engine {
            pooled,
            on_demand,
            judging: Gate::new(judging),
            loading,
            loading_interpreted,
            running,
        })
    }

    /// The wasmtime engine that holds a guest's instances.
    pub(crate) fn wasm(&self, interpreted: bool) -> &wasmtime::Engine {
        if interpreted {
            &self.on_demand
        } else {
            &self.pooled
        }
    }

    /// Waits for a free slot; this wait is never part of a completion's time. `None` if a plugin is
    /// being loaded and is no longer wanted.
    pub(crate) fn turn(
        &self,
        purpose: Purpose,
        interpreted: bool,
        abandoned: &Abandoned,
    ) -> Option<InstancePermit<'_>> {
        let pass = match purpose {
            Purpose::Judging => self.judging.enter(),
            Purpose::Loading if interpreted => self.loading_interpreted.enter_unless(abandoned)?,
            Purpose::Loading => self.loading.enter_unless(abandoned)?,
        };
        self.running.begin();
        Some(InstancePermit {
            running: &self.running,
            _pass: pass,
        })
    }
}

/// Calls a guest with the stack that it may use, however little this thread has left: a guest that
/// recurses must meet its own limit first. On a scoring thread this costs nothing.
pub(crate) fn on_deep_stack<T>(call: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_BYTES, STACK_BYTES + HOST_STACK_BYTES, call)
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.running.lock().closed = true;
        self.running.changed.notify_all();
    }
}

/// Advances the epoch while anything runs, until the engine is gone.
#[allow(
    clippy::disallowed_methods,
    reason = "a thread of its own that does nothing but sleep and tick"
)]
fn tick(engines: &[wasmtime::EngineWeak], running: &Running) {
    while running.wait_until_any() {
        std::thread::sleep(Duration::from_millis(limits::TICK_MS));
        for engine in engines {
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    }
}

/// An engine without the pool's address space; code that it compiles runs in the pool too.
pub(crate) fn compiler() -> Result<wasmtime::Engine, RewardError> {
    wasmtime::Engine::new(&config()).map_err(|e| RewardError::Engine(format!("{e:#}")))
}

/// A hash of what compiled code depends on besides the component: wasmtime's version, its settings,
/// the processor's features.
pub(crate) fn compatibility(engine: &wasmtime::Engine) -> [u8; 32] {
    struct Digester(Sha256);
    impl std::hash::Hasher for Digester {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut digester = Digester(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut digester);
    digester.0.finalize().into()
}

fn config() -> Config {
    let mut config = Config::new();
    // The verdict must be the same on every machine and in every run.
    config
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true);
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(STACK_BYTES);
    // Multi-memory stays on: with it off, compiling a JavaScript component panics.
    config.wasm_multi_memory(true);
    config
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_wide_arithmetic(false)
        .wasm_custom_page_sizes(false);
    config.wasm_threads(false).concurrency_support(false);
    // Small reservations: batch systems limit address space.
    config
        .memory_reservation(u64::from(limits::MEMORY_MB_MAX) << 20)
        .memory_guard_size(64 << 10)
        .guard_before_linear_memory(false);
    config.memory_may_move(false).memory_init_cow(true);
    config
}

fn pool(slots: u32) -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots * POOLED_CORE_INSTANCES_MAX)
        .max_core_instances_per_component(POOLED_CORE_INSTANCES_MAX)
        .total_memories(slots * POOLED_MEMORIES_MAX)
        .max_memories_per_component(POOLED_MEMORIES_MAX)
        .max_memories_per_module(POOLED_MEMORIES_MAX)
        .max_memory_size((limits::MEMORY_MB_MAX as usize) << 20)
        .total_tables(slots * POOLED_TABLES_MAX)
        .max_tables_per_component(POOLED_TABLES_MAX)
        .max_tables_per_module(POOLED_TABLES_MAX)
        .table_elements(limits::TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(64 << 10);
    pool.into()
}

/// Counts the guests that run, for the thread that ticks.
struct Running {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    count: u32,
    closed: bool,
}

/// The permit to have one instance.
pub(crate) struct InstancePermit<'a> {
    running: &'a Running,
    _pass: Pass<'a>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        let mut state = self.lock();
        state.count += 1;
        if state.count == 1 {
            self.changed.notify_all();
        }
    }

    /// Blocks while no guest runs; returns false when the engine is gone.
    fn wait_until_any(&self) -> bool {
        let mut state = self.lock();
        while state.count == 0 && !state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }
}

impl Drop for InstancePermit<'_> {
    fn drop(&mut self) {
        self.running.lock().count -= 1;
    }
}
