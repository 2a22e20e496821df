"""Every call on every page: its result, its exceptions and the number of requests."""

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
FREE = 2  # retries after a bare 429 in a process with hardly any traffic: the third needs budget, and there is none


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
    """Call, or read a whole stream, and return the text."""
    if way.startswith("ask"):
        return await running.ask(way)
    pieces = []
    await running.read(way, pieces)
    return "".join(pieces)


@each_way("ask", "stream", parses=[False])
async def test_a_call_succeeds_after_a_503_and_two_429s(stormbreak_provider, recipe, way):
    provider = stormbreak_provider(THROUGH)
    async with recipe.over(provider.base_url) as running:
        text = await do(running, way)
    stats = provider.stats()
    assert text.startswith("Answer ")
    assert text.endswith(".")
    assert stats["arrivals"] == 1 + 3
    assert stats["early"] == 0


@each_way("ask", "stream")
async def test_a_permanent_429_is_retried_as_often_as_the_policy_allows(
    stormbreak_provider, recipe, way
):
    provider = stormbreak_provider('[[faults]]\nkind = "429"\n')
    async with recipe.over(provider.base_url) as running:
        with caught(recipe.limited) as error:
            await do(running, way)
    assert provider.stats()["arrivals"] == 1 + FREE
    explanation = explain(error.value)
    assert "throttled after 3 attempt(s)" in explanation
    assert "no further retry: budget" in explanation
    assert KEY not in explanation


@each_way("ask", "stream")
async def test_an_exhausted_quota_is_not_retried(stormbreak_provider, recipe, way):
    kind = "spend_limit" if "claude" in way else "quota"
    provider = stormbreak_provider(f'[[faults]]\nkind = "{kind}"\n')
    async with recipe.over(provider.base_url) as running:
        with caught(recipe.used_up) as error:
            await do(running, way)
    assert provider.stats()["arrivals"] == 1
    assert "billing after 1 attempt(s)" in explain(error.value)


@each_way("stream", parses=[False])
async def test_a_stream_arrives_in_pieces(stormbreak_provider, recipe, way):
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
    assert bool("".join(map(str, pieces))) is not recipe.parses  # the caller had received a part
    assert provider.stats()["arrivals"] == 1
    assert "no further retry: committed" in explain(error.value)


@table_test("recipe", RECIPES)
def test_a_page_names_the_exceptions_to_catch(recipe):
    names = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", recipe.page)}
    assert names >= {
        each.rpartition(".")[2] for each in (recipe.limited, recipe.used_up, *recipe.cut)
    }


def test_each_page_has_a_recipe_and_is_in_the_index():
    pages = {path.stem for path in PLACE.glob("*.md")}
    assert pages == {each.name for each in RECIPES}
    index = PLACE.with_suffix(".md").read_text()
    assert pages == set(re.findall(r"\(sdks/([\w-]+)\.md\)", index))
