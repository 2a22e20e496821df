"""Blocking code of stormbreak as asynchronous code: each call blocks a thread."""

import asyncio
import threading

from stormbreak.drivers.blocking import run
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.sync_client import Client


class ConnectionOnThreads:
    def __init__(self, **settings):
        self.connection = AsyncConnection(**settings).blocking

    @classmethod
    def of(cls, connection):
        made = cls.__new__(cls)
        made.connection = connection.blocking
        return made

    async def exchange(self, request, judge=None):
        return await asyncio.to_thread(run, self.connection.exchange(request, judge))

    async def close(self):
        await asyncio.to_thread(run, self.connection.close())


class ClientOnThreads:
    def __init__(self, *args, **settings):
        self.client = Client(*args, **settings)

    async def chat(self, *args, **options):
        return await asyncio.to_thread(self.client.chat, *args, **options)

    async def request(self, *args, **options):
        return await asyncio.to_thread(self.client.request, *args, **options)

    async def ask(self, *args, **options):
        return await asyncio.to_thread(run, self.client._client.ask(*args, **options))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await asyncio.to_thread(self.client.close)


def within_time(scene):
    """Run a function on a thread; return whether it ended within 20 seconds."""
    thread = threading.Thread(target=scene, daemon=True)
    thread.start()
    thread.join(20.0)
    return not thread.is_alive()
