"""A row's tests, compiled so that the program which they judge cannot answer in their place.

The tests share the program's namespace: that is the contract, and how the rows of HumanEval and
MBPP are written. Two things are changed in what they say. The names of builtins mean the builtins,
whatever the program has defined under those names (unless a builtin's name is what is tested). And
each operand of a comparison or of arithmetic goes through a guard, which refuses objects whose
operators the program has written itself: `class Anything: __eq__ = lambda self, other: True` passes
no test. Classes that the tests name are theirs to judge by any operator."""

import ast
import builtins
import json
from collections import deque

# No identifiers: neither tests nor programs can have written these names.
GUARD = "the guard"
BUILTIN = "the builtin "
FILENAME = "<tests>"

_LITERAL = (
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.Load,
    ast.unaryop,
)
_OPERATORS = frozenset(
    f"__{side}{name}__"
    for name in "eq ne lt le gt ge add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor contains".split()
    for side in ("", "r", "i")
)


class Unusable(Exception):
    """The row cannot judge anything: the sample is masked."""


class Dishonest(BaseException):
    """The program answers by its own operators. Not an `Exception`: tests that expect one must not
    take it for theirs."""


class Test:
    """A piece of test code. `counted`: it is one of the listed tests, of which `partial` gives the
    share."""

    def __init__(self, code, counted):
        self.code, self.counted = code, counted


class Tests:
    """The pieces in their order, and the names that occur in them."""

    def __init__(self, pieces, names, pinned):
        self.pieces, self.names, self.pinned = pieces, names, pinned


def tests_of(reference, meta, program):
    """Tests of a row for a program (its syntax tree). `reference` is Python code, or a JSON list of
    pieces of it; the row's column `tests` may list more. Listed tests are what counts; in a row
    without a list the statements of `reference` that assert or call something do."""
    columns = json.loads(meta) if meta else {}
    columns = columns if isinstance(columns, dict) else {}
    listed = _list(columns.get("tests"), "column `tests`")
    reference = reference or ""
    if reference.lstrip().startswith("["):
        try:
            listed = _list(json.loads(reference), "reference") + listed
            reference = ""
        except ValueError:
            pass
    setup = _parse(reference, "reference")
    _call_check(setup, columns.get("entry_point"))
    if not listed and all(_quiet(statement) for statement in setup.body):
        raise Unusable(
            "no tests: the reference asserts nothing and calls nothing"
            if setup.body
            else "no tests"
        )
    statements = [
        (
            statement,
            not listed and isinstance(statement, (ast.Assert, ast.Expr)) and not _quiet(statement),
        )
        for statement in setup.body
    ]
    for number, piece in enumerate(listed, 1):
        tree = _parse(piece, f"test {number}")
        if all(_quiet(statement) for statement in tree.body):
            raise Unusable(f"test {number} asserts nothing and calls nothing")
        statements.append((tree, True))

    harden = _Harden()
    hardened = [(harden.visit(statement), counted) for statement, counted in statements]
    pinned = _pinned(harden.used, harden.bound, program)
    for name in harden.loads:
        if name.id in pinned:
            name.id = BUILTIN + name.id
    pieces = [
        Test(_compiled(tree if isinstance(tree, ast.Module) else ast.Module([tree], [])), counted)
        for tree, counted in hardened
    ]
    return Tests(pieces, harden.used | harden.bound, pinned)


def _quiet(statement):
    """Whether a statement tests nothing by itself: a definition, an import, or a value like `42` or
    `f(2) == 4` that nobody looks at."""
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, (ast.Call, ast.Await))
    return isinstance(statement, _QUIET)


_QUIET = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
    ast.Pass,
)


def _list(tests, where):
    if tests is None:
        return []
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise Unusable(f"{where} is not a list of strings")
    return tests


def _parse(source, where):
    try:
        return ast.parse(source, FILENAME)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unusable(f"{where} is no Python: {error}") from None


def _compiled(tree):
    try:
        return compile(tree, FILENAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unusable(f"the tests do not compile: {error}") from None


def _call_check(setup, entry_point):
    """HumanEval's rows define `check` and name the function to check in another column."""
    if isinstance(entry_point, str) and entry_point.isidentifier():
        defined = {
            statement.name for statement in setup.body if isinstance(statement, ast.FunctionDef)
        }
        called = any(
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            for statement in setup.body
        )
        if "check" in defined and not called:
            setup.body += ast.parse(f"check({entry_point})").body


def _pinned(used, bound, program):
    """Builtins whose names mean the builtins in the tests. A program may define a function of a
    builtin's name because it was asked for that function: then it is the only one of its names that
    the tests use."""
    builtin = frozenset(name for name in vars(builtins) if not name.startswith("_"))
    subjects = used & _defined(program) - bound
    pinned = used & builtin - bound
    return pinned if subjects - builtin else pinned - subjects


def _defined(program):
    """Names that a program gives a meaning, outside of its functions."""
    names = set()
    for statement in program.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.alias):
                names.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
    return names


class _Harden(ast.NodeTransformer):
    """Puts guards around operands, and notes the names on its way: which are used, which the tests
    give a meaning themselves."""

    def __init__(self):
        self.used, self.bound, self.loads = set(), set(), []

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self.used.add(node.id)
            self.loads.append(node)
        else:
            self.bound.add(node.id)
        return node

    def visit_arg(self, node):
        self.bound.add(node.arg)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self.bound.add(node.name)
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_alias(self, node):
        self.bound.add((node.asname or node.name).partition(".")[0])
        self.used.add(node.name.partition(".")[0])
        return node

    def visit_ImportFrom(self, node):
        self.used.add((node.module or "").partition(".")[0])
        return self.generic_visit(node)

    def visit_Constant(self, node):
        return node

    def visit_List(self, node):
        # Long lists of numbers are what tests are full of.
        return (
            node
            if all(type(element) is ast.Constant for element in node.elts)
            else self.generic_visit(node)
        )

    visit_Tuple = visit_Set = visit_List

    def visit_Compare(self, node):
        self.generic_visit(node)
        node.left, node.comparators = (
            _guarded(node.left),
            [_guarded(operand) for operand in node.comparators],
        )
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        node.left, node.right = _guarded(node.left), _guarded(node.right)
        return node

    def visit_Call(self, node):
        self.generic_visit(node)
        # self.assertEqual(first, second) compares where this cannot reach.
        if isinstance(node.func, ast.Attribute) and node.func.attr.startswith("assert"):
            node.args = [
                arg if isinstance(arg, ast.Starred) else _guarded(arg) for arg in node.args
            ]
        return node


def _guarded(node):
    if type(node) is ast.Constant or all(isinstance(part, _LITERAL) for part in ast.walk(node)):
        return node
    return ast.copy_location(
        ast.Call(ast.copy_location(ast.Name(GUARD, ast.Load()), node), [node], []), node
    )


def guard(names, namespace, trusted):
    """A function that hands an operand through unless it is, or holds, an object with operators of
    the program's own. `names`: those that occur in the tests; `trusted`: the classes that were
    there before any program, by id."""
    # All that it needs is here, out of reach of the namespace. Classes are asked by descriptors,
    # which no metaclass can override.
    mro_of, dict_of = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__
    kinds, ids, subclass, name_of, function = type, id, issubclass, namespace.get, type(guard)

    def own(cls):
        operators = [value for name, value in dict_of(cls).items() if name in _OPERATORS]
        written_by_tests = all(
            kinds(value) is function and value.__code__.co_filename == FILENAME
            for value in operators
        )
        return (
            operators and not written_by_tests and not any(name_of(name) is cls for name in names)
        )

    def look(value):
        kind = kinds(value)
        if kind is int or kind is str or kind is float or kind is bool:
            return value
        seen, open_ = set(), [value]
        while open_:
            value_ = open_.pop()
            kind = kinds(value_)
            if kind is int or kind is str or kind is float or kind is bool:
                continue
            if ids(kind) not in trusted:
                for cls in mro_of(kind):
                    if ids(cls) not in trusted and own(cls):
                        raise Dishonest(
                            "an operand in the tests has operators of the program's own"
                        )
            if ids(value_) in seen:
                continue
            for base in (list, tuple, set, frozenset, deque, dict):
                if subclass(kind, base):
                    seen.add(ids(value_))
                    open_.extend(base.__iter__(value_))
                    if base is dict:
                        open_.extend(dict.values(value_))
        return value

    return look
