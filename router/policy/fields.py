"""The kinds of value that a policy is made of, and how an error names what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from router.money import InvalidAmount, parse_usd, usd_text


def similar(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the known word most like this one, or nothing."""
    near = get_close_matches(word[:100], list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def wrong(problem: str, allowed: str, *key: str | int) -> PydanticCustomError:
    """A validation error that says what is allowed and, below the value at fault, which key."""
    facts = {"problem": problem, "allowed": allowed, "key": key}
    return PydanticCustomError("policy", "{problem}", facts)


def _usd(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise wrong(f"{value!r} is not an amount of US dollars", 'an amount such as "0.10"')
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", value):
        raise wrong(f"{value!r} is not an amount of US dollars", 'an amount such as "0.10"')
    try:
        nano = parse_usd(value)
    except InvalidAmount as error:
        raise wrong(str(error), "0 to 9007199 US dollars, to the nano-dollar") from None
    return Decimal(usd_text(nano))  # so that 5 and "5.00" are the same policy


def _real(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise wrong(f"{value!r} is not a name", "printable text that is not blank")
    return value


def http_url(url: str) -> str:
    """Check an address that a policy names."""
    allowed = "a URL such as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise wrong(f"not a URL: {error}", allowed) from None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise wrong("not an http or https URL", allowed)
    if parts.username is not None or parts.password is not None:
        raise wrong("it holds a user name or a password", "a URL without them, and `api_key_env`")
    return url


Usd = Annotated[
    Decimal,
    BeforeValidator(_usd),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,12})?$"},
                {"type": "number", "minimum": 0},
            ]
        }
    ),
]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_text)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
Count = Annotated[int, Field(ge=0, le=100_000_000)]
Seconds = Annotated[Real, Field(gt=0, le=86_400)]


class Part(BaseModel):
    """What every part of a policy has in common: no unknown key, no conversion, no change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
