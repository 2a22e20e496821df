import subprocess
import sys

PROGRAM = """
import gc
from stormbreak.drivers.garbage import THRESHOLD, collecting_less_often

before = gc.get_threshold()
with collecting_less_often():
    assert gc.get_threshold() == THRESHOLD
    assert gc.get_freeze_count() > 1_000
assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
"""


def test_a_process_collects_less_often_only_inside_the_context():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
