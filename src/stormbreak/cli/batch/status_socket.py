"""A run that others may look at: on a socket beside OUTPUT, and on a port of this machine where one was asked for."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from stormbreak.batch.running.runner import Runner
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.token_ledger import Cost
from stormbreak.batch.view import Rate, View
from stormbreak.core.target_state import Listener
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.state import BatchSnapshot, CostSnapshot
from stormbreak.telemetry.status_pages import StatusPages
from stormbreak.telemetry.status_server import StatusServer


class StatusSocket:
    """Shows one run, for as long as the context lasts.

    The port is taken at once. The socket is made when the run is at work, since then OUTPUT, and so what stands beside it,
    belongs to this process; where none can be made, as on some file systems, there is none.

    Raises:
        ConfigurationError: the port is in use.
    """

    def __init__(self, output: Path, port: int | None) -> None:
        self._status = StatusPages(metrics=port is not None)
        self._output = output
        self._rate = Rate()
        self._stack = ExitStack()
        self._begun = False
        if port is not None:
            taken = self._stack.enter_context(StatusServer(self._status.pages, port=port))
            with suppress(OSError):  # such as a terminal that is gone
                print(f"serving {taken.address}/metrics", file=sys.stderr)  # noqa: T201

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Who has to hear the events."""
        return self._status.listeners

    def beside(self, tick: Callable[[Runner], None]) -> Callable[[Runner], None]:
        """What to call four times a second: this, and then `tick`."""

        def both(runner: Runner) -> None:
            self._look(runner)
            tick(runner)

        return both

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _look(self, runner: Runner) -> None:
        view = View.of(runner)
        rate, to_go = self._rate.look(view)
        self._status.live.batch = BatchSnapshot(
            total=view.total,
            done=view.done,
            failed=view.failed,
            left=view.left,
            rate=round(rate, 3),
            to_go=None if to_go is None else round(to_go, 1),
            retries=view.retries,
            stopping=view.stopping,
            slow=view.slow,
        )
        if not self._begun:
            self._begun = True
            self._status.live.cost = lambda: _state_of(runner.so_far.cost)
            self._open_socket()

    def _open_socket(self) -> None:
        try:
            port = StatusServer(self._status.pages, path=BatchPaths.of(self._output).socket)
        except ConfigurationError:
            return  # `stormbreak top` says that there is none
        self._stack.enter_context(port)


def _state_of(cost: Cost) -> CostSnapshot:
    return CostSnapshot(
        least=float(cost.least),
        most=float(cost.most),
        unpriced=cost.unpriced,
        unbounded=cost.unbounded,
    )
