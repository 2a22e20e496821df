"""A client that reads the streams of a scripted server, and a check that no resource of them is left."""

from clients import PAYLOAD, THRICE, client_of, target_state_of
from sockets import served


class StreamScene:
    """Serves scripts to a client; at the end, no attempt may be in flight and no connection open."""

    async def of(self, *scripts, policy=THRICE):
        self.serving = served(*scripts)
        self.server = await self.serving.__aenter__()
        self.client = client_of(self.server, policy)

    async def leave(self):
        assert self.in_flight == 0
        await self.client.close()
        await self.server.all_closed()
        await self.serving.__aexit__(None, None, None)

    def stream(self, **more):
        return self.client.stream("chat/completions", PAYLOAD | more)

    @property
    def in_flight(self):
        return target_state_of(self.client).slots.in_flight


async def pieces_of(iterator, upto=None):
    """All pieces of a stream, or the first `upto`."""
    got = []
    async for each in iterator:
        got.append(each)
        if len(got) == upto:
            break
    return got
