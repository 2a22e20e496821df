"""LangChain keeps clients of anthropic in a cache, which close themselves when the interpreter clears it away.

Ours then wanted its background loop, whose thread can no longer start: the process hung and never ended. Where that loop
never ran there is nothing to end.
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


def test_it_ends():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        check=False, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
