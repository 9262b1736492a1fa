"""The price book beside two public sources, so that an update is a change that somebody reviews.

Nothing is fetched: litellm's map and genai-prices are read as their installed packages hold them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from router.errors import ConfigurationError
from router.prices.book import BookEntry, PriceBook

Source: TypeAlias = Literal["litellm", "genai-prices"]
SOURCES: tuple[Source, ...] = ("litellm", "genai-prices")

# Bucket → its key in litellm's map (USD per token) and in genai-prices (USD per million tokens).
_BUCKETS: dict[str, tuple[str, str]] = {
    "input": ("input_cost_per_token", "input_mtok"),
    "output": ("output_cost_per_token", "output_mtok"),
    "cache_read": ("cache_read_input_token_cost", "cache_read_mtok"),
    "cache_write_5m": ("cache_creation_input_token_cost", "cache_write_mtok"),
    "cache_write_1h": ("cache_creation_input_token_cost_above_1hr", "cache_write_1h_mtok"),
    "audio_input": ("input_cost_per_audio_token", "input_audio_mtok"),
    "audio_output": ("output_cost_per_audio_token", "output_audio_mtok"),
}
_GENAI_PROVIDERS = {"gemini": "google", "together_ai": "together", "fireworks_ai": "fireworks"}
_LITELLM_MAP = "model_prices_and_context_window_backup.json"
_TOKENS_PER_PRICE = Decimal(1_000_000)
_HALF_HOURS = tuple(timedelta(minutes=30 * step) for step in range(48))

# Rates of one model in one source: prompt tokens above which they hold (0 for all) → bucket → USD
# per million tokens. What a longer prompt does not name, sources take from the shorter one.
Table: TypeAlias = dict[int, dict[str, Decimal]]


@dataclass(frozen=True, slots=True)
class Row:
    """One bucket of one model, for prompts of more than `above` tokens.

    Rates are decimal text in USD per million tokens, None where a source has none. `verdict` is
    "agree", "differs", "only here" (no source has it) or "not here" (a source has it).
    """

    model: str
    bucket: str
    above: int
    ours: str | None
    litellm: str | None
    genai_prices: str | None
    verdict: str


class _Lookup(Protocol):
    def __call__(self, model: str) -> Table: ...


def diff(book: PriceBook, now: float, sources: Sequence[Source] = SOURCES) -> list[Row]:
    """Compare the entries in effect at `now` (unix seconds) with `sources`.

    Prices by time of day are compared at the dearest time of the day of `now`. Own hardware has no
    public price and is left out.
    Raises `ConfigurationError` where a source is not installed.
    """
    lookups: dict[Source, _Lookup] = {}
    if "litellm" in sources:
        listed = litellm_map()
        lookups["litellm"] = lambda model: _litellm_table(listed(model))
    if "genai-prices" in sources:
        lookups["genai-prices"] = _genai_prices(now)
    rows: list[Row] = []
    for entry in book.models(now):
        if entry.gpu is None:
            tables = {source: lookup(entry.model) for source, lookup in lookups.items()}
            rows += _rows(entry.model, _own(entry), tables)
    return rows


def _rows(model: str, own: Table, tables: Mapping[Source, Table]) -> list[Row]:
    rows = []
    thresholds = sorted({above for table in (own, *tables.values()) for above in table})
    for above in thresholds:
        for bucket in _BUCKETS:
            # A set of rates here is a full one (`AboveEntry`): it takes nothing from another.
            ours = own[max(start for start in own if start <= above)].get(bucket)
            theirs = {source: _rate(table, bucket, above) for source, table in tables.items()}
            if ours is None and not any(rate is not None for rate in theirs.values()):
                continue
            verdict = _verdict(ours, [rate for rate in theirs.values() if rate is not None])
            rows.append(
                Row(
                    model,
                    bucket,
                    above,
                    _text(ours),
                    _text(theirs.get("litellm")),
                    _text(theirs.get("genai-prices")),
                    verdict,
                )
            )
    return rows


def _verdict(ours: Decimal | None, theirs: list[Decimal]) -> str:
    if ours is None:
        return "not here"
    if not theirs:
        return "only here"
    return "agree" if all(rate == ours for rate in theirs) else "differs"


def _rate(table: Table, bucket: str, above: int) -> Decimal | None:
    reached = [start for start, rates in table.items() if start <= above and bucket in rates]
    return table[max(reached)][bucket] if reached else None


def _text(rate: Decimal | None) -> str | None:
    if rate is None:
        return None
    text = f"{rate:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _own(entry: BookEntry) -> Table:
    parts = {0: entry, **{above.tokens: above for above in entry.above}}
    return {
        above: {bucket: rate for bucket in _BUCKETS if (rate := getattr(part, bucket)) is not None}
        for above, part in parts.items()
    }


def litellm_map() -> Callable[[str], Mapping[str, Any]]:
    """What litellm's map, as installed, has of a model: nothing where it does not know it.

    Raises `ConfigurationError` where it cannot be read.
    """
    spec = find_spec("litellm")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("litellm is not installed; pip install tiered-router")
    path = Path(spec.submodule_search_locations[0]) / _LITELLM_MAP
    try:
        prices = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"litellm's price map {path.name} cannot be read: {error}"
        ) from None

    def lookup(model: str) -> Mapping[str, Any]:
        provider, _, name = model.partition("/")
        listed = prices.get(model)
        if listed is None and prices.get(name, {}).get("litellm_provider") == provider:
            listed = prices[name]
        return listed or {}

    return lookup


def _litellm_table(listed: Mapping[str, Any]) -> Table:
    table: Table = {}
    for bucket, (key, _) in _BUCKETS.items():
        for name, per_token in listed.items():
            above = _threshold(name, key)
            if above is None or per_token is None:
                continue
            rate = Decimal(per_token) * _TOKENS_PER_PRICE
            if bucket.startswith("cache_write") and not rate:
                continue  # its way to say that writing is not billed apart
            table.setdefault(above, {})[bucket] = rate
    return table


def _threshold(name: str, key: str) -> int | None:
    """Read "<key>" as 0 and "<key>_above_200k_tokens" as 200,000; None for any other name."""
    if name == key:
        return 0
    middle = name.removeprefix(f"{key}_above_").removesuffix("k_tokens")
    return (
        int(middle) * 1000
        if name == f"{key}_above_{middle}k_tokens" and middle.isdecimal()
        else None
    )


def _genai_prices(now: float) -> _Lookup:
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        raise ConfigurationError(
            "genai-prices is not installed; pip install 'tiered-router[prices]', "
            "or name another source: --source litellm"
        ) from None
    snapshot = get_snapshot()
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)

    def lookup(model: str) -> Table:
        provider, _, name = model.partition("/")
        try:
            _, listed = snapshot.find_provider_model(
                name, None, _GENAI_PROVIDERS.get(provider, provider), None
            )
        except LookupError:
            return {}
        tables = [_genai_table(listed.get_prices(day + step)) for step in _HALF_HOURS]
        return max(tables, key=lambda table: table.get(0, {}).get("input", Decimal(0)))

    return lookup


def _genai_table(prices: Any) -> Table:
    table: Table = {}
    for bucket, (_, key) in _BUCKETS.items():
        price = getattr(prices, key, None)
        if price is None:
            continue
        table.setdefault(0, {})[bucket] = Decimal(getattr(price, "base", price))
        for tier in getattr(price, "tiers", ()):
            table.setdefault(tier.start, {})[bucket] = Decimal(tier.price)
    return table
