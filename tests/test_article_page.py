"""The pages on the founding article name every part of it, and every test that shows one of its mistakes."""

import ast
import re
from pathlib import Path

from table_test import table_test

ROOT = Path(__file__).parent.parent
PARTS = (ROOT / "docs" / "article.md").read_text()
PAGE = (ROOT / "docs" / "background" / "article.md").read_text()
FILES = sorted((ROOT / "tests" / "article").glob("test_*.py"))

NAMES = """
RetryStatus SUCCESS MAX_RETRIES_EXCEEDED CIRCUIT_OPEN RetryConfig base_delay max_delay max_retries exponential_base jitter
HolySheepAIClient api_key base_url request_with_retry session endpoint payload retry_count _calculate_delay Retry-After
TIMEOUT_MAX_RETRIES CLIENT_ERROR status code message
CircuitBreaker failure_threshold recovery_timeout expected_exception failure_count last_failure_time is_open half_open
record_success record_failure
QueueConfig max_concurrent batch_size queue_timeout ProductionQueueManager process_batch items model total_items successful failed
elapsed_seconds throughput_per_second results errors idx data timeout error temperature max_tokens process_rag_batch
CircuitState CLOSED OPEN HALF_OPEN CircuitBreakerConfig half_open_max_calls success_threshold AdvancedCircuitBreaker call async_call
last_state_change success_count half_open_calls total_calls_in_window failed_calls_in_window _should_attempt_reset
_time_until_retry _to_open _to_half_open _to_closed CircuitOpenError get_fallback_response
calculate_roi monthly_tokens holy_sheep_rate openai_rate monthly_tokens_M openai_monthly holysheep_monthly monthly_savings
yearly_savings savings_percentage payback_months roi_12_months
"""


def shown_by(path):
    return [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


def section_of(path):
    """The section whose heading links to the tests of `path`."""
    return next(
        part for part in PAGE.split("\n### ") if f"](../../tests/article/{path.name})" in part
    )


@table_test("path", FILES)
def test_the_page_lists_every_test_of_a_mistake(path):
    named = re.findall(r"`(test_\w+)`", section_of(path))

    assert sorted(named) == sorted(shown_by(path))


def test_the_page_names_each_test_once():
    named = re.findall(r"`(test_\w+)`", PAGE)

    assert len(named) == sum(len(shown_by(path)) for path in FILES)


@table_test("name", NAMES.split())
def test_the_pages_mention_every_name_of_the_article(name):
    code = " ".join(re.findall(r"`([^`\n]+)`", PARTS + PAGE))

    assert re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", code)


def test_every_mistake_has_a_row_of_four_columns():
    rows = [line for line in PAGE.splitlines() if "`test_" in line]

    assert all(len(row.strip("|").split("|")) == 4 for row in rows)
    assert all(all(cell.strip() for cell in row.strip("|").split("|")) for row in rows)
