"""Real servers for the tests of the fleet: Valkey and Redis, each on its own port and folder."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress

import pytest

KINDS = ("valkey", "redis")
INSTALL = "install the Debian packages valkey-server and redis-server"


class Server:
    """A server that can be frozen, killed and restarted. With `durable`, it loses no answered write."""

    def __init__(self, kind, folder, *, durable=False):
        self._command = f"{kind}-server"
        if shutil.which(self._command) is None:
            if os.environ.get("STORMBREAK_STORES") == "required":
                pytest.fail(f"{self._command} is not installed: {INSTALL}")
            pytest.skip(f"{self._command} is not installed: {INSTALL}")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._durable = durable
        self._process = None

    def start(self, *options):
        durable = ("--appendonly", "yes", "--appendfsync", "always") if self._durable else ()
        return self._run("--bind", "127.0.0.1", "--save", "", *durable, *options)

    def watch(self, primary):
        """Run as the sentinel of another server, which it calls `fleet`."""
        config = self._folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor fleet 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds fleet 1000\n"
        )
        return self._run(str(config), "--sentinel")

    def _run(self, *options):
        place = ("--port", str(self.port), "--dir", str(self._folder))
        self._process = subprocess.Popen(
            [self._command, *options, *place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as to:
                to.settimeout(1)
                to.sendall(b"PING\r\n")
                if to.recv(16).startswith((b"+PONG", b"-NOAUTH")):
                    return self
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"{self._command} does not answer")

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class SlowProxy:
    """Passes bytes to a server, each group after `delay` seconds; while `drops` is set, it drops them."""

    def __init__(self, port, delay):
        self.delay = delay
        self.drops = False
        self.to_port = port  # for new connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.to_port))
                except OSError:
                    client.close()
                    continue
                self._sockets += client, server
                for source, to in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._pass, args=(source, to))
                    self._threads.append(thread)
                    thread.start()

    def _pass(self, source, to):
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.delay / 2)
                if not self.drops:
                    to.sendall(data)
        self._end((source, to))

    def _end(self, sockets):
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._end(self._sockets)
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()


class AnyServer:
    """Answers `known` commands, and every script with `reply`; then it ends the connection."""

    def __init__(self, reply, known=()):
        self._known = {**_KNOWN, **dict(known)}
        self.connections = 0
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, suppress(OSError):
                    self._talk(client)

    def _talk(self, client):
        with client.makefile("rb") as lines:
            while head := lines.readline():
                words = [
                    lines.read(int(lines.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))
                ]
                if not words[0].startswith(b"EVAL"):
                    client.sendall(self._known.get(words[0], b"+OK\r\n"))
                    continue
                self.connections += 1
                client.sendall(self._reply)
                client.shutdown(socket.SHUT_WR)
                lines.read()  # a connection that ends with unread bytes is reset, and the reply is lost
                return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


_UPTIME = b"# Server\r\nuptime_in_seconds:1000\r\n"
_KNOWN = {
    b"TIME": b"*2\r\n$10\r\n1790000000\r\n$1\r\n0\r\n",
    b"INFO": b"$%d\r\n%s\r\n" % (len(_UPTIME), _UPTIME),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
