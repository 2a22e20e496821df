import gc
from gc import get_freeze_count

from stormbreak.drivers.garbage import THRESHOLD, collecting_less_often


def test_a_process_collects_less_often_only_while_the_context_lasts(monkeypatch):
    monkeypatch.setattr(gc, "get_freeze_count", get_freeze_count)  # tests/conftest.py has another
    gc.unfreeze()
    before = gc.get_threshold()
    with collecting_less_often():
        assert gc.get_threshold() == THRESHOLD
        assert gc.get_freeze_count() > 1_000

    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
