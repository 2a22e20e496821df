"""Show money in dollars, or in another currency at a given rate, which is never fetched.

Amounts are exact until they are shown. Then they are rounded half up to the smallest coin, once; less than half a coin
is shown as "<0.01", not as zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from difflib import get_close_matches

from stormbreak.core.checks import shown
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted

_TWO = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE"
    " CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS"
    " KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR"
    " NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS"
    " TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW ZWG"
)
_NONE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"

PLACES: Mapping[str, int] = {
    code: places for places, codes in ((2, _TWO), (0, _NONE), (3, _THREE)) for code in codes.split()
}
"""Decimal places of the smallest coin, by the code of the currency (ISO 4217)."""

_MIN_RATE, _MAX_RATE = Decimal("0.000001"), Decimal(10_000_000)
KEPT = 6  # decimal places of a number for programs
_WIDE = Context(prec=80, rounding=ROUND_HALF_UP)  # the default refuses to round long numbers


def check_rate(name: str, per_usd: Decimal) -> None:
    if not (per_usd.is_finite() and _MIN_RATE <= per_usd <= _MAX_RATE):
        wanted = f"between {_MIN_RATE} and {_MAX_RATE:,}"
        raise ConfigurationError(f"{name} must be {wanted}, got {shown(per_usd)}")


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency: its code, and the amount of it that one dollar buys."""

    code: str = "USD"
    per_usd: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        if self.code not in PLACES:
            near = get_close_matches(self.code.upper(), PLACES, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "such as EUR, JPY or VND"
            raise ConfigurationError(
                f"currency must be a code of ISO 4217, got {quoted(self.code)}; {hint}"
            )
        check_rate("rate", self.per_usd)
        if self.code == "USD" and self.per_usd != 1:
            raise ConfigurationError(f"rate must be 1 for USD, got {shown(self.per_usd)}")

    def of(self, usd: Decimal) -> Decimal:
        """Convert dollars for programs, to a millionth."""
        return without_zeros(rounded(usd * self.per_usd, KEPT))

    def shown(self, usd: Decimal) -> str:
        """Format dollars in this currency, without its code."""
        return near(usd * self.per_usd, PLACES[self.code])

    def with_code(self, usd: Decimal) -> str:
        return f"{self.shown(usd)} {self.code}"

    def spanned(self, least: Decimal, most: Decimal) -> str:
        return f"{between(self.shown(least), self.shown(most))} {self.code}"

    def exact(self, usd: Decimal) -> str:
        """Format a price in dollars with all its digits, at least those of the smallest coin."""
        price = without_zeros(usd * self.per_usd)
        places = max(PLACES[self.code], -int(price.as_tuple().exponent))
        return f"{rounded(price, min(places, KEPT)):,f}"


USD = Currency()


def between(least: str, most: str) -> str:
    """Format a range of two formatted amounts, or one amount if they are equal."""
    return least if least == most else f"{least} to {most}"


def rounded(number: Decimal, places: int) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-places), context=_WIDE)


def near(number: Decimal, places: int) -> str:
    """Format a number with `places` decimal places; never show a nonzero number as zero."""
    shown = rounded(number, places)
    if number and not shown:
        least = Decimal(1).scaleb(-places)
        return f"<{least}" if number > 0 else f">-{least}"
    return f"{shown:,}"


def without_zeros(number: Decimal) -> Decimal:
    """Remove trailing zeros and the exponent."""
    whole = number == number.to_integral_value()
    return rounded(number, 0) if whole else number.normalize(_WIDE)
