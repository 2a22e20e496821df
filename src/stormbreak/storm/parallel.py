"""Several simulations, one after another or in processes side by side; what comes of them is the same.

Workers are started afresh (spawned): they share nothing with this process but the runs, an array in which each run says
how far it is, and a pipe whose other end this process holds. When that end is gone, a worker ends at once, whatever it
is doing: so none is left after Ctrl-C, nor where this process was killed.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, Protocol, TypeVar

from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.result import Result
from stormbreak.storm.simulation import simulate

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LOOK = 0.2  # seconds between two looks at the progress

Told = Callable[[int, float], None]
"""Is told the number of a run, from 0, and the share of it that is done."""


class Job(Protocol[T_co]):
    """What a worker does."""

    def simulate(self, progress: Callable[[float], None]) -> T_co:
        """Do it; `progress` gets the share that is done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One simulation to do."""

    scenario: Scenario
    contender: NamedPolicy
    seed: int
    shared: bool = False
    first_output: bool = False

    def simulate(self, progress: Callable[[float], None]) -> Result:
        """Do it."""
        return simulate(
            self.scenario,
            self.contender,
            seed=self.seed,
            shared=self.shared,
            first_output=self.first_output,
            progress=progress,
        )


def simulate_all(
    runs: Sequence[Job[T]], *, processes: int = 1, progress: Told | None = None
) -> list[T]:
    """Do all `runs`, in up to so many processes; the results are in the order of the runs.

    Raises:
        ConfigurationError: one of them cannot be simulated, or a process came to a sudden end.
    """
    count = min(processes, len(runs))
    if count <= 1:
        tell = progress or _nobody
        return [run.simulate(partial(tell, number)) for number, run in enumerate(runs)]
    return _side_by_side(runs, count, progress or _nobody)


def _nobody(_number: int, _share: float) -> None:
    pass


def _side_by_side(runs: Sequence[Job[T]], count: int, progress: Told) -> list[T]:
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
            "a process of the simulation was ended from outside; fewer --jobs need less memory"
        ) from None
    except BaseException:
        ours.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


def _follow(futures: Sequence[Future[Any]], shares: Sequence[float], progress: Told) -> None:
    """Tell of the progress until all is done, or something went wrong."""
    pending = set(futures)
    while pending and not any(future.done() and future.exception() for future in futures):
        _, pending = wait(pending, timeout=_LOOK, return_when=FIRST_EXCEPTION)
        for number, share in enumerate(shares):
            if share:
                progress(number, share)


@contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """Whoever is started meanwhile does not hear Ctrl-C, which is for us; we hear it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- worker

_given: dict[str, Any] = {}


def _begin(runs: Sequence[Job[Any]], shares: Any, theirs: Connection) -> None:
    _given.update(runs=runs, shares=shares)
    Thread(target=_end_with, args=(theirs,), daemon=True).start()


def _end_with(pipe: Connection) -> None:
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _simulate(number: int) -> Any:
    shares = _given["shares"]

    def progress(share: float) -> None:
        shares[number] = share

    run: Job[Any] = _given["runs"][number]
    return run.simulate(progress)
