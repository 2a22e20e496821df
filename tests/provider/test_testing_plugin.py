"""What users get for their own tests."""

import subprocess
import sys

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import load
from stormbreak.testing import serve

from .conftest import RawClient


def test_the_plugin_loads_nothing_of_stormbreak_until_it_is_used():
    program = (
        "import sys, stormbreak.testing\n"
        "print([name for name in sys.modules if name.startswith('stormbreak.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['stormbreak.lazy_import', 'stormbreak.testing']"


def test_serving_works_without_pytest():
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from stormbreak.testing import serve\n"
        "with serve('calm') as provider: print(provider.base_url)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("http://127.0.0.1:")


def test_a_scenario_can_be_given_in_every_way(tmp_path):
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


def test_several_providers_stand_side_by_side(stormbreak_provider):
    first, second = stormbreak_provider("calm"), stormbreak_provider("bench", seed=4)
    assert first.base_url != second.base_url
    assert second.scenario.name == "bench"
    assert second.stats()["seed"] == 4


def test_nothing_listens_after_the_block():
    with serve("calm") as provider:
        port = provider.port
    with pytest.raises(ConnectionRefusedError):
        RawClient(port)


def test_the_official_sdk_is_served(stormbreak_provider):
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
