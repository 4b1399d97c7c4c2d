//! A loaded reward, and how one call of it ends.

use crate::bindings::r1d::reward::types as guest;
use crate::bindings::{Reward, RewardPre};
use crate::engine::{self, Engine};
use crate::error::{RewardError, ScoreError};
use crate::limits::{self, Budget};
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use r1d_proto::world::SharedClock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::{Component, Linker};
use wasmtime::{ResourceLimiter, Store, Trap};

/// One completion and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub id: u64,
    pub prompt: String,
    /// The whole text after the prompt, without the stop token.
    pub text: String,
    pub reference: Option<String>,
    /// Length of `text` in the model's tokens.
    pub tokens: u32,
    pub finish: FinishReason,
    /// The data row's other columns, a JSON object.
    pub meta: Option<String>,
}

/// What a plugin says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    pub name: String,
    pub version: String,
    /// Every score is within `min ..= max`; a fault scores `min` by default.
    pub min: f32,
    pub max: f32,
    /// Names of the parts of a score.
    pub parts: Vec<String>,
}

/// How judging one completion ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub outcome: Outcome,
    /// What a plugin adds to a score: `no answer`.
    pub reason: Option<String>,
    /// Exact and reproducible.
    pub fuel: u64,
    /// Wall-clock time of the judging alone, without waiting.
    pub took: Duration,
}

/// A plugin with its configuration and limits, ready to judge. Cheap to clone.
#[derive(Clone)]
pub struct LoadedReward(Arc<Loaded>);

struct Loaded {
    engine: Arc<Engine>,
    clock: SharedClock,
    path: PathBuf,
    pre: RewardPre<Memory>,
    info: Info,
    config: String,
    limits: Budget,
    module_sha256: String,
    config_sha256: String,
}

/// Everything about a reward but its code.
pub(crate) struct Setting {
    pub path: PathBuf,
    pub config: String,
    pub limits: Budget,
    pub module_sha256: String,
    pub config_sha256: String,
}

impl LoadedReward {
    /// Links the component, and asks it to describe itself and to take its configuration.
    pub(crate) fn new(
        engine: Arc<Engine>,
        clock: SharedClock,
        component: &Component,
        setting: Setting,
    ) -> Result<Self, RewardError> {
        let Setting { path, config, limits, module_sha256, config_sha256 } = setting;
        let not_reward = |e: wasmtime::Error| RewardError::NotReward { path: path.clone(), why: format!("{e:#}") };
        let linked = Linker::new(component.engine()).instantiate_pre(component).map_err(not_reward)?;
        let pre = RewardPre::new(linked).map_err(not_reward)?;
        let info = describe(&engine, &pre, &limits, &path)?;
        let loaded = Loaded { engine, clock, path, pre, info, config, limits, module_sha256, config_sha256 };
        loaded.try_config()?;
        Ok(LoadedReward(Arc::new(loaded)))
    }

    pub fn info(&self) -> &Info {
        &self.0.info
    }

    /// The component's file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// SHA-256 of the component, hex.
    pub fn module_sha256(&self) -> &str {
        &self.0.module_sha256
    }

    /// SHA-256 of the configuration JSON, hex.
    pub fn config_sha256(&self) -> &str {
        &self.0.config_sha256
    }

    /// Judges one completion in an instance of its own, on this thread. The verdict depends on the component, its
    /// configuration and the completion alone (`RWD-1`). Blocks for as long as the limits allow; see [`crate::Pool`].
    pub fn score(&self, completion: &Completion) -> Result<Judged, ScoreError> {
        let loaded = &*self.0;
        let input_bytes = [&completion.prompt, &completion.text].map(|text| text.len()).iter().sum::<usize>()
            + [&completion.reference, &completion.meta].map(|text| text.as_ref().map_or(0, String::len)).iter().sum::<usize>();
        let fuel = loaded.limits.fuel_for(input_bytes);
        let wall = loaded.limits.wall_for(fuel);
        let given = to_guest(completion);
        let turn = loaded.engine.turn();
        let start = loaded.clock.now();
        let mut call = loaded.call(&given, fuel, wall)?;
        if call.outcome == Outcome::OutOfTime {
            tracing::warn!(
                plugin = loaded.info.name,
                id = completion.id,
                ?wall,
                "reward hit the wall-clock backstop: trying once more"
            );
            call = loaded.call(&given, fuel, wall.saturating_mul(limits::WALL_RETRY_FACTOR as u32))?;
        }
        let took = loaded.clock.now().saturating_sub(start);
        drop(turn);
        Ok(Judged { outcome: call.outcome, reason: call.reason, fuel: call.fuel, took })
    }
}

/// One attempt.
struct Call {
    outcome: Outcome,
    reason: Option<String>,
    fuel: u64,
}

impl Loaded {
    fn call(&self, completion: &guest::Completion, fuel: u64, wall: Duration) -> Result<Call, ScoreError> {
        let mut store = store(&self.engine, &self.limits, fuel, wall).map_err(|e| ScoreError::Host(e.to_string()))?;
        let answer = engine::on_deep_stack(|| self.answer(&mut store, completion));
        let used = fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        let (outcome, reason) = match answer {
            Ok(Ok(score)) => judge(&self.info, score),
            Ok(Err(guest::Error::Unscorable(reason))) => (Outcome::Abstain { reason: cut(reason) }, None),
            Ok(Err(guest::Error::Internal(reason))) => (trap(format!("the plugin reports: {}", cut(reason))), None),
            Err(e) => (fault(&e, store.data())?, None),
        };
        Ok(Call { outcome, reason, fuel: used })
    }

    fn answer(
        &self,
        store: &mut Store<Memory>,
        completion: &guest::Completion,
    ) -> wasmtime::Result<Result<guest::Score, guest::Error>> {
        let instance = self.instance(store)?;
        if let Err(why) = instance.call_configure(&mut *store, &self.config)? {
            return Ok(Err(guest::Error::Internal(format!("configuration refused: {why}"))));
        }
        instance.call_score(store, completion)
    }

    fn instance(&self, store: &mut Store<Memory>) -> wasmtime::Result<Reward> {
        self.pre.instantiate(store)
    }

    fn try_config(&self) -> Result<(), RewardError> {
        let refused = |why| RewardError::Config { path: self.path.clone(), config: self.config.clone(), why };
        let fuel = self.limits.fuel_for(self.config.len());
        let _turn = self.engine.turn();
        let mut store = store(&self.engine, &self.limits, fuel, self.limits.wall_for(fuel)).map_err(|e| refused(e.to_string()))?;
        let accepted = engine::on_deep_stack(|| self.instance(&mut store)?.call_configure(&mut store, &self.config));
        match accepted {
            Ok(answer) => answer.map_err(|why| refused(cut(why))),
            Err(e) => Err(refused(fault_text(&e, store.data()))),
        }
    }
}

fn describe(engine: &Engine, pre: &RewardPre<Memory>, limits: &Budget, path: &Path) -> Result<Info, RewardError> {
    let failed = |why: String| RewardError::Describe { path: path.into(), why };
    let fuel = limits.fuel_for(0);
    let _turn = engine.turn();
    let mut store = store(engine, limits, fuel, limits.wall_for(fuel)).map_err(|e| failed(e.to_string()))?;
    let info = engine::on_deep_stack(|| pre.instantiate(&mut store)?.call_describe(&mut store));
    let info = info.map_err(|e| failed(fault_text(&e, store.data())))?;
    let range = format!("min {} and max {}", info.min, info.max);
    if !(info.min.is_finite() && info.max.is_finite() && info.min <= info.max) {
        return Err(failed(format!("{range} are not a finite range")));
    }
    if info.name.is_empty() || info.parts.len() > limits::PARTS_MAX {
        return Err(failed(format!(
            "it needs a name and at most {} parts, and has `{}` and {}",
            limits::PARTS_MAX,
            info.name,
            info.parts.len()
        )));
    }
    Ok(Info { name: info.name, version: info.version, min: info.min, max: info.max, parts: info.parts })
}

fn store(engine: &Engine, limits: &Budget, fuel: u64, wall: Duration) -> wasmtime::Result<Store<Memory>> {
    let mut store = Store::try_new(
        engine.wasm(limits.interpreted),
        Memory { left: limits.memory_bytes, limit: limits.memory_bytes, refused: false },
    )?;
    store.limiter(|memory| memory);
    store.set_fuel(fuel)?;
    store.set_hostcall_fuel(limits::HOSTCALL_BYTES_MAX);
    // One more tick: the first may come at once.
    store.set_epoch_deadline(wall.as_millis() as u64 / limits::TICK_MS + 1);
    Ok(store)
}

fn to_guest(completion: &Completion) -> guest::Completion {
    guest::Completion {
        id: completion.id,
        prompt: completion.prompt.clone(),
        text: completion.text.clone(),
        reference: completion.reference.clone(),
        tokens: completion.tokens,
        finish: match completion.finish {
            FinishReason::Stop => guest::FinishReason::Stop,
            FinishReason::Length => guest::FinishReason::Length,
        },
        meta: completion.meta.clone(),
    }
}

/// A score counts only when it keeps what the plugin declared.
fn judge(info: &Info, score: guest::Score) -> (Outcome, Option<String>) {
    let guest::Score { value, parts, reason } = score;
    let broken = if !value.is_finite() {
        Some(format!("the score is {value}"))
    } else if value < info.min || value > info.max {
        Some(format!("the score {value} is outside {} to {}", info.min, info.max))
    } else if parts.len() != info.parts.len() {
        Some(format!("{} parts, {} declared", parts.len(), info.parts.len()))
    } else {
        parts.iter().find(|part| !part.is_finite()).map(|part| format!("a part is {part}"))
    };
    match broken {
        Some(reason) => (trap(reason), None),
        None => (Outcome::Score { value, parts }, reason.map(cut)),
    }
}

fn trap(reason: String) -> Outcome {
    Outcome::Trap { reason }
}

/// What a call's failure means. An error that is not the guest's doing is no verdict.
fn fault(error: &wasmtime::Error, memory: &Memory) -> Result<Outcome, ScoreError> {
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Err(ScoreError::Host(error.to_string()));
    }
    Ok(match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Outcome::OutOfFuel,
        Some(Trap::Interrupt) => Outcome::OutOfTime,
        _ => trap(fault_text(error, memory)),
    })
}

/// The same words in every run: no addresses, no backtrace.
fn fault_text(error: &wasmtime::Error, memory: &Memory) -> String {
    if memory.refused {
        return format!("out of memory: the limit is {} MiB", memory.limit >> 20);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => "the plugin panicked".into(),
        Some(Trap::StackOverflow) => "stack overflow".into(),
        Some(trap) => trap.to_string(),
        None => cut(error.root_cause().to_string()),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > limits::REASON_BYTES_MAX {
        let end = (0..=limits::REASON_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The memory that an instance may still take.
struct Memory {
    left: usize,
    limit: usize,
    refused: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = desired.saturating_sub(current);
        match self.left.checked_sub(wanted) {
            Some(left) => self.left = left,
            None => self.refused = true,
        }
        Ok(!self.refused)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= limits::TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        limits::TABLES_MAX
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_MAX
    }
}
