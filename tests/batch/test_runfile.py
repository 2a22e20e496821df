import json
import os
import stat
from pathlib import Path

import pytest

from stormbreak.batch.store.run_file import check, read_existing_run, read_run, record
from stormbreak.cost.accounts import TokenSum
from stormbreak.errors import ConfigurationError

OPTIONS = {"model": "m", "concurrency": 10, "api_key_env": "KEY", "timeout": None}


def begin(files, rows, now=1000.0, **changes):
    options = OPTIONS | changes
    return record(files, rows, options, last=check(files, rows, options), now=now)[1]


def refused(files, rows, tree, **changes):
    before = tree()
    with pytest.raises(ConfigurationError) as raised:
        check(files, rows, OPTIONS | changes)
    assert tree() == before
    return str(raised.value)


def test_the_run_file_records_input_options_and_account(files, make_rows):
    rows = make_rows("a", "b")
    assert begin(files, rows) == ()
    written = json.loads(files.run.read_bytes())
    assert len(written.pop("salt")) == 32
    nothing = {"spent": [], "waste": {}, "killed": 0, "ahead": "0", "lost": "0"}
    assert written.pop("account") == {"at_work": True, **nothing}
    assert written == {
        "version": 1,
        "input": str(rows.path),
        "fingerprint": rows.fingerprint,
        "rows": 2,
        "options": OPTIONS,
        "started_at": 1000.0,
        "flags": None,
        "pauses": {},
        "table": None,
        "billed": [],
    }
    assert stat.S_IMODE(files.run.stat().st_mode) == 0o600
    assert "about" not in files.run.read_text()


@pytest.mark.parametrize("name", [b"in-\xff.jsonl", b"in-\xc3\xa9.jsonl"])
def test_the_run_file_keeps_non_utf_8_names_byte_for_byte(files, make_rows, name):
    name = name.decode("ascii", "surrogateescape")  # as Python decodes it in an ASCII locale
    rows = make_rows("a", name=name)
    begin(files, rows, api_key_env="\u00e9")
    run = read_existing_run(files)
    assert os.fsencode(Path(run.input).name) == os.fsencode(name)
    assert run.options["api_key_env"] == "\u00e9"
    assert begin(files, rows, api_key_env="\u00e9") == ()


def test_the_same_command_resumes_the_run(files, make_rows):
    rows = make_rows("a")
    begin(files, rows)
    files.output.write_text("something")
    assert begin(files, rows, now=2000.0) == ()
    assert read_run(files).started_at == 1000.0


def test_the_salt_stays_across_runs_and_is_unique_per_output(files, make_rows):
    rows = make_rows("a")
    begin(files, rows)
    salt = read_run(files).salt
    begin(files, rows, base_url="http://x")
    assert salt == read_run(files).salt
    files.run.unlink()
    begin(files, rows)
    assert salt != read_run(files).salt


def test_a_run_file_of_an_earlier_version_gets_a_salt(files, make_rows):
    rows = make_rows("a")
    begin(files, rows)
    old = json.loads(files.run.read_bytes())
    del old["salt"]
    files.run.write_text(json.dumps(old))
    begin(files, rows)
    assert read_run(files).salt


def test_the_input_may_be_moved_between_runs(files, make_rows):
    begin(files, make_rows("a"))
    moved = make_rows("a", name="moved.jsonl")
    assert begin(files, moved) == ()
    assert read_run(files).input == str(moved.path)


def test_changed_options_are_recorded_and_named(files, make_rows):
    rows = make_rows("a")
    begin(files, rows)
    assert begin(files, rows, concurrency=20, base_url="http://x") == ("base_url", "concurrency")
    assert read_run(files).options == OPTIONS | {"concurrency": 20, "base_url": "http://x"}
    assert begin(files, rows, concurrency=20, base_url="http://x") == ()


def test_a_changed_model_is_rejected(files, make_rows, tree):
    rows = make_rows("a")
    begin(files, rows)
    message = refused(files, rows, tree, model="\x1b[1m")
    assert message == rf"{files.output}: was begun with --model m, now with --model \x1b[1m"
    assert refused(files, rows, tree, model=None).endswith("now without --model")


@pytest.mark.parametrize("ids", ["ac", "abc", "a"])
def test_an_input_with_other_content_is_rejected(files, make_rows, tree, ids):
    mine = make_rows("a", "b")
    begin(files, mine)
    other = make_rows(*ids, name="other.jsonl")
    message = refused(files, other, tree)
    assert f"{files.output}: belongs to a run of {mine.path} (2 rows)" in message
    assert f"{other.path} ({len(ids)} rows) has different content" in message


@pytest.mark.parametrize("name", ["output", "failed"])
def test_an_output_without_a_run_file_is_rejected(files, make_rows, tree, name):
    getattr(files, name).write_text("precious")
    message = refused(files, make_rows("a"), tree)
    assert f"{getattr(files, name)}: exists, and no out.jsonl.run says" in message


def test_an_empty_output_without_a_run_file_is_accepted(files, make_rows):
    files.output.touch()
    assert check(files, make_rows("a"), OPTIONS) is None


@pytest.mark.parametrize("name", ["output", "failed", "run", "lock"])
def test_an_input_that_is_also_an_output_file_is_rejected(files, make_rows, tree, name):
    rows = make_rows("a")
    getattr(files, name).hardlink_to(rows.path)
    assert f"{getattr(files, name)}: is the input" in refused(files, rows, tree)


def test_a_directory_as_output_is_rejected(files, make_rows, tree):
    files.output.mkdir()
    assert "out.jsonl: not a regular file" in refused(files, make_rows("a"), tree)


def test_an_output_in_a_missing_directory_is_rejected(tmp_path, files, make_rows, tree):
    lost = type(files).of(tmp_path / "none" / "out.jsonl")
    assert "none/out.jsonl: no such directory" in refused(lost, make_rows("a"), tree)


def test_an_output_name_that_is_too_long_is_rejected(tmp_path, files, make_rows, tree):
    long = type(files).of(tmp_path / ("x" * 300))
    assert "file name too long" in refused(long, make_rows("a"), tree)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":1}', b"\xff", b"[" * 100_000])
def test_an_invalid_run_file_is_rejected(files, make_rows, tree, content):
    files.run.write_bytes(content)
    assert "out.jsonl.run: not a stormbreak run file" in refused(files, make_rows("a"), tree)


@pytest.mark.parametrize("count", [-1, 10**19, 10**100])
def test_a_run_file_with_an_impossible_count_is_rejected(files, make_rows, tree, count):
    rows = make_rows("a")
    record(files, rows, {}, last=None, now=1.0)
    run = json.loads(files.run.read_bytes())
    used = {"attempts": 1, "input_tokens": count}
    run["account"]["spent"] = [{"provider": "p", "model": "m", "useful": used}]
    files.run.write_text(json.dumps(run))
    assert "out.jsonl.run: not a stormbreak run file" in refused(files, rows, tree)


def test_a_run_file_of_another_format_version_is_rejected(files, make_rows, tree):
    rows = make_rows("a")
    begin(files, rows)
    files.run.write_bytes(files.run.read_bytes().replace(b'"version": 1', b'"version": 2'))
    message = refused(files, rows, tree)
    assert "written by another version of stormbreak (format 2, not 1)" in message


def test_a_full_disk_leaves_the_run_file_unchanged(files, make_rows, file_limit):
    rows = make_rows("a")
    begin(files, rows)
    before = files.run.read_bytes()
    with (
        file_limit(20),
        pytest.raises(ConfigurationError, match=r"\.run: cannot write: file too l"),
    ):
        begin(files, rows, concurrency=20)
    assert files.run.read_bytes() == before


def test_a_run_file_without_newer_counters_is_read(files, make_rows):
    rows = make_rows("a")
    record(files, rows, {}, last=None, now=1.0)
    run = json.loads(files.run.read_bytes())
    used = {"attempts": 1, "input_tokens": 9, "cached_input_tokens": 2, "output_tokens": 3}
    run["account"]["spent"] = [{"provider": "p", "model": "m", "useful": used}]
    files.run.write_text(json.dumps(run))
    (spent,) = read_existing_run(files).account.spent

    assert spent.useful == TokenSum(**used)
