"""STEP-1 and STEP-2 with real processes: kill -9 of the worker, of the daemon, of both, at many
moments; the job goes on by itself and ends with the same bits as one that was left alone."""

import os
import random
import signal

import pytest
import tiny


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    from conftest import Daemon

    folder = tmp_path_factory.mktemp("undisturbed")
    daemon = Daemon(folder / "state").start()
    try:
        job = submit(daemon, folder)
        status = daemon.wait_ended(job)
        assert status["state"] == "succeeded", status["error"]
        return tiny.metrics(status["directory"]), tiny.weights(status["model"])
    finally:
        daemon.stop()


def submit(daemon, folder):
    submitted = daemon.json("submit", tiny.write(folder / "job.toml"))
    return submitted.get("body", submitted)["job"]


def activity(daemon, job):
    """(stage, step, what it does) now; None while the daemon does not answer."""
    import json

    done = daemon.ctl("status", job, "-o", "json", check=False)
    if done.returncode != 0:
        return None
    status = json.loads(done.stdout)
    status = status.get("body", status)
    stage = next((s for s in status["stages"] if s["state"] == "running"), None)
    doing = (status["activity"] or {}).get("doing")
    return (stage["name"], stage["step"], doing) if stage else (None, 0, doing)


MOMENTS = [
    ("worker", "cold-start", "any"),
    ("worker", "reasoning", "sampling"),
    ("daemon", "language", "any"),
    ("daemon", "reasoning", "sampling"),
    ("both", "reasoning", "training"),
    ("both", "reasoning", "checkpointing"),
    ("daemon", "reasoning", "evaluating"),
]


@pytest.mark.parametrize("who,stage,doing", MOMENTS)
def test_a_killed_job_ends_with_the_same_bits(tmp_path, undisturbed, who, stage, doing):
    from conftest import Daemon

    daemon = Daemon(tmp_path / "state").start()
    try:
        job = submit(daemon, tmp_path)

        def moment():
            now = activity(daemon, job)
            reached = now and now[0] == stage and now[1] >= 1 and doing in ("any", now[2])
            # A moment that is too short to be seen must not hide the rest: take the next one after
            # it.
            return reached or (now and now[0] == stage and now[1] >= 5)

        daemon.wait_for(moment)
        kill(daemon, who)
        status = daemon.wait_ended(job)
        assert status["state"] == "succeeded", status["error"]
        assert status["restarts"] >= 1
        assert tiny.metrics(status["directory"]) == undisturbed[0]
        assert tiny.weights(status["model"]) == undisturbed[1]
    finally:
        daemon.stop()


def test_many_kills_at_random_moments(tmp_path, undisturbed):
    from conftest import Daemon

    moments = random.Random(17)
    daemon = Daemon(tmp_path / "state").start()
    try:
        job = submit(daemon, tmp_path)
        for _ in range(6):
            pause(moments.uniform(0.2, 1.5))
            now = daemon.ctl("status", job, "-o", "json", check=False)
            if '"succeeded"' in now.stdout and '"running"' not in now.stdout:
                break
            kill(daemon, moments.choice(["daemon", "both"]))
        status = daemon.wait_ended(job)
        assert status["state"] == "succeeded", status["error"]
        assert tiny.metrics(status["directory"]) == undisturbed[0]
        assert tiny.weights(status["model"]) == undisturbed[1]
    finally:
        daemon.stop()


def kill(daemon, who):
    worker = daemon.worker_pid()
    if who in ("daemon", "both"):
        daemon.kill()
    if who in ("worker", "both") and worker:
        try:
            os.kill(worker, signal.SIGKILL)
        except ProcessLookupError:
            assert who == "both", "the worker was gone before it was killed"
    if who in ("daemon", "both"):
        daemon.start()


def pause(seconds):
    import time

    time.sleep(seconds)
