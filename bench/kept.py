"""Results of simulations, kept in bench-results/ under what was simulated and the code that did it.

So a long run can be stopped and gone on with, and what has not changed is not simulated again.
"""

import hashlib
import json
import os
from collections.abc import Hashable
from pathlib import Path

from stormbreak.storm.measures import Measures

ROOT = Path(__file__).parent.parent
_CODE_IN = {"core", "drivers", "storm", "provider", "scenarios"}


class CacheEntry:
    """What is kept in one folder of bench-results/."""

    def __init__(self, name: str) -> None:
        self._folder = ROOT / "bench-results" / name
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, *key: Hashable) -> Measures | None:
        """What came of it with the code of today, if that is known."""
        path = self._path(key)
        return Measures(**json.loads(path.read_text())) if path.exists() else None

    def put(self, measures: Measures, *key: Hashable) -> None:
        """Keep it, whole or not at all."""
        path = self._path(key)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(measures.plain()))
        draft.replace(path)

    def _path(self, key: tuple[Hashable, ...]) -> Path:
        text = "|".join(map(str, (*key, CODE)))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "stormbreak").rglob("*")):
        if path.suffix in {".py", ".toml"} and path.parent.name in _CODE_IN:
            digest.update(path.read_bytes())
    return digest.hexdigest()


CODE = _fingerprint()
"""A digest of everything that a simulation can depend on."""
