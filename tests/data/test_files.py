"""The files that r1d reads and writes, as Python's own libraries see them."""

import pathlib
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The Rust tests hold these bytes to what the release writes.
ROLLOUTS = ROOT / "daemon/store/tests/golden/rollouts.parquet"


def test_rollouts_are_typed_columns():
    table = pq.read_table(ROLLOUTS)
    types = {field.name: field.type for field in table.schema}
    assert (
        types["prompt_ids"].value_type == pa.uint32() and types["experts"].value_type == pa.uint16()
    )
    assert (
        types["behaviour_logprobs"].value_type == pa.float32()
        and types["kept_ids"].value_type == pa.uint32()
    )
    assert (types["reward"], types["step"], types["completion"]) == (
        pa.float32(),
        pa.uint64(),
        pa.string(),
    )
    rows = table.to_pylist()
    assert [row["verdicts"][0]["outcome"] for row in rows] == [
        "score",
        "abstain",
        "trap",
        "out_of_fuel",
        "out_of_time",
    ]
    assert (
        rows[0]["verdicts"][0]["parts"] == [0.25, 0.75]
        and rows[0]["verdicts"][0]["fuel"] == 12_345_678_901
    )
    assert [row["reward"] for row in rows] == [1.5, None, -0.5, 0.5, None]
    assert rows[3]["completion_ids"] == [0, 1, 2] and len(rows[3]["behaviour_logprobs"]) == 3
    assert rows[3]["kept_ids"] == [
        1,
        0,
        1,
        1,
        1,
        1,
        1,
        2,
        1,
    ]  # of each token one run: so many ids dropped, then one kept
    assert rows[2]["prompt"] == "What is 2? 你好" and rows[0]["reference"] is None


def test_the_tokenizer_of_the_arithmetic_example_loads_in_transformers(tmp_path):
    example = tmp_path / "arithmetic"
    example.mkdir()
    shutil.copy(ROOT / "examples/arithmetic/generate.py", example)
    subprocess.run([sys.executable, example / "generate.py"], check=True)
    tokenizer = AutoTokenizer.from_pretrained(example / "tokenizer")
    template = (ROOT / "daemon/data/templates/r1-zero.jinja").read_text()
    text = (
        template.replace("{{ prompt }}", "What is 12+3?")
        + "<think>12+3=15</think><answer>15</answer>"
    )
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and len(ids) <= 100
    assert tokenizer.convert_tokens_to_ids(tokenizer.eos_token) == tokenizer.eos_token_id
