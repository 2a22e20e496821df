"""A gateway in several processes: the parent listens, owns the shared state, and serves the admin port for all.

Workers accept on the sockets of the parent. They share the limits and the money of targets and keys through its store,
or through the store of the file's fleet. Only the parent records the spending of keys in the ledger. All workers read a
new settings file before any uses it.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any, TypeVar

from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.config.load import SETTINGS
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.file_reader import read_text
from stormbreak.fleet.lease_renewal import dollars
from stormbreak.fleet.parent_store import ParentStore
from stormbreak.fleet.shared_limits import client_spend, scope_of
from stormbreak.gateway.admin import AdminServer
from stormbreak.gateway.keys import LimitHolder, all_holders
from stormbreak.gateway.lifecycle import Lifecycle
from stormbreak.gateway.metrics import GAUGE_NAMES, GatewayMetrics
from stormbreak.gateway.process import check
from stormbreak.gateway.routing import GatewayRules
from stormbreak.gateway.spend_ledger import LedgerRecord
from stormbreak.gateway.worker import Reply, Start
from stormbreak.gateway.workers import CHANGE_TIMEOUT, WorkerGoneError, WorkerProcess, Workers
from stormbreak.hidden_keys import hidden
from stormbreak.http.h1.server import listen
from stormbreak.http.policy_in_force import SHARE, is_disabled, share
from stormbreak.telemetry.gauges import Rule
from stormbreak.telemetry.live_state import LiveState
from stormbreak.telemetry.merged_metrics import counts_of, merged_metrics
from stormbreak.telemetry.status_server import PageUnavailableError

R = TypeVar("R")

PAGE_TIMEOUT = 5.0  # seconds to wait for the answers of all workers

STORE = "STORMBREAK__FLEET__URL"
"""The variable that tells workers the parent's store: the one for the setting `fleet.url`."""

_RULES: Mapping[str, Rule] = MappingProxyType(
    dict.fromkeys(
        ("key_limit_usd", "tenant_limit_usd", "policy_limit_usd", "key_info", "draining"), "max"
    )
)


class GatewayParent(Lifecycle):
    """A gateway of a settings file with several `workers`, on the running event loop.

    Raises ConfigurationError as `Gateway` does, or if the file and the environment do not allow shared limits.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        change: Callable[[GatewaySettings], GatewaySettings] = lambda settings: settings,
        *,
        workers: int,
    ) -> None:
        super().__init__(path)
        self._text = self._read()
        self._rules, _ = check(path, self._text)
        self.settings = change(self._rules.settings)
        self._draining = False
        self._sockets: list[socket.socket] = []
        self.metrics = GatewayMetrics()
        self._ended: list[bytes] = []  # the counts of workers that have ended
        self._own_fleet = self._rules.generation.policy.fleet.acts
        _check_shares(self._rules, own_fleet=self._own_fleet)
        ledger = self._ledger()
        self._record = None if ledger is None else LedgerRecord(ledger)
        self._store = ParentStore(record=self._record)
        self._note_keys(self._rules)
        self._workers = Workers(workers, self._start, self._environ(workers), self._on_end)

    @property
    def port(self) -> int:
        number: int = self._sockets[0].getsockname()[1]
        return number

    @property
    def busy(self) -> str:
        return f"workers: {len(self._workers.running)}"

    async def start(self) -> None:
        settings = self.settings
        self._store.__enter__()
        try:
            self._sockets = listen(settings.host, settings.port)
            if settings.admin_port is not None:
                self._admin = AdminServer(
                    settings.admin_host,
                    settings.admin_port,
                    _Pages(self),
                    is_ready=lambda: not self._draining and bool(self._workers.running),
                )
            await self._workers.start()
        except BaseException:
            await self.close()
            raise

    async def drain(self) -> None:
        self._draining = True
        self._stop_listening()
        await self._workers.drain(self._rules_now.settings.grace)
        await self.close()

    async def close(self) -> None:
        self._draining = True
        self._stop_listening()
        await self._workers.close()
        self._close_admin()
        self._store.__exit__()
        if self._record is not None:
            self._record.close(self._store)

    async def _reload(self) -> GatewayRules:
        text = self._read()
        rules, _ = await asyncio.to_thread(check, self.path, text)
        _check_shares(rules, own_fleet=self._own_fleet)
        async with self._workers.starting:  # workers that start later get the new text
            await self._prepare(text)
            self._text = text
            self._note_keys(rules)
            await self._apply()
        return rules

    async def _prepare(self, text: str) -> None:
        """Let all workers read a text; if one cannot, raise ConfigurationError, and none will use it."""
        replies = await self._workers.ask_all("prepare", text=text, within=CHANGE_TIMEOUT)
        for worker, reply in replies.items():
            if isinstance(reply, WorkerGoneError):
                wrong = str(reply) if worker in self._workers.running else None
            else:
                wrong = reply.error
            if wrong is not None:
                await self._workers.ask_all("abandon")
                raise ConfigurationError(wrong)

    async def _apply(self) -> None:
        """Let all workers use the prepared settings; replace a worker that fails to."""
        replies = await self._workers.ask_all("apply", within=CHANGE_TIMEOUT)
        for worker, reply in replies.items():
            if isinstance(reply, WorkerGoneError) or reply.error is not None:
                await worker.kill()

    def _read(self) -> str:
        with errors_at(hidden(str(self.path))):
            return read_text(self.path, what=SETTINGS)

    def _start(self) -> Start:
        return Start(
            path=str(self.path),
            text=self._text,
            sockets=[each.fileno() for each in self._sockets],
            watched=self._admin is not None,
        )

    def _environ(self, workers: int) -> dict[str, str]:
        """Return the environment of workers: each uses a share of the limits until the store has answered."""
        part = Fraction(share() or 1).limit_denominator(1_000_000) / workers
        store = {} if self._own_fleet else {STORE: self._store.url}
        return {**os.environ, **store, SHARE: str(part)}

    def _note_keys(self, rules: GatewayRules) -> None:
        self._rules_now = rules
        if self._record is not None:
            self._record.scopes = {**self._record.scopes, **_scopes(rules)}

    def _stop_listening(self) -> None:
        for each in self._sockets:
            each.close()

    def _on_end(self, worker: WorkerProcess) -> None:
        """Keep its counts: a counter never falls."""
        if worker.last_look is not None:
            self._ended = [merged_metrics([*self._ended, counts_of(worker.last_look.metrics)])]

    # ------------------------------------------------------------ pages, from threads

    async def look(self) -> list[Reply]:
        """Return the metrics and the state of each worker; for one that fails to answer, its last ones."""
        replies = await self._workers.ask_all("look")
        looks = [
            worker.last_look if isinstance(reply, Reply) and reply.error is not None else reply
            for worker, reply in replies.items()
        ]
        return [each for each in looks if isinstance(each, Reply)]

    async def check(self) -> str | None:
        """Return why clients may not be served; None: all workers answer."""
        replies = (await self._workers.ask_all("ping")).values()
        silent = next((str(each) for each in replies if isinstance(each, WorkerGoneError)), None)
        return silent if replies else "no worker runs"

    def counted(self, looks: Sequence[Reply]) -> bytes:
        """Merge the metrics of live workers, of ended ones, and of the parent."""
        gauges = dict.fromkeys(GAUGE_NAMES, 0.0) | {"draining": float(self._draining)}
        own = self.metrics.text(gauges, self._spent())
        texts = [*(look.metrics for look in looks), own, *self._ended]
        return merged_metrics(texts, _RULES)

    def _spent(self) -> dict[str, tuple[str, str]]:
        """Return dollars of keys and tenants from workers and gateways that have ended, which no live worker counts."""
        if self._own_fleet:
            return {}
        return {
            holder.title: (
                str(dollars(self._store.lost(scope))),
                str(holder.limits.spend.max_usd),
            )
            for scope, holder in _scopes(self._rules_now).items()
        }


class _Pages:
    """The pages of the admin port, for all workers. Each page asks the workers on the parent's event loop."""

    def __init__(self, parent: GatewayParent) -> None:
        self._parent = parent
        self._loop = asyncio.get_running_loop()

    def check(self) -> None:
        """Raise PageUnavailableError if a worker does not answer."""
        silent = self._ask(self._parent.check())
        if silent is not None:
            raise PageUnavailableError(silent, status=503)

    def metrics(self) -> bytes:
        return self._parent.counted(self._ask(self._parent.look()))

    def state_page(self) -> tuple[str, bytes]:
        looks = self._ask(self._parent.look())
        live = LiveState()
        live.workers = [look.state for look in looks if look.state is not None]
        return live.page()

    def close(self) -> None:
        """Do nothing: the workers watch themselves."""

    def _ask(self, question: Coroutine[Any, Any, R]) -> R:
        try:
            return asyncio.run_coroutine_threadsafe(question, self._loop).result(PAGE_TIMEOUT)
        except (TimeoutError, RuntimeError):  # the loop is busy or closed
            question.close()
            raise PageUnavailableError("the gateway does not answer", status=503) from None


def _scopes(rules: GatewayRules) -> dict[str, LimitHolder]:
    """Return the keys and tenants with a spend limit by their scope in the store."""
    policy = rules.generation.policy
    return {
        scope_of(policy, client_spend(holder.title, holder.limits.spend)): holder
        for holder in all_holders(rules.keys.values())
        if holder.limits.spend.acts
    }


def _check_shares(rules: GatewayRules, *, own_fleet: bool) -> None:
    """Raise ConfigurationError if the file and the environment do not let workers share limits."""
    generation = rules.generation
    if generation.policy.fleet.acts is not own_fleet:
        raise ConfigurationError("[fleet] was added or removed: restart the gateway to apply it")
    # Not the policies in force: there the share of the environment may equal that of the file.
    settings = generation.settings
    of_file = (settings.policy, *(target.policy for target in settings.targets.values()))
    if not is_disabled() and any(policy.process_share != 1.0 for policy in of_file):
        raise ConfigurationError(
            f"process_share must not be set with --workers: the variable {SHARE} sets the share of all of them"
        )
    if share() is not None and not own_fleet:
        raise ConfigurationError(
            f"{SHARE} is set: with --workers, use [fleet] to share limits with other gateways"
        )
