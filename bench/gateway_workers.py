"""CPU of a gateway for a request, with one process and with workers: `python bench/gateway_workers.py [REQUESTS]`.

The provider answers at once; it, the caller and all processes of the gateway share the cores of the machine. So only CPU
seconds compare, of the whole tree of processes.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from gateway import BARE, FILE, INSTANT, KEY, LIMITS, _request, all_requests
from partner import partner

REQUESTS = 10_000
CONNECTIONS = 32
ROUNDS = 3
SPEND = "[keys.app.spend]\nmax_usd = 1e6\nmax_output_tokens = 100"
CALM = 'breaker = "none"\npatience = 60\n'  # a busy machine is no reason to reject
TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def _gateway(path: Path, workers: int) -> Iterator[tuple[int, int]]:
    """Run one; yield its port and its process id."""
    command = [sys.executable, "-m", "stormbreak", "gateway", str(path), "--workers", str(workers)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rpartition(":")[2]), process.pid
    finally:
        process.terminate()
        process.wait()


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _tree(int(child)))]


def _cpu(pid: int) -> float:
    """Return the CPU seconds that a process and those below it have used."""
    used = 0
    for each in _tree(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICK


def main() -> None:
    """Print a line for each kind of gateway."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    kinds = {"bare": "", "limits of the key": LIMITS, "limits and spend": f"{LIMITS}\n{SPEND}"}
    with (
        partner(INSTANT) as provider,
        TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        for name, key in kinds.items():
            path = Path(folder) / "gateway.toml"
            digest = sha256(KEY.encode()).hexdigest()
            text = CALM + FILE.format(port=provider.port, digest=digest, gateway=BARE, key=key)
            target = '[targets.main]\nprovider = "openai"\napi_key_env = "BENCH_KEY"'
            path.write_text(text.replace("[targets.main]", target).replace("storm-1", "gpt-4.1"))
            for workers in (1, 2):
                with _gateway(path, workers) as (port, pid):
                    each = requests // CONNECTIONS
                    runner.run(all_requests(port, _request(), CONNECTIONS, 20))  # fills caches
                    cpu, rate = [], []
                    for _ in range(ROUNDS):
                        before, began = _cpu(pid), time.perf_counter()
                        runner.run(all_requests(port, _request(), CONNECTIONS, each))
                        rate.append(each * CONNECTIONS / (time.perf_counter() - began))
                        cpu.append(1e6 * (_cpu(pid) - before) / (each * CONNECTIONS))
                    print(
                        f"{name}, workers: {workers}: {min(cpu):.0f} us of CPU a request"
                        f" (of {ROUNDS}, at most {max(cpu):.0f}), {max(rate):,.0f} requests/s"
                    )


if __name__ == "__main__":
    os.environ["BENCH_KEY"] = "none"
    main()
