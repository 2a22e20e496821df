"""LangChain caches clients of anthropic, which close themselves when the interpreter clears the cache at exit.

The transport then needed its background loop, whose thread can no longer start: the process hung. If that loop never
ran, there is nothing to close.
"""

import subprocess
import sys

CODE = """
import asyncio
from functools import lru_cache
import httpx2
from stormbreak.httpx2 import Transport

class Late(httpx2.Client):
    def __del__(self, print=print):
        try:
            self.close()
        except RuntimeError as error:
            print(error)

@lru_cache
def client():
    return Late(transport=Transport())

client()
asyncio.run(asyncio.sleep(0))  # as in any program that had a loop
"""


def test_a_client_closed_at_interpreter_exit_does_not_hang():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        check=False, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
