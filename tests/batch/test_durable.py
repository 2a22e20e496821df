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


def test_append_writes_at_once_to_a_private_file(file, tmp_path):
    file.append(LINE)
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_the_first_line_creates_the_file(file, tmp_path):
    file.sync()
    assert not (tmp_path / "out").exists()
    file.append(LINE)
    assert (tmp_path / "out").exists()


def test_append_after_close_opens_the_file_again(file, tmp_path):
    file.append(LINE)
    file.close()
    file.close()
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2


def test_append_to_a_missing_directory_raises(tmp_path):
    with pytest.raises(OutputError, match="cannot write: no such file or directory"):
        AppendFile(tmp_path / "none" / "out").append(LINE)


@pytest.mark.parametrize("room", [0, 1, 50, 99])
def test_a_short_write_is_cut_off_again(file, tmp_path, file_limit, room):
    file.append(LINE)
    with file_limit(100 + room), pytest.raises(OutputError) as raised:
        file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE
    assert f"{tmp_path}/out: cannot write: file too large" in str(raised.value)
    assert isinstance(raised.value, ConfigurationError)  # the command exits 2


def test_append_after_an_error_repeats_it_and_sync_still_works(file, tmp_path, file_limit):
    file.append(LINE)
    with file_limit(150), pytest.raises(OutputError) as first:
        file.append(LINE)
    with pytest.raises(OutputError) as second:
        file.append(LINE)
    assert first.value is second.value
    file.sync()
    assert (tmp_path / "out").read_bytes() == LINE


def test_a_full_disk_keeps_the_complete_lines(small_disk):
    file = AppendFile(small_disk / "out")
    line = b"x" * 9_999 + b"\n"
    for _ in range(6):
        file.append(line)
    with pytest.raises(OutputError, match=r"small/out: cannot write: disk full; what was written"):
        file.append(line)
    file.close()
    assert (small_disk / "out").read_bytes() == line * 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "was removed; run the same command again"),
        (
            lambda path: path.rename(path.with_name("moved")),
            "was removed; run the same command again",
        ),
        (lambda path: (path.unlink(), path.touch()), "was replaced by another file; run the same"),
    ],
)
def test_sync_raises_when_the_file_was_removed_or_replaced(tmp_path, damage, message):
    file = AppendFile(tmp_path / "out")
    file.append(LINE)
    file.sync()
    damage(tmp_path / "out")
    file.append(LINE)
    for _ in range(2):
        with pytest.raises(OutputError, match=message):
            file.sync()
    with pytest.raises(OutputError, match=message):
        file.append(LINE)
    with pytest.raises(OutputError, match=message):
        file.close()
    assert file._fd == -1


def test_every_sync_after_a_failed_sync_fails(tmp_path, monkeypatch):
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
def test_repair_cuts_the_file_to_its_complete_lines(file, tmp_path, content, end, left):
    (tmp_path / "out").write_bytes(content)
    file.repair(end)
    assert (tmp_path / "out").read_bytes() == left
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == left + LINE


def test_replacing_is_atomic_and_makes_the_file_private(tmp_path):
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


def test_an_exception_inside_replacing_creates_no_file(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(KeyError), replacing(path):
        raise KeyError
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_replacing_never_writes_through_a_link(tmp_path, link):
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
def test_replacing_accepts_only_regular_files(tmp_path, make):
    make(tmp_path / "out")  # it might be /dev/null
    with pytest.raises(OutputError, match="not a regular file; left"), replacing(tmp_path / "out"):
        pytest.fail("it is open")
    assert names_in(tmp_path) == ["out"]
    assert not (tmp_path / "out").is_file()


def test_concurrent_replacing_of_one_file_never_mixes_their_content(tmp_path):
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
def test_an_existing_file_becomes_private_before_the_first_write(file, tmp_path, mode):
    (tmp_path / "out").write_bytes(LINE)
    (tmp_path / "out").chmod(mode)
    if os.geteuid() and mode == 0o400:
        pytest.skip("only root may write it")
    file.append(LINE)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_append_does_not_follow_a_symbolic_link(file, tmp_path):
    (tmp_path / "out").symlink_to("victim")
    with pytest.raises(OutputError):
        file.append(LINE)
    assert not (tmp_path / "victim").exists()


def test_append_to_a_named_pipe_raises(file, tmp_path):
    os.mkfifo(tmp_path / "out")
    with pytest.raises(OutputError, match="not a regular file"):
        file.append(LINE)


def test_a_second_hard_link_to_an_open_file_is_rejected(file, tmp_path):
    file.append(LINE)
    (tmp_path / "other").hardlink_to(tmp_path / "out")
    other = AppendFile(tmp_path / "other")
    with pytest.raises(OutputError, match="another run is writing to it, by another name"):
        other.repair(0)
    assert (tmp_path / "out").read_bytes() == LINE
    file.close()
    AppendFile(tmp_path / "other").repair(len(LINE))


@pytest.mark.parametrize("size", [0, 99, 100, 250])
def test_a_truncated_file_is_reported_and_further_lines_are_saved(tmp_path, size):
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


def test_close_reports_a_file_that_was_truncated_after_the_last_line(tmp_path):
    file = AppendFile(tmp_path / "out")
    file.append(LINE)
    file.sync()
    os.truncate(tmp_path / "out", 0)
    with pytest.raises(OutputError, match="another process cut it short"):
        file.close()
    assert file._fd == -1


def test_a_line_longer_than_a_block_is_cut_off_after_a_truncation(tmp_path):
    file = AppendFile(tmp_path / "out")
    file.append(LINE)
    file.append(b"x" * 200_000 + b"\n")
    os.truncate(tmp_path / "out", 150_000)
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2
    with pytest.raises(OutputError):
        file.close()


@pytest.mark.parametrize(("code", "fails"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_failed_sync_of_a_directory_raises_unless_it_is_unsupported(
    tmp_path, monkeypatch, code, fails
):
    """A failing disk is an error. A network file system without directory sync is not."""
    real = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError) if fails else nullcontext(), replacing(tmp_path / "out") as new:
        new.write(b"x")


def test_remove_stale_temp_deletes_the_file_of_a_killed_process(tmp_path):
    (tmp_path / "out.stormbreak-new").write_bytes(LINE)
    remove_stale_temp(tmp_path / "out")
    remove_stale_temp(tmp_path / "out")
    assert names_in(tmp_path) == []


def test_remove_ignores_a_missing_file(tmp_path):
    remove(tmp_path / "none")


# ------------------------------------------------------------ several processes


def test_forks_append_whole_lines_and_cut_off_torn_ones(file, tmp_path):
    file.append(LINE)
    file.share()

    def write_some():
        for number in range(500):
            file.append(b"%06d" % number * 50 + b"\n")
        fcntl.lockf(file._turns, fcntl.LOCK_EX)
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


def test_a_killed_process_releases_its_append_lock(file, tmp_path):
    file.append(LINE)
    file.share()
    child = os.fork()
    if child == 0:
        fcntl.lockf(file._turns, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    file.append(LINE)
    assert (tmp_path / "out").read_bytes() == LINE * 2
