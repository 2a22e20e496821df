"""Scrapes of a real run over HTTP, read by the official parser."""

import threading
import urllib.request
from collections import Counter
from contextlib import contextmanager
from wsgiref.simple_server import WSGIRequestHandler, make_server

from scrapes import by, read, value
from stormy import CALLS, FAULTS
from web import serving

from stormbreak.events import CallEnded, Queued, Returned, Sent
from stormbreak.telemetry.event_metrics import FAMILIES, updates_of
from stormbreak.telemetry.labels import OTHER


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served_by_wsgi(app):
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def scraped(metrics):
    """The samples that Prometheus gets."""
    with served_by_wsgi(metrics.wsgi_app()) as url, urllib.request.urlopen(url) as response:
        assert response.headers["content-type"].startswith("text/plain; version=")
        return read(response.read())


def test_a_scrape_equals_the_counts_of_the_provider(run):
    facts, metrics, _ = run
    samples = scraped(metrics)
    target = facts.targets["storm"]
    sent = by(samples, "stormbreak_attempts_sent_total", "target")
    ended = {
        verdict: value(samples, "stormbreak_attempts_total", target=target, verdict=verdict)
        for verdict, _ in FAULTS.values()
    }

    assert sent == {
        target: facts.storm["arrivals"],
        facts.targets["slow"]: facts.slow["arrivals"],
    }
    assert ended == {verdict: facts.storm["faults"][kind] for kind, (verdict, _) in FAULTS.items()}
    assert min(ended.values()) > 0
    assert (
        value(samples, "stormbreak_attempts_total", target=target, verdict="ok")
        == facts.storm["clients"]["outcomes"]["ok"]
    )
    assert value(samples, "stormbreak_cooldowns_total") > 0


def test_a_scrape_equals_the_results_of_the_callers(run):
    facts, metrics, _ = run
    samples = scraped(metrics)
    target, elsewhere = facts.targets["storm"], 1  # the call with a fallback has the same target
    ended = by(samples, "stormbreak_calls_total", "verdict")
    answered = sum(isinstance(end, str) for end in facts.ends)

    assert ended["ok"] == answered + 2 + elsewhere
    assert sum(ended.values()) == CALLS + 2 + elsewhere
    assert value(samples, "stormbreak_call_wait_seconds_count", target=target) == CALLS + elsewhere
    assert value(samples, "stormbreak_retries_total", target=target) == (
        facts.storm["arrivals"] - CALLS
    )
    assert by(samples, "stormbreak_fallbacks_total", "to") == {"degraded": 1}
    assert by(samples, "stormbreak_fallbacks_refused_total", "to") == {"cache": 1}
    assert by(samples, "stormbreak_calls_rejected_total", "policy") == {"breaker": 1}
    assert by(samples, "stormbreak_hedges_refused_total", "gate") == {"load": 1}
    assert value(samples, "stormbreak_attempts_superseded_total") == 1


def test_a_scrape_equals_the_events(run):
    _, metrics, events = run
    counted = Counter(type(event) for event in events)
    samples = scraped(metrics)

    for name, kind in [
        ("attempts_sent_total", Sent),
        ("attempts_total", Returned),
        ("attempt_duration_seconds_count", Returned),
        ("calls_total", CallEnded),
        ("calls_queued_total", Queued),
    ]:
        assert value(samples, f"stormbreak_{name}") == counted[kind]
    assert value(samples, "stormbreak_attempt_duration_seconds_sum") == sum(
        event.took for event in events if isinstance(event, Returned)
    )


def test_a_scrape_has_every_metric_and_no_label_other(run):
    _, metrics, events = run

    assert {name for event in events for name, _, _ in updates_of(event)} == set(FAMILIES)
    assert not [labels for _, labels in scraped(metrics) if OTHER in dict(labels).values()]


async def test_the_asgi_application_exports_the_same_samples(run):
    _, metrics, _ = run
    async with serving(metrics.asgi_app()) as ask:
        status, headers, text = await ask(accept="text/plain")

    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert without_budgets(read(text)) == without_budgets(scraped(metrics))


def without_budgets(samples):
    """The samples without budgets, which change with time."""
    return {
        sample: value for sample, value in samples.items() if sample[0] != "stormbreak_retry_budget"
    }
