"""A stage that trains the multi-token prediction module: it is in the result, and a killed job ends with the same bits."""

import json
import os
import signal

import tiny
from conftest import Daemon
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


def run(folder, kill):
    config = json.loads((tiny.ROOT / "configs/models/tiny-deepseek-v3.json").read_text()) | dict(num_nextn_predict_layers=1)
    (folder / "model.json").write_text(json.dumps(config))
    job = folder / "job.toml"
    job.write_text(JOB.format(model=folder / "model.json", tokenizer=tiny.ARITHMETIC / "tokenizer", data=tiny.data()))
    daemon = Daemon(folder / "state").start()
    try:
        submitted = daemon.json("submit", job)
        name = submitted.get("body", submitted)["job"]
        if kill:

            def moment():
                now = daemon.json("status", name)
                now = now.get("body", now)
                assert now["state"] in ("queued", "running"), "it ended before it could be killed"
                return daemon.worker_pid() and any(stage["step"] >= 4 for stage in now["stages"])

            daemon.wait_for(moment)
            os.kill(daemon.worker_pid(), signal.SIGKILL)
        status = daemon.wait_ended(name)
        assert status["state"] == "succeeded", status["error"]
        return status
    finally:
        daemon.stop()


def test_the_module_is_trained_exported_and_resumed_exactly(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    status, other = run(whole, False), run(killed, True)
    lines = tiny.metrics(status["directory"])
    assert lines[-1]["mtp_loss"] < lines[0]["mtp_loss"]
    names = load_file(os.path.join(status["model"], "model.safetensors")).keys()
    assert {"model.layers.3.eh_proj.weight", "model.layers.3.shared_head.head.weight", "model.layers.3.mlp.gate.e_score_correction_bias"} <= set(names)
    assert tiny.metrics(other["directory"]) == lines
    assert tiny.weights(other["model"]) == tiny.weights(status["model"])
