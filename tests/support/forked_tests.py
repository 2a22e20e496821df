"""Run the tests in several processes that are forked after the collection: `pytest --forks 8`.

All tests are imported and collected once. A process takes the next few tests of one module from a pipe until none is
left, and reports to the first process. A test whose process died is a failure, and so is a test that never ran.

The longest tests start first, then those that share a fixture, which stay together. The others start in a mixed order: some modules wait for
sockets and processes, others compute, and together they use all cores.
"""

import gc
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from itertools import groupby
from multiprocessing.connection import Pipe
from selectors import EVENT_READ, DefaultSelector

import pytest

AT_ONCE = 12  # tests of a module that one process takes
SPREAD = 0.618034  # step of the golden ratio, which spreads the units of a module evenly
LONG = {
    "test_in_nearly_all_storms_the_diagnosis_is_wrong_for_ten_seconds_at_most",
    "test_python_in_the_documents_runs",
    "test_the_commands_of_the_batch_api_section_run",
    "test_the_tests_in_the_documents_pass",
}
"""Tests of ten seconds and more, which would delay the end if they started late."""
USED_LATE = (
    "genai_prices.data", "httpcore", "httpcore2", "matplotlib.backends.backend_svg", "matplotlib.style", "openai.resources.chat",
    "openai.resources.responses", "rich._emoji_codes", "uvloop",
)  # fmt: skip
"""Modules with late imports that tests in all processes need: imported once before the fork."""

_INDEX = 4  # bytes


class AfterTheFork:
    """A module that is imported at its first use, because its threads would not survive a fork."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        return getattr(import_module(self._name), name)


class ForkedTests:
    """The loop over all tests in `count` processes."""

    def __init__(self, count):
        self._count = count

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        """Run all tests."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        for name in USED_LATE:
            with suppress(ImportError):
                import_module(name)
        gc.freeze()
        units = _units(session.items)
        tasks, pids = os.pipe(), {}
        os.set_blocking(tasks[1], False)
        os.write(tasks[1], b"".join(number.to_bytes(_INDEX) for number in range(len(units))))
        os.close(tasks[1])
        session.config._tmp_path_factory.getbasetemp()
        sys.stdout.flush()
        for number in range(self._count):
            results, theirs = Pipe(duplex=False)
            if (pid := os.fork()) == 0:
                _work(session, units, number, tasks[0], theirs)
            theirs.close()
            pids[results] = pid
        os.close(tasks[0])
        try:
            _report(session, pids)
        finally:
            for results, pid in pids.items():
                with suppress(ProcessLookupError):  # after a failure that ends the session
                    os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
                results.close()
        return True


def _units(items):
    """The groups of tests that a process takes at once, in their order."""
    together, others = {}, []
    for item in sorted(items, key=lambda item: item.originalname not in LONG):
        if item.originalname in LONG:
            together[item] = [item]
        elif shared := _shared(item):
            together.setdefault(shared, []).append(item)
        else:
            others.append(item)
    units = []
    for _, of_module in groupby(others, lambda item: item.path):
        tests = list(of_module)
        units += [tests[start : start + AT_ONCE] for start in range(0, len(tests), AT_ONCE)]
    order = sorted(range(len(units)), key=lambda number: number * SPREAD % 1)
    return [*together.values(), *(units[number] for number in order)]


def _shared(item):
    """The module or package whose tests share a fixture of this test."""
    scopes = {
        defs[-1].scope
        for defs in item._fixtureinfo.name2fixturedefs.values()
        if defs[-1].scope in {"module", "package"}
    }
    if "package" in scopes:
        return item.path.parent
    return item.path if scopes else None


def _work(session, units, number, tasks, results):
    """Run units until none is left, and end this process."""
    status = 1
    try:
        config = session.config
        _begin(config, number)
        reporter = _Reporter(config, results)
        config.pluginmanager.register(reporter)
        unit = _next_unit(units, tasks)
        while unit:
            item = unit.pop(0)
            unit = unit or _next_unit(
                units, tasks
            )  # needed now: a test tears down the fixtures that the next one does not use
            config.hook.pytest_runtest_protocol(item=item, nextitem=unit[0] if unit else None)
        results.send(None)
        status = 0
    except BaseException:  # noqa: BLE001 - the first process reports the tests that did not run
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def _next_unit(units, tasks):
    index = os.read(tasks, _INDEX)
    return units[int.from_bytes(index)] if index else []


def _begin(config, number):
    """Give this process its own captured output and its own folder for files."""
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    config.pluginmanager.unregister(name="terminalreporter")
    factory = config._tmp_path_factory
    factory._basetemp = factory.getbasetemp() / f"fork{number}"
    factory._basetemp.mkdir(mode=0o700)


class _Reporter:
    """Sends the reports of a test to the first process at once."""

    def __init__(self, config, results):
        self._config = config
        self._results = results
        self._reports = []

    def pytest_runtest_logreport(self, report):
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._reports.append(data)
        if report.when == "teardown":
            self._results.send(self._reports)
            self._reports = []


def _report(session, pids):
    """Report the results of the processes until the last one has ended."""
    config, hook = session.config, session.config.hook
    config.pluginmanager.getplugin("terminalreporter").showfspath = False  # it changes all the time
    left = {item.nodeid: item for item in session.items}
    with DefaultSelector() as running:
        for results in pids:
            running.register(results, EVENT_READ)
        while running.get_map():
            for key, _ in running.select():
                try:
                    reports = key.fileobj.recv()
                except EOFError:
                    reports = None
                if reports is None:
                    running.unregister(key.fileobj)
                for data in reports or ():
                    report = hook.pytest_report_from_serializable(config=config, data=data)
                    if report.when == "teardown":
                        left.pop(report.nodeid)
                    hook.pytest_runtest_logreport(report=report)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
    for nodeid, item in left.items():
        report = pytest.TestReport(
            nodeid, item.location, {}, "failed", "its process ended before this test", "call"
        )
        hook.pytest_runtest_logreport(report=report)
