"""FP8 products against bfloat16: the same job with `fp8 = false` and `true`, one after the other on
a GPU, and once more in bfloat16 with micro-batches cut otherwise: what rounding alone does to
training. For an H100 or H200.

    R1D_TEST_DATA=DIRECTORY sh examples/gsm8k/prepare
    python tests/bench/fp8/run.py [--model FILE] [--steps 300]

Prints a JSON line for each run (loss over the last quarter of the steps, seconds a step), one with
the relative differences of the losses, and one with the loss of the first run's weights on the
texts in float32, bfloat16 and FP8. FILE is another config.json for the same tokenizer; of one
without a prediction module none is trained."""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BIN = HERE.parents[2] / "target/release"

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=pathlib.Path, default=HERE / "model.json")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--keep", type=pathlib.Path, help="where the trained models go")
arguments = parser.parse_args()


def job(fp8, tokens):
    text = (
        (HERE / "job.toml")
        .read_text()
        .replace('"../../..', f'"{HERE.parents[2]}')
        .replace('"model.json"', f'"{arguments.model.resolve()}"')
    )
    text = text.replace("steps = 300", f"steps = {arguments.steps}").replace(
        "seed = 1", f"seed = {arguments.seed}"
    )
    text = text.replace("warmup_steps = 50", f"warmup_steps = {min(50, arguments.steps // 6)}")
    text = text.replace('dtype = "bfloat16"', f'dtype = "bfloat16"\nfp8 = {str(fp8).lower()}')
    text = text.replace("max_tokens_per_device = 16384", f"max_tokens_per_device = {tokens}")
    if "num_nextn_predict_layers" not in json.loads(arguments.model.read_text()):
        text = re.sub(r"mtp_loss_weight.*\n", "", text)
    return text


with tempfile.TemporaryDirectory() as scratch:
    state = arguments.keep or pathlib.Path(scratch)
    state.mkdir(parents=True, exist_ok=True)
    daemon = subprocess.Popen(
        [BIN / "r1d", "dev", "--state-dir", state], stderr=(state / "r1d.log").open("w")
    )
    r1ctl = [BIN / "r1ctl", "--socket", state / "r1d.sock"]
    try:
        while not (state / "r1d.sock").exists():
            time.sleep(0.1)
        losses, models = [], []
        for fp8, tokens in ((False, 16384), (True, 16384), (False, 8192)):
            (state / "job.toml").write_text(job(fp8, tokens))
            done = subprocess.run(
                [*r1ctl, "submit", state / "job.toml", "--wait", "-o", "json"],
                stdout=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                raise SystemExit(f"the job with fp8 = {fp8} failed: {done.stdout[-2000:]}")
            newest = max(state.glob("**/metrics.jsonl"), key=lambda file: file.stat().st_mtime)
            rows = [json.loads(line) for line in newest.read_text().splitlines()]
            last = rows[-arguments.steps // 4 :]
            losses.append(statistics.mean(row["loss"] for row in last))
            seconds = statistics.median(row["timing_s/training"] for row in last)
            models.append(newest.parent / "final")
            print(
                json.dumps(
                    dict(
                        bench="fp8",
                        model=arguments.model.name,
                        seed=arguments.seed,
                        fp8=fp8,
                        max_tokens_per_device=tokens,
                        steps=len(rows),
                        loss=round(losses[-1], 5),
                        seconds_a_step=round(seconds, 4),
                        directory=str(newest.parent),
                        mtp_loss=last[-1].get("mtp_loss"),
                    )
                ),
                flush=True,
            )
        print(
            json.dumps(
                dict(
                    bench="fp8",
                    relative_loss_difference=round(losses[1] / losses[0] - 1, 5),
                    of_rounding_alone=round(losses[2] / losses[0] - 1, 5),
                )
            ),
            flush=True,
        )
        texts = HERE.parents[2] / "examples/gsm8k/data/text.jsonl"
        subprocess.run([BIN / "examples/loss", models[0], texts, "cuda:0"], check=True)
    finally:
        daemon.terminate()
        daemon.wait()
