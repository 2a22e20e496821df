"""Promtool tests the alert rules, and a real Prometheus runs the dashboard's queries on a real gateway."""

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest
from gateways import ANSWER, CHAT, LEDGER, OTHER, prices, running, settings, upstream
from prometheus_server import program, scraping

from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.telemetry import dashboard

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
PANELS = [panel for panel in json.loads(dashboard())["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
OF_TEAMS = Path(__file__).parents[2].joinpath("docs", "gateway.md").read_text()


def promtool(*words):
    return subprocess.run(
        [program("promtool"), *words], cwd=RULES, check=False, capture_output=True, text=True
    )


def test_alerts_fire_in_their_cases_and_not_before():
    run = promtool("test", "rules", "alerts_test.yml")
    assert run.returncode == 0, run.stdout + run.stderr
    alerts = set(re.findall(r"alert: (\w+)", (RULES / "alerts.yml").read_text()))
    cases = (RULES / "alerts_test.yml").read_text()
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n", cases), f"{alert} never fires in a test"
        assert re.search(rf"alertname: {alert}, .*exp_alerts: \[\]", cases), (
            f"{alert} has no quiet case"
        )


def test_the_configuration_of_prometheus_is_valid():
    run = promtool("check", "config", "prometheus.yml")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """The results of each query of dashboard and alerts, for a gateway with some traffic."""
    folder = tmp_path_factory.mktemp("prometheus")
    program("prometheus")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GATEWAY_TEST_KEY", "sk-provider-canary-key-5566778899")
        return asyncio.run(_scrape(folder))


async def _scrape(folder):
    text = settings(
        "{provider}",
        gateway=LEDGER,
        key='labels = { team = "shop" }\n[keys.app.spend]\nmax_usd = 10\nmax_output_tokens = 9',
        top="[spend]\nmax_usd = 50\nmax_output_tokens = 9\n[retry.backoff]\ninitial_delay = 0.01\nmax_delay = 0.05\n",
        more='tenant = "research"\nlabels = { team = "search", env = "prod" }\n'
        "[tenants.research.spend]\nmax_usd = 20\nmax_output_tokens = 9",
    ).replace('admin_port = "none"', "admin_port = 0")
    count = 0

    async def answer(request, connection):
        nonlocal count
        count += 1
        if count in (12, 40):  # during the scrapes
            return ServerResponse(503, b'{"error": {"message": "busy"}}')
        return ServerResponse(200, json.dumps(ANSWER).encode())

    async with upstream() as provider:
        provider.reply = answer
        text = text.replace("{provider}", provider.url)
        async with running(folder / "gateway.toml", text, prices=prices) as gateway:
            loop = asyncio.get_running_loop()
            context = scraping(gateway.gateway.admin_port, folder)
            prometheus = await loop.run_in_executor(None, context.__enter__)
            try:
                for _ in range(30):  # over several scrapes
                    replies = (gateway.ask(CHAT), gateway.ask(CHAT, key=OTHER))
                    assert {each.status for each in await asyncio.gather(*replies)} == {200}
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                asked = {*QUERIES, *_alerts(), _of_teams(), "stormbreak_gateway_key_info"}
                return {
                    query: await loop.run_in_executor(None, prometheus.query, _bound(query))
                    for query in asked
                }
            finally:
                await loop.run_in_executor(None, context.__exit__, None, None, None)


def _bound(query):
    """Return a query as Grafana sends it."""
    return (
        query.replace("$__rate_interval", "10s")
        .replace("[5m]", "[10s]")
        .replace("$job", ".*")
        .replace("$target", ".*")
    )


def _alerts():
    found = re.findall(r"expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", (RULES / "alerts.yml").read_text())
    return [block or line for block, line in found]


def _of_teams():
    return re.search(r"^sum by \(label_team\).*$", OF_TEAMS, re.MULTILINE)[0]


def test_prometheus_accepts_every_query(scraped):
    assert len(_alerts()) == 9
    assert {*QUERIES, *_alerts()} <= {*scraped}


@pytest.mark.parametrize("query", [query for query in QUERIES if "stormbreak_gateway_" in query])
def test_every_gateway_panel_has_data(scraped, query):
    assert scraped[query]
    for labels, value in scraped[query]:
        assert value >= 0, labels


def test_the_spend_rate_matches_the_traffic(scraped):
    """Each answer costs 1.5 cents; both keys get equally many."""
    by_key = next(query for query in scraped if query.startswith("3600 * sum by (key) (rate(stormbreak_gateway_spent"))  # fmt: skip
    dollars = {labels["key"]: value for labels, value in scraped[by_key]}
    requests = next(query for query in scraped if query.startswith("sum by (status) (rate("))
    rate = sum(value for labels, value in scraped[requests] if labels["status"] == "200")
    assert dollars["app"] == pytest.approx(dollars["other"], rel=0.2)
    assert sum(dollars.values()) == pytest.approx(3600 * rate * 0.015, rel=0.2)


def test_the_spending_of_a_team_is_the_sum_of_its_keys(scraped):
    teams = {labels["label_team"]: value for labels, value in scraped[_of_teams()]}
    assert {*teams} == {"shop", "search"}
    assert min(teams.values()) > 0
    info = {labels["key"]: labels for labels, _ in scraped["stormbreak_gateway_key_info"]}
    assert info["other"].items() >= {"tenant": "research", "label_team": "search", "label_env": "prod"}.items()  # fmt: skip


def test_no_alert_fires_while_retries_hide_failures(scraped):
    error_share, *others = _alerts()
    assert not [query for query in others if scraped[query]]
    assert not scraped[error_share], "a retry hides the failure"
