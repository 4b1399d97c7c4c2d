"""The tiny job: its text with the paths filled in, and what a finished one left behind."""

import hashlib
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARITHMETIC = ROOT / "examples" / "arithmetic"
# What depends on the clock or on how often the job was taken up again, not on the job.
WALL_CLOCK = ("timing_s/", "perf/", "step_time")


def data():
    if not (ARITHMETIC / "data" / "train.jsonl").exists():
        subprocess.run([sys.executable, ARITHMETIC / "generate.py"], check=True)
    return ARITHMETIC / "data"


def write(path, **changes):
    """The job file at `path`; `changes` are replacements of its text, old=new pairs given as a dict
    under `replace`."""
    text = (pathlib.Path(__file__).parent / "job.toml").read_text()
    text = text.replace("MODEL", str(ROOT / "configs" / "models" / "tiny-deepseek-v3.json"))
    text = text.replace("TOKENIZER", str(ARITHMETIC / "tokenizer")).replace("DATA", str(data()))
    for old, new in changes.get("replace", {}).items():
        assert old in text, f"{old!r} is not in the job file"
        text = text.replace(old, new)
    path.write_text(text)
    return path


def metrics(directory):
    """metrics.jsonl without what the clock decides."""
    lines = [
        json.loads(line)
        for line in (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {key: value for key, value in line.items() if not key.startswith(WALL_CLOCK)}
        for line in lines
    ]


def weights(directory):
    """Dtype, shape and SHA-256 of each tensor of the final model, whatever files they are in."""
    files = sorted(pathlib.Path(directory).glob("*.safetensors"))
    assert files, f"no weights in {directory}"
    tensors = {}
    for file in files:
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        for name, of in header.items():
            assert name not in tensors, f"{name} is in two files"
            begin, end = (start + offset for offset in of["data_offsets"])
            own = hashlib.sha256(data[begin:end]).hexdigest()
            tensors[name] = (of["dtype"], of["shape"], own)
    return tensors
