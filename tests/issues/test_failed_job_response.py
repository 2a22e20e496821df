"""A request for a failed job counted as a server error because of the `error` in the job: it was retried, and each
attempt counted against the circuit.
"""

import json

import httpx2
import openai
import pytest
from sdk_clients import QUICK, SDKS, sdk_client
from sockets import answer, served
from table_test import table_test

from stormbreak.httpx2 import AsyncTransport

JOB = {"id": "ftjob-1", "object": "fine_tuning.job", "status": "failed"}
JOB |= {"error": {"code": "invalid_training_file", "message": "no such thing"}}
RESPONSE = {"id": "resp_1", "object": "response", "status": "failed", "output": [], "tools": []}
RESPONSE |= {"error": {"code": "server_error", "message": "it failed"}}


async def test_a_failed_job_is_a_successful_response():
    async with (
        served(answer(json.dumps(JOB).encode()), answer(json.dumps(RESPONSE).encode())) as server,
        sdk_client(SDKS[0], server.base_url) as (client, _),
    ):
        job = await client.fine_tuning.jobs.retrieve("ftjob-1")
        response = await client.responses.retrieve("resp_1")
    assert (job.status, job.error.message) == ("failed", "no such thing")
    assert (response.status, response.error.code) == ("failed", "server_error")
    assert len(server.requests) == 2


async def test_an_error_body_instead_of_a_job_is_retried():
    error = {"error": {"message": "busy", "type": "server_error", "code": 500}}
    async with (
        served(answer(json.dumps(error).encode())) as server,
        sdk_client(SDKS[0], server.base_url) as (client, _),
    ):
        with pytest.raises(openai.InternalServerError, match="busy"):
            await client.fine_tuning.jobs.retrieve("ftjob-1")
    assert len(server.requests) == QUICK.retry.max_attempts


async def test_a_file_requested_as_json_is_returned():
    lines = b'{"custom_id": "1"}\n{"custom_id": "2"}\n'
    async with (
        served(answer(lines, content_type="application/octet-stream")) as server,
        sdk_client(SDKS[0], server.base_url) as (client, _),
    ):
        with pytest.warns(DeprecationWarning, match="content"):
            assert await client.files.retrieve_content("f") == lines.decode()
    assert len(server.requests) == 1


async def test_an_html_page_of_a_proxy_is_a_server_error():
    async with (
        served(answer(b"<html>", content_type="text/html; charset=utf-8")) as server,
        sdk_client(SDKS[0], server.base_url) as (client, _),
    ):
        with pytest.raises(openai.InternalServerError):
            await client.models.list()
    assert len(server.requests) == QUICK.retry.max_attempts


@table_test(("body", "status"), [(b"[]", 200), (b' [{"id": "m"}]', 200), (b"[", 502), (b"", 502)])
async def test_a_json_list_is_a_valid_body(body, status):
    async with served(answer(body)) as server, httpx2.AsyncClient(transport=AsyncTransport(QUICK)) as client:  # fmt: skip
        response = await client.get(
            f"{server.base_url}/models", headers={"accept": "application/json"}
        )
    assert response.status_code == status
