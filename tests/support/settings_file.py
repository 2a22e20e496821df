"""A settings file that a test rewrites, and the environment variables with its keys."""

from textwrap import dedent

from stormbreak.http.settings import load

SAY = [{"role": "user", "content": "hello"}]
FIRST_KEY, SECOND_KEY = "first-canary-key-0123456789", "second-canary-key-9876543210"


class SettingsFile:
    """A file at `path`; `{first}` and `{second}` in a text stand for the addresses of two servers."""

    def __init__(self, path, **servers):
        self.path = path
        self._addresses = {name: server.base_url for name, server in servers.items()}

    def write(self, text):
        text = dedent(text)
        for name, address in self._addresses.items():
            text = text.replace(f"{{{name}}}", address)
        self.path.write_text(text)
        return self

    def load(self, **options):
        return load(self.path, **options)


def cache_key(request):
    """The key of a request."""
    return request.headers["authorization"].removeprefix("Bearer ")
