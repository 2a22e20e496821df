"""The studies of `make research` can be imported, and their variants change the code."""

import tomllib
from importlib import import_module

from table_test import table_test

from mutations import SOURCE, VERDICTS
from variants import applied, every


@table_test("study", ["mutations", "sensitivity", "published.study"])
def test_a_study_imports(study):
    import_module(study)


def test_a_variant_patches_its_targets_and_is_undone():
    for variant in every()[:3]:
        before = [getattr(owner, name) for owner, name, _ in variant.patches]
        with applied(variant):
            assert [value for _, _, value in variant.patches] == [
                getattr(owner, name) for owner, name, _ in variant.patches
            ]
        assert before == [getattr(owner, name) for owner, name, _ in variant.patches]


def test_the_verdicts_on_mutants_can_be_read():
    verdicts = tomllib.loads(VERDICTS.read_text())
    assert [file for file in verdicts if not (SOURCE / file).exists()] == []
