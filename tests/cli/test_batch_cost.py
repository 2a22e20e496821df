"""The cost of a batch at its end and in its status, which equals that of `cost report`."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from batches import chat_rows, one_line, run, scenario, write

from stormbreak.batch import read_table
from stormbreak.cli.main import main

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

FILLS = scenario({"kind": "cut_body", "share": 0.2}, service=0.01, use_max_tokens=True)
WITHIN = r"0\.[0-9]{2}( to 0\.[0-9]{2})? USD"


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", chat_rows(30, max_tokens=1000))


@pytest.fixture
def provider(stormbreak_provider):
    return stormbreak_provider(FILLS, seed=1)


@pytest.fixture
def prices(provider, tmp_path):
    """The --prices flag; each row costs about 1.5 cents."""
    path = tmp_path / "deal.toml"
    path.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    return ("--prices", str(path))


@pytest.fixture
def status(output, capsys):
    def call(*flags):
        capsys.readouterr()
        assert main(["batch", "status", str(output), *flags]) == 0
        return capsys.readouterr()[0]

    return call


def test_run_status_and_report_show_the_same_cost(
    batch_run, provider, prices, status, output, capsys
):
    code, out, err = batch_run(*prices, "--json", provider=provider)
    cost = json.loads(out)["cost"]
    assert code == 0
    assert re.search(rf"circuit closed, cost {WITHIN}\n$", err)
    assert (cost["priced"] > 30, cost["unpriced"], cost["unbounded"]) == (True, 0, 0)
    assert 0.45 <= cost["min_usd"] < cost["max_usd"]  # cut bodies may be billed

    assert json.loads(status(*prices, "--json"))["cost"] == cost
    assert main(["cost", "report", str(output), *prices, "--json"]) == 0
    (model,) = json.loads(capsys.readouterr()[0])["models"]
    assert model["total_min"] == pytest.approx(cost["min_usd"])
    assert model["total_max"] == pytest.approx(cost["max_usd"])


def test_status_and_report_use_the_prices_of_the_last_run(
    batch_run, provider, prices, status, output, tmp_path, capsys
):
    batch_run(*prices, provider=provider)
    with_prices = status(*prices)
    assert "cost " in with_prices
    assert status() == with_prices
    models = []
    for given in (prices, ()):
        assert main(["cost", "report", str(output), *given, "--json"]) == 0
        models.append(json.loads(capsys.readouterr()[0])["models"])
    assert models[0] == models[1]
    assert main(["batch", "export", str(output), str(tmp_path / "so_far.csv")]) == 0
    with (tmp_path / "so_far.csv").open() as file:
        assert all(float(row["cost"]) > 0 for row in csv.DictReader(file))
    assert min(read_table(output)["cost"].to_pylist()) > 0

    Path(prices[1]).unlink()
    capsys.readouterr()
    assert main(["batch", "status", str(output)]) == 2
    err = capsys.readouterr()[1]
    assert re.search(
        r"named .*/deal\.toml; .*; the last run on .* used this file: give --prices\n$", err
    )
    assert main(["batch", "status", str(output), "--prices", "article-2025"]) == 0


def test_run_and_status_print_the_cost_in_text(batch_run, provider, prices, status):
    _, out, _ = batch_run(*prices, provider=provider)
    (line,) = re.findall(r"^cost .*$", out, re.MULTILINE)
    assert re.fullmatch(rf"cost       {WITHIN}", line)
    assert f"cost     {line.removeprefix('cost       ')}\n" in status(*prices)


def test_the_cost_covers_all_runs_of_a_batch(batch_run, provider, prices):
    first = json.loads(batch_run(*prices, "--json", "--max-cost", "0.2", provider=provider)[1])
    second = json.loads(batch_run(*prices, "--json", provider=provider)[1])
    assert first["end"] == "spent"
    assert first["cost"]["min_usd"] < first["cost"]["max_usd"] == pytest.approx(first["spent"])
    assert second["cost"]["min_usd"] >= 0.45 > second["answered"] * 0.0151


def test_a_run_without_a_price_prints_no_cost(batch_run, provider, status):
    _, out, err = batch_run("--json", provider=provider)
    cost = json.loads(out)["cost"]
    assert (cost["priced"], cost["min_usd"], cost["max_usd"]) == (0, 0, 0)
    assert cost["unpriced"] > 30
    assert "cost" not in err
    assert "cost" not in status()


def test_a_custom_address_loads_no_price_list(source, output, provider):
    code = f"""
import sys
from stormbreak.cli.main import main
main(["batch", "run", {str(source)!r}, "--output", {str(output)!r}, "--base-url", {provider.base_url!r}, "--quiet"])
main(["batch", "status", {str(output)!r}])
print("genai_prices" in sys.modules)
"""
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.splitlines()[-1] == "False"


def test_status_rejects_a_missing_price_file(source, output, provider):
    run("batch", "run", source, "--output", output, "--base-url", provider.base_url)
    done = run("batch", "status", output, "--prices", "nowhere.toml")
    assert done.returncode == 2
    assert "nowhere.toml" in one_line(done.stderr)
