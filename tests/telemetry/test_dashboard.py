"""The queries of the dashboard use only metrics and labels of a real scrape."""

import json
import re
from decimal import Decimal

import pytest
from scrapes import labels_of, read
from table_test import table_test

from stormbreak.cli.main import main
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.gateway.logs import RequestRecord
from stormbreak.gateway.metrics import GAUGE_NAMES, GatewayMetrics, money_text
from stormbreak.gateway.usage_ledger import SpentBy
from stormbreak.telemetry import Metrics, attach, dashboard
from stormbreak.telemetry.event_metrics import FAMILIES
from stormbreak.telemetry.gauges import GAUGES
from stormbreak.types import Call, Target, Verdict

BOARD = json.loads(dashboard())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
BY_PROMETHEUS = {"job", "instance"}  # labels that the scrape adds
_SELECTOR = re.compile(r"(stormbreak_\w+)\{([^}]*)\}")
_LABEL = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"[^"]*"')
_BY = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")
_WORDS = {"sum", "min", "max", "by", "rate", "histogram_quantile", "le", "or", "vector"}


def selectors(query):
    """The metrics in a query, each with its labels."""
    return [
        (name, {label for label, _ in _LABEL.findall(matchers)})
        for name, matchers in _SELECTOR.findall(query)
    ]


def grouped(query):
    return {label.strip() for labels in _BY.findall(query) for label in labels.split(",")}


@pytest.fixture(scope="module")
def found(run):
    """The labels of each exported metric."""
    _, metrics, _ = run
    return labels_of(read(metrics.exposition()[1] + of_tenants() + of_gateway()))


def of_tenants():
    """Each metric of a tenant with limits."""
    metrics = Metrics()
    spend = SpendPolicy(max_usd=2.0)
    limits = TenantLimits(rpm=60, tpm=600, max_in_flight=1, spend=spend)
    engine = Engine(Policy(), SpendAccounts(lambda *_: None), tenants={"acme": limits})
    attach(engine, metrics)
    stepper = Stepper(engine, clock=lambda: 0.0, chance=lambda: 0.5)
    stepper.start(Call(1, Target("acme", "large"), tenant="acme"))
    return metrics.exposition()[1]


def of_gateway():
    """Each metric of a gateway; tests/gateway/test_prometheus.py scrapes a real one."""
    metrics = GatewayMetrics()
    metrics.ended(RequestRecord("POST", "/v1/chat/completions"))
    text = metrics.text(
        dict.fromkeys(GAUGE_NAMES, 0.0), {"key app": ("1", "2"), "tenant all": ("1", "2")}
    )
    spent = {SpentBy("app", "", "a/m"): [Decimal(1), Decimal(1)]}
    limits = {SpendPolicy(max_usd=2.0): (Decimal(1), Decimal(2))}
    return text + money_text(spent, (), limits)


@table_test("query", QUERIES)
def test_a_query_uses_only_exported_metrics_and_labels(query, found):
    asked = selectors(query)
    rest = _BY.sub("", _SELECTOR.sub("", query).replace("[$__rate_interval]", ""))

    assert asked
    assert set(re.findall(r"[a-z_]\w*", rest)) <= _WORDS, "unknown name"
    for name, labels in asked:
        assert name in found
        assert labels <= found[name] | BY_PROMETHEUS
        assert grouped(query) <= found[name]
    assert query.count("(") == query.count(")")


def test_legends_use_only_labels_of_the_result():
    for panel in PANELS:
        for target in panel["targets"]:
            assert set(_LEGEND.findall(target["legendFormat"])) <= grouped(target["expr"])


def overrides(panel):
    """The patterns of line names, and the properties of these lines."""
    for each in panel["fieldConfig"]["overrides"]:
        kind, what = each["matcher"]["id"], each["matcher"]["options"]
        assert kind in {"byName", "byRegexp"}
        pattern = re.escape(what) if kind == "byName" else what.removeprefix("/").removesuffix("/")
        yield pattern, {each["id"]: each["value"] for each in each["properties"]}


def names(target):
    """The possible names of its lines."""
    if target["legendFormat"] == "{{verdict}}":
        return [verdict.value for verdict in Verdict]
    return [_LEGEND.sub("x", target["legendFormat"])]


def test_every_override_matches_a_possible_line():
    for panel in PANELS:
        lines = [name for target in panel["targets"] for name in names(target)]
        for pattern, _ in overrides(panel):
            assert any(re.search(pattern, line) for line in lines), (panel["title"], pattern)


def test_only_the_verdict_ok_is_green():
    shown = [panel for panel in PANELS if panel["targets"][0]["legendFormat"] == "{{verdict}}"]
    assert len(shown) == 2
    for panel in shown:
        colours = {}
        for pattern, given in overrides(panel):  # the last one wins
            for verdict in Verdict:
                if re.fullmatch(pattern, verdict.value):
                    colours[verdict.value] = given["color"]["fixedColor"]
        assert set(colours) == {verdict.value for verdict in Verdict}
        assert [verdict for verdict, colour in colours.items() if colour == "green"] == ["ok"]


def test_rates_have_the_unit_of_their_period():
    for panel in PANELS:
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            query = target["expr"]
            if "rate(" not in query or " / " in query or "histogram_quantile" in query:
                continue  # a share, or a time
            if query.startswith("3600 * "):
                assert (unit, "per hour" in panel["title"]) == ("currencyUSD", True)
                continue
            own = [
                given["unit"]
                for pattern, given in overrides(panel)
                if "unit" in given and re.search(pattern, names(target)[0])
            ]
            actual = own[0] if own else unit
            per_minute = query.startswith("60 * ")
            tokens = "stormbreak_tokens_total" in query
            expected = "cpm" if per_minute else "short" if tokens else "reqps"
            assert actual == expected, panel["title"]


def test_variables_use_only_exported_metrics(found):
    queries = [
        each["definition"] for each in BOARD["templating"]["list"] if each["type"] == "query"
    ]
    asked = [
        re.fullmatch(r"label_values\((\w+)(?:\{[^}]*\})?, (\w+)\)", query).groups()
        for query in queries
    ]

    assert [label for _, label in asked] == ["job", "target"]
    assert {name for name, _ in asked} <= set(found)


def test_every_metric_is_on_the_dashboard():
    shown = {name for query in QUERIES for name, _ in selectors(query)}
    stems = {re.sub(r"_(total|bucket)$", "", name.removeprefix("stormbreak_")) for name in shown}

    ours = {stem for stem in stems if not stem.startswith("gateway_")}
    assert set(FAMILIES) <= ours
    assert ours - set(FAMILIES) == {
        "attempts_in_flight", "concurrency_limit", "queue_length", "circuits", "queue_age_seconds",
        "cooldown_remaining_seconds", "retry_budget",
        *(name for name, gauge in GAUGES.items() if gauge.labels == ("tenant",)),
    }  # fmt: skip


def test_panels_do_not_overlap():
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_the_command_prints_the_dashboard(capsys):
    assert main(["telemetry", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out) == BOARD
