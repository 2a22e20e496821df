"""Table-driven tests: one test runs all rows of a table."""

import functools
import inspect
from contextlib import contextmanager

import pytest

PARAM = type(pytest.param())


def table_test(names, rows):
    """Run a test once per row, as one test; written like `pytest.mark.parametrize`, and stackable.

    A failure carries a note that names the row. All rows share the fixtures of the test.
    """
    names = tuple(names.replace(" ", "").split(",")) if isinstance(names, str) else tuple(names)
    table = [_as_param(row, alone=len(names) == 1) for row in rows]
    assert table, "a table without rows tests nothing"
    assert not any(row.marks for row in table), "a row with a mark needs a test of its own"

    def decorate(test):
        signature = inspect.signature(test)
        fixtures = [each for name, each in signature.parameters.items() if name not in names]

        def run(**given):
            __tracebackhide__ = True
            for row in table:
                with _named(names, row):
                    test(**given, **dict(zip(names, row.values, strict=True)))

        async def run_async(**given):
            __tracebackhide__ = True
            for row in table:
                with _named(names, row):
                    await test(**given, **dict(zip(names, row.values, strict=True)))

        wrapper = functools.wraps(test)(run_async if inspect.iscoroutinefunction(test) else run)
        wrapper.__signature__ = signature.replace(parameters=fixtures)
        return wrapper

    return decorate


def _as_param(row, *, alone):
    if isinstance(row, PARAM):
        return row
    return pytest.param(row) if alone else pytest.param(*row)


@contextmanager
def _named(names, row):
    __tracebackhide__ = True
    try:
        yield
    except BaseException as error:  # pytest.fail raises no Exception
        pairs = zip(names, row.values, strict=True)
        values = ", ".join(f"{name}={value!r}"[:300] for name, value in pairs)
        error.add_note(f"in the row {row.id or values}")
        raise
