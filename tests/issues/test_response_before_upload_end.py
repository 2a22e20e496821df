"""A server has the whole upload before the client knows that its body has ended, so its response counted as too early.

In a blocking client, each piece takes two hops between threads, and so does the end of the body.
"""

import time

import httpx2
from loop_thread import LoopThread
from sockets import answer, served

from stormbreak.httpx2 import Transport


def test_an_upload_ends_at_its_content_length():
    def pieces():
        yield b"abc"
        yield b"def"
        time.sleep(0.5)  # until the response has arrived; the client must not ask for more

    host, serving = LoopThread(), served(answer())
    server = host.run(serving.__aenter__())
    try:
        with httpx2.Client(transport=Transport(), base_url=server.base_url) as client:
            response = client.post("files", content=pieces(), headers={"content-length": "6"})
        assert response.status_code == 200
        assert [request.body for request in server.requests] == [b"abcdef"]
    finally:
        host.run(serving.__aexit__(None, None, None))
        host.stop()
