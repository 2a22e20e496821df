"""The contract of both kinds of cache, and the file of the SQLite cache."""

import multiprocessing
import sqlite3
import stat
import threading
from contextlib import closing

import pytest
from table_test import table_test

from stormbreak.cache.memory import CacheEntry, MemoryCache
from stormbreak.cache.sqlite import SqliteCache
from stormbreak.core.fallback_policy import CachePolicy
from stormbreak.errors import ConfigurationError


class Clock:
    """Unix epoch seconds that a test sets."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def make(request, tmp_path, clock):
    made = []

    def cache(**values):
        values = CachePolicy(**values)
        if request.param == "memory":
            made.append(MemoryCache(values, clock=clock))
        else:
            made.append(SqliteCache(tmp_path / "answers.db", values, clock=clock))
        return made[-1]

    yield cache
    for each in made:
        each.close()


def test_an_answer_is_found_only_under_its_key(make, clock):
    cache = make()
    cache.put(b"one", b'{"a":1}')

    assert cache.get(b"one") == CacheEntry(b'{"a":1}', clock.now)
    assert cache.get(b"two") is None


def test_a_later_answer_replaces_the_earlier_one(make):
    cache = make()
    cache.put(b"one", b"old")
    cache.put(b"one", b"new")

    assert cache.get(b"one").body == b"new"


def test_an_answer_older_than_max_age_is_not_found(make, clock):
    cache = make(max_age=60.0)
    cache.put(b"one", b"body")
    clock.now += 59.9
    assert cache.get(b"one") is not None
    clock.now += 0.1
    assert cache.get(b"one") is None


def test_the_oldest_answer_is_evicted_beyond_max_bytes(make, clock):
    cache = make(max_bytes=10)
    for name in (b"one", b"two", b"six"):
        cache.put(name, b"1234")
        clock.now += 1

    assert [cache.get(name) is None for name in (b"one", b"two", b"six")] == [True, False, False]


def test_a_replaced_answer_does_not_count_towards_max_bytes(make):
    cache = make(max_bytes=10)
    cache.put(b"one", b"1234")
    for _ in range(9):
        cache.put(b"two", b"123456")

    assert cache.get(b"one") is not None


def test_an_answer_larger_than_max_bytes_is_not_stored(make):
    cache = make(max_bytes=10)
    cache.put(b"one", b"12345678901")

    assert cache.get(b"one") is None


def test_a_closed_cache_finds_and_stores_nothing(make):
    cache = make()
    cache.put(b"one", b"body")
    cache.close()
    cache.put(b"two", b"body")

    assert cache.get(b"one") is None
    cache.close()


def test_threads_share_a_cache(make):
    cache = make()

    def work(number):
        for turn in range(50):
            cache.put(b"%d" % (turn % 7), b"%d" % number)
            assert cache.get(b"%d" % (turn % 7)) is not None

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@table_test("values", [{"max_age": 0}, {"max_bytes": 0}, {"max_age": float("nan")}])
def test_invalid_cache_settings_are_rejected(values):
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        CachePolicy(**values)


# ---------------------------------------------------------------- the file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.db"


def test_the_cache_file_is_readable_only_by_its_owner(path, clock):
    cache = SqliteCache(path, CachePolicy(), clock=clock)
    cache.put(b"one", b"body")

    for file in path.parent.iterdir():  # the journal beside it, too
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    cache.close()


def test_opening_a_cache_file_removes_permissions_of_others(path):
    SqliteCache(path, CachePolicy()).close()
    path.chmod(0o644)
    SqliteCache(path, CachePolicy()).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_reopened_cache_file_keeps_its_answers_and_secret(path, clock):
    one = SqliteCache(path, CachePolicy(), clock=clock)
    one.put(b"one", b"body")
    one.close()
    two = SqliteCache(path, CachePolicy(), clock=clock)

    assert two.get(b"one").body == b"body"
    assert two.secret == one.secret
    two.close()


def test_a_reopened_cache_file_knows_its_size(path, clock):
    one = SqliteCache(path, CachePolicy(), clock=clock)
    one.put(b"one", b"12345678")
    one.close()
    clock.now += 1
    two = SqliteCache(path, CachePolicy(max_bytes=10), clock=clock)
    two.put(b"two", b"1234")

    assert (two.get(b"one"), two.get(b"two").body) == (None, b"1234")
    two.close()


def test_storing_an_answer_deletes_those_older_than_max_age(path, clock):
    cache = SqliteCache(path, CachePolicy(max_age=10.0), clock=clock)
    cache.put(b"one", b"private")
    clock.now += 11
    cache.put(b"two", b"body")
    cache.close()

    with closing(sqlite3.connect(path)) as file:
        assert [key for (key,) in file.execute("SELECT key FROM answers")] == [b"two"]


def _put_in_child(cache):
    cache.put(b"child", b"body")


def test_a_child_process_uses_a_connection_of_its_own(path, clock):
    cache = SqliteCache(path, CachePolicy(), clock=clock)
    cache.put(b"one", b"body")
    child = multiprocessing.get_context("fork").Process(target=_put_in_child, args=(cache,))
    child.start()
    child.join()

    assert child.exitcode == 0
    assert cache.get(b"child").body == b"body"
    assert cache.get(b"one").body == b"body"
    cache.close()


def test_an_empty_file_becomes_a_cache(path):
    path.touch(0o644)
    SqliteCache(path, CachePolicy()).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"no database, but long enough to be one" * 99, b"text"])
def test_a_file_that_is_not_a_database_is_rejected_and_unchanged(path, content):
    path.write_bytes(content)
    with pytest.raises(
        ConfigurationError, match=r"answers\.db: cannot open the cache of answers: .*not a database"
    ):
        SqliteCache(path, CachePolicy())

    assert path.read_bytes() == content


def test_the_database_of_another_program_is_rejected_and_unchanged(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (a)")
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="its tables are of version 0, not 1"):
        SqliteCache(path, CachePolicy())

    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM secret",
        "DELETE FROM size",
        "UPDATE secret SET bytes = 'text'",
        "UPDATE secret SET bytes = x''",
        "UPDATE secret SET bytes = zeroblob(70)",
        "DROP TABLE secret",
    ],
)
def test_a_damaged_cache_file_is_rejected(path, lost):
    SqliteCache(path, CachePolicy()).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(lost)
    with pytest.raises(ConfigurationError, match="cannot open the cache of answers"):
        SqliteCache(path, CachePolicy())


def test_a_cache_path_in_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(
        ConfigurationError, match="cannot open the cache of answers: No such file or directory"
    ):
        SqliteCache(tmp_path / "none" / "answers.db", CachePolicy())


def test_a_database_error_is_logged_once_and_finds_no_answer(path, caplog, monkeypatch):
    monkeypatch.setattr("stormbreak.cache.sqlite.PATIENCE", 0.01)
    cache = SqliteCache(path, CachePolicy())
    cache.put(b"one", b"secret body")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        cache.put(b"two", b"secret body")
        cache.put(b"two", b"secret body")
        other.execute("COMMIT")

    assert cache.get(b"two") is None
    assert caplog.messages == ["the cache of answers fails (logged once): OperationalError"]
    cache.close()
