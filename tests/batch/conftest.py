import json
import os
import subprocess
from dataclasses import replace

import pytest
from batches import write

from stormbreak.batch.input.index import Rows
from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import BATCH, for_batch


@pytest.fixture
def at(tmp_path, monkeypatch):
    """The folder of the test, where its commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def files(tmp_path):
    return BatchPaths.of(tmp_path / "out.jsonl")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


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
def run_rows(tmp_path):
    """Run rows against a provider; return the summary.

    At most `limit` are in flight; `within` changes the policy, other options are the job's.
    """

    def run(rows, provider, *, tick=lambda _: None, listeners=(), limit=16, **options):
        source = tmp_path / "in.jsonl"
        if not source.exists():
            write(source, rows)
        policy = options.pop("policy", BATCH)
        policy = replace(
            for_batch(policy), limit=FixedLimit(max_in_flight=limit), **options.pop("within", {})
        )
        names = {*BatchOptions.__struct_fields__} - {*Job.__dataclass_fields__}
        given = {name: options.pop(name) for name in {*options} & names}
        job = Job(
            source=source,
            output=tmp_path / "out.jsonl",
            policy=policy,
            options=BatchOptions(base_url=provider.base_url, **given),
            **options,
        )
        return run_job(job, tick, listeners=listeners)

    return run


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
    """Return a function that reads every file, to check that nothing changed."""
    return lambda: {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
