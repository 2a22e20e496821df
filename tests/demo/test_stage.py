import pytest

from stormbreak.cli.main import main
from stormbreak.demo import MARKER, ROWS, prepare
from stormbreak.errors import ConfigurationError


def test_prepare_replaces_the_files_of_an_earlier_demo(tmp_path):
    documents, output = prepare(tmp_path / "results")
    output.write_text("old")
    output.with_name("answers.failed.jsonl").write_text("old")
    prepare(tmp_path / "results")

    assert len(documents.read_bytes().splitlines()) == ROWS
    assert sorted(path.name for path in documents.parent.iterdir()) == [MARKER, "documents.jsonl"]


def test_a_folder_that_cannot_be_created_is_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "--output", str(tmp_path / "file" / "results")]) == 2
    assert capsys.readouterr().err == f"stormbreak: {tmp_path}/file/results: not a directory\n"


@pytest.mark.parametrize("name", ["documents.jsonl", "answers.jsonl", "answers.txt"])
def test_prepare_keeps_foreign_files(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigurationError, match="not from a demo"):
        prepare(tmp_path)

    assert (tmp_path / name).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]
