"""A batch whose provider fails, with another beside it."""

import time

import pytest
from batches import chat_rows, read, scenario, write

from stormbreak.cli.main import main
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.fallback_policy import Place, ToTargets
from stormbreak.core.trip import ConsecutiveFailures

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

FAILS = """
[provider]
slots = 50
service = 0.01
[[faults]]
kind = "{kind}"
share = {share}
"""


@pytest.mark.parametrize(("kind", "share"), [("quota", 1.0), ("401", 0.5), ("404", 1.0)])
def test_rows_that_fail_for_good_are_answered_elsewhere_and_say_so(
    kind, share, tmp_path, stormbreak_provider, capsys
):
    ill = stormbreak_provider(FAILS.format(kind=kind, share=share))
    well = stormbreak_provider("calm", speed=50)
    source = write(tmp_path / "in.jsonl", chat_rows(30))
    output = tmp_path / "out.jsonl"
    urls = ("--base-url", ill.base_url, "--fallback-base-url", well.base_url)
    code = main(["batch", "run", str(source), "--output", str(output), *urls, "--quiet"])
    lines = read(output)
    elsewhere = [line for line in lines if "answered_by" in line]

    assert (code, len(lines)) == (0, 30)
    assert {line["answered_by"] for line in elsewhere} == {f"127.0.0.1:{well.port}/storm-1"}
    assert len(elsewhere) == 30 if share == 1.0 else 0 < len(elsewhere) < 30
    assert well.stats()["arrivals"] == len(elsewhere)
    assert (
        f"\nfallback   {len(elsewhere)} of these answers, from a fallback\n"
        in capsys.readouterr().out
    )


FALLBACK = """
preset = "batch"
[[fallback]]
kind = "targets"
targets = [{{ base_url = "{url}" }}]
"""


@pytest.mark.parametrize("given", ["flag", "policy"])
@pytest.mark.parametrize("concurrency", [(), ("--concurrency", "4")])
def test_a_dead_address_holds_no_row_back(given, concurrency, tmp_path, stormbreak_provider):
    dead = stormbreak_provider(FAILS.format(kind="503", share=1.0))
    well = stormbreak_provider("calm", speed=50)
    source = write(tmp_path / "in.jsonl", chat_rows(200))
    output = tmp_path / "out.jsonl"
    words = ["--fallback-base-url", well.base_url]
    if given == "policy":
        (tmp_path / "policy.toml").write_text(FALLBACK.format(url=well.base_url))
        words = ["--policy", str(tmp_path / "policy.toml")]
    began = time.monotonic()
    urls = ("--base-url", dead.base_url, *words, *concurrency)
    code = main(["batch", "run", str(source), "--output", str(output), *urls, "--quiet"])
    took = time.monotonic() - began

    assert (code, len(read(output))) == (0, 200)
    assert dead.stats()["arrivals"] <= 60
    assert well.stats()["arrivals"] == 200
    assert took < 15  # 60 and more where rows wait for the circuit


def test_a_dead_fallback_keeps_no_row_from_an_address_that_is_well_again(
    run_rows, stormbreak_provider
):
    dead = stormbreak_provider(FAILS.format(kind="503", share=1.0))
    trouble = {"kind": "503", "at": 0.2, "until": 0.7}
    main_provider = stormbreak_provider(scenario(trouble, service=0.05))
    rule = ToTargets(targets=(Place(base_url=dead.base_url),))
    breaker = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=3), open_duration=0.5)
    began = time.monotonic()
    within = {"fallback": (rule,), "breaker": breaker}
    summary = run_rows(chat_rows(200), main_provider, limit=8, within=within)

    assert summary.complete
    assert time.monotonic() - began < 20  # minutes where rows wait for the circuit of the fallback
