"""`stormbreak gateway`: keys, --check, and errors."""

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
from table_test import table_test

from stormbreak.cli.gateway.serve import command as serve
from stormbreak.cli.main import main
from stormbreak.config import load_settings
from stormbreak.config.gateway_settings import GatewaySettings

FILE = """
[targets.main]
provider = "local"
model = "storm-1"

[pools.both]
targets = ["main"]

[gateway.models]
"gpt-4.1" = "both"

[keys.app]
sha256 = "{}"
models = ["gpt-4.1"]
rpm = 60
priority = "batch"
deadline = 30

[keys.app.spend]
max_usd = 5
period = 86400

[keys.other]
sha256 = "{}"
"""

SHARED = 'process_share = 0.5\n[fleet]\nurl = "redis://localhost:1"\n'


@pytest.fixture
def file(tmp_path, monkeypatch, no_words_about_providers):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gateway.toml"
    path.write_text(FILE.format(*(sha256(word).hexdigest() for word in (b"one", b"two"))))
    return path


def test_a_new_key_is_shown_once_and_stored_only_as_a_digest(capsys):
    assert main(["gateway", "key", "new", "app"]) == 0
    printed = capsys.readouterr()
    key = printed.err.split()[-1]
    assert re.fullmatch(r"sb-[\w-]{43}", key)
    assert printed.out == f'\n[keys.app]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n'
    main(["gateway", "key", "new", "app"])
    assert key not in capsys.readouterr().err


def test_the_printed_settings_of_a_new_key_pass_the_check(file, capsys):
    main(["gateway", "key", "new", "third"])
    with file.open("a") as settings:
        settings.write(capsys.readouterr().out)
    assert main(["gateway", "gateway.toml", "--check"]) == 0
    assert "Key third may ask for all of them." in capsys.readouterr().out


def test_the_digest_of_an_example_is_refused(file, capsys):
    """Whoever copies the page must not serve a key that everybody knows."""
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    samples = set(re.findall(r'^sha256 = "([0-9a-f]{64})"', page, re.MULTILINE))
    assert len(samples) == 2
    for sample in samples:
        file.write_text(FILE.format(sample, sha256(b"two").hexdigest()))
        assert main(["gateway", "gateway.toml", "--check"]) == 2
        assert capsys.readouterr().err == (
            "stormbreak: gateway.toml: keys.app.sha256 is a placeholder:"
            " `stormbreak gateway key new app` prints a key and its digest\n"
        )


def test_the_check_names_a_key_without_models(file, capsys):
    main(["gateway", "key", "new", "third"])
    with file.open("a") as settings:
        settings.write(capsys.readouterr().out + "models = []\n")
    assert main(["gateway", "gateway.toml", "--check"]) == 0
    assert "Key third may ask for none." in capsys.readouterr().out


def test_the_check_lists_models_and_the_limits_of_each_key(file, capsys):
    assert main(["gateway", "--check", "gateway.toml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Model gpt-4.1 leads to the pool both.",
        "Model main leads to the target main.",
        "Model both leads to the pool both.",
        (
            "Key app may ask for gpt-4.1. At most 60 requests a minute and 5 US dollars in 24 hours."
            " Its calls end within 30 s. Its priority is batch."
            " No price is known for storm-1 at local: its spend limit allows no call there."
        ),
        "Key other may ask for all of them. It has no limits of its own.",
        "gateway.toml: ok",
    ]


def test_the_check_uses_the_prices_of_the_file(file, capsys):
    file.with_name("deal.toml").write_text(
        '[[prices]]\nprovider = "local"\nmodel = "storm-1"\ninput = 2\noutput = 8\n'
    )
    file.write_text('prices = ["deal.toml"]\n' + file.read_text())
    assert main(["gateway", "--check", "gateway.toml"]) == 0
    assert "No price" not in capsys.readouterr().out


@table_test(
    ("argv", "message"),
    [
        (["gateway", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
        (["gateway", "gateway.toml", "--port", "x"], "must be a whole number from 0 to 65,535, got 'x'"),
        (["gateway", "gateway.toml", "--workers", "0"], "must be a whole number from 1 to 128, got '0'"),
        (["gateway", "gateway.toml", "more"], "unexpected extra argument (more)"),
        (["gateway", "key", "new", "a b"], "the name of a key must be letters, digits, - and _"),
        (["gateway", "key", "nwe", "app"], "Did you mean 'new'?"),
        (["gateway", "gateway.toml", "--host", "nowhere.invalid"], "cannot listen on nowhere.invalid"),
    ],
)  # fmt: skip
def test_an_invalid_argument_is_one_line_and_exit_code_2(file, capsys, argv, message):
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert message.lower() in printed.err.lower()
    assert printed.err.count("\n") <= 2
    assert printed.out == ""


@table_test(
    ("environ", "top", "message"),
    [
        ({"STORMBREAK_SHARE": "1/4"}, "", "STORMBREAK_SHARE is set: with --workers, use [fleet] to share limits"),
        ({}, "process_share = 0.5\n", "process_share must not be set with --workers: the variable STORMBREAK_SHARE"),
        ({"STORMBREAK_SHARE": "1/4"}, SHARED, "process_share must not be set with --workers: the variable STORMBREAK_SHARE"),
        ({"STORMBREAK_SHARE": "1/2"}, SHARED, "process_share must not be set with --workers: the variable STORMBREAK_SHARE"),
    ],
)  # fmt: skip
def test_workers_reject_a_process_share(file, capsys, monkeypatch, environ, top, message):
    Path("other.toml").write_text(top + file.read_text())
    with monkeypatch.context() as patched:
        for name, value in environ.items():
            patched.setenv(name, value)
        assert main(["gateway", "other.toml", "--workers", "2"]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_named(file, capsys, free_port):
    assert main(["gateway", "gateway.toml", "--port", str(free_port)]) == 2
    assert (
        f"cannot listen on 127.0.0.1 port {free_port}: Address already in use"
        in capsys.readouterr().err
    )


@table_test("words", [["gateway", "--help"], ["gateway", "gateway.toml", "--help"]])
def test_the_help_lists_the_options_of_the_server(file, capsys, words):
    assert main(words) == 0
    assert "--admin-port PORT" in capsys.readouterr().out


@table_test(
    ("variables", "targets", "models"),
    [
        ({}, ["local"], {"*": "local"}),
        ({"OPENAI_API_KEY": "k"}, ["openai"], {"*": "openai"}),
        (
            {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "GROQ_API_KEY": "k"},
            ["openai", "anthropic", "groq"],
            {"claude-*": "anthropic", "*": "openai"},
        ),
        ({"ANTHROPIC_API_KEY": "k"}, ["anthropic"], {"*": "anthropic"}),
    ],
)
def test_init_configures_the_providers_of_the_environment(
    file, capsys, monkeypatch, variables, targets, models
):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file.with_name("first.toml").unlink(missing_ok=True)
    assert main(["gateway", "init", "first.toml"]) == 0
    key = capsys.readouterr().err.split()[-1]
    settings = load_settings("first.toml", environ={})
    assert [*settings.targets] == targets
    assert settings.gateway.models == models
    assert settings.keys["app"].sha256 == sha256(key.encode()).hexdigest()
    assert main(["gateway", "first.toml", "--check"]) == 0


def test_init_does_not_overwrite_a_file(file, capsys):
    before = file.read_text()
    assert main(["gateway", "init", "gateway.toml"]) == 2
    assert "gateway.toml: file exists" in capsys.readouterr().err.lower()
    assert file.read_text() == before


# ------------------------------------------------------------------ deploy/

DEPLOY = Path(__file__).parents[2] / "deploy"


def parsed(words):
    """Parse the arguments of `stormbreak gateway` as the command does."""
    return serve.make_context("gateway", [*words]).params


def test_the_container_serves_every_address_and_probes_the_admin_port():
    lines = DEPLOY.joinpath("Dockerfile").read_text().splitlines()
    orders = dict(line.split(" ", 1) for line in lines if line[:1].isupper())
    assert json.loads(orders["ENTRYPOINT"]) == ["stormbreak", "gateway"]
    params = parsed(json.loads(orders["CMD"]))
    assert (params["host"], str(params["file"])) == ("0.0.0.0", "/etc/stormbreak/gateway.toml")
    defaults = GatewaySettings()
    assert orders["EXPOSE"] == f"{defaults.port} {defaults.admin_port}"
    check = json.loads(orders["HEALTHCHECK"].removeprefix("CMD "))
    assert f":{defaults.admin_port}/live" in check[-1]
    compile(check[-1], "HEALTHCHECK", "exec")
    assert orders["USER"] != "0"


def test_the_systemd_unit_checks_the_file_first_and_waits_for_the_grace():
    unit = DEPLOY.joinpath("stormbreak-gateway.service").read_text()
    values = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    _, group, *words = values["ExecStart"].split()
    assert group == "gateway"
    assert not parsed(words)["only_check"]
    assert parsed(values["ExecStartPre"].split()[2:])["only_check"]
    assert int(values["TimeoutStopSec"]) > GatewaySettings().grace
    assert int(values["LimitNOFILE"]) > 2 * GatewaySettings().max_connections
