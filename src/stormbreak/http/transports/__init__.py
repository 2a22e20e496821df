"""Transports for httpx and httpx2 that pass an SDK's requests through an engine. Shared code has no async."""
