"""The code in the documents runs, their policies load, and their links have a target."""

import ast
import re
import runpy
from importlib import import_module
from pathlib import Path

import click
import pytest
from command_lines import COMMANDS
from forking import runs
from table_test import table_test

from stormbreak.config import load_policy, load_settings, profiles_in

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))

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


def test_python_in_the_documents_runs(tmp_path):
    failed = []
    for block in blocks("python"):
        path = tmp_path / block.id.replace("/", "-") / "example.py"
        path.parent.mkdir()
        path.write_text(*block.values)
        failed += [] if runs(path) else [block.id]
    assert failed == []


@table_test("policy", list(blocks("toml policy")))
def test_policies_in_the_documents_load(policy, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(policy)
    load_policy(path)


@pytest.mark.parametrize("settings", list(blocks("toml settings")))
def test_settings_in_the_documents_load_with_each_profile(settings, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(settings)
    for profile in (None, *profiles_in(path)):
        load_settings(path, profile=profile, environ={})


def test_code_blocks_have_a_known_language():
    run = {"python", "python sdk"}  # `make test-sdks` runs the latter
    known = run | {"", "python no-run", "json", "jsonl", "sh", "console", "yaml"}
    known |= {"toml", "toml answers", "toml policy", "toml settings"}
    assert known >= {
        match[1].strip() for page in PAGES for match in _FENCED.finditer(page.read_text())
    }


@table_test("page", PAGES)
def test_every_link_has_a_target(page):
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    dead = [link for link in links if not (page.parent / link).exists()]
    assert not dead


def skeleton(path):
    """The parts that a translation keeps: code, commands, levels of headings, rows of tables, links and pictures."""
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


@table_test("translation", TRANSLATIONS)
def test_a_translation_has_the_same_commands_and_sections(translation):
    assert skeleton(translation) == skeleton(TRANSLATIONS[translation])


@table_test(
    "path", [path for path, command in COMMANDS.items() if not isinstance(command, click.Group)]
)
def test_a_command_is_documented(path):
    assert any(" ".join(path) in page.read_text() for page in PAGES)


def test_the_page_of_the_command_line_lists_the_commands():
    page = (ROOT / "docs" / "cli.md").read_text()
    listed = re.findall(r"^\| `stormbreak (\w+)` \|", page, re.MULTILINE)
    assert {(name,) for name in listed} == {path[1:2] for path in COMMANDS if len(path) > 1}


def test_the_reference_of_the_site_has_every_command_and_option():
    reference = runpy.run_path(str(ROOT / "docs" / "site" / "reference.py"))
    text = reference["command_line"]()
    for path, command in COMMANDS.items():
        (section,) = re.findall(
            rf"^##+ {' '.join(path)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL
        )
        options = {name for param in command.params for name in param.opts if name.startswith("--")}
        assert [name for name in options - {"--help", "--version"} if name not in section] == []
        assert len(re.findall(r"^```", section, re.MULTILINE)) % 2 == 0


MODULES = re.findall(
    r"^\| `(stormbreak[\w.]*)` \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE
)


@table_test("name", MODULES)
def test_public_names_have_docstrings(name):
    module = import_module(name)
    for each in getattr(module, "__all__", ()):
        value = getattr(module, each)
        assert not callable(value) or (value.__doc__ or "").strip(), each


@table_test("code", list(blocks("python")))
def test_the_documents_import_public_modules(code):
    imported = {
        node.module
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("stormbreak")
    }
    assert imported <= {*MODULES, "stormbreak.httpx"}


def test_decisions_are_numbered():
    assert all(re.fullmatch(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name) for path in DECISIONS)
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@table_test("path", DECISIONS)
def test_a_decision_has_the_required_sections(path):
    text = path.read_text()
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Status", "Context", "Decision", "Consequences",
    ]  # fmt: skip
    assert len(text.split()) < 450, "half a page"
