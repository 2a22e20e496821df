"""`stormbreak batch run`, run again: the rows that it sends, and the errors that stop it early."""

import json

import pytest
from batches import assert_answered, chat_rows, read, scenario, size_of, write
from odd_servers import post_server
from sockets import BODY

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


def test_a_finished_batch_sends_nothing_when_run_again(batch_run, output, stormbreak_provider):
    provider = stormbreak_provider(scenario())
    assert batch_run(provider=provider)[0] == 0
    before = output.read_bytes()
    assert batch_run(provider=provider)[0] == 0
    assert provider.stats()["arrivals"] == 30
    assert output.read_bytes() == before


def test_a_later_run_retries_transient_failures_and_not_final_ones(
    batch_run, source, output, failed, stormbreak_provider
):
    write(source, chat_rows(60))
    faults = (
        {"kind": "400", "share": 0.2, "until": 2},
        {"kind": "slow_headers", "share": 0.3, "added_latency": 60, "until": 2},
    )
    provider = stormbreak_provider(scenario(*faults), seed=1)
    code, out, _ = batch_run("--deadline", "1", "--json", provider=provider)
    first = json.loads(out)
    verdicts = [line["error"]["verdict"] for line in read(failed)]
    assert code == 1
    assert set(verdicts) == {"invalid", "timeout"}
    final = verdicts.count("invalid")
    provider = stormbreak_provider(scenario())
    code, out, _ = batch_run("--json", provider=provider)
    second = json.loads(out)
    assert code == 1
    assert provider.stats()["arrivals"] == second["attempts"] == 60 - first["successful"] - final
    assert (second["successful"], second["failed"]) == (60 - final, final)
    assert [line["error"]["verdict"] for line in read(failed)] == ["invalid"] * final
    assert len(read(output)) == 60 - final


def test_a_run_after_a_power_cut_repairs_a_torn_line(batch_run, output, stormbreak_provider):
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    whole = output.read_bytes()
    cut = whole.index(b"\n", len(whole) // 2) + 40
    output.write_bytes(whole[:cut])
    code, out, _ = batch_run(provider=stormbreak_provider(scenario()))
    rest = 30 - whole[:cut].count(b"\n")
    assert code == 0
    assert f"30 of 30 rows; {rest} of them in this run" in out
    assert_answered(chat_rows(30), output)
    assert output.read_bytes().startswith(whole[: cut - 39])


# ------------------------------------------------------------ errors of key, account and address


@pytest.mark.parametrize(
    ("kind", "verdict", "why"),
    [
        ("401", "auth", "the key was refused"),
        ("404", "not_found", "no such model or address at http://127.0.0.1:"),
        ("quota", "billing", "no credit or quota left"),
    ],
)
def test_a_repeated_account_error_stops_the_run_and_a_later_run_sends_all_rows(
    batch_run, source, output, failed, stormbreak_provider, kind, verdict, why
):
    write(source, chat_rows(100))
    provider = stormbreak_provider(scenario({"kind": kind}))
    code, out, _ = batch_run("--concurrency", "50", provider=provider)
    assert code == 1
    assert why in out
    assert provider.stats()["arrivals"] == 20
    assert size_of(output) == 0
    assert not failed.exists()
    code, out, _ = batch_run("--json", provider=provider)
    summary = json.loads(out)
    assert (code, summary["end"], summary["refused_by"]) == (1, "refused", verdict)
    assert (summary["left"], summary["failed"]) == (100, 0)
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    assert_answered(chat_rows(100), output)


def test_account_errors_of_few_rows_fail_each_row_for_good(
    batch_run, source, output, failed, stormbreak_provider
):
    write(source, chat_rows(5))
    code, out, _ = batch_run(provider=stormbreak_provider(scenario({"kind": "401"})))
    assert code == 1
    assert str(failed) in out
    assert [line["error"]["verdict"] for line in read(failed)] == ["auth"] * 5
    healthy = stormbreak_provider(scenario())
    assert batch_run(provider=healthy)[0] == 1
    assert healthy.stats()["arrivals"] == 0
    failed.unlink()
    assert batch_run(provider=healthy)[0] == 0
    assert_answered(chat_rows(5), output)
    assert not failed.exists()


def misplaced(status):
    """An API under /v1, and `status` everywhere else."""

    def answer(path, _):
        return (200, BODY) if path.startswith("/v1/") else (status, b"")

    return post_server(answer, location="https://elsewhere.example/login")


@pytest.mark.parametrize(
    ("status", "verdict", "why"),
    [
        (301, "redirected", "the address points elsewhere"),
        (307, "redirected", "the address points elsewhere"),
        (405, "not_found", ", which may need a /v1;"),
    ],
)
def test_a_wrong_base_url_fails_no_row(batch_run, source, failed, status, verdict, why):
    write(source, chat_rows(100))
    with misplaced(status) as url:
        code, out, _ = batch_run("--base-url", url)
        assert code == 1
        assert why in out
        assert not failed.exists()
        summary = json.loads(batch_run("--base-url", url, "--json")[1])
        assert (summary["end"], summary["refused_by"]) == ("refused", verdict)
        assert (summary["attempts"], summary["left"]) == (20, 100)
        code, out, _ = batch_run("--base-url", f"{url}/v1", "--json")
    assert (code, json.loads(out)["successful"]) == (0, 100)
