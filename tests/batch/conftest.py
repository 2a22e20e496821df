import json
import os
import subprocess

import pytest

from stormbreak.batch.files import Files
from stormbreak.batch.rows import Rows


@pytest.fixture
def files(tmp_path):
    return Files.of(tmp_path / "out.jsonl")


@pytest.fixture
def make_rows(tmp_path):
    """Write an input of chat rows with these ids, and read it."""
    opened = []

    def make(*ids, name="in.jsonl"):
        path = tmp_path / name
        path.write_text(
            "".join(json.dumps({"custom_id": i, "prompt": f"about {i}"}) + "\n" for i in ids)
        )
        opened.append(Rows.read(path, model="m"))
        return opened[-1]

    yield make
    for rows in opened:
        rows.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def tree(tmp_path):
    """Show every file with its content, to tell that nothing was touched."""
    return lambda: {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
