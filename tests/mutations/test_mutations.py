"""Every planted bug finds its place in a crate that is copied: `run` itself takes long, and is not
part of `make test`."""

import importlib.machinery
import importlib.util
import pathlib

HERE = pathlib.Path(__file__).parent


def loaded():
    loader = importlib.machinery.SourceFileLoader("mutations", str(HERE / "run"))
    run = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutations", loader))
    loader.exec_module(run)
    return run


def test_every_mutation_finds_its_place():
    run = loaded()
    copied = run.crates()
    for name, file, pattern, _, _ in run.MUTATIONS:
        text = (HERE.parents[1] / file).read_text()
        assert len(run.pattern_of(pattern).findall(text)) == 1, name
        assert any(file.startswith(f"{crate}/") for crate in copied), name


def test_the_copy_has_every_crate_that_it_needs():
    copied = loaded().crates()
    for crate in copied:
        for line in (HERE.parents[1] / crate / "Cargo.toml").read_text().splitlines():
            name = line.split(".")[0]
            if line.startswith("r1d-"):
                folder = name.removeprefix("r1d-").replace("job-macros", "job/macros")
                assert f"daemon/{folder}" in copied, f"{crate} needs {name}"
