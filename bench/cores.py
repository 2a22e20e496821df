"""Which process runs on which core: the client on one, the provider on another."""

import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

CLIENT = 0
PROVIDER = 1

_OURS = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def pin(core: int) -> None:
    """Keep this process, and its children, on one core, where the system allows it."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {_OURS[core % len(_OURS)]})


def unpin() -> None:
    """Give this process back the cores it began with."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, _OURS)


PACKAGES = ("aiohttp", "uvloop", "openai", "tenacity", "stamina", "msgspec")


def describe(packages: Iterable[str] = PACKAGES, more: Iterable[str] = ()) -> str:
    """Say in one line what the figures come from."""
    return ", ".join(
        (
            time.strftime("%Y-%m-%d"),
            f"{os.cpu_count()} cores ({_model()})",
            f"{platform.system()} {platform.machine()}",
            f"Python {platform.python_version()}",
            *(f"{name} {version(name)}" for name in packages),
            *more,
            f"load average {os.getloadavg()[0]:.1f} at the start",
        )
    )


def _model() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"
