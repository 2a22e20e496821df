"""Which tests notice when a module is wrong: `make mutations FILES="core/retry_budget.py core/send_rate.py"`.

What came of each mutant, and which test noticed it, is kept in bench-results/, so that a run can be stopped and gone on
with. After a change of the code or the tests, a mutant first meets the test that noticed it before. Survivors need a
verdict in verdicts.toml.
"""

import argparse
import hashlib
import os
import pickle
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from marked import Block
from mutant_tests import (
    CORE,
    ROOT,
    SURVIVED,
    Collected,
    Judged,
    Measured,
    NotSwappedError,
    file_of,
    judge_import,
)
from mutants import Mutant, mutants

KEPT = ROOT / "bench-results" / "mutations"
VERDICTS = ROOT / "research" / "verdicts.toml"
TABLE = Block(
    ROOT / "docs" / "background" / "mutations.md", "<!-- table: begin -->", "<!-- table: end -->"
)
TESTS = KEPT / "tests.pickle"

# Seconds of a processor for the tests of other modules against one mutant; and if it survives and has no verdict.
ENOUGH, MORE = 0.3, 3.0

SOURCE = CORE.parent
FILES = sorted(f"core/{path.name}" for path in CORE.glob("[a-z]*.py"))
NOT_RUN = "not run"
ROOMS = "core", "laws", "drivers", "issues", "fleet", "cost"  # of tests


def main() -> int:
    """Run what is missing, write the page; 1 where a survivor has no verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", metavar="core/NAME.py")
    files = parser.parse_args().files or FILES
    for file in files:
        if file not in FILES:
            parser.error(f"no file of the core is named {file!r}; such as {FILES[0]}")
    KEPT.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = (
        ""  # no test finds a real store to start: a mutant that never ends would leave it behind
    )
    modules = [Path(file).stem for file in files]
    run(modules)
    rows, open_ = {}, 0
    for file, module in zip(files, modules, strict=True):
        results = Results(module).names()
        survivors = [name for name, came in results.items() if came == SURVIVED]
        known = verdicts().get(file, {})
        rows[file] = row(file, results, known)
        for name in survivors:
            print(f"{file}: survived: {name}\n    {known.get(name, 'NO VERDICT')}")
        for name in known.keys() - set(survivors):
            print(f"{file}: the verdict on {name!r} is of no survivor any more")
        open_ += len(survivors) - len(known.keys() & set(survivors))
    write(rows)
    return 1 if open_ else 0


class Kept(NamedTuple):
    """What came of a mutant, and the digest of its source and of the tests."""

    judged: Judged
    digest: str


class Results:
    """What came of the mutants of a module, by name; kept in a file."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.own = own_files(module)
        self._path = KEPT / f"{module}.pickle"
        self._kept: dict[str, Kept] = _load(self._path)
        self._verdicts = verdicts().get(f"core/{module}.py", {})
        self._mutants = list(mutants((CORE / f"{module}.py").read_text()))

    def missing(self) -> list[tuple[Mutant, str]]:
        """The mutants that did not run like this, and the tests that noticed them before."""
        kept = {
            mutant: self._kept.get(mutant.name, Kept(Judged(SURVIVED), ""))
            for mutant in self._mutants
        }
        return [
            (mutant, it.judged.test)
            for mutant, it in kept.items()
            if it.digest != self._digest(mutant, it.judged)
        ]

    def unchanged(self) -> Mutant:
        """The module without a mutation."""
        return Mutant("unchanged", range(0), (CORE / f"{self.module}.py").read_text(), None)

    def keep(self, mutant: Mutant, judged: Judged) -> None:
        """Keep what came of a mutant."""
        self._kept[mutant.name] = Kept(judged, self._digest(mutant, judged))
        _save(self._path, self._kept)
        place = f"core/{self.module}.py:{mutant.lines[0]}"
        print(f"{place} {judged.came}: {mutant.name}  {judged.test}", file=sys.stderr, flush=True)

    def names(self) -> dict[str, str]:
        """What came of each mutant of today's module."""
        kept = self._kept
        return {
            each.name: kept[each.name].judged.came if each.name in kept else NOT_RUN
            for each in self._mutants
        }

    def tests(self, mutant: Mutant, measured: Mapping[str, Measured]) -> list[str]:
        """The tests that run a mutant, or may, the shortest first: those of the module, and as many others as time allows."""
        found = sorted(
            (not self.is_named(name), file_of(name) not in self.own, it.cpu, name)
            for name, it in measured.items()
            if it.passed and not it.waits and self._concerns(mutant, name, it)
        )
        spent = accumulate((cpu for *_, cpu, _ in found), initial=0.0)
        return [
            name
            for (is_other, _, _, name), before in zip(found, spent, strict=False)
            if not is_other or before < self._enough(mutant)
        ]

    def _enough(self, mutant: Mutant) -> float:
        return ENOUGH if mutant.name in self._verdicts else MORE

    def is_named(self, test: str) -> bool:
        """Whether a test is in a file with the name of the module."""
        return Path(file_of(test)).name.startswith(f"test_{self.module}")

    def _concerns(self, mutant: Mutant, name: str, it: Measured) -> bool:
        if mutant.function:
            return it.runs(mutant, self.module)
        return file_of(name) in self.own or self.module in it.lines

    def _digest(self, mutant: Mutant, judged: Judged) -> str:
        files = [file_of(judged.test)] if judged.test else sorted(self.own)
        salt = "" if judged.test else f"{self._enough(mutant)}"
        return _digest(
            [mutant.source.encode(), salt.encode(), *(_bytes(ROOT / file) for file in files)]
        )


def run(modules: Sequence[str]) -> None:
    """Judge the mutants of these modules: those of functions in a process that has all tests, then the others."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit("the tests could not be collected")
    else:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            Collected(lambda tests: _of_functions(tests, modules)).run(test_files())
            os._exit(0)
        finally:
            os._exit(1)
    measured: dict[str, Measured] = {name: it for name, (_, it) in _load(TESTS).items()}
    for module in modules:
        results = Results(module)
        missing = results.missing()
        if missing:
            unchanged = results.unchanged()
            if judge_import(unchanged, module, results.tests(unchanged, measured), measured).test:
                raise SystemExit(f"{module}: its tests fail without any mutant")
        for mutant, noticed in missing:
            tests = results.tests(mutant, measured)
            named = [name for name in tests if results.is_named(name)]
            judged = Judged(SURVIVED)
            for group in ([noticed] if noticed in measured else [], named, tests):
                if group and judged.came == SURVIVED:
                    judged = judge_import(mutant, module, group, measured)
            results.keep(mutant, judged)


def _of_functions(collected: Collected, modules: Sequence[str]) -> None:
    """Measure the tests, then judge the mutants of functions. One that ran on import, and survives, is imported, too."""
    kept: dict[str, tuple[str, Measured]] = _load(TESTS)
    core = _digest(map(_bytes, sorted(CORE.glob("*.py"))))
    now = {name: _digest([core.encode(), _bytes(ROOT / file_of(name))]) for name in collected.names}
    collected.measure({name: it for name, (then, it) in kept.items() if then == now.get(name)})
    _save(TESTS, {name: (now[name], it) for name, it in collected.measured.items()})
    if failed := [name for name, it in collected.measured.items() if not it.passed]:
        print("fail without any mutant:", *failed, sep="\n  ", file=sys.stderr)
    for module in modules:
        results = Results(module)
        for mutant, noticed in results.missing():
            if not mutant.function:
                continue
            tests = results.tests(mutant, collected.measured)
            ran = f"{module}:{mutant.function}" in collected.imported
            with suppress(NotSwappedError):
                judged = collected.judge(mutant, module, tests, noticed)
                if judged.came != SURVIVED or not ran:
                    results.keep(mutant, judged)


@cache
def verdicts() -> dict[str, dict[str, str]]:
    """The verdicts, by file and name."""
    return tomllib.loads(VERDICTS.read_text())


def test_files() -> list[Path]:
    """All files of tests that may run."""
    return sorted(path for room in ROOMS for path in (ROOT / "tests" / room).glob("test_*.py"))


def own_files(module: str) -> frozenset[str]:
    """The test files that import a module or have its name."""
    imports = re.compile(
        rf"\bstormbreak\.core\.{module}\b|from stormbreak\.core import .*\b{module}\b"
    )
    return frozenset(
        str(path.relative_to(ROOT))
        for path in test_files()
        if path.stem.startswith(f"test_{module}") or imports.search(path.read_text())
    )


@cache
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def _digest(texts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(texts)).hexdigest()


def _load(path: Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.exists() else {}


def _save(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value))


def row(file: str, results: dict[str, str], verdicts: dict[str, str]) -> str:
    """A file's line of the table."""
    survivors = [name for name, came in results.items() if came == SURVIVED]
    said = [verdicts.get(name, "") for name in survivors]
    equivalent = sum(text.startswith("equivalent") for text in said)
    accepted = sum(text.startswith("accepted") for text in said)
    missing = sum(came == NOT_RUN for came in results.values())
    killed = len(results) - len(survivors) - missing
    today = datetime.now(UTC).date().isoformat()
    return (
        f"| `{file}` | {len(results)} | {killed} | {equivalent} | {accepted} "
        f"| {len(survivors) - equivalent - accepted} | {missing} | {today} |"
    )


def write(rows: dict[str, str]) -> None:
    """Put new lines into the table, and keep those of other files."""
    kept = {
        file: line
        for line in TABLE.read().splitlines()
        if line.startswith("| `") and (file := line.split("`")[1]) in FILES
    }
    head = [
        "| file | mutants | noticed | survive: equivalent | accepted | without a verdict | not run | on |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines = [*head, *(line for _, line in sorted((kept | rows).items()))]
    TABLE.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
