"""Stages that train adapters: the weights they adapt stay as they are, a killed job ends with the
same bits, peft reads what is left."""

import os
import signal

import peft
import pytest
import tiny
import torch
import transformers
from conftest import Daemon
from safetensors.torch import load_file

LORA = 'lora_r = 4\nlora_alpha = 8.0\nlora_target_modules = ["q_b_proj", "kv_b_proj", "o_proj"]\n'


def submit(daemon, folder):
    path = tiny.write(folder / "job.toml")
    text = path.read_text()
    for kind in ("sft", "grpo"):
        text = text.replace(f'kind = "{kind}"\n', f'kind = "{kind}"\n{LORA}')
    path.write_text(text)
    submitted = daemon.json("submit", path)
    return submitted.get("body", submitted)["job"]


def run(folder, kill_in=None):
    daemon = Daemon(folder / "state").start()
    try:
        job = submit(daemon, folder)
        if kill_in:

            def moment():
                now = daemon.json("status", job)
                now = now.get("body", now)
                stage = next((s for s in now["stages"] if s["state"] == "running"), None)
                return stage and stage["name"] == kill_in and stage["step"] >= 4

            daemon.wait_for(moment)
            os.kill(daemon.worker_pid(), signal.SIGKILL)
        status = daemon.wait_ended(job)
        assert status["state"] == "succeeded", status["error"]
        assert not kill_in or status["restarts"] >= 1
        return status
    finally:
        daemon.stop()


def newest(status, stage):
    """The stage's last checkpoint."""
    folder = os.path.join(status["directory"], "checkpoints", stage)
    return os.path.join(
        folder, max((int(name.split("-")[1]), name) for name in os.listdir(folder))[1]
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("stage", ["cold-start", "reasoning"])
def test_a_killed_job_ends_with_the_same_bits(stage, tmp_path, undisturbed):
    status = run(tmp_path, kill_in=stage)
    assert tiny.metrics(status["directory"]) == tiny.metrics(undisturbed["directory"])
    assert tiny.weights(status["model"]) == tiny.weights(undisturbed["model"])


def test_sampler_and_trainer_agree_and_the_adapter_alone_moves(undisturbed):
    lines = tiny.metrics(undisturbed["directory"])
    reasoning = [line for line in lines if line.get("stage") == "reasoning"]
    assert reasoning and all(
        line["sampling/sampling_logp_difference/max"] == 0 for line in reasoning
    )
    before, after = (
        load_file(os.path.join(newest(undisturbed, stage), "model.safetensors"))
        for stage in ("language", "reasoning")
    )
    targets = ("q_b_proj", "kv_b_proj", "o_proj")
    for name, tensor in before.items():
        adapted = any(f".{target}." in name for target in targets) and ".experts." not in name
        assert torch.equal(tensor, after[name]) != adapted, name


def test_peft_computes_the_merged_model(undisturbed):
    """A stage's adapter on the weights that it found, and its checkpoint, which has it merged."""
    base, final = newest(undisturbed, "language"), newest(undisturbed, "cold-start")
    load = lambda path: transformers.AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    adapted, merged = (
        peft.PeftModel.from_pretrained(load(base), os.path.join(final, "adapter")),
        load(final),
    )
    ids = torch.randint(
        0, merged.config.vocab_size, (2, 20), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        expected = merged(ids).logits
        assert (adapted(ids).logits - expected).abs().max() <= 2e-5 * max(1.0, expected.std())
        assert (load(base)(ids).logits - expected).abs().max() > 1e-4
    assert load_file(os.path.join(undisturbed["model"], "adapter", "adapter_model.safetensors")), (
        "the last stage's adapter travels with the result"
    )
