"""The recipe of docs/many-machines.md on a real Daft: rows that get a 429 are answered, none is lost."""

import re
from pathlib import Path

import pytest

from stormbreak.testing import answer_text, serve

pytestmark = [pytest.mark.daft, pytest.mark.filterwarnings("default")]
PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"
ROWS = 600


def recipe(base_url):
    (block,) = re.findall(
        r"^## Daft\n.*?```python no-run\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    place = f'base_url="{base_url}", model="m"'
    ours = re.sub(r'provider="openai",\s*model="gpt-4.1-mini"', place, block)
    assert ours != block
    return compile(ours, "docs/many-machines.md", "exec")


def test_the_recipe_answers_every_row_and_sends_none_again(tmp_path, monkeypatch):
    import daft  # noqa: PLC0415 - it is only in the environment of `make test-daft`

    monkeypatch.chdir(tmp_path)
    rows = {"id": list(range(ROWS)), "title": [f"t{number}" for number in range(ROWS)]}
    daft.from_pydict(rows).write_parquet("rows")
    throttled = '[[faults]]\nkind = "429"\nshare = 0.3\nretry_after = 0.1\n'
    with serve(f"[provider]\nservice = 0.02\n{throttled}") as provider:
        code = recipe(provider.base_url)
        exec(code, {})
        found = daft.read_parquet("answers/*.parquet").sort("id").to_pydict()
        assert found["id"] == rows["id"]
        assert set(found["verdict"]) == {"ok"}
        assert found["answer"] == [
            answer_text(
                {"model": "m", "messages": [{"role": "user", "content": f"Sum up {title}"}]}
            )
            for title in rows["title"]
        ]
        answered = provider.stats()["keys"]
        assert (answered["answered"], answered["answered_twice"]) == (ROWS, 0)
        exec(code, {})
        assert provider.stats()["keys"]["answers"] == ROWS
