import sys

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution on the path: its metadata, and the given source files of its package."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    def put(name, version, *requires, files=None):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / "METADATA").write_text(head + needs)
        for file, text in (files or {}).items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put
