"""The author's loop with the real binaries: from `plugin new` to a verdict, with no daemon and no
repository at hand."""

import json
import os
import subprocess

import pytest

from conftest import BIN


class Author:
    """A directory and a home of a test's own. Crates come from the machine's cargo home; compiling
    goes into one shared directory."""

    def __init__(self, directory, target):
        self.directory = directory
        self.environment = dict(
            os.environ,
            XDG_CACHE_HOME=str(directory / "cache"),
            CARGO_TARGET_DIR=str(target),
            NO_COLOR="1",
        )

    def ctl(self, *words, code=0):
        done = subprocess.run(
            [BIN / "r1ctl", "plugin", *map(str, words)],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == code, (
            f"r1ctl plugin {words} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def write(self, name, lines):
        path = self.directory / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def score(self, plugin, lines, *words):
        self.write("cases.jsonl", lines)
        return [
            json.loads(line)
            for line in self.ctl("score", plugin, "cases.jsonl", *words).stdout.splitlines()
        ]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tmp_path_factory.mktemp("target")


@pytest.fixture
def author(tmp_path, target):
    return Author(tmp_path, target)


def test_a_new_rust_plugin_tests_builds_and_scores(author):
    author.ctl("new", "brief")
    done = author.ctl("test", "brief", "-o", "json")
    assert json.loads(done.stdout) == {"plugin": "brief", "cases": 4, "differing": []}
    component = author.directory / "brief" / "brief.wasm"
    first = component.read_bytes()
    assert author.ctl("build", "brief").stdout.strip().endswith("brief.wasm")
    assert component.read_bytes() == first, "the same sources give the same bytes"
    lines = [
        {"prompt": "6 * 7?", "completion": "<answer>42</answer>"},
        {"prompt": "", "completion": "42"},
    ]
    verdicts = author.score("./brief/brief.wasm", lines, "--config", '{"words_max": 3}')
    assert [(v["verdict"], v["score"]) for v in verdicts] == [("score", 1.0), ("abstain", None)]
    described = json.loads(author.ctl("inspect", "./brief/brief.wasm", "-o", "json").stdout)
    assert (described["about"]["world"], described["about"]["golden_cases"]) == ("reward", 4)
    assert described["bytes"] < 200_000
    assert "passed" in author.ctl("check", "./brief/brief.wasm").stdout
    assert "completions/s per core" in author.ctl("bench", "./brief/brief.wasm").stdout
    # A golden case that the code does not keep: told natively, before anything is built.
    golden = author.directory / "brief" / "golden.jsonl"
    golden.write_text(
        golden.read_text().replace('"expect": {"score": 1}', '"expect": {"score": 0}')
    )
    assert "cargo test" in author.ctl("test", "brief", code=1).stderr


def test_nothing_is_written_over_and_names_are_names(author):
    author.ctl("new", "brief")
    assert "brief" in author.ctl("new", "brief", code=1).stderr
    assert "no name of a plugin" in author.ctl("new", "../up", code=1).stderr


GROUP = """
use reward_sdk::{Completion, reward};

/// The share of the group that is longer.
#[reward]
fn rank(group: &[Completion]) -> Vec<f32> {
    let n = group.len() as f32;
    group.iter().map(|one| group.iter().filter(|other| other.tokens > one.tokens).count() as f32 / n).collect()
}
"""

JUDGED = """
use reward_sdk::{Ask, Completion, Error, Info, JudgedReward, Result, Score};

#[derive(serde::Deserialize)]
struct Polite {}

impl JudgedReward for Polite {
    const INFO: Info = Info::new("polite", "1.0.0");

    fn plan(&self, completion: &Completion) -> Vec<Ask> {
        vec![Ask { model: "judge".into(), prompt: format!("Polite? {}", completion.text), max_tokens: 1 }]
    }

    fn conclude(&self, _: &Completion, answers: &[std::result::Result<String, String>]) -> Result<Score> {
        match answers {
            [Ok(answer)] => Ok(Score::pass(answer == "yes")),
            [Err(why)] => Err(Error::Unscorable(why.clone())),
            _ => Err(Error::Internal("one answer was asked for".into())),
        }
    }
}

reward_sdk::export!(judged Polite);
"""


def new(author, name, source, golden):
    author.ctl("new", name)
    (author.directory / name / "src" / "lib.rs").write_text(source)
    (author.directory / name / "golden.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in golden)
    )
    return author.ctl("build", name).stdout.strip()


def test_a_group_is_judged_whole_and_told_line_by_line(author):
    golden = [
        {"case": "long", "group": 1, "completion": "", "tokens": 9, "expect": {"score": 0}},
        {"case": "short", "group": 1, "completion": "", "tokens": 1, "expect": {"score": 0.5}},
    ]
    component = new(author, "rank", GROUP, golden)
    assert json.loads(author.ctl("test", f"./{component}", "-o", "json").stdout)["differing"] == []
    lines = [
        {"prompt": "", "completion": "", "tokens": tokens, "group": group}
        for tokens, group in [(3, "a"), (8, "b"), (1, "a"), (2, "a")]
    ]
    lines.append({"prompt": "", "completion": "", "tokens": 0})
    verdicts = author.score(f"./{component}", lines)
    assert [round(v["score"], 3) for v in verdicts] == [0, 0, 0.667, 0.333, 0]
    # The second of a group alone is a group of its own: line numbers are groups.
    for line in lines:
        line.pop("group", None)
    assert [v["score"] for v in author.score(f"./{component}", lines)] == [0] * 5


def test_a_judged_reward_asks_and_concludes_from_recorded_answers(author):
    golden = [{"case": "yes", "completion": "Thanks.", "answers": ["yes"], "expect": {"score": 1}}]
    component = new(author, "polite", JUDGED, golden)
    assert json.loads(author.ctl("test", f"./{component}", "-o", "json").stdout)["differing"] == []
    lines = [
        {"prompt": "", "completion": "Thanks."},
        {"prompt": "", "completion": "Go."},
        {"prompt": "", "completion": "Hm."},
    ]
    verdicts = author.score(f"./{component}", lines, "--asks", "asks.jsonl")
    assert [v["verdict"] for v in verdicts] == ["abstain"] * 3
    assert "no answer to 1 of 1 questions to model `judge`" in verdicts[0]["reason"]
    asks = [json.loads(line) for line in (author.directory / "asks.jsonl").read_text().splitlines()]
    assert [ask["prompt"] for ask in asks] == ["Polite? Go.", "Polite? Hm.", "Polite? Thanks."]
    answers = [dict(asks[2], answer="yes"), dict(asks[0], answer="no"), dict(asks[1], error="busy")]
    author.write("answers.jsonl", answers)
    verdicts = author.score(f"./{component}", lines, "--answers", "answers.jsonl")
    assert [(v["verdict"], v["score"], v["reason"]) for v in verdicts] == [
        ("score", 1.0, None),
        ("score", 0.0, None),
        ("abstain", None, "busy"),
    ]


def test_a_core_module_is_refused_and_build_makes_it_a_plugin(author):
    author.ctl("new", "brief")
    author.ctl("build", "brief")
    cores = list((author.directory.parent).glob("**/wasm32-unknown-unknown/plugin/brief.wasm"))
    core = next(iter(cores), None) or next(
        iter(
            __import__("pathlib")
            .Path(author.environment["CARGO_TARGET_DIR"])
            .glob("wasm32-unknown-unknown/plugin/brief.wasm")
        )
    )
    case = author.write("cases.jsonl", [{"prompt": "x", "completion": ""}])
    refused = author.ctl("score", core, case, code=1)
    assert "plugin build" in refused.stderr and refused.stdout == ""
    author.ctl("build", core, "--out", "made.wasm")
    assert len(author.ctl("score", "./made.wasm", case).stdout.splitlines()) == 1
