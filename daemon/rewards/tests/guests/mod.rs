//! Small hostile plugins, written as core WASM text and made components the way an author's are.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod shipped;

use r1d_proto::rollout::FinishReason;
use r1d_proto::world::SystemClock;
use r1d_rewards::{
    Compiler, Completion, Limits, LoadedReward, Options, Plugin, RewardError, RewardSpec, Rewards,
};
use std::path::{Path, PathBuf};

/// A core module with the canonical exports of world `reward`. `score` is the body of `score`: it
/// leaves the address of a `result<score, error>` on the stack; [`returns`] makes one.
pub(crate) struct Guest<'a> {
    /// Module fields: globals, functions, a start function.
    pub fields: &'a str,
    /// Body of `describe`; by default the address of the static info.
    pub describe: &'a str,
    /// Body of `configure`; by default the address of an `ok`.
    pub configure: &'a str,
    pub score: &'a str,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Guest {
            fields: "",
            describe: "(i32.const 1024)",
            configure: "(i32.const 512)",
            score: "(unreachable)",
        }
    }
}

/// Address of the result of `score` bodies: discriminant; at +4 the value or the error's
/// discriminant; parts at +8, +12; the reason's discriminant at +16, its string at +20, +24.
pub(crate) const RESULT: u32 = 4096;

/// A body that returns a score of this WAT expression of type f32, without parts and reason.
pub(crate) fn returns(value: &str) -> String {
    format!(
        "(f32.store (i32.const {}) {value}) (i32.const {RESULT})",
        RESULT + 4
    )
}

pub(crate) fn component(guest: &Guest<'_>) -> Vec<u8> {
    r1d_rewards::componentize(&core(guest, "reward")).unwrap()
}

/// The core module, with the metadata of a world embedded.
pub(crate) fn core(guest: &Guest<'_>, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(core_text(guest)).unwrap();
    embed(&mut module, world);
    module
}

fn core_text(guest: &Guest<'_>) -> String {
    let Guest {
        fields,
        describe,
        configure,
        score,
    } = guest;
    // info at 1024: name "test", version "1", min 0, max 1, no parts.
    format!(
        r#"(module
          (memory (export "memory") 2)
          (global $heap (mut i32) (i32.const 65536))
          (data (i32.const 1024) "\00\08\00\00\04\00\00\00\04\08\00\00\01\00\00\00\00\00\00\00\00\00\80\3f\00\00\00\00\00\00\00\00")
          (data (i32.const 2048) "test1")
          {fields}
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
            (global.set $heap (i32.add (local.get $at) (local.get 3)))
            (block $fits
              (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
              (drop (memory.grow (i32.add (i32.div_u (local.get 3) (i32.const 65536)) (i32.const 1)))))
            (local.get $at))
          (func (export "describe") (result i32) {describe})
          (func (export "configure") (param i32 i32) (result i32) {configure})
          (func (export "score") (param i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {score}))"#
    )
}

/// A component of the world `group-reward` that gives every completion `1 / n`, n being the size of
/// its group.
pub(crate) fn sharing() -> Vec<u8> {
    let body = r#"(local $i i32) (local $at i32)
        (i32.store (i32.const 4096) (i32.const 8192)) (i32.store (i32.const 4100) (local.get 1))
        (local.set $at (i32.const 8192))
        (block $done (loop $next
          (br_if $done (i32.ge_u (local.get $i) (local.get 1)))
          (i64.store (local.get $at) (i64.const 0))
          (f32.store (i32.add (local.get $at) (i32.const 4)) (f32.div (f32.const 1) (f32.convert_i32_u (local.get 1))))
          (local.set $at (i32.add (local.get $at) (i32.const 28)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next)))
        (i32.const 4096)"#;
    r1d_rewards::componentize(&group_core(body)).unwrap()
}

/// The core module of a group reward; `body` leaves the address of a list of results: address and
/// length.
pub(crate) fn group_core(body: &str) -> Vec<u8> {
    let text = core_text(&Guest::default());
    let one = text.find(r#"(func (export "score")"#).unwrap();
    let text = format!(
        r#"{}(func (export "score-group") (param i32 i32) (result i32) {body}))"#,
        &text[..one]
    );
    let mut module = wat::parse_str(text).unwrap();
    embed(&mut module, "group-reward");
    module
}

fn embed(module: &mut Vec<u8>, world: &str) {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve
        .push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reward-sdk/wit"))
        .unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(
        module,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
    )
    .unwrap();
}

/// All tests share a code cache: a plugin is compiled once.
pub(crate) fn rewards(threads: usize) -> Rewards {
    Rewards::open(Options {
        plugin_dirs: vec![shipped()],
        cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("reward-code")),
        threads,
        compiler: Compiler::InProcess,
        clock: SystemClock::shared(),
    })
    .unwrap()
}

/// Directory in which `make plugins` leaves the plugins of this repository.
pub(crate) fn shipped() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    let dir = target.join("release/plugins");
    assert!(
        dir.join("accuracy.wasm").is_file() && dir.join("format.wasm").is_file(),
        "no plugins in {}: run `make plugins` first",
        dir.display()
    );
    dir
}

pub(crate) fn spec(path: &Path) -> RewardSpec {
    RewardSpec {
        plugin: Plugin::Path(path.into()),
        sha256: None,
        config_json: "{}".into(),
        limits: Limits::default(),
    }
}

/// Writes the bytes to a file and loads it.
pub(crate) fn load_bytes(
    rewards: &Rewards,
    bytes: &[u8],
    change: impl FnOnce(&mut RewardSpec),
) -> Result<LoadedReward, RewardError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.wasm");
    std::fs::write(&path, bytes).unwrap();
    let mut spec = spec(&path);
    change(&mut spec);
    rewards.load(&spec)
}

pub(crate) fn load(rewards: &Rewards, guest: &Guest<'_>) -> LoadedReward {
    load_bytes(rewards, &component(guest), |_| ()).unwrap()
}

pub(crate) fn completion(text: &str, reference: Option<&str>) -> Completion {
    Completion {
        id: 0,
        prompt: "1 + 1 = ?".into(),
        text: text.into(),
        reference: reference.map(String::from),
        tokens: 1,
        finish: FinishReason::Stop,
        meta: None,
    }
}

/// Memory that this process holds.
pub(crate) fn resident_bytes() -> usize {
    let pages: usize = std::fs::read_to_string("/proc/self/statm")
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    pages * rustix::param::page_size()
}
