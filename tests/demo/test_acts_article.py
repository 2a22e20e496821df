from table_test import table_test

from stormbreak import demo
from stormbreak.demo import ROWS, write_documents
from stormbreak.testing import serve

CALM = """
[provider]
slots = 50
service = 0.01
variation = 0.0
"""
REFUSING = (
    CALM
    + """
[[faults]]
kind = "429"
share = 0.4
until = 0.3
"""
)


@table_test(
    ("row", "text"),
    [
        (0, "0.5 s"),
        (5, "16 s"),
        (8, "2 minutes"),
        (20, "6 days"),
        (37, "2,178 years"),
        (499, "3e142 years"),
    ],
)
def test_article_sleep_formats_the_sleep_of_a_row(row, text):
    assert demo.article_sleep(row) == text


def test_the_first_act_sends_each_row_once_and_loses_rejected_rows(tmp_path):
    documents = tmp_path / "documents.jsonl"
    write_documents(documents)
    lost = []
    with serve(REFUSING) as provider:
        result = demo.article(
            documents, provider.base_url, 1.0, lost=lambda row, verdict: lost.append(row)
        )
        stats = provider.stats()

    assert stats["arrivals"] == ROWS == result.record.sent
    assert result.failed == len(lost) > 0
    assert result.answered == ROWS - len(lost)


def test_the_second_act_answers_every_row(tmp_path):
    documents, output = tmp_path / "documents.jsonl", tmp_path / "answers.jsonl"
    write_documents(documents)
    seen = []
    with serve(REFUSING) as provider:
        result = demo.stormbreak(documents, output, provider.base_url, 1.0, seen.append)

    assert (result.answered, result.failed) == (ROWS, 0)
    assert len(output.read_bytes().splitlines()) == ROWS
    assert seen[-1] == ROWS
