"""Ray Data on this machine: two actors, one of which is killed twice."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

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
    """Writes down the process of its actor."""

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


def test_every_row_has_its_answer_though_an_actor_is_killed_twice(ray, tmp_path):
    (tmp_path / "pids").mkdir()
    killed = []

    def kill(provider):
        """Kill the youngest actor when so many requests have come."""
        for arrivals in (100, 300):
            while provider.stats()["arrivals"] < arrivals:
                time.sleep(0.02)
            pids = sorted((tmp_path / "pids").iterdir(), key=lambda path: path.stat().st_ctime)
            killed.append(pids[-1].name)
            os.kill(int(killed[-1]), signal.SIGKILL)

    with serve("[provider]\nservice = 0.2\nslots = 20\n") as provider:
        killer = threading.Thread(target=kill, args=(provider,), daemon=True)
        killer.start()
        rows = answered(ray, provider, tmp_path).take_all()
        killer.join(30)
        sent = provider.stats()["arrivals"]
    assert sorted(row["id"] for row in rows) == list(range(ROWS))
    assert all(row["answer"] and row["verdict"] == "ok" for row in rows)
    assert len(set(killed)) == 2
    assert sent <= ROWS + 2 * IN_FLIGHT  # paid twice: at most what was in flight
