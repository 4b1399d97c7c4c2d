"""Decoding with and without drafts of a model's multi-token prediction module, taking turns in one
process.

    python tests/bench/speculation/run.py DIR TEXTS.jsonl [--column text] [--device cpu] [--dtype float32] [--batches 1 32] [--pairs 3]

Continues the first 32 tokens of the file's texts by 128. Prints one JSON line per batch size and
temperature: tokens per second either way, their ratio, the share of drafts that were accepted, and
whether all ids were the same. Needs `cargo build --release --workspace --example decode_server`.
"""

import argparse
import json
import pathlib
import statistics
import subprocess

import tokenizers

SERVER = pathlib.Path(__file__).resolve().parents[3] / "target/release/examples/decode_server"
PROMPT, NEW = 32, 128

parser = argparse.ArgumentParser()
parser.add_argument("directory", type=pathlib.Path)
parser.add_argument("texts", type=pathlib.Path)
parser.add_argument("--column", default="text")
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--threads", default="1")
parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
parser.add_argument("--pairs", type=int, default=3)
arguments = parser.parse_args()

tokenizer = tokenizers.Tokenizer.from_file(str(arguments.directory / "tokenizer.json"))
texts = (json.loads(line)[arguments.column] for line in arguments.texts.open())
prompts = [
    ids[:PROMPT] for ids in (tokenizer.encode(text).ids for text in texts) if len(ids) >= PROMPT
]
server = subprocess.Popen(
    [
        SERVER,
        arguments.directory,
        arguments.dtype,
        arguments.threads,
        arguments.device,
        "--prediction",
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)


def ask(batch, temperature, speculative):
    request = dict(
        prompts=prompts[:batch],
        new_tokens=NEW,
        temperature=temperature,
        invariant=False,
        speculative=speculative,
    )
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


for batch in arguments.batches:
    for temperature in arguments.temperatures:
        [ask(batch, temperature, speculative) for speculative in (False, True)]
        rows = [
            (ask(batch, temperature, False), ask(batch, temperature, True))
            for _ in range(arguments.pairs)
        ]
        ratios = [plain["seconds"] / drafting["seconds"] for plain, drafting in rows]
        per_second = lambda i: round(
            batch * NEW / statistics.median(row[i]["seconds"] for row in rows)
        )
        same = sum(a == b for a, b in zip(rows[0][0]["ids"], rows[0][1]["ids"]))
        print(
            json.dumps(
                dict(
                    bench="speculation",
                    device=arguments.device,
                    dtype=arguments.dtype,
                    batch=batch,
                    temperature=temperature,
                    plain_tok_s=per_second(0),
                    speculative_tok_s=per_second(1),
                    ratio=round(statistics.median(ratios), 2),
                    ratio_range=[round(min(ratios), 2), round(max(ratios), 2)],
                    draft_acceptance_rate=round(rows[0][1]["draft_acceptance_rate"], 3),
                    equal_completions=f"{same}/{batch}",
                )
            ),
            flush=True,
        )
