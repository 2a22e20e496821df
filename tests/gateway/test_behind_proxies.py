"""The gateway behind nginx and haproxy: events pass at once, and no client gets the answer of another."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from gateway_processes import EVENT, Streams
from gateways import CHAT, KEY, OTHER, read_reply, request_bytes, running, settings, upstream
from malformed_requests import MALFORMED

from stormbreak.testing import answer_text

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s;
  upstream gateway {{ server 127.0.0.1:{port}; keepalive 2; }}
  server {{
    listen 127.0.0.1:{listen};
    location / {{
      proxy_pass http://gateway;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
HAPROXY = """
global
  maxconn 100
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend clients
  bind 127.0.0.1:{listen}
  default_backend gateway
backend gateway
  server gateway 127.0.0.1:{port}
"""
PROXIES = {
    "nginx": (NGINX, ["nginx", "-p", "{folder}", "-c", "{file}"]),
    "haproxy": (HAPROXY, ["haproxy", "-db", "-f", "{file}"]),
}
SMUGGLED = request_bytes("/v1/chat/completions", {**CHAT, "smuggled": True}, key=OTHER)
ATTACKS = {
    "CL.TE": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n%b" % (5 + len(SMUGGLED), SMUGGLED),
    "TE.CL": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "TE.TE": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n"
    + SMUGGLED,
    "a space before the colon": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n"
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "LF in an extension": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0;\n" + SMUGGLED + b"\r\n\r\n",
}  # fmt: skip


def needs(name):
    """Skip without this proxy, unless the proxies are required."""
    if shutil.which(name) is None:
        missing = pytest.fail if os.environ.get("STORMBREAK_PROXIES") == "required" else pytest.skip
        missing(f"{name} is not installed: install the Debian packages nginx-light and haproxy")


@contextmanager
def in_front(name, port, folder):
    """Run a proxy in front of a port; yield the port of the proxy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    text, command = PROXIES[name]
    file = folder / "proxy.conf"
    file.write_text(text.format(folder=folder, port=port, listen=listen))
    words = [word.format(folder=folder, file=file) for word in command]
    with (folder / "out").open("w") as out:
        proxy = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", listen)).close()
                break
            except ConnectionRefusedError:
                assert proxy.poll() is None, (folder / "out").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
        yield listen
    finally:
        proxy.terminate()
        proxy.wait()


def batched(each, size):
    """Split a list into batches of a size; the last may be shorter."""
    return [each[start : start + size] for start in range(0, len(each), size)]


async def attack(port, data):
    """Send bytes, and read for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    got = b""
    try:
        async with asyncio.timeout(0.3):
            while piece := await reader.read(65536):
                got += piece
    except (TimeoutError, ConnectionResetError):
        pass
    writer.close()
    return got


@pytest.mark.parametrize("name", PROXIES)
async def test_request_smuggling_gives_no_client_the_answer_of_another(
    name, path, tmp_path, stormbreak_provider
):
    needs(name)
    provider = stormbreak_provider("[provider]\nservice = 0.001\nvariation = 0\n")
    async with running(path, settings(provider.base_url)) as gateway:
        with in_front(name, gateway.gateway.port, tmp_path) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for number, group in enumerate(batched([*ATTACKS.values(), *MALFORMED.values()], 12)):
                await asyncio.gather(*(attack(port, data) for data in group))
                for turn in range(3):  # on each of the connections that the proxy keeps
                    payload = {
                        **CHAT,
                        "messages": [{"role": "user", "content": f"{number} {turn}"}],
                    }
                    writer.write(request_bytes("/v1/chat/completions", payload, key=KEY))
                    reply = await asyncio.wait_for(read_reply(reader), 60)
                    mine = answer_text({**payload, "model": "storm-1"})
                    assert reply.status == 200, group
                    assert reply.json["choices"][0]["message"]["content"] == mine, group
                    if reply.ending == "closed":
                        writer.close()
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        assert gateway.metric('requests_total{key="other"') == 0


@pytest.mark.parametrize("name", PROXIES)
async def test_a_proxy_passes_on_each_event_at_once(name, path, tmp_path):
    """The provider sends the rest only after the client has received the first event."""
    needs(name)
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        provider.reply = streams = Streams()
        with in_front(name, gateway.gateway.port, tmp_path) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_bytes("/v1/chat/completions", {**CHAT, "stream": True}))
            await asyncio.wait_for(reader.readuntil(EVENT), 60)
            streams.end.set()
            rest = await asyncio.wait_for(reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n"), 60)
            writer.close()
    assert EVENT not in rest
