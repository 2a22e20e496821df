"""Both libraries whose transports ours are, and what ours may stand over."""

from importlib import import_module

import pytest


@pytest.fixture(params=["httpx2", "httpx"])
def lib(request):
    return import_module(request.param)


@pytest.fixture(params=["own", "inner"])
def over(request):
    return request.param
