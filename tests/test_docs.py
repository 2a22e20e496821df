"""The documents are true: their code runs, their policies load, their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from table_test import table_test

from stormbreak.cli.main import root
from stormbreak.config import load_policy, load_settings, profiles_in

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = ROOT / "tests" / "support" / "examples.py"
DECISIONS = sorted((ROOT / "docs" / "adr").iterdir())

TRANSLATIONS = {"README.vi.md": "README.md", "docs/vi/article.md": "docs/article.md"}

_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def blocks(info):
    """The fenced blocks whose info string is `info`, each named by its page and line.

    Translations have the same blocks as their originals.
    """
    for page in PAGES:
        if str(page.relative_to(ROOT)) in TRANSLATIONS:
            continue
        text = page.read_text()
        for match in _FENCED.finditer(text):
            if match[1].strip() == info:
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(match[2], id=f"{page.relative_to(ROOT)}:{line}")


def test_python_runs(tmp_path):
    paths = []
    for block in blocks("python"):
        path = tmp_path / block.id.replace("/", "-") / "example.py"
        path.parent.mkdir()
        path.write_text(*block.values)
        paths.append(path)
    command = [sys.executable, "-W", "error", EXAMPLES, *paths]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@table_test("policy", list(blocks("toml policy")))
def test_a_policy_loads(policy, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(policy)
    load_policy(path)


@pytest.mark.parametrize("settings", list(blocks("toml settings")))
def test_settings_load_with_each_of_their_profiles(settings, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(settings)
    for profile in (None, *profiles_in(path)):
        load_settings(path, profile=profile, environ={})


def test_blocks_are_marked_in_a_known_way():
    run = {"python", "python sdk"}  # the latter by `make test-sdks`
    known = run | {"", "python no-run", "json", "jsonl", "sh", "console"}
    known |= {"toml", "toml answers", "toml policy", "toml settings"}
    assert known >= {
        match[1].strip() for page in PAGES for match in _FENCED.finditer(page.read_text())
    }


@table_test("page", PAGES)
def test_no_link_is_dead(page):
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    dead = [link for link in links if not (page.parent / link).exists()]
    assert not dead


def skeleton(path):
    """What a translation keeps: code, commands, the levels of headings, the rows of tables, links and pictures."""
    text = (ROOT / path).read_text()
    prose = _FENCED.sub("", text)
    links = [link for link in _LINK.findall(prose) if "://" not in link]
    places = [((ROOT / path).parent / link).resolve().relative_to(ROOT) for link in links]
    return {
        "blocks": _FENCED.findall(text),
        "code": sorted(set(re.findall(r"`([^`\n]+)`", prose))),
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "rows": prose.count("\n|"),
        "links": sorted(TRANSLATIONS.get(str(place), str(place)) for place in places),
    }


@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_a_translation_has_the_same_commands_and_sections(translation):
    assert skeleton(translation) == skeleton(TRANSLATIONS[translation])


def walk(typed, command):
    if not isinstance(command, click.Group):
        yield typed
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from walk(f"{typed} {name}", command.get_command(context, name))


@table_test("typed", list(walk("stormbreak", root)))
def test_a_command_is_documented(typed):
    assert any(typed in page.read_text() for page in PAGES)


def test_decisions_are_numbered():
    for number, path in enumerate(DECISIONS, 1):
        assert re.fullmatch(rf"{number:04}-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name)


@table_test("path", DECISIONS)
def test_a_decision_has_its_parts(path):
    text = path.read_text()
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Status", "Context", "Decision", "Consequences",
    ]  # fmt: skip
    assert len(text.split()) < 450, "half a page"
