"""Money is a signed integer of nano-USD (1e-9 USD); text becomes it through `Decimal`, no float."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction

NANO_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000  # prices are quoted per million tokens

# A store that compares in doubles (Redis Lua) is exact up to 2**53; larger amounts are refused.
MAX_NANO = 2**53


class InvalidAmount(ValueError):
    """Text that is no exact amount of money."""


def parse_usd(amount: str | int | Decimal) -> int:
    """Turn a decimal amount of US dollars into nano-USD.

    Parameters: `amount`, decimal text such as "0.10" (USD).
    Returns the exact integer of nano-USD.
    Raises `InvalidAmount` for floats, booleans, NaN, infinities, negative amounts, fractions
    of a nano-dollar, and amounts above 2**53 nano-USD (about nine million dollars).
    """
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise InvalidAmount(f"{amount!r} is not a decimal amount; write it as text, such as '0.10'")
    try:
        value = Decimal(amount)
    except InvalidOperation:
        raise InvalidAmount(
            f"{amount!r} is not a decimal amount; write it as text, such as '0.10'"
        ) from None
    if not value.is_finite() or value.is_signed():
        raise InvalidAmount(f"{amount} must be a finite amount of 0 or more")
    if value > MAX_NANO // NANO_PER_USD:
        raise InvalidAmount(f"{amount} is above the largest amount, $9007199")
    # The digits are looked at before a fraction is built: 1e-99999999 is short to write.
    # Fractions: a decimal's arithmetic is rounded to whatever precision the program has set.
    nano = Fraction(value) * NANO_PER_USD if value.adjusted() >= -9 else Fraction(0)
    if nano.denominator != 1 or (value and not nano):
        raise InvalidAmount(f"{amount} is finer than one nano-dollar (1e-9 USD)")
    return int(nano)


def usd_text(nano: int) -> str:
    """Return nano-USD as an exact decimal text of dollars without trailing zeros, e.g. "0.0123"."""
    sign = "-" if nano < 0 else ""
    whole, fraction = divmod(abs(nano), NANO_PER_USD)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def format_usd(nano: int | None) -> str:
    """Return nano-USD for people: "$12.35", "$0.0123", "$0.0000041", or "unknown" for None."""
    if nano is None:
        return "unknown"
    sign = "-" if nano < 0 else ""
    amount = abs(nano) / NANO_PER_USD
    if amount == 0 or amount >= 1:
        return f"{sign}${amount:,.2f}"
    if amount >= 0.01:
        return f"{sign}${amount:.4f}"
    # Two significant digits of a small amount say more than a row of zeros.
    return f"{sign}${Decimal(f'{amount:.2g}'):f}"


def ceil_div(numerator: int, denominator: int) -> int:
    """Return the quotient rounded up, in integers."""
    return -(-numerator // denominator)
