"""The short commands in the documents run, and the other blocks are valid."""

import ast
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
from command_lines import words_of
from forked_tests import AfterTheFork
from forking import in_child
from table_test import table_test

from stormbreak.cli.main import main
from stormbreak.cost.price_lookup import price_of
from stormbreak.gateway.usage_ledger import UsageLedger
from stormbreak.testing import serve

pl = AfterTheFork("polars")

ROOT = Path(__file__).parent.parent
OWN_TEST = ROOT / "docs" / "many-machines.md"  # tests/cli/test_many_machines.py
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {OWN_TEST})

# All other commands run here.
NOT_RUN = {
    "storm": "simulations take long; the tests of each option run short ones",
    "demo": "takes a minute; tests/demo",
    "provider": "runs until it is stopped; tests/cli/test_batch_docs.py starts it",
    "top": "needs a batch that runs; tests/telemetry",
    "fleet": "needs a store; tests/fleet",
    "rehearse": "plays a storm in real time; tests/gateway",
    "gateway.toml": "serves until it is stopped; tests/gateway",
    "incident.json": "needs the result of a long simulation; tests/cost",
    "--report": "tests/report",
    "submit": "a batch of the provider takes its time; tests/batch",
    "poll": "see submit",
    "fetch": "see submit",
    "cancel": "see submit",
    "set": "needs a batch that runs; tests/batch",
    "--max-cost": "needs prices of the mock provider; tests/batch",
}

_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(*infos):
    """The blocks of these kinds, each named by its page and line; translations have the blocks of their originals."""
    for page in PAGES:
        text = page.read_text()
        for match in _FENCED.finditer(text):
            if match[1] in infos and page.parent.name != "vi":
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(match[2], id=f"{page.relative_to(ROOT)}:{line}")


def commands(block):
    """The lines of a block that call stormbreak."""
    lines = block.replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ").removesuffix("&") for line in lines]
    return [line for line in typed if line.startswith("stormbreak ")]


def runs(line):
    words = words_of(line)
    return not set(words) & set(NOT_RUN) or bool({"init", "convert", "--check"} & set(words))


(PRICES,) = [block.values[0] for block in blocks("toml") if "docs/cost.md" in block.id]
(LITELLM,) = [block.values[0] for block in blocks("yaml") if "litellm-proxy.md" in block.id]
RUN = [block for block in blocks("sh", "console") if any(map(runs, commands(*block.values)))]


@pytest.fixture(scope="module")
def provider():
    with serve("calm", speed=100) as running:
        yield running


def at_the_provider(words, base_url):
    """The arguments of `batch run` or `batch retry`, with the mock provider in place of another one."""
    if words[0] != "batch" or words[1] not in {"run", "retry"}:
        return words
    others = list(words)
    for option in {"--provider", "--base-url"} & set(words):
        place = others.index(option)
        del others[place : place + 2]
    return [*others, "--base-url", base_url]


@pytest.fixture(scope="module")
def prepared(provider, tmp_path_factory):
    """A folder with the files that the documents name."""
    folder = tmp_path_factory.mktemp("prepared")
    prompts = [{"prompt": "Hello?", "max_tokens": 9, "model": "gpt-4.1"}] * 9
    for name in ("in", "prompts", "documents", "fifty"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in prompts))
    rows = pl.DataFrame({"title": ["a"] * 9, "body": ["b"] * 9})
    rows.write_csv(folder / "rows.csv")
    rows.write_parquet(folder / "rows.parquet")
    for name, preset in (("policy", "interactive"), ("article", "article")):
        (folder / f"{name}.toml").write_text(f'preset = "{preset}"\n')
    (folder / "review.json").write_text('{"type": "object"}')
    (folder / "acme.toml").write_text(PRICES)
    (folder / "litellm.yaml").write_text(LITELLM)
    for name in ("spent", "replica1", "replica2"):
        UsageLedger(folder / f"{name}.db", price_of).close()
    send = ["batch", "run", "--base-url", provider.base_url, "--quiet"]
    table = ["--prompt", "{title}", "--model", "m"]
    assert main([*send, f"{folder}/rows.csv", "-o", f"{folder}/out.parquet", *table]) == 0
    for name in ("out", "answers"):
        assert main([*send, f"{folder}/in.jsonl", "-o", f"{folder}/{name}.jsonl"]) == 0
    return folder


@pytest.mark.parametrize("block", RUN)
def test_the_commands_in_the_documents_run(
    block, provider, prepared, tmp_path, monkeypatch, capsys
):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", *re.findall(r"os\.environ/(\w+)", LITELLM)):
        monkeypatch.setenv(name, "any")
    lines = [line for line in commands(block) if runs(line)]
    if " batch run " in lines[0]:
        for made in [*tmp_path.glob("out.*"), *tmp_path.glob("answers.*")]:
            made.unlink()
    for line in lines:
        for shard in range(1, 9) if "$I" in line else [0]:
            words = words_of(line.replace("$I", str(shard)))[1:]
            code = main(at_the_provider(words, provider.base_url))
            assert code == 0, (line, capsys.readouterr().err)


class Outcomes:
    """A pytest plugin that records the outcome of every test, and warnings."""

    def __init__(self):
        self.all = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            self.all.append(report.outcome)

    def pytest_warning_recorded(self):
        self.all.append("warned")


def test_the_tests_in_the_documents_pass(tmp_path):
    (tmp_path / "policy.toml").write_text('preset = "interactive"\n')
    paths = []
    for number, block in enumerate(blocks("python")):
        (code,) = block.values
        if (
            "def test_" in code and "survey(" not in code
        ):  # takes minutes; tests/storm has short ones
            path = tmp_path / f"test_{number}.py"
            path.write_text(code.replace("seeds=3", "seeds=1"))
            paths.append(path)
    shown = sum(path.read_text().count("def test_") for path in paths)

    def passed():
        os.chdir(tmp_path)
        seen = Outcomes()
        warnings.resetwarnings()  # the filters of this suite are not those of a user
        assert pytest.main(["-q", "-p", "no:cacheprovider", *map(str, paths)], plugins=[seen]) == 0
        assert set(seen.all) == {"passed"}  # none is skipped
        return len(seen.all) >= shown  # more, where one has parameters

    assert in_child(passed, seconds=120)


@table_test("code", [each for each in blocks("python no-run") if "article.md" not in each.id])
def test_python_that_is_not_run_has_valid_syntax(code):
    ast.parse(code)


@table_test("text", list(blocks("json", "jsonl")))
def test_json_in_the_documents_is_valid(text):
    for line in text.splitlines():
        json.loads(line)
