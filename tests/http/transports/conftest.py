"""Fixtures for both HTTP libraries, and for our own or an inner transport."""

from importlib import import_module

import pytest


@pytest.fixture(params=["httpx2", "httpx"])
def lib(request):
    return import_module(request.param)


@pytest.fixture(params=["own", "inner"])
def over(request):
    return request.param
