"""Uploads and downloads start again from the beginning after a failure."""

import asyncio
import io
import json

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.http.resource import Resource
from stormbreak.types import Verdict

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
ROW = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}\n'


class Pieces:
    """A form with a file, in two pieces; counts how often it is read."""

    def __init__(self):
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
        self.pieces = [
            f'{part}purpose"\r\n\r\nbatch\r\n{part}file"; filename="f"\r\n\r\n'.encode(),
            ROW + f"\r\n--{BOUNDARY}--\r\n".encode(),
        ]
        self.reads = 0

    @property
    def size(self):
        return sum(map(len, self.pieces))

    async def __aiter__(self):
        self.reads += 1
        for piece in self.pieces:
            yield piece


def sent(provider, *resources, **options):
    """Send resources one after another; return their results."""

    async def send():
        async with AsyncClient(base_url=provider.base_url, policy="batch", **options) as client:
            return [await client.send(each) for each in resources]

    return asyncio.run(send())


@pytest.fixture
def failing_once(stormbreak_provider):
    """A provider that answers the first request about files with this fault."""

    def start(kind, request=1):
        fault = f'[[faults]]\nkind = "{kind}"\nrequests = [{request}]\n'
        return stormbreak_provider(f"[provider]\nservice = 0\n{fault}")

    return start


@pytest.mark.parametrize("kind", ["503", "reset"])
def test_a_failed_upload_is_sent_again_from_its_beginning(failing_once, kind):
    body = Pieces()
    upload = Resource("POST", "files", body=body, content_type=FORM, key="k")
    (ended,) = sent(failing_once(kind), upload)
    assert ended.outcome.verdict is Verdict.OK
    assert (ended.attempts, body.reads) == (2, 2)
    assert json.loads(ended.outcome.value.body)["bytes"] == len(ROW)


def test_an_upload_with_a_key_function_keeps_content_type_and_length(failing_once):
    upload = Resource("POST", "files", body=Pieces(), content_type=FORM, key="k")
    (ended,) = sent(failing_once("503"), upload, api_key=lambda: "fresh")
    assert json.loads(ended.outcome.value.body)["bytes"] == len(ROW)


@pytest.mark.parametrize("kind", ["cut_body", "503", "reset"])
def test_a_failed_download_restarts_at_the_old_file_position(failing_once, kind):
    provider = failing_once(kind, request=2)
    (uploaded,) = sent(provider, Resource("POST", "files", body=Pieces(), content_type=FORM))
    name = json.loads(uploaded.outcome.value.body)["id"]
    file = io.BytesIO()
    file.write(b"before|")
    (ended,) = sent(provider, Resource("GET", f"files/{name}/content", into=file))
    assert (ended.outcome.verdict, ended.attempts) == (Verdict.OK, 2)
    assert file.getvalue() == b"before|" + ROW


def test_an_error_body_is_not_written_to_the_file(stormbreak_provider):
    file = io.BytesIO()
    provider = stormbreak_provider("[provider]\nservice = 0\n")
    (ended,) = sent(provider, Resource("GET", "files/none/content", into=file))
    assert (ended.outcome.verdict, ended.outcome.status) == (Verdict.NOT_FOUND, 404)
    assert file.getvalue() == b""


def test_a_resource_outside_the_base_url_is_rejected(stormbreak_provider):
    provider = stormbreak_provider("[provider]\nservice = 0\n")
    with pytest.raises(ConfigurationError, match="must be a path below the base URL"):
        sent(provider, Resource("GET", "../elsewhere"))
