"""`code`: 1 when the answer's program passes the row's tests.

The program is the last fenced Python block of the answer, or the whole answer. It runs in a fresh
interpreter, as the module `program` (so an `if __name__ == "__main__":` of it does not run); then
the tests run in the same namespace, where `__name__` is `"__main__"`.

Tests: the row's `reference` is Python code, or a JSON list of pieces of Python code; a column
`tests` may list more. Where the reference defines `check` and calls nothing, as HumanEval's rows
do, `check(entry_point)` is added, of the column `entry_point`.

| key | default | |
|---|---|---|
| `partial` | false | the share of the tests that pass, instead of 1 or 0; without a list, tests are the statements that assert or call |

Scores: 0 for a program that does not compile, raises, exits or fails a test, with the reason; so it
is for one that takes too much memory, unless it ends in a trap. A program without end is out of
fuel: a fault. Abstains where the row has no usable tests.

Program and tests share one interpreter, so a program that was written against this file can still
find a way. What a policy comes upon by trying does not pay, and has a golden case: ending the
interpreter before the tests; giving other meanings to builtins, to modules that the tests name or
to `check`; objects that equal everything; reaching the tests or their judge through frames, the
collector, tracing, or modules. What nothing here can tell from a solution: recognising the
arguments of the tests, or reading the tests out of `globals()` while they run."""

import builtins
import gc
import json
import operator
import sys
from types import ModuleType, SimpleNamespace

import sandbox
from answer import program_of
from componentize_py_types import Err
from tests import BUILTIN, GUARD, Dishonest, Unusable, guard, tests_of
from wit_world.imports import types as wit

VERSION = "0.1.0"
_settings = {"partial": False}


def describe():
    return wit.Info("code", VERSION, 0.0, 1.0, [])


def configure(config):
    try:
        _settings.update(_read(config))
    except ValueError as error:
        raise Err(str(error)) from None


def score(item):
    try:
        return _score(item.text, item.reference, item.meta)
    except Unusable as error:
        raise Err(wit.Error_Unscorable(str(error))) from None


def WitWorld():
    """The component's exports. No class: a program could find it among the subclasses of `object`,
    and through its methods all this."""
    return SimpleNamespace(describe=describe, configure=configure, score=score)


def _read(config):
    settings = json.loads(config or "{}")
    if not isinstance(settings, dict):
        raise ValueError("the configuration is no table")
    for key, value in settings.items():
        if key not in _settings:
            raise ValueError(f"unknown key `{key}`; known: {', '.join(_settings)}")
        if not isinstance(value, bool):
            raise ValueError(f"`{key}` is {value!r}: write true or false")
    return settings


def _score(text, reference, meta):
    source = program_of(text)
    try:
        tree = compile(source or "", "<program>", "exec", _SYNTAX_TREE)
        code = compile(tree, "<program>", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        tree, code = None, _described(error)
    # The row is looked at in any case: whether it can judge does not depend on the answer.
    tests = tests_of(reference, meta, tree or compile("", "", "exec", _SYNTAX_TREE))
    if source is None:
        return _result(0.0, "no program")
    if tree is None:
        return _result(0.0, code)
    return _run(code, tests, _settings["partial"])


_SYNTAX_TREE = 0x400  # ast.PyCF_ONLY_AST


def _result(value, reason):
    # Not the world's own class: a program finds that among the subclasses of `object`, and can
    # change what a `value` of it is.
    return SimpleNamespace(value=value, parts=[], reason=reason)


def _described(error):
    """The class, and what a built-in exception says; a program's own exceptions are not asked.
    Bounded by the host."""
    kind = type(error)
    if kind is Dishonest:
        return error.args[0]
    builtin = kind.__module__ == "builtins"
    try:
        text = (
            str(error).strip()
            if builtin and all(type(arg) in (str, int, tuple) for arg in error.args)
            else ""
        )
    except BaseException:
        text = ""
    name = kind.__name__ if isinstance(kind.__name__, str) else "exception"
    return f"{name}: {text[:200]}" if text else name


def _run(program, tests, partial):
    # Everything that is needed once the program has run is a local of this function, and no frame
    # leads here.
    namespace = vars(_MODULE)
    for name in _OURS:
        sys.modules.pop(name, None)
    pieces = [(test.code, test.counted) for test in tests.pieces]
    total = max(sum(counted for _, counted in pieces), 1)
    hidden = {BUILTIN + name: vars(builtins)[name] for name in tests.pinned}
    hidden |= {
        GUARD: guard(tests.names, namespace, _CLASSES),
        "__builtins__": vars(builtins),
        "__name__": "__main__",
    }
    run, restore, described, result, everything = (
        exec,
        _restorer(tests.names, namespace),
        _described,
        _result,
        BaseException,
    )
    update = namespace.update

    try:
        run(program, namespace)
    except everything as error:
        return result(0.0, described(error))
    restore()
    update(hidden)
    passed, reason = 0, None
    for code, counted in pieces:
        try:
            run(code, namespace)
        except everything as error:
            reason = reason or described(error)
            if not partial:
                return result(0.0, reason)
        else:
            passed += counted
    return result(passed / total if partial else 1.0, reason)


def _restorer(names, namespace):
    """Undoes what a program has done to the modules that the tests name, and to the classes of
    those. Only to those: to look at an object is to write its count of references, and every page
    of the snapshot that is written must be copied."""
    same, every, size, mapped, vars_of, module, kinds, ids = (
        operator.is_,
        all,
        len,
        map,
        vars,
        ModuleType,
        type,
        id,
    )
    put, take, library, classes, by_id, found, loaded = (
        type.__setattr__,
        type.__delattr__,
        _LIBRARY,
        _CLASSES_OF,
        _BY_ID,
        namespace.get,
        sys.modules,
    )
    wanted = [name for name in {"builtins", *names} if name in library]

    def changed(names, before, values):
        return size(names) != size(before) or not every(mapped(same, names.values(), values))

    def restore():
        # As in `import math as m`.
        named = [
            by_id[ids(vars_of(value))]
            for value in [found(name) for name in names]
            if kinds(value) is module and ids(vars_of(value)) in by_id
        ]
        for path, thing, before, values in [
            entry for package in wanted for entry in library[package]
        ] + named:
            loaded[path] = thing
            if changed(vars_of(thing), before, values):
                vars_of(thing).clear()
                vars_of(thing).update(before)
        for _, cls, before, values in [
            entry for package in wanted for entry in classes.get(package, ())
        ]:
            if changed(vars_of(cls), before, values):
                for name in [*vars_of(cls)]:
                    if name not in before:
                        take(cls, name)
                for name in before:
                    if not same(vars_of(cls).get(name), before[name]):
                        put(cls, name, before[name])

    return restore


def _by_package(things):
    """Modules or classes by the package that they are of: each with its path, its names, and what
    they mean before any program."""
    packages = {}
    for path, thing in things:
        names = vars(thing)
        packages.setdefault(path.partition(".")[0], []).append(
            (path, thing, dict(names), list(names.values()))
        )
    return packages


# Packages whose classes are written in Python, and which tests compare by.
_CHECKED = ("unittest", "fractions")
missing = sandbox.close()
if missing:
    raise ImportError(f"not in this Python: {missing}")
# The program's module, and what stands in the interpreter before any program.
_MODULE = ModuleType("program")
sandbox.stdio()
sys.modules["program"] = sys.modules["__main__"] = _MODULE
_CLASSES = sandbox.classes()
# Ours are still needed to finish the component.
_OURS = [name for name in sys.modules if name.partition(".")[0] in sandbox.OURS]
_LIBRARY = _by_package(
    [
        (name, module)
        for name, module in sys.modules.items()
        if module not in (None, _MODULE) and name not in _OURS
    ]
)
_BY_ID = {id(vars(entry[1])): entry for entries in _LIBRARY.values() for entry in entries}
_CLASSES_OF = _by_package(
    [
        (cls.__module__, cls)
        for cls in _CLASSES.values()
        if cls.__module__.partition(".")[0] in _CHECKED
    ]
)
# The collector leaves alone what is here: it would write to every page.
gc.collect()
gc.freeze()
