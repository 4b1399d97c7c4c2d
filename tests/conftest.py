"""What the Python tests share: the built binaries, a daemon of their own on a fresh state
directory."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "target" / "release"


class Daemon:
    """`r1d dev` on its own state directory, or `r1d run` with a configuration that names it, with
    `r1ctl` pointed at it."""

    def __init__(self, state, config=None):
        self.state = pathlib.Path(state)
        self.words = ["run", "--config", config] if config else ["dev", "--state-dir", self.state]
        self.process = None
        self.log = self.state / "r1d.log"

    def start(self):
        self.state.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [BIN / "r1d", *self.words], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"r1d ended: {self.log.read_text()}"
            done = self.ctl("nodes", "-o", "json", check=False)
            if done.returncode == 0:
                return self
            time.sleep(0.1)
        raise AssertionError(f"r1d does not answer: {self.log.read_text()}")

    def ctl(self, *words, check=True, timeout=600):
        done = subprocess.run(
            [BIN / "r1ctl", "--socket", self.state / "r1d.sock", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, (
            f"r1ctl {words} -> {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.tail()}"
        )
        return done

    def json(self, *words, **options):
        return json.loads(self.ctl(*words, "-o", "json", **options).stdout)

    def tail(self, lines=40):
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
            if self.log.exists()
            else ""
        )

    def status(self, job):
        status = self.json("status", job)
        return status.get("body", status)

    def wait_for(self, what, seconds=120):
        """Waits until `what()` is truthy and returns it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = what()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"nothing after {seconds} s\n{self.tail()}")

    def wait_ended(self, job, seconds=300):
        ended = ("succeeded", "failed", "cancelled")

        def look():
            done = self.ctl("status", job, "-o", "json", check=False)
            if done.returncode != 0:
                return None
            status = json.loads(done.stdout)
            status = status.get("body", status)
            return status if status["state"] in ended else None

        return self.wait_for(look, seconds)

    def worker_pid(self):
        nodes = self.json("nodes")
        nodes = nodes.get("body", nodes) if isinstance(nodes, dict) else nodes
        return nodes[0]["devices"][0]["worker_pid"]

    def kill(self):
        """As a power cut would: no time to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise AssertionError(f"r1d ignored SIGTERM for 20 s\n{self.tail()}")


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path / "state").start()
    yield daemon
    daemon.stop()


def kill_pid(pid):
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """What builds a file of CUDA kernels for the CPU, once in a file of tests."""
    # Imported here, because it loads torch.
    import emulated

    return emulated.builder(tmp_path_factory.mktemp("kernels"))
