//! The keys of `r1d.toml`.

use super::Default::{Unset, Value};
use super::Kind::{AutoOrTexts, Bool, Integer, Later, OneOf, Path, Text, Texts};
use super::{Kind, Table, key};

/// All keys of `r1d.toml`.
pub static DAEMON: &Table = &Table {
    path: "",
    meaning: "The daemon's configuration.",
    groups: &[&[
        key("node", Kind::Table(NODE), Value("{}"), "", "This machine."),
        key(
            "listen",
            Kind::Table(LISTEN),
            Value("{}"),
            "",
            "Where the daemon is reached.",
        ),
        key(
            "torch",
            Kind::Table(TORCH),
            Value("{}"),
            "",
            "What workers compute with.",
        ),
        key(
            "rewards",
            Kind::Table(REWARDS),
            Value("{}"),
            "",
            "The reward plugins' host.",
        ),
        key(
            "cluster",
            Later("a daemon runs a single machine; leave the table out"),
            Unset("a single machine"),
            "",
            "Other nodes.",
        ),
        key(
            "log",
            Kind::Table(LOG),
            Value("{}"),
            "",
            "The daemon's log, on standard error.",
        ),
    ]],
};

static NODE: &Table = &Table {
    path: "node",
    meaning: "This machine.",
    groups: &[&[
        key(
            "name",
            Kind::Name,
            Unset("the host's name"),
            "",
            "What `r1ctl nodes` calls it.",
        ),
        key(
            "state_dir",
            Path,
            Unset("--state-dir, R1D_STATE_DIR, else the user's state directory"),
            "",
            "Where jobs, the ledger and everything that a job leaves are kept. One daemon per \
             state directory.",
        ),
        key(
            "devices",
            AutoOrTexts,
            Value("\"auto\""),
            "",
            "Devices to run jobs on, one worker each: \"auto\" takes every CUDA device, or the \
             CPU where there is none; else a list of \"cpu\" and \"cuda:N\".",
        ),
    ]],
};

static LISTEN: &Table = &Table {
    path: "listen",
    meaning: "Where the daemon is reached.",
    groups: &[&[
        key(
            "socket",
            Path,
            Unset("r1d.sock in the state directory"),
            "",
            "Unix socket of r1ctl; its owner and group decide who may.",
        ),
        key(
            "quic",
            Later("only r1ctl on this machine reaches the daemon, through `socket`"),
            Unset("no network"),
            "",
            "Other nodes and remote r1ctl.",
        ),
        key(
            "http",
            Later("`r1ctl status -o json` has the same numbers"),
            Unset("no HTTP"),
            "",
            "Metrics and dashboard.",
        ),
    ]],
};

static TORCH: &Table = &Table {
    path: "torch",
    meaning: "What workers compute with.",
    groups: &[&[
        key(
            "lib",
            Path,
            Unset("where r1d-worker was linked to find it"),
            "",
            "The directory of libtorch 2.11.0's libraries.",
        ),
        key(
            "threads",
            Integer { min: 0, max: 4096 },
            Value("0"),
            "threads",
            "Of a CPU worker; 0: all cores.",
        ),
        key(
            "mkl_intel_kernels",
            Bool,
            Value("true"),
            "",
            "Let MKL use its Intel kernels on other processors too: float32 products somewhat \
             faster on AMD, and rounded as on Intel's. A switch that Intel does not document.",
        ),
    ]],
};

static REWARDS: &Table = &Table {
    path: "rewards",
    meaning: "The reward plugins' host.",
    groups: &[&[
        key(
            "plugin_dirs",
            Texts,
            Value("[\"/usr/lib/r1d/plugins\", \"/etc/r1d/plugins\"]"),
            "",
            "Looked through in order for NAME.wasm, after the directory `plugins` beside the r1d \
             executable.",
        ),
        key(
            "threads",
            Integer { min: 0, max: 4096 },
            Value("0"),
            "threads",
            "That score completions; 0: half of the cores, at least one.",
        ),
        key(
            "trusted_keys",
            Texts,
            Value("[]"),
            "",
            "Ed25519 public keys, 64 hex digits each, as `r1ctl plugin keygen` prints them. When \
             there is one, a plugin must bear a signature of one of them.",
        ),
    ]],
};

static LOG: &Table = &Table {
    path: "log",
    meaning: "The daemon's log, on standard error.",
    groups: &[&[
        key(
            "level",
            Text,
            Value("\"info\""),
            "",
            "error, warn, info, debug or trace; or directives per module, as in \
             r1d=debug,wasmtime=warn.",
        ),
        key(
            "format",
            OneOf(&["text", "json"]),
            Value("\"text\""),
            "",
            "Lines for people, or one JSON object per line.",
        ),
    ]],
};
