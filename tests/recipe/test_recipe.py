"""`examples/r1/job.toml` from the base to the distilled students with real processes, with as few
steps as show that it runs."""

import json
import pathlib

import pytest
import tomllib
from conftest import Daemon
from recipe import R1, prepared, tiny

JOB = (R1 / "job.toml").read_text()
STAGES = [(stage["name"], stage["kind"]) for stage in tomllib.loads(JOB)["stage"]]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    prepared()
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "job.toml").write_text(tiny(JOB))
    daemon = Daemon(folder / "state").start()
    try:
        submitted = daemon.json("submit", folder / "job.toml")
        status = daemon.wait_ended(submitted.get("body", submitted)["job"], 600)
        assert status["state"] == "succeeded", status["error"]
        yield status
    finally:
        daemon.stop()


def test_every_stage_runs_in_its_turn(done):
    assert [stage["name"] for stage in done["stages"]] == [name for name, _ in STAGES]
    assert all(stage["state"] == "succeeded" for stage in done["stages"])
    lines = [
        json.loads(line)
        for line in (pathlib.Path(done["directory"]) / "metrics.jsonl").read_text().splitlines()
    ]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == [name for name, _ in STAGES]


def test_rejection_sampling_leaves_what_later_stages_read(done):
    for name, kind in STAGES:
        if kind == "rejection-sampling":
            made = json.loads(
                (pathlib.Path(done["directory"]) / "datasets" / f"{name}.json").read_text()
            )
            assert made["rows"] > 0


def test_every_stage_that_trains_a_policy_is_evaluated_on_every_test(done):
    policies = [name for name, kind in STAGES if kind not in ("rejection-sampling", "reward-model")]
    for data in ("test-en", "test-zh"):
        evaluated = [
            result["stage"]
            for result in done["evals"]
            if result["data"] == data and result["stage"]
        ]
        assert [name for name in dict.fromkeys(evaluated) if name in policies] == policies


def test_preferences_count_in_the_last_part_alone(done):
    lines = [
        json.loads(line)
        for line in (pathlib.Path(done["directory"]) / "metrics.jsonl").read_text().splitlines()
    ]
    judged = [
        [
            "rewards/helpfulness/mean" in line or "rewards/harmlessness/mean" in line
            for line in lines
            if line["stage"] == "r1"
        ]
    ]
    assert judged == [[False, True, True]]


CLASSES = {
    "v3-base": "DeepseekV3ForCausalLM",
    "r1": "DeepseekV3ForCausalLM",
    "helpfulness": "DeepseekV3ForSequenceClassification",
    "harmlessness": "DeepseekV3ForSequenceClassification",
    "r1-distill-qwen2": "Qwen2ForCausalLM",
    "r1-distill-llama": "LlamaForCausalLM",
}


@pytest.mark.parametrize("stage", CLASSES)
def test_transformers_loads_what_a_stage_leaves(done, stage):
    import transformers

    (step,) = (pathlib.Path(done["directory"]) / "checkpoints" / stage).glob("step-*")
    auto = (
        transformers.AutoModelForSequenceClassification
        if stage.endswith("ness")
        else transformers.AutoModelForCausalLM
    )
    model, loading = auto.from_pretrained(step, output_loading_info=True)
    assert type(model).__name__ == CLASSES[stage]
    assert not loading["missing_keys"]
    if not stage.endswith("ness"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(step)
        ids = tokenizer("What is 7+5?", return_tensors="pt").input_ids
        assert model.generate(ids, max_new_tokens=4).shape[1] > ids.shape[1]


def test_a_reward_model_scores_in_transformers_as_it_did_here(done):
    """What the job recorded of held-out pairs is what transformers makes of the same texts with the
    weights that the stage left."""
    import torch
    import transformers

    (step,) = (pathlib.Path(done["directory"]) / "checkpoints" / "helpfulness").glob("step-*")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(step).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(step)
    template = (R1.parent.parent / "daemon/data/templates/r1-zero.jinja").read_text()
    pairs = [json.loads(line) for line in (R1 / "data/pairs-test.jsonl").read_text().splitlines()]

    def score(row, key):
        text = template.replace("{{ prompt }}", row["prompt"]) + row[key]
        ids = tokenizer(text).input_ids + [tokenizer.eos_token_id]
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, 0].item()

    scores = [(score(row, "chosen"), score(row, "rejected")) for row in pairs]
    (recorded,) = [result["metrics"] for result in done["evals"] if result["data"] == "pairs-test"]
    assert recorded["rows"] == len(pairs)
    assert recorded["accuracy"] == sum(chosen > rejected for chosen, rejected in scores) / len(
        pairs
    )
    assert (
        abs(recorded["margin"] - sum(chosen - rejected for chosen, rejected in scores) / len(pairs))
        < 1e-4
    )
    assert abs(recorded["mean_reward"] - sum(map(sum, scores)) / len(pairs) / 2) < 1e-4
