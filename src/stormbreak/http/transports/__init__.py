"""Transports for httpx and httpx2: they lead an SDK's requests through an engine. Shared code is free of async."""
