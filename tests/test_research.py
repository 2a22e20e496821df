"""The studies of `make research` still import what they study, and their variants still change something."""

from importlib import import_module

import pytest

from variants import applied, every


@pytest.mark.parametrize("study", ["mutations", "sensitivity", "published.study"])
def test_a_study_imports(study):
    import_module(study)


def test_a_variant_changes_something_and_is_undone():
    for variant in every()[:3]:
        before = [getattr(owner, name) for owner, name, _ in variant.patches]
        with applied(variant):
            assert [value for _, _, value in variant.patches] == [
                getattr(owner, name) for owner, name, _ in variant.patches
            ]
        assert before == [getattr(owner, name) for owner, name, _ in variant.patches]
