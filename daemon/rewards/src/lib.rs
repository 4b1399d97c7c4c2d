//! Rewards: WASM components that judge completions, sandboxed, metered and deterministic.
//!
//! A reward cannot hang, crash, slow or read the daemon. It is a component of package
//! `r1d:reward@1.0.0` (`reward-sdk/wit/reward.wit`) that imports nothing; every completion gets a
//! fresh instance with limits of its own ([`Limits`]), and ends in exactly one
//! [`r1d_proto::verdict::Outcome`] (`RWD-2`) that depends on the component, its configuration and
//! the completion alone (`RWD-1`). Fuel limits a call, so a verdict replays. Behind the fuel stands
//! a wall-clock backstop (`allowance`, `engine`), which stops what fuel does not see.
//!
//! ```text
//! RewardSpec ─▶ Rewards::load ─▶ find · pin · compile (child process) or code cache
//!                   ─▶ check imports and world · describe · configure ─▶ LoadedReward
//!
//! Completion ─▶ Pool::score ─▶ queue ─▶ scoring thread ─▶ instantiate · configure · score
//!                   ─▶ Judged: outcome, reason, fuel, time
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `component`, `components`, `world`, `signature` | from bytes to a component; those in use; the three worlds; signatures |
//! | `compile`, `cache`, `engine`, `bindings` | WASM to machine code, in a child; compiled code on disk; how guests run; the host's side of the WIT |
//! | `allowance`, `limits`, `memory`, `gate` | what a call may spend, and what holds it to that |
//! | `loaded`, `instance`, `faults`, `abandoned` | a loaded reward: its calls, how each ends, what is no longer wanted |
//! | `pool`, `turns` | the scoring threads; whose call is next |
//! | `completion`, `line`, `cases` | what a plugin is given; completions from a file, for tools |
//! | [`golden`], [`attacks`] | a component's own cases; hostile texts, for tests of plugins |

#![warn(clippy::too_many_lines)]

mod abandoned;
mod allowance;
pub mod attacks;
mod bindings;
mod cache;
mod cases;
mod compile;
mod completion;
mod component;
mod components;
mod engine;
mod error;
mod faults;
mod gate;
pub mod golden;
mod instance;
mod limits;
pub mod line;
mod loaded;
mod memory;
mod pool;
pub mod signature;
mod turns;
mod world;

pub use abandoned::Abandoned;
pub use cases::{Answers, Member, NoAnswers};
pub use compile::{Compiler, serve_child};
pub use completion::{Ask, Completion, Info, Judged};
pub use component::{FILE_BYTES_MAX, componentize, read};
pub use error::{ComponentizeError, RewardError, ScoreError};
pub use limits::Limits;
pub use loaded::LoadedReward;
pub use pool::{Calls, Line, Load, Pool, QUEUE_PER_THREAD_MAX, QueueFull};
pub use world::World;

use cache::CodeCache;
use compile::{COMPILES_MAX, CompileError, Waiter};
use component::Kind;
use components::Components;
use engine::Engine;
use gate::Gate;
use loaded::Setting;
use r1d_proto::remedy::is_the_machines;
use r1d_proto::world::SharedClock;
use r1d_store::{BlobHash, Blobs, Disk};
use sha2::{Digest, Sha256};
use signature::PublicKey;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Component;

/// Settings of a daemon's or a tool's rewards.
pub struct Options {
    /// Directories that are searched in this order for `<name>.wasm`.
    pub plugin_dirs: Vec<PathBuf>,
    /// Directory of compiled code; `None` compiles at every load.
    pub cache_dir: Option<PathBuf>,
    /// Number of scoring threads; 0: half of the cores, at least one.
    pub threads: usize,
    /// The process that compiles components.
    pub compiler: Compiler,
    /// Clock of the time that judging takes.
    pub clock: SharedClock,
}

/// The component that a reward names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// A name: `<name>.wasm` in a plugin directory.
    Named(String),
    /// The path of a component.
    Path(PathBuf),
}

/// A reward as a job asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewardSpec {
    /// The component.
    pub plugin: Plugin,
    /// SHA-256 that the file must have, 64 hex digits; `None`: any.
    pub sha256: Option<String>,
    /// Configuration of the plugin, a JSON object.
    pub config_json: String,
    /// What judging one completion may cost.
    pub limits: Limits,
}

impl RewardSpec {
    /// The plugin of this name, with every setting at its default.
    pub fn named(name: &str) -> RewardSpec {
        RewardSpec {
            plugin: Plugin::Named(name.into()),
            sha256: None,
            config_json: "{}".into(),
            limits: Limits::default(),
        }
    }
}

/// What a load is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadAt<'a> {
    /// In words.
    pub doing: &'a str,
    /// Time after which that is given up; `None` if there is none.
    pub left: Option<Duration>,
}

/// Hears what a load is at; `None` when it has ended.
pub type LoadListener = Arc<dyn Fn(Option<LoadAt<'_>>) + Send + Sync>;

/// The engine, the code cache and the scoring pool of a process. Cheap to clone.
#[derive(Clone)]
pub struct Rewards {
    plugin_dirs: Vec<PathBuf>,
    engine: Arc<Engine>,
    components: Arc<Components>,
    compiling: Arc<Gate>,
    cache: Option<Arc<CodeCache>>,
    compiler: Compiler,
    clock: SharedClock,
    pool: Arc<Pool>,
    trusted: Vec<PublicKey>,
    kept: Option<Blobs>,
    abandoned: Abandoned,
    listener: LoadListener,
}

impl Rewards {
    /// Starts the engine and the scoring threads, and opens the code cache.
    pub fn open(options: Options) -> Result<Rewards, RewardError> {
        let Options {
            plugin_dirs,
            cache_dir,
            threads,
            compiler,
            clock,
        } = options;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 {
            (cores / 2).max(1)
        } else {
            threads
        };
        let judging = u32::try_from(threads)
            .map_err(|_| RewardError::Engine(format!("{threads} reward threads are too many")))?;
        let engine = Arc::new(Engine::open(judging)?);
        let cache = cache_dir
            .map(|dir| CodeCache::open(&dir, engine::compatibility(engine.wasm(false))))
            .transpose()?;
        let pool_clock = clock.clone();
        Ok(Rewards {
            plugin_dirs,
            engine,
            components: Arc::default(),
            compiling: Arc::new(Gate::new(COMPILES_MAX)),
            cache: cache.map(Arc::new),
            compiler,
            clock,
            pool: Arc::new(Pool::start(threads, pool_clock)?),
            trusted: Vec::new(),
            kept: None,
            abandoned: Abandoned::default(),
            listener: Arc::new(|_| ()),
        })
    }

    /// The same rewards for a caller that may leave: a load ends soon after `abandoned` is set.
    pub fn until(&self, abandoned: Abandoned) -> Rewards {
        Rewards {
            abandoned,
            ..self.clone()
        }
    }

    /// The same rewards for a caller who shows what they are at.
    pub fn telling(&self, listener: LoadListener) -> Rewards {
        Rewards {
            listener,
            ..self.clone()
        }
    }

    /// Requires a signature of one of these keys from every plugin that is loaded from now on. If
    /// there are no keys, plugins need no signature.
    pub fn trusting(self, keys: Vec<PublicKey>) -> Rewards {
        Rewards {
            trusted: keys,
            ..self
        }
    }

    /// Sets the directory of [kept](Rewards::keep) components. They are found there by their pin,
    /// whatever happens to the files they came from.
    pub fn storing(self, dir: PathBuf) -> Rewards {
        let kept = Blobs::open(Disk::shared(), &dir, ".wasm");
        Rewards {
            kept: Some(kept),
            ..self
        }
    }

    /// Keeps a copy of the component, and of its signatures, under its hash. Does nothing without
    /// [`Rewards::storing`], or if it is kept already.
    pub fn keep(&self, reward: &LoadedReward) -> Result<(), RewardError> {
        let sha256 = reward.module_sha256();
        let (Some(kept), Some(hash)) = (&self.kept, hash_of(sha256)) else {
            return Ok(());
        };
        if kept.path(&hash) == reward.path() {
            return Ok(());
        }
        // The file may have changed since it was loaded.
        PluginFile::read(reward.path())?.pinned(sha256)?.keep(kept)
    }

    /// Removes the kept components whose hashes are not in `named`, with their signatures and what
    /// a crash left of either. Other files stay. Returns the number of files removed.
    pub fn prune(&self, named: &BTreeSet<String>) -> std::io::Result<usize> {
        let Some(kept) = &self.kept else {
            return Ok(0);
        };
        let is_named = |hash: &BlobHash| named.contains(&hash.to_string());
        Ok(kept.collect(0, is_named)?.files)
    }

    /// Reads the plugin's file: the copy that is kept under its pin, or the file that the job
    /// names. A damaged copy is made anew from the latter, if that has the pinned bytes.
    fn file(&self, spec: &RewardSpec) -> Result<PluginFile, RewardError> {
        let named = || PluginFile::read(&self.find(&spec.plugin)?);
        let Some(pinned) = &spec.sha256 else {
            return named();
        };
        let kept = self.kept.as_ref().zip(hash_of(pinned));
        let copy_at = kept.map(|(blobs, hash)| (blobs, blobs.path(&hash)));
        let Some((blobs, kept)) = copy_at.filter(|(_, path)| path.is_file()) else {
            return named()?.pinned(pinned);
        };
        let copy = PluginFile::read(&kept).and_then(|copy| copy.pinned(pinned));
        let damage = match copy {
            Ok(copy) => return Ok(copy),
            Err(error) if is_the_machines(&error) => return Err(error),
            Err(damage) => damage,
        };
        match named().and_then(|named| named.pinned(pinned)) {
            Ok(named) => {
                let (kept_at, from) = (kept.display(), named.path.display());
                tracing::warn!(
                    "{kept_at}, the daemon's copy of a plugin, is damaged: it is made anew from \
                     {from}"
                );
                if let Err(error) = named.keep(blobs) {
                    tracing::warn!("{error}");
                }
                Ok(named)
            }
            Err(named) => Err(RewardError::Damaged {
                kept,
                damage: damage.fault(),
                pinned: pinned.clone(),
                named: named.fault(),
            }),
        }
    }

    /// Finds, checks, compiles (or takes from the cache) and configures a reward. Blocks:
    /// milliseconds for a small plugin from the cache, seconds for an interpreter that must be
    /// compiled.
    pub fn load(&self, spec: &RewardSpec) -> Result<LoadedReward, RewardError> {
        self.unconfigured(spec)?.with_config(&spec.config_json)
    }

    /// [`Rewards::load`] without trying the configuration: for reading a plugin's description, and
    /// for golden cases, which have configurations of their own.
    pub fn unconfigured(&self, spec: &RewardSpec) -> Result<LoadedReward, RewardError> {
        let name = match &spec.plugin {
            Plugin::Named(name) => name.clone(),
            Plugin::Path(path) => path.display().to_string(),
        };
        self.tell(&format!("loading plugin {name}"), None);
        let loaded = self.load_named(&name, spec);
        (self.listener)(None);
        loaded
    }

    fn tell(&self, doing: &str, left: Option<Duration>) {
        (self.listener)(Some(LoadAt { doing, left }));
    }

    fn load_named(&self, name: &str, spec: &RewardSpec) -> Result<LoadedReward, RewardError> {
        let PluginFile {
            path,
            bytes,
            sha256,
        } = self.file(spec)?;
        let module_sha256 = cache::hex(&sha256);
        // Golden cases are no code, so they do not count.
        let limits = spec
            .limits
            .budget(bytes.len() - golden::embedded(&bytes).map_or(0, str::len))?;
        if !self.trusted.is_empty() && !self.is_signed(&path, &sha256)? {
            return Err(RewardError::Unsigned { path });
        }
        match component::kind(&bytes) {
            Kind::Component => {}
            Kind::CoreModule => return Err(RewardError::CoreModule { path }),
            Kind::Other(why) => return Err(RewardError::NotComponent { path, why }),
        }
        let make = || self.component(name, (&path, &bytes), &sha256, limits.interpreted);
        let waits = || {
            let doing = format!("plugin {name} waits for another load of it, which compiles it");
            self.tell(&doing, None);
        };
        let key = (sha256, limits.interpreted);
        let component = self.components.get(key, &self.abandoned, waits, make)?;
        self.tell(&format!("loading plugin {name}"), None);
        let world = component::check(&component, &path)?;
        let (config, abandoned) = (spec.config_json.clone(), self.abandoned.clone());
        let setting = Setting {
            abandoned,
            path,
            config,
            limits,
            module_sha256,
        };
        LoadedReward::new(
            self.engine.clone(),
            self.clock.clone(),
            component,
            world,
            setting,
        )
    }

    /// Whether a key that is trusted has signed the component in this file.
    fn is_signed(&self, path: &Path, sha256: &[u8; 32]) -> Result<bool, RewardError> {
        let read = |cause| RewardError::Read {
            path: signature::beside(path),
            cause,
        };
        let signers = signature::signers(path, sha256).map_err(read)?;
        Ok(signers.iter().any(|key| self.trusted.contains(key)))
    }

    /// The scoring threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The SHA-256 of the component that the plugin names now, hex; `None` if it cannot be read.
    /// Pins are found without it ([`Rewards::storing`]).
    pub fn sha256_now(&self, plugin: &Plugin) -> Option<String> {
        let file = PluginFile::read(&self.find(plugin).ok()?).ok()?;
        Some(cache::hex(&file.sha256))
    }

    /// Names of the plugins in the plugin directories, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = self
            .plugin_dirs
            .iter()
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flatten()
            .filter_map(|entry| entry.ok());
        let paths = entries.map(|entry| entry.path()).filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        });
        let mut names: Vec<String> = paths
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Path of a plugin's file; the error lists the directories and the plugins in them.
    pub fn find(&self, plugin: &Plugin) -> Result<PathBuf, RewardError> {
        let name = match plugin {
            Plugin::Path(path) => return Ok(path.clone()),
            Plugin::Named(name) => name,
        };
        // A name is one path component: it cannot climb out of the plugin directories.
        let plain = Path::new(name)
            .file_name()
            .is_some_and(|last| last == name.as_str());
        let found = self
            .plugin_dirs
            .iter()
            .map(|dir| dir.join(format!("{name}.wasm")))
            .find(|path| plain && path.is_file());
        let listed = |names: Vec<String>| {
            if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            }
        };
        found.ok_or_else(|| RewardError::NotFound {
            name: name.clone(),
            dirs: listed(
                self.plugin_dirs
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect(),
            ),
            known: listed(self.names()),
        })
    }

    fn component(
        &self,
        name: &str,
        (path, bytes): (&Path, &[u8]),
        sha256: &[u8; 32],
        interpreted: bool,
    ) -> Result<Component, RewardError> {
        let engine = self.engine.wasm(interpreted);
        if let Some(cached) = self.cache.as_ref().and_then(|cache| cache.load(sha256))
            && let Ok(component) = deserialize(engine, &cached)
        {
            return Ok(component);
        }
        let refused = |why| RewardError::Compile {
            path: path.into(),
            why,
        };
        let code = {
            let tell = |what: &str, left| self.tell(&format!("plugin {name} is {what}"), left);
            let waits = || tell("to be compiled after others", None);
            let _turn = (self.compiling)
                .enter_telling(&self.abandoned, waits)
                .ok_or(RewardError::Abandoned)?;
            let waiter = Waiter {
                clock: &*self.clock,
                plugin: name,
                abandoned: &self.abandoned,
                told: &tell,
            };
            let compiled = self.compiler.compile(bytes, &waiter);
            compiled.map_err(|error| match error {
                CompileError::Refused(why) => refused(why),
                CompileError::Lost(why) => RewardError::Lost {
                    path: path.into(),
                    why,
                },
                CompileError::Abandoned => RewardError::Abandoned,
            })?
        };
        let component = deserialize(engine, &code).map_err(|error| {
            let (path, refused) = (path.into(), || refused(format!("{error:#}")));
            faults::of_machine(&error).map_or_else(refused, |why| RewardError::Lost { path, why })
        })?;
        if let Some(cache) = &self.cache {
            cache.store(sha256, &code);
        }
        Ok(component)
    }
}

fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code comes from our own compiler, either just now over a private socket or from a
    // file whose MAC only this daemon could have made.
    unsafe { Component::deserialize(engine, code) }
}

/// The contents of a plugin's file, with its hash.
struct PluginFile {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: [u8; 32],
}

impl PluginFile {
    fn read(path: &Path) -> Result<PluginFile, RewardError> {
        let bytes = component::read(path)?;
        let sha256 = Sha256::digest(&bytes).into();
        Ok(PluginFile {
            path: path.into(),
            bytes,
            sha256,
        })
    }

    /// The file, if it has this hash.
    fn pinned(self, sha256: &str) -> Result<PluginFile, RewardError> {
        check_pin(&self.path, &cache::hex(&self.sha256), sha256)?;
        Ok(self)
    }

    /// Keeps a copy of the file, and of the signatures beside it.
    fn keep(&self, kept: &Blobs) -> Result<(), RewardError> {
        let hash = BlobHash::from_bytes(self.sha256);
        let failed = |cause| RewardError::Keep {
            path: self.path.clone(),
            kept: kept.path(&hash),
            cause,
        };
        // Unreadable signatures vouch for nothing, and where they are required the plugin was
        // refused before.
        let signatures = signature::read(&self.path).unwrap_or_default();
        if !signatures.is_empty() {
            let signatures = signatures.as_bytes();
            (kept.put_beside(&hash, signature::ENDING, signatures)).map_err(failed)?;
        }
        kept.put(&hash, &self.bytes).map_err(failed)
    }
}

fn check_pin(path: &Path, found: &str, pinned: &str) -> Result<(), RewardError> {
    if pinned.len() != 64 || !pinned.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(RewardError::BadPin {
            path: path.into(),
            pinned: pinned.into(),
        });
    }
    if !pinned.eq_ignore_ascii_case(found) {
        return Err(RewardError::Pin {
            path: path.into(),
            found: found.into(),
            pinned: pinned.into(),
        });
    }
    Ok(())
}

/// The hash that a pin names; `None` if it is no hash.
fn hash_of(pinned: &str) -> Option<BlobHash> {
    BlobHash::parse(&pinned.to_ascii_lowercase())
}
