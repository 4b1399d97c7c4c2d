"""The multi-token prediction module: trained it is in the result, and a killed job ends with the
same bits; drafting it changes nothing else."""

import json
import os
import signal
import subprocess

import pytest
import tiny
import torch
from conftest import BIN, Daemon
from safetensors.torch import load_file

JOB = """
name = "predicting"
seed = 5
[model]
init = "{model}"
tokenizer = "{tokenizer}"
[data.text]
path = "{data}/pretrain.jsonl"
text = "text"
[[stage]]
name = "language"
kind = "pretrain"
data = "text"
steps = 40
batch_size = 4
max_length = 64
learning_rate = 3e-3
mtp_loss_weight = 0.3
device_loss_alpha = 0.01
[checkpoint]
every_steps = 3
"""


REINFORCE = """
name = "speculating"
seed = 6
batch_invariant = true
[model]
path = "{base}"
[data.train]
path = "{data}/train.jsonl"
prompt = "prompt"
reference = "reference"
template = "r1-zero"
[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = 6
prompts_per_step = 4
num_generations = 4
max_completion_length = 24
learning_rate = 1e-3
beta = 0.01
speculative_decoding = {speculative}
  [[stage.reward]]
  plugin = "accuracy"
  [[stage.reward]]
  plugin = "format"
[checkpoint]
every_steps = 2
"""


def run(folder, text, kill):
    folder.mkdir()
    job = folder / "job.toml"
    job.write_text(text)
    daemon = Daemon(folder / "state").start()
    try:
        submitted = daemon.json("submit", job)
        name = submitted.get("body", submitted)["job"]
        if kill:

            def moment():
                now = daemon.json("status", name)
                now = now.get("body", now)
                assert now["state"] in ("queued", "running"), "it ended before it could be killed"
                return daemon.worker_pid() and any(stage["step"] >= 3 for stage in now["stages"])

            daemon.wait_for(moment)
            os.kill(daemon.worker_pid(), signal.SIGKILL)
        status = daemon.wait_ended(name)
        assert status["state"] == "succeeded", status["error"]
        return status
    finally:
        daemon.stop()


def pretrain(folder, kill=False):
    config = json.loads((tiny.ROOT / "configs/models/tiny-deepseek-v3.json").read_text()) | dict(
        num_nextn_predict_layers=1
    )
    model = folder.parent / "model.json"
    model.write_text(json.dumps(config))
    return run(
        folder,
        JOB.format(model=model, tokenizer=tiny.ARITHMETIC / "tokenizer", data=tiny.data()),
        kill,
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pretrained") / "job")


def test_the_module_is_trained_exported_and_resumed_exactly(tmp_path, pretrained):
    killed = pretrain(tmp_path / "job", kill=True)
    lines = tiny.metrics(pretrained["directory"])
    assert lines[-1]["mtp_loss"] < lines[0]["mtp_loss"]
    names = load_file(os.path.join(pretrained["model"], "model.safetensors")).keys()
    assert {
        "model.layers.3.eh_proj.weight",
        "model.layers.3.shared_head.head.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias",
    } <= set(names)
    assert tiny.metrics(killed["directory"]) == lines
    assert tiny.weights(killed["model"]) == tiny.weights(pretrained["model"])


def test_drafts_change_no_completion_and_no_update(tmp_path, pretrained):
    """With drafts and a kill, or without either: the same metrics and weights, and the module as it
    was."""

    def reinforce(folder, speculative, kill):
        text = REINFORCE.format(
            base=pretrained["model"], data=tiny.data(), speculative=str(speculative).lower()
        )
        return run(folder, text, kill)

    plain, drafting = (
        reinforce(tmp_path / "plain", False, False),
        reinforce(tmp_path / "drafting", True, True),
    )
    assert tiny.metrics(drafting["directory"]) == tiny.metrics(plain["directory"])
    # What is rebuilt after the kill is not sampled again, and has no rate of its own.
    with open(os.path.join(drafting["directory"], "metrics.jsonl")) as lines:
        rates = [json.loads(line).get("perf/draft_acceptance_rate") for line in lines]
    rates = [rate for rate in rates if rate is not None]
    assert rates and all(0 < rate < 1 for rate in rates), rates
    tensors = lambda status: load_file(os.path.join(status["model"], "model.safetensors"))
    before, without, having = tensors(pretrained), tensors(plain), tensors(drafting)
    assert without and all(torch.equal(tensor, having[name]) for name, tensor in without.items())
    module = [
        name
        for name in having
        if name.startswith("model.layers.3.")
        and "shared_head.head" not in name
        and "embed_tokens" not in name
    ]
    assert (
        module
        and not set(module) & set(without)
        and all(torch.equal(having[name], before[name]) for name in module)
    )


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_generate_drafts_and_tells_how_many_were_right(temperature, pretrained):
    def generate(*more):
        words = [
            "--prompt",
            "What is",
            "--temperature",
            temperature,
            "--max-new-tokens",
            "40",
            "-n",
            "4",
            "-o",
            "json",
        ]
        done = subprocess.run(
            [BIN / "r1ctl", "model", "generate", pretrained["model"], *words, *more],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    plain, drafting = generate(), generate("--speculative")
    assert 0 < drafting.pop("draft_acceptance_rate") <= 1
    assert drafting == plain
