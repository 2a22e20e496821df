"""Settings and fixtures of the whole suite."""

import resource
from contextlib import contextmanager

import pytest
from hypothesis import settings

settings.register_profile("stormbreak", deadline=None)  # a busy machine is no failure
settings.load_profile("stormbreak")


@pytest.fixture
def file_limit():
    """Make the kernel refuse to let any file grow beyond so many bytes: a real short write, then an error."""

    @contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
