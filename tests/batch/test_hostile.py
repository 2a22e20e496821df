"""A batch against a provider with every fault that a client can notice.

Half of all attempts meet a fault of some kind, a fifth of the rows is streamed, and 40 rows meet a final error. Every
other row must get its own answer; no row with a final error is sent again, and no retry comes early. Not covered: faults that no
client can notice (`stale`; `unasked` may cross the next request on the wire), and `early_answer`, because these bodies are too small.
"""

import random
import tomllib
from collections import Counter
from importlib.resources import files

import pytest
from batches import assert_answered, chat_row, read, size_of, started, wait_until, write

from stormbreak.types import Verdict

FINAL = {
    "400": Verdict.INVALID,
    "401": Verdict.AUTH,
    "403": Verdict.AUTH,
    "404": Verdict.NOT_FOUND,
    "413": Verdict.INVALID,
    "422": Verdict.INVALID,
    "quota": Verdict.BILLING,
    "billing": Verdict.BILLING,
    "context_length": Verdict.TOO_LONG,
    "content_filter": Verdict.FILTERED,
}
UNNOTICED = {"unasked"}
WIDTH = 50


def storm():
    """The faults of the scenario `hostile`, and final errors for the rows that ask for them."""
    text = (files("stormbreak.provider") / "scenarios" / "hostile.toml").read_text()
    lines = ["speed = 20", "[provider]", "slots = 100", "service = 0.6"]
    for kind in FINAL:
        lines += ["[[faults]]", f'kind = "{kind}"', f'match = "(ends as {kind})"']
    for fault in tomllib.loads(text)["faults"]:
        passing = fault["share"] >= 0.01 or fault["kind"] not in FINAL
        final = fault["share"] == 0.002
        if passing and not final and fault["kind"] not in UNNOTICED:
            lines.append("[[faults]]")
            lines += [
                f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
                for key, value in fault.items()
            ]
    return "\n".join(lines) + "\n"


def rows(count):
    """Return `count` rows, a fifth of them streamed, and the final error of each row that gets one, by id."""
    chance = random.Random(4)
    ends = dict(zip(chance.sample(range(20, count), 4 * len(FINAL)), [*FINAL] * 4, strict=True))
    made = []
    for number in range(count):
        row = chat_row(number, **({"stream": True} if number % 5 == 0 else {}))
        if number in ends:
            row["body"]["messages"][0]["content"] += f" (ends as {ends[number]})"
        made.append(row)
    return made, {f"row-{number}": kind for number, kind in ends.items()}


def check(made, ends, output, seen, *, killed=0):
    """Check the invariants. Each kill may repeat one final error for each row in flight."""
    assert_answered([row for row in made if row["custom_id"] not in ends], output)
    failed = read(output.with_name("out.failed.jsonl"))
    assert {line["custom_id"]: line["error"]["verdict"] for line in failed} == {
        name: FINAL[kind].value for name, kind in ends.items()
    }
    refused = Counter(
        ends.values()
    )  # counted by the provider: a connection may break before the client reads one
    for kind, count in refused.items():
        assert count <= seen["faults"][kind] <= count + killed * WIDTH
    assert sum(seen["faults"][kind] for kind in refused) <= len(ends) + killed * WIDTH
    assert (seen["early"], seen["early_examples"]) == (0, [])
    seen_kinds = {kind for kind, count in seen["faults"].items() if count}
    assert len(seen_kinds - set(FINAL)) > 30


def flags(source, output, url):
    to = ("--output", output, "--base-url", url, "--concurrency", WIDTH)
    return ("batch", "run", source, *to, "--timeout", 3, "--idle-timeout", 1, "--quiet")


@pytest.mark.parametrize(
    ("count", "seed"),
    [(250, 1), *(pytest.param(500, seed, marks=pytest.mark.prove) for seed in (1, 2, 3, 4))],
)
def test_every_row_is_answered_except_those_with_a_final_error(
    tmp_path, stormbreak_provider, count, seed
):
    made, ends = rows(count)
    source, output = write(tmp_path / "in.jsonl", made), tmp_path / "out.jsonl"
    provider = stormbreak_provider(storm(), seed=seed)
    with started(*flags(source, output, provider.base_url)) as process:
        assert process.wait(120) == 1, process.stderr.read()
    check(made, ends, output, provider.stats())


@pytest.mark.prove
@pytest.mark.parametrize("seed", [5, 6])
def test_every_row_is_answered_after_two_kills_in_a_hostile_storm(
    tmp_path, stormbreak_provider, seed
):
    made, ends = rows(500)
    source, output = write(tmp_path / "in.jsonl", made), tmp_path / "out.jsonl"
    provider = stormbreak_provider(storm(), seed=seed)
    for moment in (0.2, 0.6):
        with started(*flags(source, output, provider.base_url)) as process:
            wait_until(lambda: len(read_whole(output)) >= moment * len(made))  # noqa: B023
            process.kill()
            assert process.wait() == -9
    with started(*flags(source, output, provider.base_url)) as process:
        assert process.wait(120) == 1, process.stderr.read()
    check(made, ends, output, provider.stats(), killed=2)


def read_whole(output):
    """The complete lines of a file that a process still writes."""
    return output.read_bytes().split(b"\n")[:-1] if size_of(output) else []
