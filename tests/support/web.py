"""A real server for an ASGI application, and a client for it."""

import asyncio
import socket
from contextlib import asynccontextmanager

import aiohttp
import uvicorn


@asynccontextmanager
async def serving(app):
    """Serve `app`; yield a function that sends a request and returns the status, the headers and the text."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", ws="none", lifespan="off", http="h11")
        server = uvicorn.Server(config)
        running = asyncio.ensure_future(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"

        async def ask(**headers):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with session.get(url, headers=named) as response:
                return response.status, response.headers, await response.text()

        while not server.started:  # noqa: ASYNC110 - seldom more than once
            await asyncio.sleep(0.005)
        async with aiohttp.ClientSession() as session:
            yield ask
        server.should_exit = True
        await running
