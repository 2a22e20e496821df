import stat

import pytest

from stormbreak.batch.durable import AppendFile, OutputError, remove, replacing
from stormbreak.errors import ConfigurationError

LINE = b"x" * 99 + b"\n"


def names_in(place):
    return [path.name for path in place.iterdir()]


@pytest.fixture
def file(tmp_path):
    file = AppendFile(tmp_path / "out")
    yield file
    file.close()


def test_lines_are_there_at_once_and_only_for_the_owner(file, tmp_path):
    file.append(LINE)
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_the_file_is_made_by_its_first_line_only(file, tmp_path):
    file.sync()
    assert not (tmp_path / "out").exists()
    file.append(LINE)
    assert (tmp_path / "out").exists()


def test_appending_goes_on_after_close(file, tmp_path):
    file.append(LINE)
    file.close()
    file.close()
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2


def test_a_file_that_cannot_be_made(tmp_path):
    with pytest.raises(OutputError, match="cannot write: no such file or directory"):
        AppendFile(tmp_path / "none" / "out").append(LINE)


@pytest.mark.parametrize("room", [0, 1, 50, 99])
def test_a_short_write_is_taken_back(file, tmp_path, file_limit, room):
    file.append(LINE)
    with file_limit(100 + room), pytest.raises(OutputError) as raised:
        file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE
    assert f"{tmp_path}/out: cannot write: file too large" in str(raised.value)
    assert isinstance(raised.value, ConfigurationError)  # the command exits 2


def test_after_an_error_nothing_more_is_taken_but_what_stands_is_synced(file, tmp_path, file_limit):
    file.append(LINE)
    with file_limit(150), pytest.raises(OutputError) as first:
        file.append(LINE)
    with pytest.raises(OutputError) as second:
        file.append(LINE)
    assert first.value is second.value
    file.sync()
    assert (tmp_path / "out").read_bytes() == LINE


def test_a_full_disk(small_disk):
    file = AppendFile(small_disk / "out")
    line = b"x" * 9_999 + b"\n"
    for _ in range(6):
        file.append(line)
    with pytest.raises(OutputError, match=r"small/out: cannot write: disk full; what was written"):
        file.append(line)
    file.close()
    assert (small_disk / "out").read_bytes() == line * 6


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "was removed"),
        (lambda path: path.rename(path.with_name("moved")), "was removed"),
        (lambda path: (path.unlink(), path.touch()), "was replaced by another file"),
    ],
)
def test_a_file_taken_away_is_noticed_before_anything_counts(tmp_path, harm, said):
    file = AppendFile(tmp_path / "out")
    file.append(LINE)
    file.sync()
    harm(tmp_path / "out")
    file.append(LINE)
    for _ in range(2):
        with pytest.raises(OutputError, match=said):
            file.sync()
    with pytest.raises(OutputError, match=said):
        file.append(LINE)
    with pytest.raises(OutputError, match=said):
        file.close()
    assert file._fd == -1


def test_a_failed_sync_is_never_taken_back(tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(5, "Input/output error")

    file = AppendFile(tmp_path / "out")
    file.append(LINE)
    with monkeypatch.context() as patched:
        patched.setattr("stormbreak.batch.durable._sync", fail)
        with pytest.raises(OutputError, match="input/output error"):
            file.sync()
    for act in (file.sync, file.close):
        with pytest.raises(OutputError, match="input/output error"):
            act()


@pytest.mark.parametrize(("content", "end", "left"), [
    (LINE + b"torn", 100, LINE),
    (LINE + LINE[:-1], 199, LINE + LINE),
    (LINE, 100, LINE),
    (b"torn", 0, b""),
    (b"", 0, b""),
])  # fmt: skip
def test_mending(file, tmp_path, content, end, left):
    (tmp_path / "out").write_bytes(content)
    file.mend(end)
    assert (tmp_path / "out").read_bytes() == left
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == left + LINE


def test_replacing_in_one_step(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o644)
    (tmp_path / "out.stormbreak-new").write_bytes(b"left over from a crash, and longer")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["out"]


def test_replacing_leaves_the_old_file_when_the_disk_is_full(tmp_path, file_limit):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with (
        file_limit(1000),
        pytest.raises(OutputError, match="left as it was"),
        replacing(path) as file,
    ):
        file.write(b"x" * 5000)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["out"]


def test_replacing_leaves_the_old_file_when_something_is_raised(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(KeyError), replacing(path):
        raise KeyError
    assert names_in(tmp_path) == []


def test_replacing_follows_no_link(tmp_path):
    (tmp_path / "out.stormbreak-new").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_bytes(b"precious")
    with pytest.raises(OutputError), replacing(tmp_path / "out") as file:
        file.write(b"x")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_removing_what_is_not_there(tmp_path):
    remove(tmp_path / "none")
