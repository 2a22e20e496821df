"""Batches in notebook cells, in a real kernel."""

import pytest
from jupyter_client.manager import start_new_kernel

SETUP = """
from stormbreak import Answer
from stormbreak.batch import run
place = {{"base_url": {url!r}, "model": "storm-1"}}
rows = [{{"prompt": f"my secret {{number}}"}} for number in range(30)]
"""

SILENT = {"execute_input", "status"}


@pytest.fixture
def cell(tmp_path, stormbreak_provider):
    """Run the code of a cell; return its messages as (type, content)."""
    folders = dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"), str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in folders.items():
            patch.setenv(name, folder)
        manager, client = start_new_kernel(cwd=str(tmp_path))

    def run(code):
        messages = []
        client.execute_interactive(code, timeout=30, output_hook=messages.append)
        return [(m["msg_type"], m["content"]) for m in messages if m["msg_type"] not in SILENT]

    try:
        assert run(SETUP.format(url=stormbreak_provider("calm").base_url)) == []
        yield run
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_notebook_shows_a_progress_bar_and_texts_only_on_request(cell):
    (kind, first), *updates = cell("done = run(rows, output='out.jsonl', **place)")
    assert kind == "display_data"
    assert {kind for kind, _ in updates} == {"update_display_data"}
    assert {each["transient"]["display_id"] for _, each in updates} == {
        first["transient"]["display_id"]
    }
    last = updates[-1][1]["data"]
    assert "100 %" in last["text/plain"]
    assert "100 %" in last["text/html"]
    assert "secret" not in str(updates)

    quiet = "run(rows, output='quiet.jsonl', on_progress=lambda _: None, **place);"
    assert cell(quiet) == []

    [(_, plain)] = cell("row = next(done.answers()); row")
    assert list(plain["data"]) == ["text/plain"]
    [(_, asked)] = cell("Answer.show_in_notebooks = True; row")
    assert asked["data"]["text/html"].startswith("<pre")
