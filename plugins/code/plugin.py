"""`code`: 1 when the answer's program passes the row's tests.

The program is the last fenced Python block of the answer, or the whole answer. It runs in a fresh interpreter, as the module `program` (so an
`if __name__ == "__main__":` of it does not run); then the tests run in the same namespace, where `__name__` is `"__main__"`.

Tests: the row's `reference` is Python code, or a JSON list of pieces of Python code; a column `tests` may list more. Where the reference defines
`check` and calls nothing, as HumanEval's rows do, `check(entry_point)` is added, of the column `entry_point`.

| key | default | |
|---|---|---|
| `partial` | false | the share of the row's listed tests that pass, instead of 1 or 0. Without a list, a test is a statement of the reference that asserts or calls |

Scores: 0 for a program that does not compile, raises, exits or fails a test, with the reason. Abstains where the row has no usable tests. A program
without end is out of fuel, one that takes too much memory ends in `MemoryError` or a trap; both are faults.

What cannot be cheated: ending the interpreter before the tests; names of builtins, and the standard library's modules, in the tests; comparing by
operators of one's own; looking at or changing the tests and their judge through frames, the collector, tracing or the plugin's modules. What can,
because program and tests share one interpreter: a function that recognises the tests' arguments, or reads the tests out of `globals()` while they run.
Write tests whose answers are not in them where that matters.
"""

import builtins
import json
import operator
import sys
from types import ModuleType, SimpleNamespace

import sandbox
from answer import program_of
from componentize_py_types import Err
from tests import BUILTIN, FILENAME, GUARD, Dishonest, Unusable, guard, tests_of
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
    """The component's exports. No class: a program could find it among the subclasses of `object`, and through its methods all this."""
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
    # Not the world's own class: a program finds that among the subclasses of `object`, and can change what a `value` of it is.
    return SimpleNamespace(value=value, parts=[], reason=reason)


def _described(error):
    """The class, and what a built-in exception says; a program's own exceptions are not asked. Bounded by the host."""
    kind = type(error)
    if kind is Dishonest:
        return error.args[0]
    builtin = kind.__module__ == "builtins"
    try:
        text = str(error).strip() if builtin and all(type(arg) in (str, int, tuple) for arg in error.args) else ""
    except BaseException:
        text = ""
    name = kind.__name__ if isinstance(kind.__name__, str) else "exception"
    return f"{name}: {text[:200]}" if text else name


def _run(program, tests, partial):
    # Everything that is needed once the program has run is a local of this function, and no frame leads here.
    namespace = vars(_MODULE)
    sys.modules.clear()
    sys.modules.update(_MODULES)
    pieces = [(test.code, test.counted) for test in tests.pieces]
    total = max(sum(counted for _, counted in pieces), 1)
    hidden = {BUILTIN + name: vars(builtins)[name] for name in tests.pinned}
    hidden[GUARD] = guard(tests.names, namespace, _CLASSES)
    run, restore, described, result, everything = exec, _restorer(_LIBRARY, _LIBRARY_CLASSES), _described, _result, BaseException
    update = namespace.update

    try:
        run(program, namespace)
    except everything as error:
        return result(0.0, described(error))
    restore()
    update(hidden)
    update(__name__="__main__")
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


def _restorer(library, classes):
    """Undoes what a program has done to the names of the standard library's modules, and to its classes that tests rely on."""
    same, every, size, mapped, vars_of = operator.is_, all, len, map, vars
    put, take = type.__setattr__, type.__delattr__

    def changed(names, before, values):
        return size(names) != size(before) or not every(mapped(same, names.values(), values))

    def restore():
        for names, before, values in library:
            if changed(names, before, values):
                names.clear()
                names.update(before)
        for cls, before, values in classes:
            if changed(vars_of(cls), before, values):
                for name in [*vars_of(cls)]:
                    if name not in before:
                        take(cls, name)
                for name in before:
                    if not same(vars_of(cls).get(name), before[name]):
                        put(cls, name, before[name])

    return restore


missing = sandbox.close()
if missing:
    raise ImportError(f"not in this Python: {missing}")
# The program's module, and what stands in the interpreter before any program.
_MODULE = ModuleType("program")
sandbox.stdio()
sys.modules["program"] = sys.modules["__main__"] = _MODULE
_CLASSES = sandbox.classes()
# Ours are still needed to finish the component.
_MODULES = {name: module for name, module in sys.modules.items() if name.partition(".")[0] not in sandbox.OURS}
_LIBRARY = [(vars(module), dict(vars(module)), list(vars(module).values())) for module in _MODULES.values() if module not in (None, _MODULE)]
_LIBRARY_CLASSES = [
    (cls, dict(vars(cls)), list(vars(cls).values())) for cls in _CLASSES.values() if cls.__module__.partition(".")[0] in ("unittest", "fractions")
]
_LIBRARY.append((sys.modules, _MODULES, list(_MODULES.values())))
