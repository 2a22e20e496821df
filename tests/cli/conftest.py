import json
from decimal import Decimal

import pytest
from batches import chat_rows, write

from stormbreak.cli.main import main


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", chat_rows(30))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture
def failed(tmp_path):
    return tmp_path / "out.failed.jsonl"


@pytest.fixture
def batch_run(source, output, capsys):
    """Run `batch run` in this process; return the exit code, stdout and stderr."""

    def call(*flags, provider=None):
        url = ("--base-url", provider.base_url) if provider else ()
        code = main(["batch", "run", str(source), "--output", str(output), *url, *flags])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def cost(capsys):
    """Run `cost` in this process; return stdout."""

    def call(*argv):
        code = main(["cost", *argv])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return call


@pytest.fixture
def document(cost):
    """Run `cost` with --json; return the document with exact decimals."""

    def call(*argv):
        return json.loads(cost(*argv, "--json"), parse_float=Decimal)

    return call
