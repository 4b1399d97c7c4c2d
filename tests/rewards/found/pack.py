"""Finds of cargo-fuzz as lines of hexadecimal digits, one file per target, which the tests replay.

python3 found/pack.py pack answer fuzz/corpus/answer       # into found/answer.hex; those beside corpus/answer, the short ones
python3 found/pack.py unpack answer fuzz/corpus/answer     # for cargo-fuzz to go on from
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
BYTES_MAX = 100_000

way, target, directory = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
packed = HERE / f"{target}.hex"
if way == "unpack":
    directory.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate(packed.read_text().splitlines()):
        (directory / f"found-{i}").write_bytes(bytes.fromhex(line))
elif way == "pack":
    known = {path.read_bytes() for path in (HERE.parent / "corpus" / target).iterdir()}
    inputs = sorted(
        {path.read_bytes() for path in directory.iterdir()} - known,
        key=lambda text: (len(text), text),
    )
    lines, total = [], 0
    for text in inputs:
        total += len(text)
        if total > BYTES_MAX:
            break
        lines.append(text.hex())
    packed.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} of {len(inputs)} inputs")
else:
    sys.exit(__doc__)
