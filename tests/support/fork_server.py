"""The command line, or a program in this folder, as a child process forked from one that has imported it.

This saves a quarter of a second per start.

Pid, signals, streams and exit code are those of `subprocess.Popen`. Settings that apply only at the start of an
interpreter (its variables, limits, `preexec_fn`, `pass_fds`) use a real start, as does every system except Linux.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import resource
import runpy
import socket
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

BY_THE_INTERPRETER = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC", "TZ")
LIMITS = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
PARAMETERS = (
    "words", "executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo", "creationflags", "shell",
    "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals", "gid", "gids", "uid", "umask",
    "start_new_session", "process_group",
)  # fmt: skip
PLAIN = {"executable": None, "pass_fds": (), "shell": False, "process_group": -1}
PROGRAM = [sys.executable, "-W", "error", "-m", "stormbreak"]
HERE = Path(__file__).parent
LOADED = (
    "batch.job", "cli.batch.retry", "cli.batch.run", "cli.main", "cli.provider", "cli.top_screen", "http.h1.async_connection",
    "http.h1.async_connect", "http.h1.blocking_connection", "provider.server", "telemetry.live_state",
)  # fmt: skip
LOADED_FOR = {
    "fleet_worker.py": ("stormbreak.fleet.shared_limits", "stormbreak.fleet.valkey", "metering"),
    "gateway": ("stormbreak.gateway.parent", "stormbreak.gateway.process"),
    "storm": ("stormbreak.cli.storm.run", "stormbreak.cli.storm.live", "stormbreak.storm.parallel"),
}
"""Further imports before the first process of a program or command."""

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: adopt the children of an ended child

_lock = threading.Lock()
_server = None


def own_terminal():
    """For `preexec_fn`: make stdin the terminal of the session, so that Ctrl-C reaches the process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class ForkedPopen(subprocess.Popen):
    """A `subprocess.Popen` that forks `PROGRAM` or a program in this folder."""

    def _execute_child(self, *given):
        options = dict(zip(PARAMETERS, given, strict=True))
        words, env = options["words"], options["env"] or dict(os.environ)
        is_plain = all(options[name] == value for name, value in PLAIN.items())
        is_plain &= options["preexec_fn"] in {None, own_terminal}
        words = [words] if isinstance(words, str) else [*map(os.fspath, words)]
        is_plain &= words[:3] == PROGRAM[:3] and (
            words[3:5] == PROGRAM[3:] or [Path(each).parent for each in words[3:4]] == [HERE]
        )
        server = _server_like(env) if is_plain else None
        if server is None:
            super()._execute_child(*given)
            return
        pipes = [options[name] for name in PARAMETERS[10:16]]
        request = {
            "words": words[3:],
            "cwd": os.fspath(options["cwd"] or Path.cwd()),
            "env": env,
            "new_session": options["start_new_session"],
            "terminal": options["preexec_fn"] is not None,
        }
        fds = [fd if fd >= 0 else ours for ours, fd in enumerate((pipes[0], *pipes[3::2]))]
        with _lock:
            self.pid = _fork(server, json.dumps(request).encode(), fds)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def _fork(server, request, fds):
    """Let the server fork, adopt the child, and return its pid."""
    prctl = ctypes.CDLL(None).prctl
    prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(server, [request], fds)
        return int(server.recv(20))
    finally:
        prctl(SUBREAPER, 0, 0, 0, 0)


def _server_like(env):
    """The server of this process, if its interpreter equals a new one."""
    global _server  # noqa: PLW0603 - one for each process
    same = {name: value for name, value in env.items() if name.startswith(BY_THE_INTERPRETER)}
    here = (os.getpid(), same, *map(resource.getrlimit, LIMITS))
    if _server is None and sys.platform == "linux":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fd = theirs.fileno()
            process = subprocess.Popen(
                [*PROGRAM[:3], __file__, str(fd)], pass_fds=[fd], stdin=subprocess.DEVNULL, env=env
            )
        _server = (here, ours)
        atexit.register(process.wait)
        atexit.register(ours.close)
    return _server[1] if _server and _server[0] == here else None


def _serve(requests):
    """Fork for each request; return the request in the child, whose parent has ended."""
    while True:
        request, fds, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not request:
            os._exit(0)
        wanted = json.loads(request)
        for word in wanted["words"][:3]:
            for name in LOADED_FOR.get(Path(word).name, ()):
                importlib.import_module(name)
        gc.freeze()
        ours, theirs = os.pipe()
        between = os.fork()
        if not between:
            if pid := os.fork():
                os.write(theirs, str(pid).encode())
                os._exit(0)
            return wanted, fds
        for fd in (theirs, *fds):
            os.close(fd)
        os.waitpid(between, 0)
        requests.send(os.read(ours, 20))
        os.close(ours)


def _become(words, cwd, env, *, new_session, terminal, fds):
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if new_session:
        os.setsid()
    if terminal:
        own_terminal()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = map(_opened, range(3), (sys.stdin, sys.stdout, sys.stderr))
    sys.argv[:] = words[words[0] == "-m" :]


def _opened(fd, stream):
    """Open a standard stream like the interpreter."""
    is_by_line = fd == 2 or os.isatty(fd) or stream.write_through
    file = open(fd, "wb" if fd else "rb", closefd=False)  # noqa: SIM115 - to the end of the process
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=is_by_line)


def _run(program, name=None):
    """Run a program or a module; return its exit code."""
    try:
        if program == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    return 0


if __name__ == "__main__":
    gc.disable()
    for name in LOADED:
        importlib.import_module(f"stormbreak.{name}")
    with suppress(ImportError):
        importlib.import_module("uvloop")
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        wanted = _serve(requests)
    _become(**wanted[0], fds=wanted[1])
    gc.enable()
    code = _run(*wanted[0]["words"][:2])
    gc.collect()  # an unclosed resource is an error
    threading._shutdown()
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # then the interpreter reports it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # freeing all modules takes twice as long as a short command
    sys.exit(code)
