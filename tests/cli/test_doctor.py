"""`stormbreak doctor` on the command line."""

import json

import pytest
from canary import CANARIES, KEY, assert_clean

from stormbreak.cli.main import main


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    """Remove the environment variables that doctor reports."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_doctor_exits_with_0_without_findings(capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "openai" in out
    assert "2.14.0" in out
    assert "600 s" in out
    assert "transport of openai: http_client=httpx2.AsyncClient(" in out
    assert out.splitlines()[-1].startswith("0 wrong, ")


def test_doctor_exits_with_1_and_lists_the_findings(capsys, monkeypatch):
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    assert main(["doctor"]) == 1
    out, _ = capsys.readouterr()
    assert "wrong: STORMBREAK_DISABLED: every policy is off [policy-off]\n  why: " in out
    assert out.splitlines()[-1].startswith("2 wrong, ")
    assert_clean(out, "output", CANARIES)


def test_a_risk_fails_only_with_strict(capsys, monkeypatch, tmp_path):
    info = tmp_path / "google_genai-3.6.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: google-genai\nVersion: 3.6.1\nRequires-Dist: httpx2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor"]) == 0
    assert main(["doctor", "--strict"]) == 1
    assert "risk: google-genai 3.6.1: it has no default timeout" in capsys.readouterr().out


def test_json_lists_sdks_and_findings(capsys, monkeypatch):
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    assert main(["doctor", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    sdks = {each["name"]: each for each in facts["installed"]}
    assert sdks["openai"]["retries"] == {"value": 2, "read": True}
    first = facts["findings"][0]
    assert (first["severity"], first["name"]) == ("wrong", "policy-off")
    assert first.keys() == {"severity", "name", "where", "what", "why", "instead"}


def test_an_argument_is_rejected_and_imports_no_code(capsys, tmp_path, monkeypatch):
    for argument in ("app:client", "app.py:client", KEY):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "app.py").write_text("raise SystemExit('imported')\n")
        assert main(["doctor", argument]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "stormbreak.doctor.examine(client)" in err
        assert_clean(err, "error", CANARIES)


def test_bad_usage_is_one_line_and_exit_code_2(capsys):
    for flag in ("--frobnicate", "--json=yes"):
        assert main(["doctor", flag]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
