"""Use everything that has a lock, while each lock collects a dropped client on the thread that takes it.

It is a program, because locks are created when modules are imported. It prints the modules whose locks were taken, and
dumps all threads on a deadlock.
"""

import faulthandler
import gc
import sys
import threading
from collections import Counter

faulthandler.dump_traceback_later(60.0, exit=True)
KINDS = {"Lock": threading.Lock, "RLock": threading.RLock}
TIMES = 6  # for each module
modules = Counter()
dropped = []
collecting = threading.local()
ready = False


class Collecting:
    """A lock that collects a dropped client as soon as it is held."""

    def __init__(self, lock, module):
        self._lock, self._module = lock, module

    def acquire(self, *args, **kwargs):
        got = self._lock.acquire(*args, **kwargs)
        due = ready and modules[self._module] < TIMES
        if got and due and not getattr(collecting, "now", False):
            modules[self._module] += 1
            collecting.now = True
            try:
                ring = [dropped.pop()]
                ring.append(ring)
                del ring
                gc.collect()
            except IndexError:  # enough
                pass
            finally:
                collecting.now = False
        return got

    def release(self):
        self._lock.release()

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()

    def __getattr__(self, name):
        return getattr(self._lock, name)


def made_by(kind):
    def make():
        frame = sys._getframe(1)
        while frame.f_globals["__name__"] == "stormbreak.drivers.locks":
            frame = frame.f_back
        module = frame.f_globals["__name__"]
        lock = kind()
        return Collecting(lock, module) if module.startswith("stormbreak.") else lock

    return make


for name, kind in KINDS.items():
    setattr(threading, name, made_by(kind))

import asyncio  # noqa: E402
import logging  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import httpx2  # noqa: E402

from stormbreak import CircuitBreaker  # noqa: E402
from stormbreak.cache.memory import MemoryCache  # noqa: E402
from stormbreak.cache.sqlite import SqliteCache  # noqa: E402
from stormbreak.core.fallback_policy import CachePolicy  # noqa: E402
from stormbreak.cost.meter import Meter  # noqa: E402
from stormbreak.http.client import AsyncClient  # noqa: E402
from stormbreak.httpx2 import AsyncTransport, Transport, wrap  # noqa: E402
from stormbreak.telemetry.attachment import attach  # noqa: E402
from stormbreak.telemetry.live_state import LiveState  # noqa: E402
from stormbreak.telemetry.logs import Logs  # noqa: E402
from stormbreak.testing import serve  # noqa: E402

for name, kind in KINDS.items():
    setattr(threading, name, kind)

QUICK = "[provider]\nservice = 0.01\n"
ASK = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}


class SdkClient:
    """A client that its finalizer closes, like those of openai and anthropic."""

    def __init__(self, http):
        self.http = http

    def __del__(self):
        if not self.http.is_closed:
            self.http.close()


class Inner(httpx2.BaseTransport):
    pass


def ask(base_url):
    with wrap(httpx2.Client(timeout=30.0, transport=httpx2.HTTPTransport(verify=False))) as http:
        assert http.post(f"{base_url}/chat/completions", json=ASK).status_code == 200
    with (
        httpx2.Client(timeout=30.0, transport=Transport()) as http,
        attach(http, Meter(lambda *_: None), Logs(), LiveState()),
    ):
        with http.stream("POST", f"{base_url}/chat/completions", json=ASK | {"stream": True}) as r:
            r.read()
        http._transport.snapshot()


async def ask_on_a_loop(base_url):
    async with httpx2.AsyncClient(timeout=30.0, transport=AsyncTransport()) as http:
        assert (await http.post(f"{base_url}/chat/completions", json=ASK)).status_code == 200
    async with AsyncClient(base_url=base_url, model="m") as client:
        await client.chat(ASK["messages"])


def use_caches(folder):
    policy = CachePolicy()
    for cache in (MemoryCache(policy), SqliteCache(Path(folder) / "kept", policy)):
        cache.put(b"key", b"body")
        assert cache.get(b"key").body == b"body"
        cache.close()


def main():
    global ready  # noqa: PLW0603 - set once the clients exist
    logging.getLogger("stormbreak").addHandler(logging.NullHandler())
    gc.collect()
    gc.freeze()  # later collections are small and fast
    dropped.extend(
        SdkClient(httpx2.Client(transport=Transport(inner=Inner()) if i % 2 else Transport()))
        for i in range(100)
    )
    with serve(QUICK) as provider, tempfile.TemporaryDirectory() as folder:
        ready = True
        ask(provider.base_url)
        asyncio.run(ask_on_a_loop(provider.base_url))
        CircuitBreaker().call(int)
        use_caches(folder)
        ready = False
    sys.stdout.write("\n".join(sorted(modules)))


main()
