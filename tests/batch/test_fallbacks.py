"""A batch whose provider fails, with a second provider as fallback."""

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
def test_a_fallback_answers_rows_that_fail_for_good_and_is_named(
    kind, share, tmp_path, stormbreak_provider, capsys
):
    failing = stormbreak_provider(FAILS.format(kind=kind, share=share))
    healthy = stormbreak_provider("calm", speed=50)
    source = write(tmp_path / "in.jsonl", chat_rows(30))
    output = tmp_path / "out.jsonl"
    urls = ("--base-url", failing.base_url, "--fallback-base-url", healthy.base_url)
    code = main(["batch", "run", str(source), "--output", str(output), *urls, "--quiet"])
    lines = read(output)
    elsewhere = [line for line in lines if "answered_by" in line]

    assert (code, len(lines)) == (0, 30)
    assert {line["answered_by"] for line in elsewhere} == {f"127.0.0.1:{healthy.port}/storm-1"}
    assert len(elsewhere) == 30 if share == 1.0 else 0 < len(elsewhere) < 30
    assert healthy.stats()["arrivals"] == len(elsewhere)
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
def test_a_dead_address_delays_no_row_when_a_fallback_works(
    given, concurrency, tmp_path, stormbreak_provider
):
    dead = stormbreak_provider(FAILS.format(kind="503", share=1.0))
    healthy = stormbreak_provider("calm", speed=50)
    source = write(tmp_path / "in.jsonl", chat_rows(200))
    output = tmp_path / "out.jsonl"
    words = ["--fallback-base-url", healthy.base_url]
    if given == "policy":
        (tmp_path / "policy.toml").write_text(FALLBACK.format(url=healthy.base_url))
        words = ["--policy", str(tmp_path / "policy.toml")]
    began = time.monotonic()
    urls = ("--base-url", dead.base_url, *words, *concurrency)
    code = main(["batch", "run", str(source), "--output", str(output), *urls, "--quiet"])
    took = time.monotonic() - began

    assert (code, len(read(output))) == (0, 200)
    assert dead.stats()["arrivals"] <= 60
    assert healthy.stats()["arrivals"] == 200
    assert took < 15  # 60 and more where rows wait for the circuit


def test_a_dead_fallback_delays_no_row_after_the_main_provider_recovers(
    run_rows, stormbreak_provider
):
    dead = stormbreak_provider(FAILS.format(kind="503", share=1.0))
    outage = {"kind": "503", "at": 0.2, "until": 0.7}
    main_provider = stormbreak_provider(scenario(outage, service=0.05))
    rule = ToTargets(targets=(Place(base_url=dead.base_url),))
    breaker = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=3), open_duration=0.5)
    began = time.monotonic()
    within = {"fallback": (rule,), "breaker": breaker}
    summary = run_rows(chat_rows(200), main_provider, limit=8, within=within)

    assert summary.complete
    assert time.monotonic() - began < 20  # minutes where rows wait for the circuit of the fallback
