import resource
from contextlib import contextmanager

import pytest


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
