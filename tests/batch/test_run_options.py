import re

import pytest
from msgspec.json import decode, encode
from msgspec.structs import replace
from table_test import table_test

from stormbreak.batch import run
from stormbreak.batch.run_options import UNFINISHED_ROWS, BatchOptions, Options, failed_rows
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict

LAST = BatchOptions(
    provider="openai",
    api_key_env="KEY",
    fallback_base_url="https://b/v1",
    fallback_api_key_env="OTHER",
    model="m",
    concurrency=4,
    prices=("/a.toml",),
    ordered=True,
)


def test_given_options_override_those_of_the_last_run():
    now = BatchOptions(concurrency="auto", prices=("/b.toml",), max_cost=5.0)
    assert now.over(LAST) == replace(LAST, concurrency="auto", prices=("/b.toml",), max_cost=5.0)
    assert BatchOptions().over(LAST) == LAST


@table_test("there", [{"provider": "groq"}, {"base_url": "https://c/v1"}])
def test_a_new_address_does_not_inherit_the_api_key(there):
    merged = BatchOptions(**there).over(LAST)
    assert merged.api_key_env is None
    assert {merged.provider, merged.base_url} == {*there.values(), None}
    assert merged.fallback_api_key_env == "OTHER"
    assert BatchOptions(**there, api_key_env="NEW").over(LAST).api_key_env == "NEW"


def test_a_new_fallback_does_not_inherit_the_fallback_key():
    merged = BatchOptions(fallback_base_url="https://c/v1").over(LAST)
    assert (merged.fallback_api_key_env, merged.api_key_env) == (None, "KEY")


def test_a_new_key_keeps_the_address():
    assert BatchOptions(api_key_env="NEW").over(LAST) == replace(LAST, api_key_env="NEW")


def test_without_place_removes_address_and_key():
    assert LAST.without_place() == replace(LAST, provider=None, api_key_env=None)


def test_at_adds_the_address_only_to_a_key_without_one():
    here = "https://here/v1"
    assert BatchOptions(api_key_env="KEY").at(here) == BatchOptions(
        api_key_env="KEY", base_url=here
    )
    for flags in (
        LAST,
        BatchOptions(api_key_env="KEY", base_url="https://a/v1"),
        BatchOptions(model="m"),
    ):
        assert flags.at(here) == flags


def test_clean_removes_keys_from_urls():
    flags = BatchOptions(
        base_url="https://a/v1/?key=s", fallback_base_url="https://b/v1?api-key=s#s"
    )
    assert flags.clean() == BatchOptions(base_url="https://a/v1", fallback_base_url="https://b/v1")
    with pytest.raises(ConfigurationError, match="no user or password"):
        BatchOptions(fallback_base_url="https://me:s@b/v1").clean()


def test_only_given_options_are_encoded():
    assert encode(BatchOptions(rpm=5.0)) == b'{"rpm":5.0}'
    assert decode(encode(LAST), type=BatchOptions) == LAST


# ------------------------------------------------------------ choice of rows


PASSING = {
    Verdict.THROTTLED,
    Verdict.OVERLOADED,
    Verdict.SERVER_ERROR,
    Verdict.BROKEN,
    Verdict.RESET,
    Verdict.TIMEOUT,
    Verdict.CONNECT_FAILED,
    Verdict.REJECTED,
    Verdict.CANCELLED,
}


@table_test("verdict", [*Verdict])
def test_a_resume_takes_rows_with_temporary_failures(verdict):
    assert UNFINISHED_ROWS.takes(verdict.value) is (verdict in PASSING)


def test_a_resume_takes_rows_with_an_unknown_verdict():
    assert UNFINISHED_ROWS.takes("of another version")
    assert UNFINISHED_ROWS.takes(None)
    assert UNFINISHED_ROWS.fresh


@table_test("verdict", [*(each.value for each in Verdict), "of another version", None])
def test_a_retry_takes_all_failed_rows_and_no_unsent_ones(verdict):
    assert failed_rows().takes(verdict)
    assert not failed_rows().fresh


def test_a_retry_by_verdict_takes_only_these_verdicts():
    choice = failed_rows(iter([Verdict.AUTH, Verdict.TIMEOUT]))
    assert {each for each in Verdict if choice.takes(each.value)} == {Verdict.AUTH, Verdict.TIMEOUT}
    assert not choice.takes("of another version")
    assert not choice.takes(None)


def test_the_help_of_run_names_every_option():
    listed = run.__doc__.partition("options: ")[2].partition("Returns:")[0]
    assert set(re.findall(r"\w+", listed)) >= Options.__annotations__.keys()
