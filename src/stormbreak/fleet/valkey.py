"""The store in a Valkey or Redis server: each scope is a hash, and `store_rules.lua` its only operation.

A late answer would be read as the answer to the next command, so every failure closes the connection. Nothing is
retried here: the next report contains everything.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha1
from importlib.resources import files
from itertools import groupby
from math import isfinite
from typing import Any

from stormbreak.core.fleet_policy import PASSWORD
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.messages import TIMEOUT, Answer, Message, StoreError
from stormbreak.fleet.store_rules import QUIET, Demand, Member, Scope

PREFIX = "stormbreak:3:"  # the version of the records
GROUP = 16  # reports in one command; the server does nothing else meanwhile


class ValkeyStore:
    """One connection to a server. The password comes from the environment alone."""

    def __init__(self, url: str) -> None:
        try:
            import redis  # noqa: PLC0415 - an extra, and slow to load
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError(
                "a fleet needs the redis package: pip install 'stormbreak[fleet]'"
            ) from None
        tls = {"ssl_ca_certs": os.environ.get("SSL_CERT_FILE")} if url.startswith("rediss:") else {}
        self._failures = redis.RedisError, OSError
        self._refused = redis.ResponseError
        self._no_script = redis.exceptions.NoScriptError
        self._client: Any = redis.Redis.from_url(
            url,
            password=os.environ.get(PASSWORD) or None,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            max_connections=1,
            protocol=2,
            redis_connect_func=self._opened,
            **tls,
        )
        self._script = (files("stormbreak.fleet") / "store_rules.lua").read_text()
        self._digest = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        # The end of the time in which the server may have lost data that members know, and its id; None: not asked yet.
        self._server: tuple[float, float] | None = None

    @contextmanager
    def _failing(self, foreign: str) -> Iterator[None]:
        """Close the connection, and raise StoreError, if the server fails or answers with `foreign` data."""
        try:
            yield
        except self._failures as error:
            self.close()
            raise StoreError(_short(error)) from None
        except (struct.error, TypeError, ValueError):
            self.close()
            raise StoreError(foreign) from None

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        """Process reports, and answer each of them, in one round trip."""
        with self._failing("its answer is not one of our script"):
            pool = self._client.connection_pool
            pool.release(pool.get_connection())  # reconnects if the server closed the connection
            if self._server is None:
                self._server = self._asked_server()
            groups = _grouped(messages)
            replies = self._run("EVALSHA", self._digest, groups)
            unknown = [n for n, reply in enumerate(replies) if isinstance(reply, self._no_script)]
            if unknown:
                again = self._run("EVAL", self._script, [groups[place] for place in unknown])
                for place, reply in zip(unknown, again, strict=True):
                    replies[place] = reply
            pairs = zip(groups, replies, strict=True)
            return [answer for group, reply in pairs for answer in _answers(reply, len(group))]

    def _opened(self, connection: Any) -> None:
        self._server = None  # it may be another server, or a restarted one
        connection.on_connect()

    def _run(self, command: str, script: str, groups: Sequence[Sequence[Message]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for group in groups:
            words = ["", *map(repr, self._server or (0.0, 0.0))]
            for each in group:
                words += each.member, *map(repr, each.report.numbers())
            keys = [key_of(each.scope) for each in group]
            pipeline.execute_command(command, script, len(keys), *keys, *words)
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies

    def _asked_server(self) -> tuple[float, float]:
        """Return the end of the server's first QUIET seconds, by its clock, and an id of its process; 0 if unknown."""
        with suppress(self._refused, KeyError, ValueError):
            seconds, micro = self._client.time()
            info = self._client.info("server")
            started_at = float(seconds - info["uptime_in_seconds"] + micro / 1e6)
            return started_at + QUIET, float(int(info.get("run_id", "0")[:12], 16))
        return 0.0, 0.0

    def warnings(self) -> list[str]:
        """Return settings of the server that could lose granted money."""
        try:
            known: dict[str, str] = self._client.config_get("append*", "maxmemory*")
        except self._failures:
            return ["CONFIG GET is refused: grants of money may be lost in a restart"]
        found = []
        if known.get("appendonly") != "yes" or known.get("appendfsync") != "always":
            found.append(
                "a restart may lose grants of money: set appendonly yes, appendfsync always"
            )
        if known.get("maxmemory", "0") != "0" and known.get("maxmemory-policy") != "noeviction":
            found.append("it may evict grants of money: set maxmemory-policy noeviction")
        return found

    def close(self) -> None:
        with suppress(*self._failures):
            self._client.connection_pool.disconnect()

    def scopes(self, name: str) -> dict[str, Scope]:
        """Read the scopes of a fleet, by name; raise StoreError if the server does not answer."""
        literal = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in name)
        with self._failing(_FOREIGN):
            keys = sorted(self._client.scan_iter(match=f"{PREFIX}{{{literal}}}/*"))
            return {_scope_in(key): _read(self._client.hgetall(key)) for key in keys}

    def now(self) -> float:
        """Return the time of the server; raise StoreError if it does not answer."""
        with self._failing(_FOREIGN):
            seconds, micro = self._client.time()
            return float(seconds + micro / 1e6)


def key_of(scope: str) -> str:
    """Return the key of a scope. Its hash tag is the name of the fleet: one script may use all keys of it."""
    name, _, what = scope.partition("/")
    return f"{PREFIX}{{{name}}}/{what}"


def _scope_in(key: bytes) -> str:
    return key.decode()[len(PREFIX) + 1 :].replace("}/", "/", 1)


def _grouped(messages: Sequence[Message]) -> list[list[Message]]:
    """Group the reports by command: consecutive reports of one fleet, at most GROUP."""
    of_fleets = groupby(messages, lambda message: message.scope.partition("/")[0])
    fleets = (list(each) for _, each in of_fleets)
    return [each[at : at + GROUP] for each in fleets for at in range(0, len(each), GROUP)]


def _answers(reply: Any, count: int) -> list[Answer]:
    if isinstance(reply, Exception):
        raise reply
    is_whole = isinstance(reply, list) and len(reply) == count * _NUMBERS
    if not is_whole or not all(map(isfinite, map(float, reply))):
        raise ValueError("numbers that are not those of answers")
    return [Answer.of(reply[at : at + _NUMBERS]) for at in range(0, len(reply), _NUMBERS)]


_NUMBERS = sum(len(part) if isinstance(part, tuple) else 1 for part in Answer())


def _short(error: BaseException) -> str:
    """Describe a failure without text of the server or a library."""
    kind, code = type(error).__name__, str(error).partition(" ")[0]
    if code in _CODES:
        return _CODES[code]
    return next((text for word, text in _FAILURES.items() if kind.startswith(word)), kind)


_FOREIGN = f"its keys {PREFIX}* hold data of another program: choose another database or name"
_CLUSTER = "it is a cluster, which is not supported: use one primary"
_FAILURES = {
    "Response": f"it refuses the command, perhaps because {_FOREIGN}",
    "Timeout": "no answer in time",
    "Connection": "no connection",
    "Authentication": "it refuses the user or the password",
    "BusyLoading": "it is loading its data",
    "NoPermission": "the user may not run scripts",
    "ReadOnly": "it is a read-only replica",
    "OutOfMemory": "it is out of memory",
    "Moved": _CLUSTER,
    "Ask": _CLUSTER,
    "ClusterDown": _CLUSTER,
}
_CODES = {
    "BUSY": "another script is running",
    "MISCONF": "it refuses writes because it cannot save its data",
    "NOREPLICAS": "it refuses writes because it has too few replicas",
    "unknown": "it does not support the command EVALSHA or EVAL",
}


# ---------------------------------------------------------------- records, for `fleet status`


def _read(fields: dict[bytes, bytes]) -> Scope:
    """Read a scope as `store_rules.lua` writes it."""
    scope = Scope()
    for name, record in fields.items():
        values = [value for (value,) in struct.iter_unpack("<d", record)]
        if name:
            requests, tokens = Demand(*values[1:6]), Demand(*values[6:11])
            scope.members[name.decode()] = Member(values[0], requests, tokens, *values[11:])
        else:
            scope.epoch, scope.at, scope.quiet_until, *scope.tats = values[:5]
            scope.cooldown_at, scope.cooldown_until, scope.started = values[5:8]
            scope.ends_at, scope.folded, scope.forgotten, scope.asserted, scope.server = values[8:]
    return scope
