"""What a program finds in the interpreter, decided once, when the component is built: its memory is
a snapshot of what stands here at the end.

The component imports nothing, so the worst a program can do is to end its own instance. This file
makes what is missing an ordinary exception where it can, makes time and chance functions of
nothing, and takes away what would let a program look behind the namespace that it shares with its
tests."""

import builtins
import gc
import importlib
import io
import itertools
import sys
import types

# There are no files at run time: what is not imported here cannot be imported at all.
LIBRARY = """
abc argparse array ast base64 binascii bisect builtins calendar cmath codecs collections collections.abc colorsys contextlib contextvars
copy copyreg csv dataclasses datetime decimal difflib dis enum errno fnmatch fractions functools gc getopt graphlib hashlib heapq hmac
html html.entities html.parser importlib importlib.machinery importlib.resources importlib.util inspect io itertools json json.decoder
json.encoder keyword linecache locale logging math numbers operator os os.path pathlib pickle pkgutil platform pprint queue random re
reprlib sched secrets shlex signal stat statistics string string.templatelib stringprep struct symtable sys tempfile textwrap threading
time timeit token tokenize traceback types typing unicodedata unittest unittest.async_case unittest.case unittest.loader unittest.main
unittest.result unittest.runner unittest.suite urllib urllib.parse uuid warnings weakref xml xml.etree xml.etree.ElementTree zlib zoneinfo
""".split()

# `unittest.mock` has objects that equal everything. The others reach outside or at the interpreter
# itself, and would trap or be of no use.
ABSENT = """
_ctypes _interpchannels _interpqueues _interpreters _io_uring _posixsubprocess _socket _sqlite3 _ssl _testcapi _testinternalcapi asyncio concurrent
concurrent.futures ctypes fcntl http http.client mmap multiprocessing resource select selectors shutil socket sqlite3 ssl subprocess syslog
termios unittest.mock urllib.request
""".split()

# Modules that a program has no business with: they are taken out of `sys.modules`.
OURS = "answer plugin sandbox tests wit_world componentize_py_types componentize_py_runtime componentize_py_async_support".split()

_SECONDS = 1_700_000_000


def close():
    """Imports the library, then shuts everything. Names what could not be imported: the build must
    fail on it."""
    # First: many modules keep functions of `time` under names of their own.
    _calm()
    missing = [name for name in LIBRARY if not _imported(name)]
    _no_files()
    _unit_tests()
    _no_looking()
    # Last: what is loaded is all there is.
    sys.argv[:] = ["program"]
    sys.path[:], sys.meta_path[:], sys.path_hooks[:] = [], [], []
    sys.path_importer_cache.clear()
    for name in ABSENT:
        for loaded in [
            loaded for loaded in sys.modules if loaded == name or loaded.startswith(name + ".")
        ]:
            del sys.modules[loaded]
        # An import of it is a ModuleNotFoundError.
        sys.modules[name] = None
    return missing


def _imported(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _calm():
    """Time that only passes when it is asked for, chance that is the same in each instance."""
    import os
    import random
    import time

    ticks = itertools.count(_SECONDS * 1_000_000)
    slept = []

    def nanoseconds():
        return (next(ticks) + sum(slept)) * 1_000

    def seconds():
        return nanoseconds() / 1e9

    def sleep(seconds):
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        slept[:] = [sum(slept) + int(seconds * 1e6)]

    for name in "time monotonic perf_counter process_time thread_time".split():
        setattr(time, name, seconds)
        setattr(time, name + "_ns", nanoseconds)
    time.sleep = sleep
    gmtime, localtime, strftime, asctime = time.gmtime, time.localtime, time.strftime, time.asctime
    time.gmtime = lambda when=None: gmtime(seconds() if when is None else when)
    time.localtime = lambda when=None: localtime(seconds() if when is None else when)
    time.strftime = lambda form, when=None: strftime(
        form, time.localtime() if when is None else when
    )
    time.asctime = lambda when=None: asctime(time.localtime() if when is None else when)
    time.ctime = lambda when=None: time.asctime(time.localtime(when))

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(seconds(), tz)

    import datetime

    _patch(datetime.datetime, now=now, utcnow=now, today=now)
    _patch(datetime.date, today=classmethod(lambda cls: cls.fromtimestamp(seconds())))

    seed = random.Random.seed
    random.Random.seed = lambda self, a=None, version=2: seed(self, 0 if a is None else a, version)
    random.seed(0)
    random.seed = random._inst.seed
    generator = random.Random(1)
    os.urandom = generator.randbytes
    random._urandom = generator.randbytes
    random.SystemRandom = random.Random


def _no_files():
    import os
    import posix
    import signal
    import threading

    def denied(name):
        def function(*args, **keywords):
            raise PermissionError(f"{name}: a sandbox has no files, processes or network")

        function.__name__ = name
        return function

    keep = {
        "fspath",
        "strerror",
        "urandom",
        "get_terminal_size",
        "register_at_fork",
        "putenv",
        "unsetenv",
    }
    for name, value in list(vars(posix).items()):
        if isinstance(value, types.BuiltinFunctionType) and name not in keep:
            setattr(posix, name, denied(name))
            if getattr(os, name, None) is value:
                setattr(os, name, denied(name))
    os.getcwd = os.getcwdb = posix.getcwd = lambda: "/"
    os.getpid = posix.getpid = lambda: 1
    os.cpu_count = lambda: 1
    os.environ.clear()
    for module in (builtins, io, sys.modules["_io"]):
        module.open = denied("open")
        module.FileIO = module.open_code = denied("open")
    signal.signal = signal.alarm = signal.raise_signal = denied("signal")
    threading.Thread.start = denied("thread")
    threading._start_new_thread = threading._start_joinable_thread = denied("thread")
    thread = sys.modules["_thread"]
    thread.start_new_thread = thread.start_new = thread.start_joinable_thread = denied("thread")
    sys.addaudithook(_no_open)
    builtins.input = lambda prompt="": _end_of_file()
    builtins.help = builtins.breakpoint = denied("terminal")


def _no_open(event, args):
    """Even to show a line with a syntax error in it the interpreter opens the file of that name."""
    if event == "open":
        raise PermissionError("open: a sandbox has no files, processes or network")


def _end_of_file():
    raise EOFError("a sandbox has no input")


class _Sink(io.TextIOBase):
    """Takes what is printed, keeps nothing."""

    def write(self, text):
        return len(text)

    def writable(self):
        return True


def stdio():
    """Fresh standard streams: no input, and output that nobody keeps."""
    sys.stdin = sys.__stdin__ = io.StringIO("")
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = _Sink()


def _unit_tests():
    """`unittest.main()` ends the interpreter, and an end is what a program must not bring about:
    here it raises when a test fails."""
    import unittest

    def main(*args, **keywords):
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]).run(result)
        wrong = result.failures + result.errors
        if wrong or not result.testsRun:
            raise AssertionError(
                f"{len(wrong)} of {result.testsRun} unit tests fail"
                + "".join(f": {test}" for test, _ in wrong[:1])
            )

    unittest.main = main


def _no_looking():
    """Frames lead from a program to whoever runs it, and the collector to every object there is."""
    for module, names in (
        (
            sys,
            "_getframe _getframemodulename _current_frames _current_exceptions settrace setprofile gettrace getprofile monitoring call_tracing",
        ),
        (
            sys,
            "addaudithook set_asyncgen_hooks set_coroutine_origin_tracking_depth activate_stack_trampoline remote_exec",
        ),
        (gc, "get_objects get_referrers get_stats callbacks"),
        (
            sys.modules["_imp"],
            "create_builtin create_dynamic exec_builtin exec_dynamic init_frozen get_frozen_object",
        ),
    ):
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    sys._getframemodulename = lambda depth=0: "__main__"
    # logging asks for the caller's frame.
    sys.modules["logging"]._srcfile = None
    _patch(types.FrameType, f_back=None, f_trace=None)
    del gc.get_referents


def _patch(cls, **values):
    """Sets or (`None`) takes away attributes of a class written in C, whose dictionary can only be
    had from the collector."""
    (attributes,) = gc.get_referents(cls.__dict__)
    for name, value in values.items():
        if value is None:
            del attributes[name]
        else:
            attributes[name] = value
    # The interpreter remembers where it has found an attribute.
    getattr(sys, "_clear_internal_caches", lambda: None)()
    sys._clear_type_cache()


def classes():
    """Every class there is, by id."""
    found, open_ = {id(object): object}, [object]
    while open_:
        for cls in type.__subclasses__(open_.pop()):
            if id(cls) not in found:
                found[id(cls)] = cls
                open_.append(cls)
    return found
