"""`r1d run --config`, as systemd starts it."""

import re
import signal

import tiny
from conftest import Daemon


def test_a_service_runs_a_job_that_only_trains(tmp_path):
    state = tmp_path / "state"
    config = tmp_path / "r1d.toml"
    config.write_text(f'[node]\nstate_dir = "{state}"\ndevices = ["cpu"]\n')
    job = tiny.write(tmp_path / "job.toml")
    # Neither a stage that samples nor an evaluation.
    text = re.sub(
        r'\[\[stage\]\]\nname = "reasoning".*?(?=\[checkpoint\])',
        "",
        job.read_text(),
        flags=re.DOTALL,
    )
    job.write_text(text[: text.index("[[eval]]")])
    daemon = Daemon(state, config).start()
    try:
        submitted = daemon.json("submit", job)
        status = daemon.wait_ended(submitted.get("body", submitted)["job"])
        assert status["state"] == "succeeded", status["error"]
        assert [(stage["name"], stage["step"]) for stage in status["stages"]] == [
            ("language", 6),
            ("cold-start", 6),
        ]
        assert tiny.weights(status["model"])
        assert daemon.process.poll() is None, "a service goes on when its jobs are done"
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(30) == 0
    finally:
        daemon.stop()
