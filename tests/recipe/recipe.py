"""The R1 example for its tests: its generator as a module, its data made, and its job with as few steps as show that it runs."""

import importlib
import pathlib
import re
import subprocess
import sys

R1 = pathlib.Path(__file__).resolve().parents[2] / "examples" / "r1"


def prepared():
    """The generator, whose files are there."""
    if not (R1 / "data" / "train.jsonl").exists():
        subprocess.run([sys.executable, R1 / "generate.py"], check=True, stdout=subprocess.DEVNULL)
    sys.path.insert(0, str(R1))
    try:
        return importlib.import_module("generate")
    finally:
        sys.path.remove(str(R1))
