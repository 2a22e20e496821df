"""Threads that make, use and drop wrapped clients of openai and anthropic, while the process forks.

A program: `soak.py SECONDS`. It fails, and dumps all threads, if a thread or a child makes no progress for `PATIENCE`
seconds. It prints how many calls the threads and how many the children made.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from functools import cached_property
from itertools import count

import anthropic
import openai

from stormbreak.httpx2 import wrap
from stormbreak.testing import serve

THREADS = 8
PATIENCE = (
    180.0  # seconds without progress; at a load of 24, one call of each thread and a child took 43
)
QUICK = "[provider]\nservice = 0.01\n"
SAY = [{"role": "user", "content": "Hello?"}]


def made(kind, base_url):
    """A wrapped client that is never closed."""
    if issubclass(kind, openai.OpenAI | openai.AsyncOpenAI):
        return wrap(kind(base_url=base_url, api_key="any", max_retries=0, timeout=60.0))
    root = base_url.removesuffix("/v1")
    return wrap(kind(base_url=root, api_key="any", max_retries=0, timeout=60.0))


def call(client):
    """Make a call; return its result, or a coroutine of it."""
    if isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        return client.chat.completions.create(model="m", messages=SAY)
    return client.messages.create(model="m", messages=SAY, max_tokens=100)


def use(kind, base_url):
    """Make a client, use it and drop it."""
    client = made(kind, base_url)
    if not issubclass(kind, openai.AsyncOpenAI | anthropic.AsyncAnthropic):
        assert call(client).id
        return

    async def main():
        assert (await call(client)).id

    asyncio.run(main())


def lazy_parts():
    """The lazy attributes of the SDKs that have a lock: in Python 3.11 all clients share one."""
    # `isinstance` would call proxies
    found = [each for each in gc.get_objects() if type(each) is cached_property]
    return [each for each in found if hasattr(each, "lock")]


KINDS = (openai.OpenAI, anthropic.Anthropic, openai.AsyncOpenAI, anthropic.AsyncAnthropic)


class Soak:
    def __init__(self, base_url, seconds, lazy):
        self.lazy = lazy
        self.base_url, self.until = base_url, time.monotonic() + seconds
        self.calls = [0] * THREADS
        self.errors, self.children = [], 0

    def work(self, index):
        try:
            for turn in count(index):
                if time.monotonic() > self.until:
                    return
                use(KINDS[turn % len(KINDS)], self.base_url)
                self.calls[index] += 1
        except BaseException as error:
            self.errors.append(error)
            raise

    def fork(self):
        """Use a client of each kind in a child process, while the threads continue."""
        child = os.fork()
        if child == 0:
            faulthandler.register(signal.SIGALRM, chain=True)  # timer threads die in a fork
            code = 1
            try:
                for part in self.lazy:  # a fork keeps the locks of other threads
                    part.lock = threading.RLock()
                for kind in KINDS:
                    signal.alarm(int(PATIENCE))  # each iteration is progress
                    use(kind, self.base_url)
                signal.alarm(int(PATIENCE))
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(f"a child ended with {os.waitstatus_to_exitcode(status)}")
        self.children += 1

    def run(self):
        threads = [
            threading.Thread(target=self.work, args=(index,), daemon=True)
            for index in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        seen, since = list(self.calls), [time.monotonic()] * THREADS
        while any(thread.is_alive() for thread in threads):
            faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)  # of this thread
            if time.monotonic() < self.until:
                self.fork()
            time.sleep(0.05)
            now = time.monotonic()
            for index, thread in enumerate(threads):
                if self.calls[index] != seen[index] or not thread.is_alive():
                    seen[index], since[index] = self.calls[index], now
                elif now - since[index] > PATIENCE:
                    faulthandler.dump_traceback(all_threads=True)
                    raise AssertionError(f"thread {index} stands still")
            if self.errors:
                raise AssertionError("a thread failed") from self.errors[0]


def main(seconds):
    warnings.simplefilter("ignore")  # threads and dropped clients are the subject here
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # SDKs close async clients on any loop
    with serve(QUICK) as provider:
        for kind in KINDS:  # lazy imports run now: a child cannot finish them
            use(kind, provider.base_url)
        lazy = lazy_parts()
        gc.collect()
        gc.freeze()  # collections are small and fast
        gc.set_threshold(50, 5, 5)  # and frequent, so they run in the middle of calls
        soak = Soak(provider.base_url, seconds, lazy)
        soak.run()
    assert min(soak.calls) > 0
    assert soak.children > 0
    sys.stdout.write(f"{sum(soak.calls)} calls, {soak.children} children\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]))
    except BaseException:  # noqa: BLE001 - also SystemExit
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a blocked thread would delay the end of the process
