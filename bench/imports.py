"""How long `import stormbreak` takes, beside a Python that imports nothing."""

import subprocess
import sys
import time

from rounds import Figure, Section, alternate, minus

ROUNDS = 15
STATEMENTS = (
    ("bare Python", "pass", ""),
    ("import stormbreak", "import stormbreak", "<= 150"),
    ("from stormbreak import AsyncClient", "from stormbreak import AsyncClient", ""),
    ("import aiohttp", "import aiohttp", ""),
)


def sections() -> list[Section]:
    """Start a fresh interpreter for every sample."""
    samples = alternate(STATEMENTS, lambda one: _run(one[1]), rounds=ROUNDS)
    figures = [
        Figure(name, "ms", minus(taken, samples[0]) if place else taken, goal)
        for place, ((name, _, goal), taken) in enumerate(zip(STATEMENTS, samples, strict=True))
    ]
    return [Section("Import time, beyond bare Python", figures)]


def _run(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - began) * 1000
