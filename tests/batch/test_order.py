import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbreak.batch.store.durable_file import OutputError
from stormbreak.batch.store.output_files import order_output
from stormbreak.batch.store.output_line import Response, success_line
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.errors import ConfigurationError


class Numbers(list):
    def find(self, custom_id):
        return self.index(custom_id) if custom_id in self else None


def history_lines(ids):
    body = b'{"text":"' + b"y" * random.Random(1).randrange(200) + b'"}'
    return [success_line(name, Response(status_code=200, body=body)) for name in ids]


@settings(deadline=None)
@given(st.permutations(list("abcdefgh")), st.integers(0, 8))
def test_order_output_sorts_the_lines_in_input_order(tmp_path_factory, ids, count):
    files = BatchPaths.of(tmp_path_factory.getbasetemp() / "out.jsonl")
    lines = history_lines(ids[:count])
    files.output.write_bytes(b"".join(lines))
    order_output(files, Numbers("abcdefgh"))
    by_id = dict(zip(ids, lines, strict=False))
    assert files.output.read_bytes() == b"".join(by_id[name] for name in sorted(by_id))


def test_a_line_without_a_row_is_an_error_and_stays(files):
    files.output.write_bytes(b"".join(history_lines("bza")))
    before = files.output.read_bytes()
    with pytest.raises(ConfigurationError, match="no row of the input is 'z'"):
        order_output(files, Numbers("ab"))
    assert files.output.read_bytes() == before


def test_a_full_disk_leaves_the_output_unchanged(files, file_limit):
    files.output.write_bytes(b"".join(history_lines("dcba")))
    before = files.output.read_bytes()
    with file_limit(len(before) - 1), pytest.raises(OutputError, match="left as it was"):
        order_output(files, Numbers("abcd"))
    assert files.output.read_bytes() == before
