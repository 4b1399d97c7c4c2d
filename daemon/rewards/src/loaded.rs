//! A loaded reward: its calls, and how each of them ends.

use crate::abandoned::Abandoned;
use crate::allowance::{Allowance, store};
use crate::bindings::r1d::reward::types as guest;
use crate::cache;
use crate::completion::{Ask, Completion, Info, Judged, to_guest};
use crate::engine::{self, Engine, Purpose};
use crate::error::{RewardError, ScoreError};
use crate::faults::{cut, fault, load_fault, of_machine, trap};
use crate::instance::{Instance, Linked};
use crate::limits::{self, Budget};
use crate::memory::Memory;
use crate::world::World;
use r1d_proto::shown;
use r1d_proto::verdict::Outcome;
use r1d_proto::world::SharedClock;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::Store;
use wasmtime::component::{Component, Linker};

/// A plugin with its configuration and limits, ready to judge. Cheap to clone.
#[derive(Clone)]
pub struct LoadedReward(Arc<Loaded>);

struct Loaded {
    engine: Arc<Engine>,
    clock: SharedClock,
    /// The component; held so that another load of the same file shares it.
    component: Arc<Component>,
    /// Judging, or loading for a plugin that is only tried.
    purpose: Purpose,
    /// Set by the caller that loads it, once the result is no longer wanted.
    abandoned: Abandoned,
    path: PathBuf,
    linked: Linked,
    info: Info,
    config: String,
    limits: Budget,
    module_sha256: String,
    config_sha256: String,
}

/// Everything about a reward except its code.
pub(crate) struct Setting {
    pub abandoned: Abandoned,
    pub path: PathBuf,
    pub config: String,
    pub limits: Budget,
    pub module_sha256: String,
}

impl LoadedReward {
    /// Links the component and asks it to describe itself; the configuration is not tried.
    pub(crate) fn new(
        engine: Arc<Engine>,
        clock: SharedClock,
        component: Arc<Component>,
        world: World,
        setting: Setting,
    ) -> Result<Self, RewardError> {
        let Setting {
            abandoned,
            path,
            config,
            limits,
            module_sha256,
        } = setting;
        let not_reward = |e: wasmtime::Error| RewardError::NotReward {
            path: path.clone(),
            why: format!("{e:#}"),
        };
        let pre = Linker::new(component.engine())
            .instantiate_pre(&component)
            .map_err(not_reward)?;
        let linked = Linked::new(world, pre).map_err(not_reward)?;
        let info = describe(&engine, &linked, &limits, &path, &abandoned)?;
        let (config_sha256, purpose) = (config_hash(&config), Purpose::Judging);
        let loaded = Loaded {
            engine,
            clock,
            component,
            purpose,
            abandoned,
            path,
            linked,
            info,
            config,
            limits,
            module_sha256,
            config_sha256,
        };
        Ok(LoadedReward(Arc::new(loaded)))
    }

    /// What the plugin declared.
    pub fn info(&self) -> &Info {
        &self.0.info
    }

    /// Path of the component's file.
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

    /// The same component and limits under another configuration. An error if the plugin does not
    /// accept it.
    pub fn with_config(&self, config_json: &str) -> Result<LoadedReward, RewardError> {
        let loaded = Loaded {
            config: config_json.into(),
            config_sha256: config_hash(config_json),
            ..self.0.copy()
        };
        loaded.try_config()?;
        Ok(LoadedReward(Arc::new(loaded)))
    }

    /// The same plugin to try cases on. Its calls take permits and limits of loading, whatever its
    /// job allows, and do not hold up those that judge.
    pub fn on_trial(&self) -> LoadedReward {
        LoadedReward(Arc::new(Loaded {
            purpose: Purpose::Loading,
            ..self.0.copy()
        }))
    }

    /// The clock's time since an arbitrary moment; it measures the time that all cases of a trial
    /// take together.
    pub(crate) fn now(&self) -> Duration {
        self.0.clock.now()
    }

    pub(crate) fn is_on_trial(&self) -> bool {
        self.0.purpose == Purpose::Loading
    }

    /// The world that the component exports, which decides what it judges in one call.
    pub fn world(&self) -> World {
        self.0.linked.world()
    }

    /// Judges one completion in an instance of its own, on this thread. The verdict depends on the
    /// component, its configuration and the completion alone (`RWD-1`). Blocks for as long as the
    /// limits allow; see [`crate::Pool`].
    pub fn score(&self, completion: &Completion) -> Result<Judged, ScoreError> {
        let given = to_guest(completion);
        let ran = self.0.run(
            Allowance::of_one(&self.0.limits, completion),
            |instance, store| match instance {
                Instance::Reward(instance) => instance.call_score(store, &given).map(Some),
                _ => Ok(None),
            },
        )?;
        ran.judged(|answer| {
            Ok(self
                .0
                .verdict(answer.ok_or_else(|| self.0.other_world("one completion alone"))?))
        })
    }

    /// Judges all samples of one prompt in one instance. Returns one judgement per completion, in
    /// their order. A fault counts for the whole group; fuel is reported in equal shares, and each
    /// completion adds its own limits.
    pub fn score_group(&self, group: &[Completion]) -> Result<Vec<Judged>, ScoreError> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        let given: Vec<guest::Completion> = group.iter().map(to_guest).collect();
        let Ran { answer, fuel, took } = self.0.run(
            Allowance::of(&self.0.limits, group),
            |instance, store| match instance {
                Instance::Group(instance) => instance.call_score_group(store, &given).map(Some),
                _ => Ok(None),
            },
        )?;
        let verdicts: Vec<(Outcome, Option<String>)> = match answer {
            Ok(None) => return Err(self.0.other_world("a group")),
            Ok(Some(answers)) if answers.len() != group.len() => {
                let broken = trap(format!(
                    "{} results for {} completions",
                    answers.len(),
                    group.len()
                ));
                vec![(broken, None); group.len()]
            }
            Ok(Some(answers)) => answers
                .into_iter()
                .map(|answer| self.0.verdict(answer))
                .collect(),
            Err(fault) => vec![(fault, None); group.len()],
        };
        let n = group.len();
        let share = |i: usize| fuel / n as u64 + u64::from((i as u64) < fuel % n as u64);
        let judged = |(i, (outcome, reason))| Judged {
            outcome,
            reason,
            fuel: share(i),
            took: took / n as u32,
        };
        Ok(verdicts.into_iter().enumerate().map(judged).collect())
    }

    /// First phase of a judged reward: returns the questions to a model. The inner error is a
    /// fault, which is the completion's verdict: then no question is asked.
    pub fn plan(&self, completion: &Completion) -> Result<Result<Vec<Ask>, Judged>, ScoreError> {
        let given = to_guest(completion);
        let allowed = Allowance::of_one(&self.0.limits, completion).with_quotes_of(completion);
        let Ran { answer, fuel, took } = self.0.run(allowed, |instance, store| match instance {
            Instance::Judged(instance) => instance.call_plan(store, &given).map(Some),
            _ => Ok(None),
        })?;
        Ok(match answer {
            Ok(None) => return Err(self.0.other_world("with questions to a model")),
            Ok(Some(asks)) if asks.len() > limits::ASKS_MAX => {
                let outcome = trap(format!(
                    "{} questions about one completion, at most {}",
                    asks.len(),
                    limits::ASKS_MAX
                ));
                Err(Judged {
                    outcome,
                    reason: None,
                    fuel,
                    took,
                })
            }
            Ok(Some(asks)) => {
                let ask = |ask: guest::Ask| Ask {
                    model: ask.model,
                    prompt: ask.prompt,
                    max_tokens: ask.max_tokens,
                };
                Ok(asks.into_iter().map(ask).collect())
            }
            Err(outcome) => Err(Judged {
                outcome,
                reason: None,
                fuel,
                took,
            }),
        })
    }

    /// Second phase of a judged reward. `answers` has an answer, or the reason why there is none,
    /// for each question of [`LoadedReward::plan`]. This phase has fuel of its own.
    pub fn conclude(
        &self,
        completion: &Completion,
        answers: &[Result<String, String>],
    ) -> Result<Judged, ScoreError> {
        let given = to_guest(completion);
        let bytes = answers
            .iter()
            .map(|answer| answer.as_ref().unwrap_or_else(|why| why).len())
            .sum();
        let allowed =
            Allowance::of_one(&self.0.limits, completion).with_input(&self.0.limits, bytes);
        let ran = self.0.run(allowed, |instance, store| match instance {
            Instance::Judged(instance) => instance.call_conclude(store, &given, answers).map(Some),
            _ => Ok(None),
        })?;
        ran.judged(|answer| {
            Ok(self
                .0
                .verdict(answer.ok_or_else(|| self.0.other_world("with answers of a model"))?))
        })
    }
}

/// How a call ended: with the guest's answer, or with a fault.
struct Ran<T> {
    answer: Result<T, Outcome>,
    fuel: u64,
    took: Duration,
}

impl<T> Ran<T> {
    fn judged(
        self,
        verdict: impl FnOnce(T) -> Result<(Outcome, Option<String>), ScoreError>,
    ) -> Result<Judged, ScoreError> {
        let (outcome, reason) = match self.answer {
            Ok(answer) => verdict(answer)?,
            Err(fault) => (fault, None),
        };
        Ok(Judged {
            outcome,
            reason,
            fuel: self.fuel,
            took: self.took,
        })
    }
}

impl Loaded {
    /// A copy, which is cheap: everything large is shared.
    fn copy(&self) -> Loaded {
        Loaded {
            engine: self.engine.clone(),
            clock: self.clock.clone(),
            component: self.component.clone(),
            purpose: self.purpose,
            abandoned: self.abandoned.clone(),
            path: self.path.clone(),
            linked: self.linked.clone(),
            info: self.info.clone(),
            config: self.config.clone(),
            limits: self.limits,
            module_sha256: self.module_sha256.clone(),
            config_sha256: self.config_sha256.clone(),
        }
    }

    /// Configures a fresh instance and calls it within its allowance; once more with a longer wait
    /// if it hit the backstop.
    fn run<T>(
        &self,
        allowed: Allowance,
        call: impl Fn(&Instance, &mut Store<Memory>) -> wasmtime::Result<T>,
    ) -> Result<Ran<T>, ScoreError> {
        let allowed = if self.purpose == Purpose::Loading {
            allowed.for_loading()
        } else {
            allowed
        };
        let turn = self
            .engine
            .turn(self.purpose, self.limits.interpreted, &self.abandoned)
            .ok_or(ScoreError::Abandoned)?;
        let start = self.clock.now();
        let mut ran = self.attempt(allowed, &call)?;
        if matches!(ran.0, Err(Outcome::OutOfTime)) && self.purpose == Purpose::Judging {
            let (wall, id) = (allowed.wall, allowed.first_id);
            tracing::warn!(
                plugin = self.info.name,
                id,
                ?wall,
                "reward hit the wall-clock backstop: trying once more"
            );
            ran = self.attempt(allowed.with_longer_wall(), &call)?;
        }
        let took = self.clock.now().saturating_sub(start);
        drop(turn);
        Ok(Ran {
            answer: ran.0,
            fuel: ran.1,
            took,
        })
    }

    fn attempt<T>(
        &self,
        allowed: Allowance,
        call: impl Fn(&Instance, &mut Store<Memory>) -> wasmtime::Result<T>,
    ) -> Result<(Result<T, Outcome>, u64), ScoreError> {
        let abandoned = (self.purpose == Purpose::Loading).then_some(&self.abandoned);
        let mut store =
            store(&self.engine, allowed, abandoned).map_err(|e| ScoreError::Host(e.to_string()))?;
        let answer = engine::on_deep_stack(|| {
            let instance = self.linked.instantiate(&mut store)?;
            match instance.configure(&mut store, &self.config)? {
                Ok(()) => call(&instance, &mut store).map(Ok),
                Err(why) => Ok(Err(trap(format!(
                    "the plugin reports: configuration refused: {}",
                    cut(why)
                )))),
            }
        });
        let used = allowed.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        match answer {
            Ok(answer) => Ok((answer, used)),
            Err(e) => Ok((Err(fault(&e, store.data())?), used)),
        }
    }

    fn verdict(&self, answer: Result<guest::Score, guest::Error>) -> (Outcome, Option<String>) {
        match answer {
            Ok(score) => judge(&self.info, score),
            Err(guest::Error::Unscorable(reason)) => (
                Outcome::Abstain {
                    reason: cut(reason),
                },
                None,
            ),
            Err(guest::Error::Internal(reason)) => {
                (trap(format!("the plugin reports: {}", cut(reason))), None)
            }
        }
    }

    fn other_world(&self, what: &'static str) -> ScoreError {
        ScoreError::World {
            plugin: self.info.name.clone(),
            world: self.linked.world(),
            what,
        }
    }

    fn try_config(&self) -> Result<(), RewardError> {
        let refused = |why| RewardError::Config {
            path: self.path.clone(),
            config: self.config.clone(),
            why,
        };
        let allowed = Allowance::of(&self.limits, &[])
            .with_input(&self.limits, self.config.len())
            .for_loading();
        let _turn = self
            .engine
            .turn(Purpose::Loading, self.limits.interpreted, &self.abandoned)
            .ok_or(RewardError::Abandoned)?;
        let mut store = store(&self.engine, allowed, Some(&self.abandoned))
            .map_err(|e| refused(e.to_string()))?;
        let accepted = engine::on_deep_stack(|| {
            self.linked
                .instantiate(&mut store)?
                .configure(&mut store, &self.config)
        });
        match accepted {
            Ok(answer) => answer.map_err(|why| refused(cut(why))),
            Err(_) if self.abandoned.is_set() => Err(RewardError::Abandoned),
            Err(e) => Err(not_loaded(&self.path, &e)
                .unwrap_or_else(|| refused(load_fault(&e, store.data(), allowed)))),
        }
    }
}

/// The error of a load that the machine ended; `None` if the plugin is to blame.
fn not_loaded(path: &Path, error: &wasmtime::Error) -> Option<RewardError> {
    let (path, why) = (path.to_owned(), of_machine(error)?);
    Some(RewardError::Lost { path, why })
}

fn config_hash(json: &str) -> String {
    cache::hex(&Sha256::digest(json.as_bytes()))
}

fn describe(
    engine: &Engine,
    linked: &Linked,
    limits: &Budget,
    path: &Path,
    abandoned: &Abandoned,
) -> Result<Info, RewardError> {
    let failed = |why: String| RewardError::Describe {
        path: path.into(),
        why,
    };
    let allowed = Allowance::of(limits, &[]).for_loading();
    let _turn = engine
        .turn(Purpose::Loading, limits.interpreted, abandoned)
        .ok_or(RewardError::Abandoned)?;
    let mut store = store(engine, allowed, Some(abandoned)).map_err(|e| failed(e.to_string()))?;
    let info = engine::on_deep_stack(|| linked.instantiate(&mut store)?.describe(&mut store));
    let info = match info {
        Ok(info) => info,
        Err(_) if abandoned.is_set() => return Err(RewardError::Abandoned),
        Err(e) => {
            return Err(not_loaded(path, &e)
                .unwrap_or_else(|| failed(load_fault(&e, store.data(), allowed))));
        }
    };
    let range = format!("min {} and max {}", info.min, info.max);
    if !(info.min.is_finite() && info.max.is_finite() && info.min <= info.max) {
        return Err(failed(format!("{range} are not a finite range")));
    }
    if info.name.is_empty() || info.parts.len() > limits::PARTS_MAX {
        return Err(failed(format!(
            "it needs a name and at most {} parts, and has `{}` and {}",
            limits::PARTS_MAX,
            shown::quote(&info.name),
            info.parts.len()
        )));
    }
    // Names become metrics, columns and words of the log.
    let long = [&info.name, &info.version]
        .into_iter()
        .chain(&info.parts)
        .find(|name| name.len() > limits::NAME_BYTES_MAX);
    if let Some(long) = long {
        return Err(failed(format!(
            "`{}` is longer than the {} bytes of a name",
            shown::quote(long),
            limits::NAME_BYTES_MAX
        )));
    }
    Ok(Info {
        name: info.name,
        version: info.version,
        min: info.min,
        max: info.max,
        parts: info.parts,
    })
}

/// Turns a score into a verdict. A score that breaks the plugin's declaration is a trap.
fn judge(info: &Info, score: guest::Score) -> (Outcome, Option<String>) {
    let guest::Score {
        value,
        parts,
        reason,
    } = score;
    let broken = if !value.is_finite() {
        Some(format!("the score is {value}"))
    } else if value < info.min || value > info.max {
        Some(format!(
            "the score {value} is outside {} to {}",
            info.min, info.max
        ))
    } else if parts.len() != info.parts.len() {
        Some(format!(
            "{} parts, {} declared",
            parts.len(),
            info.parts.len()
        ))
    } else {
        parts
            .iter()
            .find(|part| !part.is_finite())
            .map(|part| format!("a part is {part}"))
    };
    match broken {
        Some(reason) => (trap(reason), None),
        None => (Outcome::Score { value, parts }, reason.map(cut)),
    }
}
