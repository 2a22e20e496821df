import pytest

from stormbreak.demo.acts import MARKER, ROWS, prepare
from stormbreak.errors import ConfigurationError


def test_what_an_earlier_demo_left_is_replaced(tmp_path):
    documents, output = prepare(tmp_path / "results")
    output.write_text("old")
    output.with_name("answers.failed.jsonl").write_text("old")
    prepare(tmp_path / "results")

    assert len(documents.read_bytes().splitlines()) == ROWS
    assert sorted(path.name for path in documents.parent.iterdir()) == [MARKER, "documents.jsonl"]


@pytest.mark.parametrize("name", ["documents.jsonl", "answers.jsonl", "answers.txt"])
def test_files_of_somebody_elses_stay(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigurationError, match="not from a demo"):
        prepare(tmp_path)

    assert (tmp_path / name).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]
