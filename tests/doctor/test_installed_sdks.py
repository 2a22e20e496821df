"""Installed SDKs are read from metadata and source, of real packages and of fakes."""

import subprocess
import sys

import anthropic
import httpx2
import openai
import pytest

from stormbreak.doctor.findings import Severity
from stormbreak.doctor.installed_sdks import SDKS, Setting, check_installed, installed

CONSTANTS = "DEFAULT_TIMEOUT = httpx2.Timeout(timeout={}, connect=5.0)\nDEFAULT_MAX_RETRIES = {}\n"


def named(name):
    return next(each for each in installed() if each.name == name)


def names(everything):
    return [(str(each.severity), each.name, each.where) for each in check_installed(everything)]


@pytest.mark.parametrize("sdk", [openai, anthropic], ids=lambda sdk: sdk.__name__)
def test_defaults_of_an_installed_sdk_are_read(sdk):
    found = named(sdk.__name__)
    constants = sdk._constants
    assert found.version == sdk.__version__
    assert found.library == f"httpx2 {httpx2.__version__}"
    assert found.retries == Setting(value=constants.DEFAULT_MAX_RETRIES, read=True)
    assert found.timeout == Setting(value=constants.DEFAULT_TIMEOUT.read, read=True)
    assert (
        found.transport
        == "http_client=httpx2.AsyncClient(transport=stormbreak.httpx2.AsyncTransport())"
    )


def test_defaults_of_installed_retry_libraries_are_known():
    assert named("tenacity").retries == Setting(value="without end", read=False)
    assert named("stamina").retries == Setting(value=9, read=True)
    assert named("stamina").library == ""
    assert "no-timeout" not in {each.name for each in check_installed([named("stamina")])}


def test_reading_installed_sdks_imports_none():
    code = "import sys, stormbreak.doctor.installed_sdks as i; i.installed(); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "stormbreak.doctor.installed_sdks" in loaded
    assert not {"openai", "anthropic", "httpx", "httpx2", "tenacity", "stamina"} & set(loaded)


def test_an_environment_without_sdks_has_no_findings(install):
    assert installed() == []
    assert list(check_installed([])) == []


def test_changed_defaults_of_an_sdk_are_read_from_its_source(install):
    install("httpx2", "2.0")
    text = CONSTANTS.format("30 * 2", 7)
    install("openai", "3.99", "httpx2>=2", files={"openai/_constants.py": text})
    found = named("openai")
    assert (found.retries.value, found.timeout.value) == (7, 60)
    assert "long-timeout" not in str(names([found]))


@pytest.mark.parametrize(
    "text", ["", "DEFAULT_TIMEOUT = httpx2.Timeout(", "\0", "DEFAULT_TIMEOUT = clock()", None]
)
def test_unreadable_defaults_are_those_of_the_checked_version(install, text):
    install("httpx2", "2.0")
    files = {} if text is None else {"openai/_constants.py": text}
    install("openai", "3.99", "httpx2", files=files)
    found = named("openai")
    assert found.retries == Setting(value=2, read=False)
    assert found.timeout == Setting(value=600.0, read=False)


def test_an_older_sdk_gets_the_transport_for_httpx(install):
    install("httpx", "0.28.1")
    install("openai", "2.54.0", "httpx<1,>=0.23", 'httpx2; extra == "new"')
    found = named("openai")
    assert found.library == "httpx 0.28.1"
    assert "stormbreak.httpx.AsyncTransport()" in found.transport
    assert ("note", "other-version", "openai 2.54.0") in names([found])


def test_a_missing_http_library_is_wrong(install):
    install("openai", "3.57.0", "httpx2")
    found = named("openai")
    assert ("wrong", "missing-library", "openai 3.57.0") in names([found])


def test_a_framework_inherits_library_and_retries_of_its_sdk(install):
    install("httpx2", "2.0")
    install("openai", "3.57.0", "httpx2")
    file = "langchain_openai/chat_models/base.py"
    text = """
class BaseChatOpenAI(BaseChatModel):
    request_timeout: float | None = Field(default=None, alias="timeout")
    max_retries: int | None = None
"""
    install("langchain-openai", "1.7.4", "openai", files={file: text})
    found = named("langchain-openai")
    assert found.library == "httpx2 2.0"
    assert found.retries == Setting(value="its SDK's", read=True)
    assert found.timeout == Setting(value="none", read=True)
    assert ("risk", "no-timeout", "langchain-openai 1.7.4") in names([found])


def test_leftovers_of_a_removed_package_are_ignored(install, tmp_path):
    (tmp_path / "openai-1.0.dist-info").mkdir()
    assert installed() == []


def test_every_known_trap_is_reported(install):
    install("httpx2", "2.0")
    for sdk in SDKS:
        install(sdk.name, sdk.checked, "httpx2")
    findings = list(check_installed(installed()))
    assert {trap for sdk in SDKS for trap in sdk.traps} <= {each.what for each in findings}
    assert all(each.severity is not Severity.WRONG for each in findings)
    assert all(each.what and each.why and each.instead for each in findings)
