"""`stormbreak batch run --policy`: presets, files, and the defaults of the article preset."""

import json
from contextlib import suppress

import pytest
from batches import one_line, read, scenario, write
from odd_servers import post_server
from sockets import BODY

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


def test_policy_accepts_a_preset_or_a_file(batch_run, output, stormbreak_provider, tmp_path):
    provider = stormbreak_provider(scenario())
    assert batch_run("--policy", "article", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] <= 10
    output.unlink()
    own = tmp_path / "own.toml"
    own.write_text('[limit]\nkind = "fixed"\nmax_in_flight = 2\n')
    provider = stormbreak_provider(scenario())
    assert batch_run("--policy", str(own), provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] <= 2


def test_a_policy_with_a_forced_open_breaker_is_rejected(batch_run, output, tmp_path):
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
def test_only_the_article_preset_has_defaults_for_chats(
    batch_run, monkeypatch, tmp_path, flags, defaults
):
    own = tmp_path / "own.toml"
    own.write_text('preset = "article"\npatience = 5\n')
    seen = []
    monkeypatch.setattr(
        "stormbreak.cli.batch.run.run_job", lambda job, *_, **__: seen.append(job) or 1 / 0
    )
    with suppress(ZeroDivisionError):
        batch_run(*(str(own) if flag == "FILE" else flag for flag in flags))

    assert defaults == seen[0].defaults


TARGET = """
preset = "batch"
[targets.main]
base_url = "{url}"
model = "{model}"
api_key_env = "BATCH_KEY"
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A settings file with a target at this address."""
    monkeypatch.setenv("BATCH_KEY", "key-of-a-batch")
    path = tmp_path / "settings.toml"

    def write_(url, more="", model="large"):
        path.write_text(TARGET.format(url=url, model=model) + more)
        return str(path)

    return write_


@pytest.mark.parametrize(("flags", "model"), [((), "large"), (("--model", "tiny"), "tiny")])
def test_a_settings_file_with_one_target_gives_the_address(
    batch_run, source, settings, flags, model
):
    write(source, [{"prompt": "one"}])
    bodies = []
    with echoing(bodies) as url:
        code, _, errors = batch_run("--policy", settings(f"{url}/v1"), "--quiet", *flags)
    assert (code, errors) == (0, "")
    assert [body["model"] for body in bodies] == [model]


def test_profile_and_environment_override_a_settings_file(batch_run, source, settings, monkeypatch):
    write(source, [{"prompt": "one"}])
    monkeypatch.setenv("STORMBREAK_PROFILE", "small")
    monkeypatch.setenv("STORMBREAK__RETRY__MAX_ATTEMPTS", "0")
    file = settings("http://127.0.0.1:9/v1", "[profiles.small.targets.main]\nmodel = 'small'\n")
    code, _, errors = batch_run("--policy", file)
    assert code == 2
    assert one_line(errors).endswith(
        "STORMBREAK__RETRY__MAX_ATTEMPTS: retry.max_attempts must be at least 1, got 0"
    )

    monkeypatch.delenv("STORMBREAK__RETRY__MAX_ATTEMPTS")
    bodies = []
    with echoing(bodies) as url:
        monkeypatch.setenv("STORMBREAK__TARGETS__MAIN__BASE_URL", f"{url}/v1")
        assert batch_run("--policy", file)[0] == 0
    assert [body["model"] for body in bodies] == ["small"]


def test_a_settings_file_with_two_targets_is_rejected(batch_run, output, settings):
    file = settings("http://127.0.0.1:9/v1", '[targets.spare]\nbase_url = "http://127.0.0.1:9/v1"')
    code, _, errors = batch_run("--policy", file)
    assert code == 2
    assert one_line(errors) == f"{file}: a batch needs a file with one target, not with main, spare"
    assert not output.exists()


@pytest.mark.parametrize(
    "flags",
    [("--base-url", "http://127.0.0.1:9/v1"), ("--provider", "openai"), ("--api-key-env", "A_KEY")],
)
def test_an_address_flag_with_a_settings_target_is_rejected(batch_run, output, settings, flags):
    file = settings("http://127.0.0.1:9/v1")
    code, _, errors = batch_run("--policy", file, *flags)
    assert code == 2
    assert f"{flags[0]}: the file of --policy has a target, which sets that" in one_line(errors)
    assert not output.exists()


def echoing(bodies):
    """A server that answers every request and keeps the bodies."""

    def answer(_, asked):
        bodies.append(json.loads(asked))
        return 200, BODY

    return post_server(answer)


def test_the_article_preset_fills_missing_fields_of_rows(batch_run, source, output):
    write(
        source, [{"model": "m", "prompt": "one"}, {"model": "m", "prompt": "two", "max_tokens": 5}]
    )
    bodies = []
    with echoing(bodies) as url:
        assert batch_run("--policy", "article", "--base-url", f"{url}/v1")[0] == 0
    sent = sorted((body["temperature"], body["max_tokens"]) for body in bodies)

    assert sent == [(0.7, 5), (0.7, 1000)]
    assert len(read(output)) == 2
