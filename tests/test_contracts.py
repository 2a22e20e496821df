"""The import contracts hold, and a planted violation is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"httptools", "asyncio", "click", "pydantic", "rich"}
ALLOWED = 0.150  # seconds that `import stormbreak` may take more than bare Python


@pytest.fixture
def copy(tmp_path):
    """A copy of the source and its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    return tmp_path


def lint_imports(copy):
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache", "--no-logo"],
        check=False,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_contracts_are_kept(copy):
    run = lint_imports(copy)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_forbidden_import_breaks_a_contract(copy):
    planted = (
        ("core/call.py", "import time", "stormbreak.core.call -> time"),
        ("core/policy.py", "import pydantic", "stormbreak.core.policy -> pydantic"),
        ("llm/__init__.py", "import random", "stormbreak.llm -> random"),
        ("batch/job.py", "import genai_prices", "stormbreak.batch.job -> genai_prices"),
        ("cost/roi.py", "import httptools", "stormbreak.cost.roi -> httptools"),
        ("types.py", "from stormbreak import core", "stormbreak.types -> stormbreak.core"),
    )
    for module, plant, _ in planted:
        path = copy / "src" / "stormbreak" / module
        path.write_text(f"{path.read_text()}\n{plant}\n")
    run = lint_imports(copy)
    assert run.returncode == 1, run.stdout + run.stderr
    assert [caught for _, _, caught in planted if caught not in run.stdout] == []


def test_importing_stormbreak_loads_no_heavy_module():
    code = "import sys, stormbreak; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "stormbreak" in loaded
    assert set() == HEAVY & set(loaded)


def test_help_and_lists_load_no_engine():
    commands = [
        "--help",
        "config --help",
        "cost --help",
        "storm --help",
        "storm list",
        "top --help",
    ]
    code = (
        "import sys\nfrom stormbreak.cli.main import main\n"
        "for words in sys.argv[1:]: main(words.split())\nprint(*sys.modules)"
    )
    run = [sys.executable, "-c", code, *commands]
    loaded = set(subprocess.check_output(run, text=True).splitlines()[-1].split())
    assert "stormbreak" in loaded
    assert set() == {"httptools", "asyncio", "pydantic", "stormbreak.core.engine"} & loaded


def test_importing_stormbreak_is_quick():
    """The best of several runs, in CPU seconds, because a process may wait on a busy machine."""
    bare = quick = float("inf")
    for _ in range(10):
        bare = min(bare, seconds("pass"))
        quick = min(quick, seconds("import stormbreak"))
        if quick - bare <= ALLOWED:
            return
    assert quick - bare <= ALLOWED


def test_importing_stormbreak_does_not_sleep_connect_or_fork():
    """The import runs with audit hooks that end the process."""
    assert exit_code("import stormbreak") == 0
    for slow in ("time.sleep(0)", "socket.getaddrinfo('localhost', 1)", "os.fork()"):
        assert exit_code(slow) == 9


def exit_code(code):
    events = {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork"}
    watched = f"""
import os, socket, sys, time
sys.addaudithook(lambda event, _: event in {events} and os._exit(9))
time.sleep = lambda _: os._exit(9)
"""
    return subprocess.run([sys.executable, "-c", watched + code], check=False).returncode


def seconds(code):
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
