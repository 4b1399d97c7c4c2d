"""The R1 example for its tests: its generator as a module, its data made, and its job with as few
steps as show that it runs."""

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


def tiny(text):
    """The job's text with the same graph, rewards and models and as few and small steps as show
    that it runs. The base reads just enough to end its sentences; what the filters of rejection
    sampling would drop is kept."""
    paths = re.sub(r'(?m)^((?:path|init|tokenizer) = ")', rf"\1{R1}/", text)
    for pattern, replacement in (
        (r"(?m)^steps = \d+", "steps = 3"),
        (
            r"(?m)(?<=^name = \"v3-base\"\nkind = \"pretrain\"\ndata = \"text\"\n)steps = \d+",
            "steps = 120",
        ),
        (r"(?m)^epochs = \d+", "steps = 3"),
        (r"(?m)^batch_size = \d+", "batch_size = 16"),
        (r"(?m)^prompts_per_step = \d+", "prompts_per_step = 4"),
        (r"(?m)^num_generations = \d+", "num_generations = 4"),
        (r"(?m)^warmup_steps = \d+", "warmup_steps = 1"),
        (r"(?m)^sync_ref_steps = \d+", "sync_ref_steps = 2"),
        (r"(?m)^( *after_step) = \d+", r"\1 = 1"),
        (r"(?m)^every_steps = \d+", "every_steps = 0"),
        (r"(?m)^keep = \d+(?=\n\n  )", 'select = "best-of-n"'),
        (r"(?m)^  min_score = .*\n", ""),
        (r"(?m)^(\[\[eval\]\])", r"\1\nmax_rows = 6"),
    ):
        paths, count = re.subn(pattern, replacement, paths)
        assert count, f"nothing in the job is as {pattern!r}"
    return paths
