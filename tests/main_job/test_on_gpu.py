"""On a GPU, in bfloat16: a job that was killed ends with the bits of one that was left alone.
Skipped where there is none.

python tests/main_job/test_on_gpu.py        # the same without pytest; says what it compared
"""

import os
import pathlib
import signal
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import tiny  # noqa: E402
from conftest import Daemon  # noqa: E402

CHANGES = {"batch_invariant = true\n": "", 'dtype = "float32"\n': 'dtype = "bfloat16"\n'}


def run(folder, kill):
    folder.mkdir(parents=True)
    job = tiny.write(folder / "job.toml", replace=CHANGES)
    daemon = Daemon(folder / "state").start()
    try:
        submitted = daemon.json("submit", job)
        name = submitted.get("body", submitted)["job"]
        if kill:

            def moment():
                stage = next(
                    (s for s in daemon.status(name)["stages"] if s["state"] == "running"), None
                )
                return stage and stage["name"] == "reasoning" and stage["step"] >= 4

            daemon.wait_for(moment)
            os.kill(daemon.worker_pid(), signal.SIGKILL)
        status = daemon.wait_ended(name)
        assert status["state"] == "succeeded", status["error"]
        return tiny.metrics(status["directory"]), tiny.weights(status["model"]), status
    finally:
        daemon.stop()


def compare(folder):
    (metrics, weights, _), (again, same, _), (resumed, ended, status) = (
        run(folder / name, name == "killed") for name in ("once", "twice", "killed")
    )
    assert status["restarts"] >= 1
    first = next((i for i, pair in enumerate(zip(metrics, again)) if pair[0] != pair[1]), None)
    assert metrics == again and weights == same, (
        f"two runs differ from step {first} on: {metrics[first] if first is not None else ''} {again[first] if first is not None else ''}"
    )
    assert metrics == resumed and weights == ended
    return metrics


def test_a_killed_job_ends_with_the_same_bits_on_a_gpu(tmp_path):
    import pytest

    if not os.path.exists("/dev/nvidiactl"):
        pytest.skip("no NVIDIA device")
    compare(tmp_path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        steps = compare(pathlib.Path(folder))
    print(f"{len(steps)} steps, the same metrics and weights in two whole runs and a killed one")
