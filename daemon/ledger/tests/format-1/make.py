"""Makes `ledger.redb.gz` beside this file, the ledger of a state directory of the last release that
wrote format 1, and `expected.json.gz`, what that release says of its jobs.

Usage: make.py FOLDER, where FOLDER has that release's r1d, r1ctl, r1d-worker and plugins/: the
build of ec1b53b."""

import gzip
import json
import pathlib
import shutil
import signal
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[3]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "main_job"))

import conftest  # noqa: E402
import tiny  # noqa: E402


def write(folder, name, steps, extra=""):
    """The tiny job with its inputs in `folder`, so that its text has no other paths."""
    path = tiny.write(folder / f"{name}.toml", replace={'name = "tiny"': f'name = "{name}"'})
    text = path.read_text()
    for source, copy in (
        (ROOT / "configs" / "models" / "tiny-deepseek-v3.json", folder / "model.json"),
        (tiny.ARITHMETIC / "tokenizer", folder / "tokenizer"),
        (tiny.data(), folder / "data"),
    ):
        if not copy.exists():
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        text = text.replace(str(source), str(copy))
    path.write_text(text.replace("steps = 8", f"steps = {steps}") + extra)
    return path


def main(binaries):
    conftest.BIN = binaries
    folder = pathlib.Path(tempfile.mkdtemp(prefix="format-1-", dir="/tmp"))
    daemon = conftest.Daemon(folder / "state").start()
    try:
        make(binaries, folder, daemon)
    finally:
        daemon.kill()
        shutil.rmtree(folder)


def make(binaries, folder, daemon):
    def submit(path, *words):
        answer = daemon.json("submit", path, *words)
        return answer.get("body", answer)["job"]

    def at(job, stage, step):
        def reached():
            found = [s for s in daemon.status(job)["stages"] if s["name"] == stage]
            return found and found[0]["step"] >= step

        daemon.wait_for(reached)

    whole = submit(write(folder, "whole", 40))
    at(whole, "reasoning", 1)
    changed = folder / "accuracy.wasm"
    # A custom section at the end: another hash, the same reward.
    code = (binaries / "plugins" / "accuracy.wasm").read_bytes()
    changed.write_bytes(code + bytes([0, 5, 4]) + b"note")
    daemon.ctl("plugin", "reload", whole, "accuracy", changed)
    assert daemon.wait_ended(whole)["state"] == "succeeded"
    reusing = submit(write(folder, "reusing", 4))
    assert daemon.wait_ended(reusing)["state"] == "succeeded"
    cancelled = submit(write(folder, "cancelled", 5000, "\n# other\n"))
    at(cancelled, "reasoning", 2)
    daemon.ctl("cancel", cancelled)
    daemon.wait_ended(cancelled)
    running = submit(write(folder, "running", 6000), "--priority", "3")
    at(running, "reasoning", 10)
    daemon.kill()
    daemon.start()
    at(running, "reasoning", 20)
    queued = submit(write(folder, "queued", 7), "--priority", "-2")
    daemon.kill()
    daemon.start()
    jobs = [whole, reusing, cancelled, running, queued]
    expected = {}
    for job in jobs:
        metrics = folder / "state" / "jobs" / job / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        expected[job] = {"status": daemon.status(job), "metrics": [json.loads(x) for x in lines]}
    at(running, "reasoning", expected[running]["status"]["stages"][-1]["step"] + 8)
    # The file as a daemon leaves it that is killed at this moment.
    daemon.process.send_signal(signal.SIGSTOP)
    ledger = (folder / "state" / "ledger.redb").read_bytes()
    daemon.process.send_signal(signal.SIGCONT)
    (HERE / "ledger.redb.gz").write_bytes(gzip.compress(ledger, 9, mtime=0))
    text = json.dumps(expected, indent=1).encode()
    (HERE / "expected.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))


main(pathlib.Path(sys.argv[1]).resolve())
