"""Every planted bug finds its place: `run` itself takes long, and is not part of `make test`."""

import importlib.machinery
import importlib.util
import pathlib

HERE = pathlib.Path(__file__).parent


def test_every_mutation_finds_its_place():
    loader = importlib.machinery.SourceFileLoader("mutations", str(HERE / "run"))
    run = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutations", loader))
    loader.exec_module(run)
    for name, file, pattern, _, _ in run.MUTATIONS:
        text = (HERE.parents[1] / file).read_text()
        assert len(run.pattern_of(pattern).findall(text)) == 1, name
