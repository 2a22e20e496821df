import errno
import fcntl
import os
import signal
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from stormbreak.batch.store.durable_file import (
    AppendFile,
    OutputError,
    remove,
    remove_stale_temp,
    replacing,
)
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
        (lambda path: path.unlink(), "was removed; the same command sends the rows again"),
        (lambda path: path.rename(path.with_name("moved")), "was removed; the same"),
        (lambda path: (path.unlink(), path.touch()), "was replaced by another file; the same"),
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
        patched.setattr("stormbreak.batch.store.durable_file._sync", fail)
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
    file.repair(end)
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


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_replacing_writes_into_no_file_of_somebody_else(tmp_path, link):
    (tmp_path / "victim").write_bytes(b"precious")
    link(tmp_path / "out.stormbreak-new", tmp_path / "victim")
    (tmp_path / "victim").chmod(0o644)
    with replacing(tmp_path / "out") as file:
        file.write(b"x")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o644
    assert (tmp_path / "out").read_bytes() == b"x"
    assert not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_replacing_replaces_nothing_but_files(tmp_path, make):
    make(tmp_path / "out")  # it might be /dev/null
    with pytest.raises(OutputError, match="not a regular file; left"), replacing(tmp_path / "out"):
        pytest.fail("it is open")
    assert names_in(tmp_path) == ["out"]
    assert not (tmp_path / "out").is_file()


def test_of_two_that_replace_one_file_none_puts_half_of_the_other_there(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="left as it was"), replacing(path) as first:  # noqa: PT012
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        with replacing(path) as third:
            third.write(b"third")
            assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"third"
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o700, 0o400])
def test_an_existing_file_becomes_private_before_anything_is_written(file, tmp_path, mode):
    (tmp_path / "out").write_bytes(LINE)
    (tmp_path / "out").chmod(mode)
    if os.geteuid() and mode == 0o400:
        pytest.skip("only root may write it")
    file.append(LINE)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_a_link_is_not_followed(file, tmp_path):
    (tmp_path / "out").symlink_to("victim")
    with pytest.raises(OutputError):
        file.append(LINE)
    assert not (tmp_path / "victim").exists()


def test_a_pipe_is_no_file(file, tmp_path):
    os.mkfifo(tmp_path / "out")
    with pytest.raises(OutputError, match="not a regular file"):
        file.append(LINE)


def test_two_names_of_one_file(file, tmp_path):
    file.append(LINE)
    (tmp_path / "other").hardlink_to(tmp_path / "out")
    other = AppendFile(tmp_path / "other")
    with pytest.raises(OutputError, match="another run is writing to it, by another name"):
        other.repair(0)
    assert (tmp_path / "out").read_bytes() == LINE
    file.close()
    AppendFile(tmp_path / "other").repair(len(LINE))


@pytest.mark.parametrize("size", [0, 99, 100, 250])
def test_a_file_that_is_cut_under_us_is_noticed_and_the_rest_is_saved(tmp_path, size):
    file = AppendFile(tmp_path / "out")
    for _ in range(3):
        file.append(LINE)
    file.sync()
    os.truncate(tmp_path / "out", size)
    file.append(b"new\n")
    assert (tmp_path / "out").read_bytes() == LINE * (size // 100) + b"new\n"
    assert file.is_writable
    for act in (file.sync, file.sync, file.close):
        with pytest.raises(OutputError, match="another process cut it short"):
            act()


def test_a_file_that_is_cut_after_the_last_line_is_noticed_at_the_end(tmp_path):
    file = AppendFile(tmp_path / "out")
    file.append(LINE)
    file.sync()
    os.truncate(tmp_path / "out", 0)
    with pytest.raises(OutputError, match="another process cut it short"):
        file.close()
    assert file._fd == -1


def test_a_line_longer_than_a_block_is_found_when_the_file_is_cut(tmp_path):
    file = AppendFile(tmp_path / "out")
    file.append(LINE)
    file.append(b"x" * 200_000 + b"\n")
    os.truncate(tmp_path / "out", 150_000)
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2
    with pytest.raises(OutputError):
        file.close()


@pytest.mark.parametrize(("code", "fails"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_directory_that_cannot_be_synced(tmp_path, monkeypatch, code, fails):
    """A disk that fails is an error; a network file system that has no such thing is none."""
    real = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError) if fails else nullcontext(), replacing(tmp_path / "out") as new:
        new.write(b"x")


def test_what_a_killed_process_left_is_discarded(tmp_path):
    (tmp_path / "out.stormbreak-new").write_bytes(LINE)
    remove_stale_temp(tmp_path / "out")
    remove_stale_temp(tmp_path / "out")
    assert names_in(tmp_path) == []


def test_removing_what_is_not_there(tmp_path):
    remove(tmp_path / "none")


# ------------------------------------------------------------ several processes


def test_forks_append_whole_lines_and_cut_off_what_a_killed_one_left(file, tmp_path):
    file.append(LINE)
    file.share()

    def write_some():
        for number in range(500):
            file.append(b"%06d" % number * 50 + b"\n")
        os.write(file._fd, b"torn")  # as a kill in the middle of a write leaves it
        os.kill(os.getpid(), signal.SIGKILL)

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            write_some()
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    file.append(LINE)
    file.sync()
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert len(lines) == 1502
    assert all(line in (LINE[:-1], line[:6] * 50) for line in lines)


def test_the_turn_of_a_killed_process_is_free(file, tmp_path):
    file.append(LINE)
    file.share()
    child = os.fork()
    if child == 0:
        fcntl.lockf(file._turns, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2
