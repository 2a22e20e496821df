"""`stormbreak batch run --policy`: by name and by file, and what the article's fills in."""

import json
from contextlib import suppress

import pytest
from batches import one_line, read, scenario, write
from sockets import BODY
from strangers import posted_to

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


def test_a_policy_by_name_and_by_file(batch_run, output, stormbreak_provider, tmp_path):
    provider = stormbreak_provider(scenario())
    assert batch_run("--policy", "article", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] <= 10
    output.unlink()
    own = tmp_path / "own.toml"
    own.write_text('[limit]\nkind = "fixed"\nin_flight = 2\n')
    provider = stormbreak_provider(scenario())
    assert batch_run("--policy", str(own), provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] <= 2


def test_a_policy_that_would_never_send_anything_is_refused(batch_run, output, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('preset = "batch"\n[breaker]\nmode = "forced_open"')
    code, _, errors = batch_run("--policy", str(policy), "--base-url", "http://127.0.0.1:9")

    assert code == 2
    assert one_line(errors) == "breaker.mode is forced_open: no row would ever be sent"
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "defaults"),
    [
        (("--policy", "article"), {"temperature": 0.7, "max_tokens": 1000}),
        (("--policy", "article", "--timeout", "9"), {"temperature": 0.7, "max_tokens": 1000}),
        ((), {}),
        (("--policy", "off"), {}),
        (("--policy", "FILE"), {}),
    ],
)
def test_the_article_alone_fills_in_what_a_chat_does_not_say(
    batch_run, monkeypatch, tmp_path, flags, defaults
):
    own = tmp_path / "own.toml"
    own.write_text('preset = "article"\npatience = 5\n')
    seen = []
    monkeypatch.setattr(
        "stormbreak.cli.batch_run.run_job", lambda job, *_, **__: seen.append(job) or 1 / 0
    )
    with suppress(ZeroDivisionError):
        batch_run(*(str(own) if flag == "FILE" else flag for flag in flags))

    assert defaults == seen[0].defaults


def echoing(bodies):
    """A server that answers everything, and keeps what it was asked."""

    def answer(_, asked):
        bodies.append(json.loads(asked))
        return 200, BODY

    return posted_to(answer)


def test_the_article_sends_what_its_rows_do_not_say(batch_run, source, output):
    write(
        source, [{"model": "m", "prompt": "one"}, {"model": "m", "prompt": "two", "max_tokens": 5}]
    )
    bodies = []
    with echoing(bodies) as url:
        assert batch_run("--policy", "article", "--base-url", f"{url}/v1")[0] == 0
    sent = sorted((body["temperature"], body["max_tokens"]) for body in bodies)

    assert sent == [(0.7, 5), (0.7, 1000)]
    assert len(read(output)) == 2
