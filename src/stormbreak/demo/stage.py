"""The setting of the demo: a provider in its own process, and 500 prompts in a file."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stormbreak.errors import ConfigurationError

ROWS = 500
MODEL = "gpt-4.1"
MARKER = ".stormbreak-demo"  # marks files that may be replaced

_INSTRUCTION = "You answer questions about products from the catalogue."


def prepare(directory: Path) -> tuple[Path, Path]:
    """Write the job into `directory`, without files of earlier demos; return the input and output file.

    Raises:
        ConfigurationError: files of those names exist and are not from a demo.
    """
    directory.mkdir(parents=True, exist_ok=True)
    marker = directory / MARKER
    documents, output = directory / "documents.jsonl", directory / "answers.jsonl"
    leftovers = [documents, *directory.glob("answers*")]
    if not marker.exists() and any(path.exists() for path in leftovers):
        raise ConfigurationError(
            f"{directory} has files that are not from a demo; choose another --output"
        )
    marker.touch()
    for path in leftovers:
        path.unlink(missing_ok=True)
    write_documents(documents)
    return documents, output


def write_documents(path: Path) -> None:
    """Write the article's job: 500 retrieval prompts."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            messages = [
                {"role": "system", "content": _INSTRUCTION},
                {"role": "user", "content": f"What does the catalogue say about product {number}?"},
            ]
            body = {"model": MODEL, "messages": messages}
            row = {
                "custom_id": f"document-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            file.write(json.dumps(row) + "\n")


class Stage:
    """A running provider."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def reset(self) -> None:
        """Restart the storm with the next request."""
        url = self.base_url.removesuffix("/v1") + "/_provider/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()  # noqa: S310


@contextmanager
def provider(scenario: str, *, seed: int) -> Iterator[Stage]:
    """Serve `scenario` from its own process during the block."""
    command = [sys.executable, "-m", "stormbreak", "provider", "serve"]
    command += ["--port", "0", "--scenario", scenario, "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None
        text = process.stdout.readline()
        if "http://" not in text:
            raise ConfigurationError("the embedded provider did not start")
        yield Stage(text.split()[-1])
    finally:
        process.terminate()
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()
