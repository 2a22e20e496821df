"""Which tests notice when a module is wrong: `make mutations FILES="core/retry_budget.py core/send_rate.py"`.

Each mutant is loaded in place of its module in a forked process, which runs the tests of that module until one
fails. One that takes far longer than the tests do counts as noticed. Results are kept in bench-results/ under the
mutant and the tests, so that a run can be stopped and gone on with. Survivors need a verdict in verdicts.toml.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import time
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

import hypothesis.strategies  # whatever is imported here, no child needs to import
import pytest
import pytest_asyncio  # noqa: F401

from marked import Block
from mutants import Mutant, mutants

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "stormbreak"
KEPT = ROOT / "bench-results" / "mutations"
VERDICTS = ROOT / "research" / "verdicts.toml"
TABLE = Block(
    ROOT / "docs" / "background" / "mutations.md", "<!-- table: begin -->", "<!-- table: end -->"
)
MIN_SPEED = 5.0  # times as long as the tests take without a mutant ...
AT_LEAST = 10.0  # ... and these seconds
UNSHRUNK = hypothesis.Phase.explicit, hypothesis.Phase.generate  # nobody reads the example

FILES = sorted(f"core/{path.name}" for path in (SOURCE / "core").glob("[a-z]*.py"))
ROOMS = "core", "laws", "drivers", "issues"  # of tests

KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"


def main() -> int:
    """Run what is missing, write the page; 1 where a survivor has no verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--survivors", action="store_true", help="trust what earlier tests noticed")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    verdicts = tomllib.loads(VERDICTS.read_text())
    rows, open_ = {}, 0
    for file in options.files:
        results = run(file, trusting=options.survivors)
        survivors = [name for name, came in results.items() if came == SURVIVED]
        known = verdicts.get(file, {})
        rows[file] = row(file, results, known)
        for name in survivors:
            print(f"{file}: survived: {name}\n    {known.get(name, 'NO VERDICT')}")
        for name in known.keys() - set(survivors):
            print(f"{file}: the verdict on {name!r} is of no survivor any more")
        open_ += len(survivors) - len(known.keys() & set(survivors))
    write(rows)
    return 1 if open_ else 0


def run(file: str, *, trusting: bool) -> dict[str, str]:
    """What came of each mutant of a file, by its name; `trusting` what was noticed before tests were added."""
    path = SOURCE / file
    tests = tests_of(path.stem)
    module = ".".join(("stormbreak", *Path(file).with_suffix("").parts))
    state = hashlib.sha256(b"".join(test.read_bytes() for test in tests)).hexdigest()
    store = KEPT / f"{path.stem}.json"
    kept: dict[str, tuple[str, str]] = json.loads(store.read_text()) if store.exists() else {}
    began = time.perf_counter()
    if judge(Mutant("unchanged", 0, path.read_text()), module, tests, 600.0) != SURVIVED:
        raise SystemExit(f"{file}: its tests fail without any mutant")
    patience = max(AT_LEAST, MIN_SPEED * (time.perf_counter() - began))
    results = {}
    for mutant in mutants(path.read_text()):
        key = hashlib.sha256(mutant.source.encode()).hexdigest()
        came, with_ = kept.get(key, (SURVIVED, ""))
        if with_ != state and not (trusting and came != SURVIVED):
            came = judge(mutant, module, tests, patience)
            kept[key] = came, state
            store.write_text(json.dumps(kept))
            print(f"{file}:{mutant.line} {came}: {mutant.name}", file=sys.stderr, flush=True)
        results[mutant.name] = came
    return results


def tests_of(name: str) -> list[Path]:
    """The test files that import a module of the core or have its name; all, where none does."""
    found = [path for room in ROOMS for path in (ROOT / "tests" / room).glob("test_*.py")]
    module = re.compile(rf"\bstormbreak\.core\.{name}\b|from stormbreak\.core import .*\b{name}\b")
    named = f"test_{name}"
    own = [p for p in found if p.stem.startswith(named) or module.search(p.read_text())]
    return sorted(own or found)


def judge(mutant: Mutant, module: str, tests: Sequence[Path], patience: float) -> str:
    """Run the tests against one mutant."""
    child = os.fork()
    if not child:
        code = 3
        try:
            code = _in_child(mutant, module, tests)
        finally:
            os._exit(code)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return SURVIVED if status == 0 else KILLED
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT


def _in_child(mutant: Mutant, module: str, tests: Sequence[Path]) -> int:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.meta_path.insert(0, _Swap(module, mutant.source))
    hypothesis.settings.register_profile("unshrunk", phases=UNSHRUNK, deadline=None)
    import_module(module)  # now: pytest's own importer would come first
    quiet = [
        "-x",
        "-q",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--hypothesis-seed=0",
        "--hypothesis-profile=unshrunk",
    ]
    return int(pytest.main([*quiet, "--rootdir", str(ROOT), *map(str, tests)]))


class _Swap(MetaPathFinder, Loader):
    """Finds one module in a text."""

    def __init__(self, module: str, source: str) -> None:
        if module in sys.modules:
            raise RuntimeError(f"{module} is imported already: its mutants would never run")
        self._module, self._source = module, source

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002
        target: object = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == self._module else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Have the usual one made."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the text."""
        exec(compile(self._source, f"<mutant of {self._module}>", "exec"), module.__dict__)


def row(file: str, results: dict[str, str], verdicts: dict[str, str]) -> str:
    """A file's line of the table."""
    survivors = [name for name, came in results.items() if came == SURVIVED]
    said = [verdicts.get(name, "") for name in survivors]
    equivalent = sum(text.startswith("equivalent") for text in said)
    accepted = sum(text.startswith("accepted") for text in said)
    killed = len(results) - len(survivors)
    today = datetime.now(UTC).date().isoformat()
    return (
        f"| `{file}` | {len(results)} | {killed} | {equivalent} | {accepted} "
        f"| {len(survivors) - equivalent - accepted} | {today} |"
    )


def write(rows: dict[str, str]) -> None:
    """Put new lines into the table, and keep those of other files."""
    kept = {
        line.split("`")[1]: line for line in TABLE.read().splitlines() if line.startswith("| `")
    }
    head = [
        "| file | mutants | noticed | survive: equivalent | accepted | without a verdict | on |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    lines = [*head, *(line for _, line in sorted((kept | rows).items()))]
    TABLE.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
