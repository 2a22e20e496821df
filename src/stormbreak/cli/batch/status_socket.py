"""Serve the state of a run: on a socket next to OUTPUT, and on an address if one was given."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from stormbreak.batch.running.snapshot import Throughput
from stormbreak.batch.running.workers import Running
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cost.accounts import Cost
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.state import BatchSnapshot, CostSnapshot, decoded, encoded
from stormbreak.telemetry.status_pages import StatusPages
from stormbreak.telemetry.status_server import Action, StatusServer


class StatusSocket(AbstractContextManager["StatusSocket"]):
    """Serves one run, for as long as the context lasts.

    The address (host and port) is opened at once. The socket is made when the run sends, since then OUTPUT and the
    files next to it belong to this process; some file systems do not support sockets. Raises ConfigurationError if the
    address is in use or does not belong to this machine.
    """

    def __init__(
        self, output: Path, listen: tuple[str, int] | None, actions: Mapping[str, Action]
    ) -> None:
        self._actions = actions
        self._status = StatusPages(metrics=listen is not None)
        self.listeners = self._status.listeners  # they need the events of the run
        self._output = output
        self._throughput = Throughput()
        self._stack = ExitStack()
        self._begun = False
        if listen is not None:
            taken = self._stack.enter_context(self._status.serve(*listen))
            with suppress(OSError):  # such as a closed terminal
                print(f"serving {taken.address}/metrics", file=sys.stderr)  # noqa: T201

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tick(self, runner: Running) -> None:
        """Publish the snapshot of the run; call it four times a second."""
        snapshot = runner.snapshot
        rate, to_go = self._throughput.update(snapshot)
        self._status.live.batch = BatchSnapshot(
            total=snapshot.total,
            done=snapshot.done,
            failed=snapshot.failed,
            left=snapshot.left,
            rate=round(rate, 3),
            to_go=None if to_go is None else round(to_go, 1),
            retries=snapshot.retries,
            stopping=snapshot.stopping,
            slow=snapshot.slow,
        )
        if not self._begun:
            self._begun = True
            self._status.live.cost = lambda: _cost_snapshot(runner.spend.cost)
            self._open_socket()

    def state(self) -> bytes:
        """Read the state of this process, a worker of the run, for `show` in its parent."""
        return encoded(self._status.live.state())

    def show(self, states: Sequence[bytes]) -> None:
        self._status.live.workers = [decoded(each) for each in states]

    def _open_socket(self) -> None:
        try:
            port = StatusServer(
                self._status.pages, path=BatchPaths.of(self._output).socket, actions=self._actions
            )
        except ConfigurationError:
            return  # `stormbreak top` reports that there is none
        self._stack.enter_context(port)


def _cost_snapshot(cost: Cost) -> CostSnapshot:
    return CostSnapshot(
        min_usd=float(cost.min_usd),
        max_usd=float(cost.max_usd),
        unpriced=cost.unpriced,
        unbounded=cost.unbounded,
    )
