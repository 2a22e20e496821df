"""The pytest plugin for tests of users."""

import subprocess
import sys
from types import SimpleNamespace

import httpx2
import pytest

from stormbreak import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.httpx2 import Transport
from stormbreak.provider.scenario_file import load
from stormbreak.testing import pytest_runtest_makereport, serve

from .conftest import RawClient


def test_the_plugin_imports_nothing_of_stormbreak_until_it_is_used():
    program = (
        "import sys, stormbreak.testing\n"
        "print([name for name in sys.modules if name.startswith('stormbreak.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['stormbreak.lazy_import', 'stormbreak.testing']"


def test_serve_works_without_pytest():
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from stormbreak.testing import serve\n"
        "with serve('calm') as provider: print(provider.base_url)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("http://127.0.0.1:")


def test_a_block_that_is_never_left_does_not_delay_the_end_of_the_program():
    """Found: the program waited for ten seconds for a thread that had ended."""
    program = "from stormbreak.testing import serve; block = serve('calm'); block.__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_serve_accepts_a_name_path_text_or_scenario(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[provider]\nservice = 0\n")
    for source in ("calm", path, str(path), path.read_text(), load("calm")):
        with serve(source, speed=1000) as provider:
            client = RawClient(provider.port)
            assert client.ask().status == 200
            client.sock.close()


def test_an_invalid_scenario_is_rejected_at_once():
    with pytest.raises(ConfigurationError, match="scenarios: "), serve("tempest"):
        pass


def test_several_providers_run_side_by_side(stormbreak_provider):
    first, second = stormbreak_provider("calm"), stormbreak_provider("bench", seed=4)
    assert first.base_url != second.base_url
    assert second.scenario.name == "bench"
    assert second.stats()["seed"] == 4


def test_a_failed_test_shows_the_attempts_of_an_sdk_exception(stormbreak_provider):
    openai = pytest.importorskip("openai")
    provider = stormbreak_provider('[[faults]]\nkind = "503"\n', speed=1000)
    policy = Policy(retry=RetryPolicy(max_attempts=1))
    http = httpx2.Client(transport=Transport(policy))
    client = openai.OpenAI(base_url=provider.base_url, api_key="k", http_client=http)
    with client, pytest.raises(openai.InternalServerError) as failed:
        client.embeddings.create(model="e", input="a")
    for _ in range(2):  # the call and a teardown report it: it is noted once
        pytest_runtest_makereport(SimpleNamespace(excinfo=failed))
    first, last = failed.value.__notes__
    assert first.startswith("attempt 1 at ")
    assert last.endswith("; no further retry: attempts")
    for later in (AssertionError(), pytest.skip.Exception()):
        later.__context__ = failed.value  # as in its `except` block
        pytest_runtest_makereport(SimpleNamespace(excinfo=SimpleNamespace(value=later)))
        assert not hasattr(later, "__notes__")


def test_an_exception_without_attempts_gets_no_notes():
    class OddError(Exception):
        @property
        def response(self):
            raise RuntimeError("not sent yet")

    for error in (OddError(), AssertionError()):
        with pytest.raises(Exception) as failed:
            raise error
        pytest_runtest_makereport(SimpleNamespace(excinfo=failed))
        assert not hasattr(error, "__notes__")
    pytest_runtest_makereport(SimpleNamespace(excinfo=None))


def test_pytest_calls_the_plugin_after_each_test(pytestconfig):
    plugins = pytestconfig.pluginmanager
    hooks = plugins.get_hookcallers(plugins.get_plugin("stormbreak"))
    assert "pytest_runtest_makereport" in [hook.name for hook in hooks]


def test_the_provider_stops_listening_after_the_block():
    with serve("calm") as provider:
        port = provider.port
    with pytest.raises(ConnectionRefusedError):
        RawClient(port)


def test_the_provider_serves_the_official_openai_sdk(stormbreak_provider):
    openai = pytest.importorskip("openai")
    provider = stormbreak_provider("calm", speed=1000)
    with openai.OpenAI(base_url=provider.base_url, api_key="k") as client:
        messages = [{"role": "user", "content": "hi"}]
        answer = client.chat.completions.create(model="m", messages=messages)
        with client.chat.completions.create(model="m", messages=messages, stream=True) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        vectors = client.embeddings.create(model="e", input=["a"])
    assert text == answer.choices[0].message.content
    assert len(vectors.data[0].embedding) == 16
