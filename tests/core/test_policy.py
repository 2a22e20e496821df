from dataclasses import dataclass, field

import pytest
from table_test import table_test

from stormbreak.core.policy import check_magnitudes
from stormbreak.errors import ConfigurationError


@dataclass(frozen=True)
class Inner:
    number: float = 1.0


@dataclass(frozen=True)
class Part:
    number: float = 1.0
    flag: bool = True
    word: str = "word"
    none: float | None = None
    inner: Inner = field(default_factory=Inner)
    several: tuple[object, ...] = ()
    named: dict[str, float] = field(default_factory=dict)


RULE = "must be at least 1e-06 and at most 1e\\+12, got"
WRONG = [
    (Part(number=9e-7), f"number {RULE} 9e-07"),
    (Part(number=-9e-7), f"number {RULE} -9e-07"),
    (Part(number=10**12 + 1), f"number {RULE} 1000000000001"),
    (Part(number=float("inf")), f"number {RULE} inf"),
    (Part(number=float("nan")), f"number {RULE} nan"),
    (Part(inner=Inner(1e13)), rf"inner\.number {RULE}"),
    (Part(several=(1.0, Inner(1e13))), rf"several\[1\]\.number {RULE}"),
    (Part(named={"a": 1.0, "b": 1e-9}), rf"named\.b {RULE}"),
]


@table_test(("part", "message"), WRONG)
def test_a_number_out_of_bounds_is_named_by_its_path(part, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        check_magnitudes(part)


@table_test("number", [0, 0.0, 1e-6, -1e-6, 1e12, 10**12, -3])
def test_zero_and_numbers_within_bounds_are_valid(number):
    check_magnitudes(Part(number=number))
    check_magnitudes(Part(several=(number, False), named={"a": number}))
