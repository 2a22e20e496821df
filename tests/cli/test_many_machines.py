"""The commands and the Spark function in docs/many-machines.md run with the variables of a cluster."""

import csv
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from batches import environment, run, scenario
from forked_tests import AfterTheFork

from stormbreak.testing import answer_text

pd = AfterTheFork("pandas")

PAGE = (Path(__file__).parents[2] / "docs" / "many-machines.md").read_text()
PLACE = "--provider openai -m gpt-4.1"
ROWS = 20


def block(heading, info):
    (found,) = re.findall(rf"^## {heading}\n.*?```{info}\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path("rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "body"], *([number, f"text {number}"] for number in range(ROWS))]
        )
    return tmp_path


def kubernetes():
    """The shell command of the manifest, folded as YAML does."""
    (lines,) = re.findall(r"- >-\n(.*?)\n +volumeMounts", block("Kubernetes", ""), re.DOTALL)
    return " ".join(line.strip() for line in lines.splitlines())


@pytest.mark.parametrize(
    ("script", "variable", "first"),
    [(block("Slurm", "sh"), "SLURM_ARRAY_TASK_ID", 1), (kubernetes(), "JOB_COMPLETION_INDEX", 0)],
    ids=["slurm", "kubernetes"],
)
def test_the_scripts_for_slurm_and_kubernetes_run_shards(
    at, stormbreak_provider, script, variable, first
):
    provider = stormbreak_provider(scenario())
    ours = script.replace(PLACE, f"--base-url {provider.base_url} -m storm-1").replace("/8", "/2")
    assert ours != script
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for index in range(2):
        env = environment(PATH=path, **{variable: str(first + index)})
        done = subprocess.run(
            ["sh", "-c", ours], env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert run("batch", "merge", "out.csv", "out.1.jsonl", "out.2.jsonl").returncode == 0
    with Path("out.csv").open(newline="") as file:
        found = [(int(row["id"]), row["answer"]) for row in csv.DictReader(file)]
    asked = [
        {"model": "storm-1", "messages": [{"role": "user", "content": f"Summarise text {number}"}]}
        for number in range(ROWS)
    ]
    assert found == [(number, answer_text(body)) for number, body in enumerate(asked)]


def test_the_function_for_spark_answers_and_resumes(tmp_path, stormbreak_provider):
    provider = stormbreak_provider(scenario())
    text = block("Spark", "python no-run").partition("SCHEMA")[0]
    place = f'base_url="{provider.base_url}", model="m"'
    ours = re.sub(r'provider="openai",\s*model="gpt-4.1-mini"', place, text)
    ours = ours.replace("/shared/run1", str(tmp_path / "journal"))
    module = types.ModuleType("recipe")
    exec(ours, module.__dict__)
    frames = [pd.DataFrame({"id": [n, n + 1], "title": [f"t{n}", f"t{n + 1}"]}) for n in (0, 2)]
    found = pd.concat(module.answers(iter(frames)))
    assert found["verdict"].tolist() == ["ok"] * 4
    again = pd.concat(module.answers(iter(frames)))
    assert again["answer"].tolist() == found["answer"].tolist()
    assert provider.stats()["arrivals"] == 4
    schema = re.search(r"SCHEMA = \((.*?)\)", block("Spark", "python no-run"), re.DOTALL)[1]
    assert re.findall(r"(\w+) (?:long|string|double)", schema) == found.columns.tolist()
