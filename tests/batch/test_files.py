from pathlib import Path

import pytest

from stormbreak.batch.store.paths import BatchPaths
from stormbreak.errors import ConfigurationError


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        ("out.jsonl", "out.failed.jsonl"),
        ("results/out.jsonl", "results/out.failed.jsonl"),
        ("out", "out.failed"),
        ("a.b.jsonl", "a.b.failed.jsonl"),
    ],
)
def test_the_neighbours_of_output(output, failed):
    files = BatchPaths.of(Path(output))
    assert files == BatchPaths(
        output=Path(output),
        failed=Path(failed),
        run=Path(output + ".run"),
        lock=Path(output + ".lock"),
        input=Path(failed.replace(".failed", ".input")),
        socket=Path(output + ".sock"),
    )


def test_two_names_of_one_file_share_their_neighbours(tmp_path):
    (tmp_path / "link.jsonl").symlink_to("out.jsonl")
    assert BatchPaths.of(tmp_path / "link.jsonl") == BatchPaths.of(tmp_path / "out.jsonl")


@pytest.mark.parametrize("output", [".", "/", ""])
def test_what_can_be_no_output(output):
    with pytest.raises(ConfigurationError, match="not a name for an output"):
        BatchPaths.of(Path(output))


def test_a_link_to_itself_is_said_where_it_is_opened(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert BatchPaths.of(tmp_path / "loop").output == tmp_path / "loop"
