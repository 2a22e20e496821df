"""Run each file that is named in a fork of this process: what they import is loaded once.

Each has two minutes. A traceback names the file; the exit code says whether one failed.
"""

import atexit
import encodings.idna  # noqa: F401
import gc
import os
import pkgutil
import runpy
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path

import openai
import uvloop  # noqa: F401

import stormbreak

for module in pkgutil.walk_packages(stormbreak.__path__, "stormbreak."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
openai.OpenAI(api_key="any").close()  # most of it is loaded late
gc.collect()
gc.freeze()

failed = 0
for path in sys.argv[1:]:
    if os.fork() == 0:
        signal.alarm(120)
        os.chdir(Path(path).parent)
        runpy.run_path(path, run_name="__main__")
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(0)  # to take all that was imported apart would take longer than most examples
    _, status = os.wait()
    if status:
        failed = 1
        print(f"{path} failed", file=sys.stderr)
sys.exit(failed)
