"""A server has all of an upload before we know that nothing more comes; its answer counted as one to half a request.

Of a client that blocks each piece takes two hops between threads, and so does finding out that there is none.
"""

import time

import httpx2
from loop_thread import LoopThread
from sockets import answer, served

from stormbreak.httpx2 import Transport


def test_a_body_ends_with_its_last_byte():
    def pieces():
        yield b"abc"
        yield b"def"
        time.sleep(0.5)  # until the answer is here; nobody should ask for more

    host, serving = LoopThread(), served(answer())
    server = host.run(serving.__aenter__())
    try:
        with httpx2.Client(transport=Transport(), base_url=server.base_url) as client:
            said = client.post("files", content=pieces(), headers={"content-length": "6"})
        assert said.status_code == 200
        assert [request.body for request in server.requests] == [b"abcdef"]
    finally:
        host.run(serving.__aexit__(None, None, None))
        host.stop()
