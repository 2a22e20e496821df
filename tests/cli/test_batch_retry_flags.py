"""`stormbreak batch retry` uses the flags of the last run and those that are given."""

import json
import signal

import pytest
from batches import (
    PATIENCE,
    assert_answered,
    one_line,
    read,
    run_args,
    scenario,
    started,
    wait_until,
    write,
)
from failing import failing_scenario, rows_that_fail
from metering import prices

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions, failed_rows
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.run_file import read_run
from stormbreak.cli.main import main
from stormbreak.core.presets import BATCH, for_batch
from stormbreak.types import Verdict

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

KEY = "sk-canary-1234567890"
ROWS = rows_that_fail(12, _400=range(3))


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", ROWS)


@pytest.fixture
def retry(output, capsys):
    def call(*flags, code=0):
        got = main(["batch", "retry", str(output), *map(str, flags)])
        out, errors = capsys.readouterr()
        assert code == got, out + errors
        return out if code != 2 else one_line(errors)

    return call


@pytest.fixture
def begun(batch_run, stormbreak_provider):
    """Run a batch of which three rows fail, with these flags; return the provider."""

    def call(*flags, **more):
        provider = stormbreak_provider(failing_scenario(**more))
        assert batch_run("--quiet", *flags, provider=provider)[0] == 1
        return provider

    return call


@pytest.fixture
def healthy(stormbreak_provider):
    return stormbreak_provider(scenario())


def kept(output):
    return read_run(BatchPaths.of(output)).flags


def no_file_holds(tmp_path, secret):
    return not any(secret in path.read_text() for path in tmp_path.iterdir() if path.is_file())


# ------------------------------------------------------------ flags of the last run


def test_the_run_file_keeps_the_variable_of_the_key_and_never_the_key(
    begun, retry, output, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    provider = begun("--api-key-env", "MY_KEY", require_key=True)
    assert kept(output).api_key_env == "MY_KEY"
    out = json.loads(retry("--json", code=1))
    assert out["verdicts"] == {"invalid": 3}
    assert provider.stats()["arrivals"] == 15
    assert no_file_holds(tmp_path, KEY)
    monkeypatch.delenv("MY_KEY")
    assert "variable MY_KEY is not set" in retry(code=2)


def test_a_key_in_a_url_is_written_to_no_file(batch_run, output, tmp_path, stormbreak_provider):
    url = stormbreak_provider(failing_scenario()).base_url
    flags = ("--base-url", f"{url}?key={KEY}", "--fallback-base-url", f"{url}?api-key={KEY}")
    assert batch_run(*flags)[0] == 1
    assert (kept(output).base_url, kept(output).fallback_base_url) == (url, url)
    assert no_file_holds(tmp_path, KEY)


def test_a_key_in_the_path_of_a_url_is_written_to_no_file(
    batch_run, retry, output, tmp_path, stormbreak_provider
):
    place = stormbreak_provider(failing_scenario()).base_url.removesuffix("/v1")
    flags = ("--base-url", f"{place}/{KEY}/v1", "--fallback-base-url", f"{place}/{KEY}/v2")
    code, *shown = batch_run(*flags)
    assert code == 1
    assert KEY not in "".join(map(str, shown))
    assert no_file_holds(tmp_path, KEY)
    assert "the --base-url of its run held a key, and keys are not saved; give it again" in retry(
        code=2
    )
    assert "the --fallback-base-url of its run" in retry(*flags[:2], code=2)
    assert batch_run(*flags)[0] == 1  # the same command is the same run


def test_a_key_in_place_of_a_variable_name_is_written_to_no_file(
    batch_run, output, tmp_path, healthy
):
    for flag in ("--api-key-env", "--fallback-api-key-env"):
        urls = ("--fallback-base-url", healthy.base_url)
        assert batch_run(flag, KEY, *urls, provider=healthy)[0] == 2
    assert no_file_holds(tmp_path, KEY)
    assert not output.with_name("out.jsonl.run").exists()


def test_the_run_file_keeps_every_flag(begun, output, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('[limit]\nkind = "fixed"\nmax_in_flight = 2\n')
    flags = {
        "policy": str(file), "concurrency": 5, "rpm": 9e5, "tpm": 9e7, "timeout": 20.0,
        "idle_timeout": 10.0, "deadline": 30.0, "connect_grace": 9.0, "max_output_tokens": 50,
        "fleet": "redis://127.0.0.1:1/0",
    }  # fmt: skip
    words = [
        word
        for name, value in flags.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    provider = begun(*words, "--ordered")
    assert kept(output).given == flags | {"base_url": provider.base_url, "ordered": True}


def test_the_run_file_keeps_built_in_prices_by_name(begun, retry, output, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('[[prices]]\nprovider = "p"\nmodel = "m"\ninput = 1\noutput = 1\n')
    begun("--prices", "article-2025", "--prices", str(file))
    retry(code=1)
    assert kept(output).prices == ("article-2025", str(file))


def test_retry_finds_the_settings_file_from_another_folder(
    source, output, tmp_path, retry, stormbreak_provider, monkeypatch
):
    provider = stormbreak_provider(failing_scenario())
    target = f'[targets.main]\nbase_url = "{provider.base_url}"\nmodel = "storm-1"\n'
    (tmp_path / "settings.toml").write_text(target)
    monkeypatch.chdir(tmp_path)
    args = ["batch", "run", source.name, "--output", output.name, "--policy", "settings.toml"]
    assert main(args) == 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    retry(code=1)
    assert provider.stats()["arrivals"] == 15
    assert "has a target, which sets that" in retry("--base-url", provider.base_url, code=2)


def test_the_run_file_keeps_an_address_from_the_environment(
    source, output, retry, stormbreak_provider, monkeypatch
):
    provider = stormbreak_provider(failing_scenario())
    monkeypatch.setenv("STORMBREAK_BASE_URL", provider.base_url)
    assert main(["batch", "run", str(source), "--output", str(output)]) == 1
    monkeypatch.delenv("STORMBREAK_BASE_URL")
    retry(code=1)
    assert provider.stats()["arrivals"] == 15


# ------------------------------------------------------------ flags given again


def test_flags_of_a_retry_apply_to_later_retries(begun, retry, output, healthy):
    provider = begun("--concurrency", "2", "--timeout", "9")
    retry("--timeout", "7", code=1)
    assert kept(output).given == {
        "base_url": provider.base_url, "concurrency": 2, "timeout": 7.0,
    }  # fmt: skip
    retry("--base-url", healthy.base_url)
    assert kept(output).given == {"base_url": healthy.base_url, "concurrency": 2, "timeout": 7.0}
    assert_answered(ROWS, output)


def test_a_new_address_does_not_get_the_key_of_the_last_run(begun, retry, healthy, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    begun("--api-key-env", "MY_KEY")
    monkeypatch.delenv("MY_KEY")
    retry("--base-url", healthy.base_url)


def test_a_settings_file_with_a_target_replaces_address_and_key(
    begun, retry, output, healthy, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    begun("--api-key-env", "MY_KEY", "--timeout", "9")
    file = tmp_path / "settings.toml"
    file.write_text(f'[targets.main]\nbase_url = "{healthy.base_url}"\n')
    retry("--policy", file)
    assert kept(output).given == {"policy": str(file), "timeout": 9.0}


def test_retry_with_a_model_applies_it_to_rows_that_name_none(
    source, output, failed, batch_run, retry, stormbreak_provider
):
    rows = [{"prompt": f"document {n}" + " (meets 404)" * (n < 2)} for n in range(5)]
    write(source, rows)
    provider = stormbreak_provider(failing_scenario())
    assert batch_run("--model", "storm-1", provider=provider)[0] == 1
    healthy = stormbreak_provider(scenario())
    retry("--model", "storm-1-mini", "--base-url", healthy.base_url)
    models = {line["custom_id"]: line["response"]["body"]["model"] for line in read(output)}
    assert [models[f"row-{n}"] for n in range(1, 6)] == ["storm-1-mini"] * 2 + ["storm-1"] * 3
    assert batch_run("--model", "storm-1", provider=healthy)[0] == 0
    assert batch_run("--model", "storm-1-mini", provider=healthy)[0] == 2


def test_max_cost_covers_all_runs(source, output, batch_run, retry, tmp_path, stormbreak_provider):
    rows = rows_that_fail(60, _400=range(30, 60))
    for row in rows:
        row["body"]["max_tokens"] = 1000
    write(source, rows)
    provider = stormbreak_provider(failing_scenario(use_max_tokens=True))
    file = tmp_path / "deal.toml"
    file.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    assert batch_run("--max-cost", "0.5", "--prices", str(file), provider=provider)[0] == 1
    first = read_run(BatchPaths.of(output)).account.max_cost(
        lambda *_: prices("p", "m", into="3", out="15")
    )
    assert first > 0.3
    summary = json.loads(retry("--json", "--max-cost", float(first) + 0.001, code=1))
    assert (summary["end"], summary["attempts"]) == ("spent", 0)
    assert summary["spent"] == pytest.approx(float(first))
    assert kept(output).prices == (str(file),)
    assert json.loads(retry("--json", "--max-cost", "9", code=1))["attempts"] == 30


def test_a_named_key_stays_with_an_address_from_the_environment(
    source, output, retry, healthy, stormbreak_provider, monkeypatch
):
    provider = stormbreak_provider(failing_scenario(require_key=True))
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("STORMBREAK_BASE_URL", provider.base_url)
    assert main(["batch", "run", str(source), "--output", str(output), "--api-key-env", "MY_KEY"])
    run_job(
        Job(
            source=source,
            output=output,
            policy=for_batch(BATCH),
            options=BatchOptions(base_url=healthy.base_url),
            choice=failed_rows([Verdict.AUTH]),
        )
    )
    retry(code=1)
    assert provider.stats()["arrivals"] == 15
    assert healthy.stats()["arrivals"] == 0


def test_a_dry_run_shows_no_key(begun, retry):
    provider = begun()
    given = ("--base-url", f"{provider.base_url}?key={KEY}", "--api-key-env", KEY)
    for flag in ("--json", "--quiet"):
        out = retry("--dry-run", flag, *given)
        assert KEY not in out
        assert provider.base_url in out
        assert "key=" not in out


# ------------------------------------------------------------ incomplete run files


def remove_from_run_file(output, *names):
    path = BatchPaths.of(output).run
    run = json.loads(path.read_bytes())
    path.write_text(json.dumps({name: run[name] for name in run if name not in names}))


def test_a_run_file_without_flags_names_the_missing_options(
    source, output, batch_run, retry, healthy, stormbreak_provider
):
    rows = [{"prompt": f"document {n}" + " (meets 404)" * (n < 2)} for n in range(5)]
    write(source, rows)
    provider = stormbreak_provider(failing_scenario())
    assert batch_run("--model", "storm-1", provider=provider)[0] == 1
    remove_from_run_file(output, "flags")
    out = retry(code=2)
    assert out.startswith(f"{output}.run: has no options of the last run; give --provider")
    assert f"(it was {provider.base_url})" in out
    retry("--base-url", healthy.base_url)
    assert kept(output).given == {"base_url": healthy.base_url, "model": "storm-1"}


def test_a_settings_file_supplies_the_address_to_a_run_file_without_flags(
    begun, retry, output, tmp_path
):
    provider = begun()
    remove_from_run_file(output, "flags")
    file = tmp_path / "settings.toml"
    file.write_text(f'[targets.main]\nbase_url = "{provider.base_url}"\n')
    retry("--policy", file, code=1)
    assert kept(output).given == {"policy": str(file)}


def test_a_run_file_with_invalid_flags_is_rejected(begun, retry, output):
    begun()
    path = BatchPaths.of(output).run
    path.write_text(path.read_text().replace('"base_url": "http', '"rpm": "http'))
    assert "not a stormbreak run file" in retry(code=2)


def test_a_run_from_python_keeps_only_flags_of_the_command_line(source, output, healthy):
    options = BatchOptions(base_url=healthy.base_url)
    job = Job(source=source, output=output, policy=for_batch(BATCH), options=options)
    run_job(job)
    assert kept(output) is None
    assert main([*map(str, run_args(source, output, healthy.base_url))]) == 0
    run_job(job)
    assert kept(output).given == {"base_url": healthy.base_url}


def test_retry_of_a_missing_output_is_an_error(retry, output):
    assert retry(code=2) == f"{output}.run: not found; {output} is not the output of a batch run"
    assert not output.exists()


# ------------------------------------------------------------ INPUT


def test_retry_needs_the_new_path_of_a_moved_input(begun, retry, source, output, tmp_path, healthy):
    begun()
    moved = source.rename(tmp_path / "moved.jsonl")
    out = retry(code=2)
    assert out.startswith(
        f"{source}: the input of this batch does not exist; give its new path with --input"
    )
    retry("--input", moved, "--base-url", healthy.base_url)
    assert read_run(BatchPaths.of(output)).input == str(moved)


def test_retry_rejects_a_changed_input(begun, retry, source, failed):
    begun()
    before = failed.read_bytes()
    write(source, rows_that_fail(12, _400=range(4)))
    out = retry(code=2)
    assert "has different content; nothing is sent again" in out
    assert failed.read_bytes() == before


# ------------------------------------------------------------ during a retry


def test_a_retry_supports_lock_status_top_report_and_interrupt(
    source, output, failed, retry, tmp_path, batch_run, stormbreak_provider, capsys
):
    rows = rows_that_fail(40, content_filter=range(40))
    write(source, rows)
    assert batch_run("--quiet", provider=stormbreak_provider(failing_scenario()))[0] == 1
    slow = stormbreak_provider(scenario(service=0.6))
    flags = ("--base-url", slow.base_url, "--concurrency", "4", "--report", tmp_path / "r.html")
    with started("batch", "retry", output, *flags) as process:
        wait_until(lambda: len(read(output)) >= 8, "a second round")
        assert "another run is writing to" in retry(code=2)
        assert "another run is writing to" in one_line(batch_run(provider=slow)[2])
        assert main(["batch", "status", str(output), "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert (status["active"], status["left"]) == (True, 0)
        assert main(["top", str(output), "--json"]) == 0
        top = json.loads(capsys.readouterr().out)["batch"]
        assert (top["total"], top["failed"]) == (40, 0)
        assert 0 < top["left"] <= 36
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
    assert "interrupted; run the same command again" in out
    assert "40 rows that had failed" in out
    assert (tmp_path / "r.html").stat().st_size > 1000
    done = len(read(output))
    assert len(read(failed)) == 40 - done
    healthy = stormbreak_provider(scenario())
    retry("--base-url", healthy.base_url, "--quiet")
    assert healthy.stats()["arrivals"] == 40 - done
    assert_answered(rows, output)
