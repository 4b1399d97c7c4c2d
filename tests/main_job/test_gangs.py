"""A job on several CPU devices: in layout-independent mode any layout ends with the same bits, also
when ranks are killed, with shared optimiser states and with experts on several devices."""

import os
import random
import signal
import time

import pytest
import tiny
from conftest import Daemon


def submit(daemon, folder, data, expert=1, shard="none", independent=True):
    table = f'[parallel]\ndata = {data}\nexpert = {expert}\nshard = "{shard}"\n'
    table += f"layout_independent = {str(independent).lower()}\n\n[model]\n"
    job = tiny.write(folder / "job.toml", replace={"[model]\n": table})
    submitted = daemon.json("submit", job)
    return submitted.get("body", submitted)["job"]


def start(folder, devices, silence_s):
    config = folder / "r1d.toml"
    state = folder / "state"
    config.write_text(
        f'[node]\nstate_dir = "{state}"\ndevices = {["cpu"] * devices}\n'.replace("'", '"')
    )
    daemon = Daemon(state, config)
    daemon.words += ["--worker-silence", str(silence_s)]
    return daemon.start()


def run(folder, data, disturb=None, silence_s=600, expert=1, **layout):
    """What the job leaves on `data` × `expert` devices; `disturb` is called with daemon and job. A
    rank waits three quarters of the time that a worker may be silent for the others."""
    daemon = start(folder, max(data * expert, 2), silence_s)
    try:
        job = submit(daemon, folder, data, expert, **layout)
        if disturb:
            disturb(daemon, job)
        status = daemon.wait_ended(job)
        assert status["state"] == "succeeded", status["error"]
        assert not disturb or status["restarts"] >= 1
        log = daemon.ctl("logs", job).stdout
        return tiny.metrics(status["directory"]), tiny.weights(status["model"]), log
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), 1)


def stage_of(daemon, job):
    """(stage, step) at work, or None."""
    status = daemon.status(job)
    stage = next((s for s in status["stages"] if s["state"] == "running"), None)
    return stage and (stage["name"], stage["step"])


def worker(daemon, rank):
    nodes = daemon.json("nodes")
    nodes = nodes.get("body", nodes) if isinstance(nodes, dict) else nodes
    return nodes[0]["devices"][rank]["worker_pid"]


def signal_rank(daemon, rank, number):
    pid = worker(daemon, rank)
    if pid:
        os.kill(pid, number)


def test_two_ranks_end_with_the_bits_of_one(tmp_path, alone):
    """Each with a share of the optimiser's states."""
    assert run(tmp_path, 2, shard="optimizer")[:2] == alone[:2]


def test_four_ranks_end_with_the_bits_of_one(tmp_path, alone):
    assert run(tmp_path, 4)[:2] == alone[:2]


@pytest.mark.parametrize("data,expert,shard", [(1, 2, "none"), (2, 2, "optimizer")])
def test_experts_on_several_devices_end_with_the_bits_of_one(tmp_path, alone, data, expert, shard):
    assert run(tmp_path, data, expert=expert, shard=shard)[:2] == alone[:2]


@pytest.mark.parametrize("data,expert,shard", [(2, 1, "optimizer"), (1, 2, "none")])
def test_ranks_that_are_killed_at_random_moments_end_with_the_same_bits(
    tmp_path, alone, data, expert, shard
):
    moments = random.Random(29)

    def disturb(daemon, job):
        # Five attempts in a row that get no further would end the job.
        for _ in range(4):
            before = daemon.status(job)["restarts"]
            daemon.wait_for(lambda: stage_of(daemon, job) and worker(daemon, 0))
            time.sleep(moments.uniform(0.2, 1.5))
            signal_rank(daemon, moments.randrange(2), signal.SIGKILL)
            # Where the job has ended in the meantime, it was disturbed often enough.
            daemon.wait_for(
                lambda: (now := daemon.status(job))["restarts"] > before or now["ended_at"]
            )

    assert run(tmp_path, data, disturb, expert=expert, shard=shard)[:2] == alone[:2]


def test_a_rank_that_is_stopped_is_named_with_the_call(tmp_path, alone):
    def disturb(daemon, job):
        daemon.wait_for(lambda: (stage_of(daemon, job) or ("", 0))[1] >= 2)
        signal_rank(daemon, 1, signal.SIGSTOP)
        daemon.wait_for(lambda: "rank 1 in `" in daemon.ctl("why", job).stdout)
        assert not daemon.status(job)["restarts"], "it is said after the fact"
        daemon.wait_for(lambda: daemon.status(job)["restarts"])

    metrics, weights, log = run(tmp_path, 2, disturb, silence_s=20)
    assert (metrics, weights) == alone[:2]
    lost = next(line for line in log.splitlines() if "is abandoned" in line)
    assert "rank 1 is waited for" in lost and "(call " in lost, lost


@pytest.mark.parametrize("data,expert", [(2, 1), (1, 4)])
def test_without_the_mode_ranks_agree_with_one_but_for_rounding(tmp_path, alone, data, expert):
    """The first updates, before rounding has grown."""
    metrics = run(tmp_path, data, expert=expert, independent=False)[0]
    for line, expected in zip(metrics[:6], alone[0][:6], strict=True):
        assert (line["stage"], line["step"]) == (expected["stage"], expected["step"])
        if "loss" in expected:
            assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)
