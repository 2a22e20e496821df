"""What the demonstration is played on: a provider in a process of its own, and 500 prompts in a file."""

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
MARKER = ".stormbreak-demo"  # says that what lies beside it may be replaced

_INSTRUCTION = "You answer questions about products from the catalogue."


def prepare(directory: Path) -> tuple[Path, Path]:
    """Write the job into `directory`, free of what an earlier demo left; return its file and that for answers.

    Raises:
        ConfigurationError: files of those names are there, and no demo has left them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    marker = directory / MARKER
    documents, output = directory / "documents.jsonl", directory / "answers.jsonl"
    leftovers = [documents, *directory.glob("answers*")]
    if not marker.exists() and any(path.exists() for path in leftovers):
        raise ConfigurationError(
            f"{directory} holds files of somebody else's; choose another --output"
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
        """Begin the storm anew, with the next request."""
        url = self.base_url.removesuffix("/v1") + "/_provider/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()  # noqa: S310


@contextmanager
def provider(scenario: str, *, seed: int) -> Iterator[Stage]:
    """Serve `scenario` from a process of its own, for as long as the block lasts."""
    command = [sys.executable, "-m", "stormbreak", "provider", "serve"]
    command += ["--port", "0", "--scenario", scenario, "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if "http://" not in said:
            raise ConfigurationError("the embedded provider did not start")
        yield Stage(said.split()[-1])
    finally:
        process.terminate()
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()
