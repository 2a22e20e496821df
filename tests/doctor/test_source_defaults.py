"""Defaults are read from the source without evaluating it."""

from importlib.metadata import distribution

import pytest

from stormbreak.doctor.installed_sdks import DefaultNotFoundError, number_in


@pytest.fixture
def read(install):
    def of(text, name="NAME"):
        install("some", "1", files={"some.py": text})
        return number_in(distribution("some"), "some.py", name)

    return of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("NAME = 2", 2),
        ("NAME: Final[float] = 6000.0", 6000),
        ("NAME = 10 * 60", 600),
        ("NAME = None", None),
        ("NAME = httpx2.Timeout(timeout=600, connect=5.0)", 600),
        ("NAME = httpx2.Timeout(5.0, read=60)", 60),
        ("NAME = httpx2.Timeout(5.0)", 5),
        ("NAME = get_env_int('NAME', 2)", 2),
        ("NAME = Field(None, alias='timeout')", None),
        ("NAME = 1\nNAME = 2", 2),
        ("NAME = 1\nNAME: int", 1),
    ],
)
def test_a_number_is_read_from_an_assignment(read, text, number):
    assert read(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "NAME = True", "NAME = '2'", "NAME = open('x')", "NAME = __import__('os').getpid()",
        "NAME = OTHER", "NAME = Field()", "NAME = 10 ** 9", "NAME: int", "OTHER = 2", "",
        "NAME = (" * 500, "NAME = 1e308 * 1e308 * OTHER",
    ],
)  # fmt: skip
def test_a_default_that_is_not_a_number_is_not_found(read, text):
    with pytest.raises(DefaultNotFoundError):
        read(text)


@pytest.mark.parametrize(
    ("text", "name", "number"),
    [
        ("class A:\n    b: int = Field(default=3)", "A.b", 3),
        ("def f(a, b=4): ...", "f.b", 4),
        ("def f(*, a, b=4): ...", "f.b", 4),
        ("def f(b: int = ...): ...\ndef f(b: int = 5): ...", "f.b", 5),
        ("class A:\n    def __init__(self, b=6): ...", "A.__init__.b", 6),
    ],
)
def test_a_default_is_read_from_fields_and_arguments(read, text, name, number):
    assert read(text, name) == number


@pytest.mark.parametrize("name", ["A.b", "f.b", "f.a", "A.__init__.b"])
def test_a_default_of_a_missing_field_or_argument_is_not_found(read, name):
    with pytest.raises(DefaultNotFoundError):
        read("class A:\n    c = 1\ndef f(a, *, c=2): ...", name)
