"""msgspec prepares a class when it first decodes it, without a lock: two threads that do so crash the process.

So each class is prepared on import, by a decoder of the module.
"""

import ast
import subprocess
import sys
from pathlib import Path

import stormbreak

SOURCE = Path(stormbreak.__file__).parent
HARMLESS = {"Any", "Raw"}
OF_ONE_THREAD = {
    "cost/downtime.py Storm": "the command line",
    "doctor/installed_sdks.py _File": "on import",
    "gateway/usage_rows.py UsageRow": "prepared by the journal's decoder",
    "storm/result.py Document": "the command line",
    "storm/result.py Measures": "the command line",
    "storm/result.py Series": "the command line",
}

THREADS = """
import sys, threading, msgspec
from stormbreak.fleet.lease_renewal import Report
from stormbreak.fleet.parent_store import ParentClient, ParentStore
from stormbreak.fleet.store_thread import _thread_for

sys.setswitchinterval(1e-6)
with ParentStore() as store:
    start = threading.Barrier(16)

    def ask(number):
        start.wait()
        stores.add(_thread_for(store.url))
        answers.append(ParentClient(store.url).beat([("scope", str(number), Report())]))

    answers, stores = [], set()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
print(len(answers), len(stores))
"""


def calls(tree, name):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            if called == name:
                yield node


def names(node):
    found = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} - HARMLESS
    return {name for name in found if name.lstrip("_")[0].isupper()}


def unprepared(path):
    """The classes that a module decodes without a decoder made on import."""
    text = path.read_text()
    if "msgspec" not in text:
        return
    tree = ast.parse(text)
    prepared = {name for call in calls(tree, "Decoder") for name in names(call.args[0])}
    for call in calls(tree, "decode"):
        for given in call.keywords:
            if given.arg == "type":
                yield from names(given.value)
    for call in calls(tree, "convert"):
        yield from names(call.args[1]) - prepared if len(call.args) > 1 else ()


def test_classes_are_prepared_on_import():
    found = {
        f"{path.relative_to(SOURCE).as_posix()} {name}"
        for path in SOURCE.rglob("*.py")
        for name in unprepared(path)
    }
    assert found == OF_ONE_THREAD.keys()


def test_threads_that_ask_the_store_first_share_one_thread_for_it():
    ended = subprocess.run(
        [sys.executable, "-c", THREADS], check=False, capture_output=True, text=True, timeout=180
    )
    assert (ended.returncode, ended.stdout) == (0, "16 1\n"), ended.stderr
