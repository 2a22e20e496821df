"""Every way of asking on every page: what comes, what is caught, and how often something is sent."""

import pydoc
import re

import pytest
from recipes import KEY, PLACE, RECIPES
from table_test import table_test

from stormbreak import explain

THROUGH = """
    [provider]
    service = 0.01
    [[faults]]
    kind = "503"
    requests = [1]
    [[faults]]
    kind = "429"
    retry_after = 0.5
    retry_after_form = "ms"
    requests = [2, 3]
"""
CUT = """
    [provider]
    service = 0.01
    [[faults]]
    kind = "cut_body"
"""
FREE = 2  # retries after a bare 429 in a process that has hardly any traffic: the third is paid, and nothing was earned


def each_way(*kinds, parses=(False, True)):
    return pytest.mark.parametrize(
        ("recipe", "way"),
        [
            pytest.param(
                each, way, id=f"{each.name}-{way}", marks=pytest.mark.sdks(each.environment)
            )
            for each in RECIPES
            for kind in kinds
            for way in each.ways(kind)
            if each.parses in parses
        ],
    )


def caught(*names):
    found = tuple(pydoc.locate(name) for name in names)
    assert None not in found
    return pytest.raises(found)


async def do(running, way):
    """Ask, or read a whole stream: the text that came."""
    if way.startswith("ask"):
        return await running.ask(way)
    pieces = []
    await running.read(way, pieces)
    return "".join(pieces)


@each_way("ask", "stream", parses=[False])
async def test_through_a_503_and_two_429s(stormbreak_provider, recipe, way):
    provider = stormbreak_provider(THROUGH)
    async with recipe.over(provider.base_url) as running:
        said = await do(running, way)
    stats = provider.stats()
    assert said.startswith("Answer ")
    assert said.endswith(".")
    assert stats["arrivals"] == 1 + 3
    assert stats["early"] == 0


@each_way("ask", "stream")
async def test_a_permanent_429_costs_what_the_policy_says(stormbreak_provider, recipe, way):
    provider = stormbreak_provider('[[faults]]\nkind = "429"\n')
    async with recipe.over(provider.base_url) as running:
        with caught(recipe.limited) as error:
            await do(running, way)
    assert provider.stats()["arrivals"] == 1 + FREE
    told = explain(error.value)
    assert "throttled after 3 attempt(s)" in told
    assert "no further retry: budget" in told
    assert KEY not in told


@each_way("ask", "stream")
async def test_a_used_up_credit_is_asked_for_once(stormbreak_provider, recipe, way):
    kind = "spend_limit" if "claude" in way else "quota"
    provider = stormbreak_provider(f'[[faults]]\nkind = "{kind}"\n')
    async with recipe.over(provider.base_url) as running:
        with caught(recipe.used_up) as error:
            await do(running, way)
    assert provider.stats()["arrivals"] == 1
    assert "billing after 1 attempt(s)" in explain(error.value)


@each_way("stream", parses=[False])
async def test_a_stream_comes_in_pieces(stormbreak_provider, recipe, way):
    provider = stormbreak_provider("calm", speed=20)
    pieces = []
    async with recipe.over(provider.base_url) as running:
        await running.read(way, pieces)
    assert len([piece for piece in pieces if piece]) > 3
    assert provider.stats()["arrivals"] == 1


@each_way("stream")
async def test_a_cut_stream_raises(stormbreak_provider, recipe, way):
    provider = stormbreak_provider(CUT)
    pieces = []
    async with recipe.over(provider.base_url) as running:
        with caught(*recipe.cut) as error:
            await running.read(way, pieces)
    assert bool("".join(map(str, pieces))) is not recipe.parses  # a part had been handed over
    assert provider.stats()["arrivals"] == 1
    assert "no further retry: committed" in explain(error.value)


@table_test("recipe", RECIPES)
def test_a_page_says_what_is_caught(recipe):
    said = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", recipe.page)}
    assert said >= {
        each.rpartition(".")[2] for each in (recipe.limited, recipe.used_up, *recipe.cut)
    }


def test_each_page_is_run_and_in_the_index():
    pages = {path.stem for path in PLACE.glob("*.md")}
    assert pages == {each.name for each in RECIPES}
    index = PLACE.with_suffix(".md").read_text()
    assert pages == set(re.findall(r"\(sdks/([\w-]+)\.md\)", index))
