"""Runs the tests of the core against mutants, each in a forked process.

A mutant of a function gets its code in the place of the original's, in a process where all tests are collected already.
Of the tests, those run that call the function: first the one that noticed this mutant before, then those that noticed
other mutants of the function, then the shortest first. The first that fails ends it.

A mutant of a constant or a default, or of a function that runs while modules are imported, has to be imported itself. So
its process is forked before stormbreak is imported, and collects the tests.
"""

import gc
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from itertools import groupby
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

import hypothesis.strategies  # whatever is imported here, no child needs to import
import pytest
import pytest_asyncio  # noqa: F401

from mutants import Mutant

ROOT = Path(__file__).parent.parent
CORE = ROOT / "src" / "stormbreak" / "core"

# A test with a mutant runs too long where it takes so many times as long as without, and these seconds more.
TIMES = 10.0
CPU_SECONDS = 1.0
SECONDS = 20.0
MEMORY = 8 << 30  # bytes of a child

KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"
Tell = Callable[[Any], None]
UNSHRUNK = hypothesis.Phase.explicit, hypothesis.Phase.generate  # nobody reads the example
_OPTIONS = (
    "-q", "-s", "--tb=no", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider", "-p", "no:xdist",
    "--hypothesis-seed=0", "--hypothesis-profile=unshrunk", "--rootdir", str(ROOT),
)  # fmt: skip


class Measured(NamedTuple):
    """A test without a mutant."""

    passed: bool
    seconds: float
    cpu: float
    lines: dict[str, int]  # of each module of the core, as a set of bits

    @property
    def waits(self) -> bool:
        """Whether it waits for a clock or a socket, most of the time."""
        return self.seconds > 10 * self.cpu + 0.2

    def runs(self, mutant: Mutant, module: str) -> bool:
        """Whether it runs the statement of a mutant."""
        return any(self.lines.get(module, 0) >> line & 1 for line in mutant.lines)


LONG = 1.0  # seconds of a processor: a test that takes longer does not run against mutants
WAITS = 3.0  # seconds: nor one that waits longer
TRACED = 10.0  # times as long, at most
IDLE = 200  # calls
_PREFIX = f"{CORE}{os.sep}"
TOO_LONG = Measured(True, LONG, LONG, {})


class Judged(NamedTuple):
    """What came of a mutant, and the test that noticed it."""

    came: str
    test: str = ""


class NotSwappedError(Exception):
    """The code of this function cannot be swapped: it has to be imported."""


class _Lines:
    """The lines of one code object that run. After `IDLE` calls without a new one it looks away: any may run."""

    __slots__ = ("idle", "lines")

    def __init__(self) -> None:
        self.lines: set[int] = set()
        self.idle = 0

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:  # noqa: ARG002
        """Note a line."""
        if frame.f_lineno not in self.lines:
            self.lines.add(frame.f_lineno)
            self.idle = 0
        return self.trace


class _Tracer:
    """What of the core runs while it listens."""

    def __init__(self) -> None:
        self._codes: dict[CodeType, _Lines | None] = {}

    def start(self) -> None:
        """Listen."""
        self._codes.clear()
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def stop(self) -> None:
        """Listen no more."""
        sys.settrace(None)
        threading.settrace(None)

    def lines(self) -> dict[str, int]:
        """The lines of each module, as a set of bits."""
        found: dict[str, int] = {}
        for code, seen in self._codes.items():
            if seen:
                module = Path(code.co_filename).stem
                lines = seen.lines
                if seen.idle > IDLE:
                    lines = {line for *_, line in code.co_lines() if line}
                found[module] = found.get(module, 0) | sum(1 << line for line in lines)
        return found

    def functions(self) -> frozenset[str]:
        """The functions, as `module:name`; a function within another counts as that one."""
        return frozenset(
            f"{Path(code.co_filename).stem}:{code.co_qualname.split('.<locals>')[0]}"
            for code, seen in self._codes.items()
            if seen
        )

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:  # noqa: ARG002
        code = frame.f_code
        try:
            seen = self._codes[code]
        except KeyError:
            is_core = code.co_filename.startswith(_PREFIX)
            seen = self._codes[code] = _Lines() if is_core else None
        if seen is None or seen.idle > IDLE:
            return None
        seen.idle += 1
        return seen.trace


class Collected:
    """All tests in one process; a plugin of pytest that does other `work` in place of running them all."""

    def __init__(self, work: Callable[["Collected"], None]) -> None:
        self._work = work
        self._tracer = _Tracer()
        self._failed = False
        self._items: dict[str, pytest.Item] = {}
        self._killers: dict[str, list[str]] = {}
        self.imported: frozenset[str] = frozenset()
        self.measured: dict[str, Measured] = {}

    def run(self, files: Sequence[Path]) -> None:
        """Collect the tests of these files, then work."""
        self._tracer.start()
        if _pytest(files, self) == pytest.ExitCode.INTERNAL_ERROR:
            raise RuntimeError("the work ended with an error (see above)")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Do the work."""
        self._tracer.stop()
        self.imported = self._tracer.functions()
        self._items = {item.nodeid: item for item in session.items}
        gc.freeze()
        try:
            self._work(self)
        except BaseException:
            traceback.print_exc()
            raise
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure."""
        self._failed |= report.failed

    @property
    def names(self) -> Iterable[str]:
        """All tests."""
        return self._items

    def measure(self, known: Mapping[str, Measured]) -> None:
        """Run each test that is not known without a mutant, those of a file in one process."""
        self.measured = {name: it for name, it in known.items() if name in self._items}
        files = groupby((name for name in self._items if name not in known), file_of)
        for left in (list(names) for _, names in files):
            while left:
                done = self._measure(left)
                self.measured |= done
                del left[: len(done)]

    def judge(self, mutant: Mutant, module: str, tests: Sequence[str], known: str) -> Judged:
        """Run these tests, the shortest first, against a mutant of a function; `known` noticed it before."""
        killers = self._killers.setdefault(f"{module}:{mutant.function}", [])
        names = set(tests)
        order = dict.fromkeys([*(name for name in (known, *killers) if name in names), *tests])

        def against(tell: Tell) -> None:
            for name in order:
                tell(name)
                _limit(CPU_SECONDS + TIMES * self.measured[name].cpu)
                if not self._passes(self._items[name]):
                    return tell(KILLED)
            return tell(SURVIVED)

        with _swapped(import_module(f"stormbreak.core.{module}"), mutant):
            judged = _judged(against, self.measured)
        if judged.test:
            killers[:] = [judged.test, *(name for name in killers if name != judged.test)]
        return judged

    def _measure(self, tests: Sequence[str]) -> dict[str, Measured]:
        """Measure tests up to the first that takes too long."""

        def measured(tell: Tell) -> None:
            for name in tests:
                _limit(LONG)
                cpu, began = time.process_time(), time.perf_counter()
                passed = self._passes(self._items[name])
                seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                if seconds > WAITS:
                    tell(Measured(passed, seconds, cpu, {}))
                    continue
                _limit(TRACED * LONG)
                self._tracer.start()
                passed &= self._passes(self._items[name])
                self._tracer.stop()
                tell(Measured(passed, seconds, cpu, self._tracer.lines()))

        pipe, child = _forked(measured)
        done = {}
        for name in tests:
            done[name] = TOO_LONG
            try:
                if not pipe.poll(2 * TRACED * LONG):
                    os.kill(child, signal.SIGKILL)
                    break
                done[name] = pipe.recv()
            except EOFError:
                break
        os.waitpid(child, 0)
        pipe.close()
        return done

    def _passes(self, item: pytest.Item) -> bool:
        self._failed = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self._failed


class _InOrder:
    """A plugin of pytest that runs some tests in their order, and tells which."""

    def __init__(self, tests: Sequence[str], measured: Mapping[str, Measured], tell: Tell) -> None:
        self._tests, self._measured, self._tell = tests, measured, tell

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose and order the tests."""
        found = {item.nodeid: item for item in items}
        items[:] = [found[name] for name in self._tests]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Say what runs now."""
        self._tell(item.nodeid)
        _limit(CPU_SECONDS + TIMES * self._measured[item.nodeid].cpu)


def judge_import(
    mutant: Mutant, module: str, tests: Sequence[str], measured: Mapping[str, Measured]
) -> Judged:
    """Run these tests, in this order, in a process that imports the mutant."""

    def against(tell: Tell) -> None:
        name = f"stormbreak.core.{module}"
        sys.meta_path.insert(0, _Finder(name, mutant.source))
        import_module(name)  # now: pytest's own importer would come first
        files = dict.fromkeys(ROOT / file_of(test) for test in tests)
        failed = _pytest(list(files), _InOrder(tests, measured, tell), "-x")
        tell(KILLED if failed else SURVIVED)

    return _judged(against, measured)


def file_of(test: str) -> str:
    """The file of a test, from the root."""
    return test.split("::", maxsplit=1)[0]


def _pytest(files: Sequence[Path], plugin: object, *options: str) -> int:
    hypothesis.settings.register_profile("unshrunk", phases=UNSHRUNK, deadline=None)
    return int(pytest.main([*_OPTIONS, *options, *map(str, files)], plugins=[plugin]))


def _forked(work: Callable[[Tell], None]) -> tuple[Connection, int]:
    """A process that does some work and tells of it through a pipe."""
    pipe, theirs = Pipe(duplex=False)
    if child := os.fork():
        theirs.close()
        return pipe, child
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        work(theirs.send)
    finally:
        os._exit(0)


def _judged(against: Callable[[Tell], None], measured: Mapping[str, Measured]) -> Judged:
    """Watch the tests of a mutant: it survives if all pass. A process that dies has noticed it."""
    pipe, child = _forked(against)
    test, came = "", ""
    try:
        while came not in (KILLED, SURVIVED):
            seconds = measured[test].seconds if test else 0.0
            if not pipe.poll(SECONDS + TIMES * seconds):
                os.kill(child, signal.SIGKILL)
                return Judged(TIMED_OUT, test)
            came = pipe.recv()
            if came not in (KILLED, SURVIVED):
                test = came
    except EOFError:
        pass
    finally:
        _, status = os.waitpid(child, 0)
        pipe.close()
    if came == SURVIVED:
        return Judged(SURVIVED)
    return Judged(
        TIMED_OUT if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF else KILLED,
        test,
    )


def _limit(cpu: float) -> None:
    """End this process when it takes so many seconds of a processor from now on: fair on a busy machine, too."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu)


@contextmanager
def _swapped(module: ModuleType, mutant: Mutant) -> Iterator[None]:
    """Give a function of the module its code in the mutant."""
    name = mutant.function or ""
    try:
        function = _function(module, name)
        original = function.__code__
        (code,) = _codes(compile(mutant.source, f"<mutant of {module.__name__}>", "exec"), name)
        function.__code__ = code
    except (TypeError, ValueError) as error:  # decorated, or without a `super()` that it had
        raise NotSwappedError from error
    try:
        yield
    finally:
        function.__code__ = original


def _codes(code: CodeType, name: str) -> list[CodeType]:
    """The code of the functions with a qualified name."""
    found = []
    for part in code.co_consts:
        if isinstance(part, CodeType):
            if part.co_qualname == name:
                found.append(part)
            elif name.startswith(f"{part.co_qualname}."):
                found += _codes(part, name)
    return found


def _function(module: ModuleType, name: str) -> FunctionType:
    """The function of a module with a qualified name."""
    value: Any = module
    for part in name.split("."):
        value = vars(value)[part]
    if isinstance(value, property):
        value = value.fget
    if not isinstance(value, FunctionType):
        raise TypeError(f"{name} is no function whose code can be swapped")
    return value


class _Finder(MetaPathFinder, Loader):
    """Finds one module in a text."""

    def __init__(self, module: str, source: str) -> None:
        if module in sys.modules:
            raise RuntimeError(f"{module} is imported already: its mutants would never run")
        self._module, self._source = module, source

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002
        target: object = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == self._module else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Have the usual one made."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the text."""
        exec(compile(self._source, f"<mutant of {self._module}>", "exec"), module.__dict__)
