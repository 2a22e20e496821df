from dataclasses import replace
from pathlib import Path

import pytest
from table_test import table_test

from stormbreak.batch.store.paths import BatchPaths
from stormbreak.errors import ConfigurationError


@table_test(
    ("output", "failed"),
    [
        ("out.jsonl", "out.failed.jsonl"),
        ("results/out.jsonl", "results/out.failed.jsonl"),
        ("out", "out.failed"),
        ("a.b.jsonl", "a.b.failed.jsonl"),
    ],
)
def test_batch_paths_derive_from_the_output_name(output, failed):
    files = BatchPaths.of(Path(output))
    assert files == BatchPaths(
        output=Path(output),
        table=None,
        failed=Path(failed),
        run=Path(output + ".run"),
        lock=Path(output + ".lock"),
        input=Path(failed.replace(".failed", ".input")),
        rows=Path(output.removesuffix(".jsonl") + ".rows"),
        batches=Path(output + ".batches"),
        socket=Path(output + ".sock"),
    )


@table_test("ending", [".csv", ".tsv", ".parquet", ".PARQUET", ".pq"])
def test_a_table_output_has_a_journal_with_jsonl_appended(ending):
    table = Path(f"a/out{ending}")
    files = BatchPaths.of(table)
    assert files.table == table
    assert files == replace(BatchPaths.of(Path(f"a/out{ending}.jsonl")), table=table)


def test_flatten_makes_json_lines_a_table_also_for_later_commands(tmp_path):
    output = tmp_path / "out.jsonl"
    files = BatchPaths.of(output, flatten=True)
    assert (files.table, files.output) == (output, tmp_path / "out.jsonl.jsonl")
    assert BatchPaths.of(output).table is None
    files.run.touch()
    assert BatchPaths.of(output) == files


def test_a_symbolic_link_and_its_target_have_the_same_batch_paths(tmp_path):
    (tmp_path / "link.jsonl").symlink_to("out.jsonl")
    assert BatchPaths.of(tmp_path / "link.jsonl") == BatchPaths.of(tmp_path / "out.jsonl")


@table_test("output", [".", "/", ""])
def test_an_output_without_a_file_name_is_rejected(output):
    with pytest.raises(ConfigurationError, match="not a valid name for an output"):
        BatchPaths.of(Path(output))


def test_batch_paths_accept_a_link_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert BatchPaths.of(tmp_path / "loop").output == tmp_path / "loop"


@table_test("output", ["out.csv.gz", "out.jsonl.zst"])
def test_a_compressed_output_name_is_rejected(output):
    with pytest.raises(
        ConfigurationError, match="outputs are not compressed; choose a name without"
    ):
        BatchPaths.of(Path(output))


def test_standard_output_as_output_is_rejected():
    with pytest.raises(ConfigurationError, match="-: an output is a file"):
        BatchPaths.of(Path("-"))
