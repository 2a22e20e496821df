"""Run simulations in sequence or in parallel processes, with the same results.

Workers are spawned. They share two things with this process: an array with the progress of each run, and a pipe. When
the pipe closes, a worker ends at once, so no worker remains after Ctrl-C or when this process is killed.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from stormbreak.drivers.garbage import collect_less_often, collecting_less_often
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.result import NO_SERIES, Result
from stormbreak.storm.simulation import simulate

_POLL_INTERVAL = 0.2  # seconds between two reads of the progress

OnRunProgress = Callable[[int, float], None]
"""Called with the number of a run, from 0, and its finished share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One simulation, the task of a worker. With `measures_only` the result has no series."""

    scenario: Scenario
    contender: NamedPolicy
    seed: int
    shared: bool = False
    first_output: bool = False
    measures_only: bool = False

    def simulate(self, progress: Callable[[float], None]) -> Result:
        """Run the simulation; `progress` gets the finished share."""
        result = simulate(
            self.scenario,
            self.contender,
            seed=self.seed,
            shared=self.shared,
            first_output=self.first_output,
            progress=progress,
        )
        return replace(result, series=NO_SERIES) if self.measures_only else result


def simulate_all(
    runs: Sequence[Run], *, processes: int = 1, progress: OnRunProgress | None = None
) -> list[Result]:
    """Do all `runs`, in at most `processes` processes; the results are in their order.

    Raises ConfigurationError if a run cannot be simulated, or a process was killed.
    """
    count, report = min(processes, len(runs)), progress or (lambda _number, _share: None)
    if count <= 1:
        with collecting_less_often():
            return [run.simulate(partial(report, number)) for number, run in enumerate(runs)]
    return _side_by_side(runs, count, report)


def _side_by_side(runs: Sequence[Run], count: int, progress: OnRunProgress) -> list[Result]:
    context = get_context("spawn")
    shares = context.RawArray("d", len(runs))
    theirs, ours = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin, initargs=(tuple(runs), shares, theirs)
    )
    try:
        with _workers_ignore_interrupts():
            futures = [executor.submit(_simulate, number) for number in range(len(runs))]
        _follow(futures, shares, progress)
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise ConfigurationError(
            "a process of the simulation was killed; try fewer --jobs, which need less memory"
        ) from None
    except BaseException:
        ours.close()  # ends the workers, for which the shutdown waits
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


def _follow(
    futures: Sequence[Future[Any]], shares: Sequence[float], progress: OnRunProgress
) -> None:
    """Report progress until all are done or one fails."""
    pending = set(futures)
    while pending and not any(future.done() and future.exception() for future in futures):
        _, pending = wait(pending, timeout=_POLL_INTERVAL, return_when=FIRST_EXCEPTION)
        for number, share in enumerate(shares):
            if share:
                progress(number, share)


@contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """Block Ctrl-C, so that processes started meanwhile ignore it; deliver it to this one afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- worker

_given: dict[str, Any] = {}


def _begin(runs: Sequence[Run], shares: Any, theirs: Connection) -> None:
    collect_less_often()
    _given.update(runs=runs, shares=shares)
    Thread(target=_end_with, args=(theirs,), daemon=True).start()


def _end_with(pipe: Connection) -> None:
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _simulate(number: int) -> Result:
    run: Run = _given["runs"][number]
    return run.simulate(partial(_given["shares"].__setitem__, number))
