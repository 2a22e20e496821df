"""Ray Data on this machine: two actors with two kills, and two actors that share a quota through a store."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from fleet_stores import Server
from table_test import table_test

from stormbreak.ray import Ask
from stormbreak.testing import serve

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
ROWS = 600
IN_FLIGHT = 200  # rows of one actor: four batches of 50


@pytest.fixture
def ray():
    """A cluster on this machine."""
    import ray  # noqa: PLC0415 - it is only in the environment of `make test-ray`

    ray.init(num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


class Named(Ask):
    """Records the process of its actor."""

    def __init__(self, *, pids, **options):
        super().__init__(**options)
        Path(pids, str(os.getpid())).touch()


def answered(ray, provider, folder):
    dataset = ray.data.from_items(
        [{"id": n, "title": f"t{n}", "note": "never sent"} for n in range(ROWS)],
        override_num_blocks=24,
    )
    given = {"base_url": provider.base_url, "model": "storm-1", "prompt": "Sum up {title}"}
    return dataset.map_batches(
        Named,
        fn_constructor_kwargs={
            **given, "id": "id", "journal": str(folder / "journal"), "actors": 2, "pids": str(folder / "pids"),
        },
        batch_size=50,
        compute=ray.data.ActorPoolStrategy(size=2),
    )  # fmt: skip


def test_every_row_has_its_answer_after_two_kills_of_an_actor(ray, tmp_path):
    (tmp_path / "pids").mkdir()
    killed = []

    def kill(provider):
        """Kill the youngest actor after 100 requests, and its replacement after 200."""
        for arrivals in (100, 200):
            while provider.stats()["arrivals"] < arrivals or youngest() in killed:
                time.sleep(0.02)
            killed.append(youngest())
            os.kill(int(killed[-1]), signal.SIGKILL)

    def youngest():
        return max((tmp_path / "pids").iterdir(), key=lambda path: path.stat().st_ctime).name

    with serve("[provider]\nservice = 0.6\nslots = 20\n") as provider:
        killer = threading.Thread(target=kill, args=(provider,), daemon=True)
        killer.start()
        rows = answered(ray, provider, tmp_path).take_all()
        killer.join(30)
        sent = provider.stats()["arrivals"]
    assert sorted(row["id"] for row in rows) == list(range(ROWS))
    assert all(row["answer"] and row["verdict"] == "ok" for row in rows)
    assert len(set(killed)) == 2
    assert sent <= ROWS + 2 * IN_FLIGHT  # paid twice: at most what was in flight


# ---------------------------------------------------------------- a quota that actors share

QUOTA = """
[provider]
service = 0.5
slots = 100
use_max_tokens = true

[limit]
kind = "bucket"
requests = 600
tokens = 100_000
period = 60
"""
POLICY = """
preset = "batch"

[rate_limit]
rpm = 600
tpm = 100_000

[fleet]
url = "{url}"
"""
STARTED = 100  # requests; by then both actors share


@table_test(("rows", "max_tokens"), [(350, 50), (220, 320)])  # requests are scarce, or tokens
def test_actors_share_a_quota_without_exceeding_it(ray, tmp_path, rows, max_tokens):
    store = Server("valkey", tmp_path).start()
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(url=store.url))
    taken = []

    def watch(provider):
        """Record time, requests and tokens near the start and near the end."""
        for arrivals in (STARTED, rows - STARTED // 4):
            while (stats := provider.stats())["arrivals"] < arrivals:
                time.sleep(0.02)
            billed = stats["billed"]["storm-1"]
            tokens = billed["input_tokens"] + billed["output_tokens"]
            taken.append((time.monotonic(), stats["arrivals"], tokens))

    with serve(QUOTA) as provider:
        watcher = threading.Thread(target=watch, args=(provider,), daemon=True)
        watcher.start()
        bodies = [
            {"messages": [{"role": "user", "content": f"Say {n}."}], "max_tokens": max_tokens}
            for n in range(rows)
        ]
        dataset = ray.data.from_items([{"body": body} for body in bodies], override_num_blocks=24)
        answered = dataset.map_batches(
            Ask,
            fn_constructor_kwargs={
                "base_url": provider.base_url, "model": "storm-1", "body": "body", "actors": 2, "policy": str(policy),
            },
            batch_size=25,
            compute=ray.data.ActorPoolStrategy(size=2),
        ).take_all()  # fmt: skip
        watcher.join(30)
        stats = provider.stats()
    store.kill()
    assert [row["verdict"] for row in answered] == ["ok"] * rows
    assert stats["arrivals"] == rows  # no 429
    seconds, requests, tokens = (after - before for before, after in zip(*taken, strict=True))
    used = max(requests / 600, tokens / 100_000) * 60 / seconds
    assert used >= 0.95
