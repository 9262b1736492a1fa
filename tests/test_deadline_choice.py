"""Which way a call that can wait takes: never one that is late, never a dearer one than at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decide.waiting import Patience, cheapest
from router.deferred.terms import LineTerms, of_text, to_text
from router.dispatch.charge import Terms
from router.dispatch.deadlines import read_deadline
from router.errors import InvalidRequest, PolicyError
from router.policy.lint import lint
from router.policy.loader import parse_policy
from router.prices import load_book
from router.prices.hours import changes
from router.prices.price import Price, Rates
from router.prices.schema import PriceEntry, to_price
from router.types import AttemptRow, Way
from tests.conftest import ladder

NOW = 1_800_000_000.0
moments = st.floats(NOW - 10, NOW + 200_000)
costs = st.none() | st.integers(0, 1000)
tiers = st.sampled_from([None, "flex", "batch"])
ways = st.builds(Way, tiers, moments, costs)


@given(
    st.builds(Way, st.none(), st.just(NOW), costs),
    st.lists(ways, max_size=12),
    st.floats(1, 200_000),
    st.floats(1, 1000),
    st.floats(1, 2000),
)
def test_a_way_is_in_time_and_never_dearer_than_at_once(
    now: Way, others: list[Way], wait: float, call: float, flex: float
) -> None:
    patience = Patience(NOW, NOW + wait, call, flex, 86_400)
    best = cheapest(now, others, patience)
    assert best == now or best in others
    if best == now:
        in_time = [way for way in others if patience.allows(way) and way.cost is not None]
        assert now.cost is None or all(way.cost >= now.cost for way in in_time)  # type: ignore[operator]
        return
    assert best.cost is not None
    assert now.cost is not None
    assert best.cost < now.cost
    first = {"flex": flex, "batch": 86_400}.get(best.service_tier or "", 0)
    # A call at the standard price, should this one end without an answer, ends by the deadline.
    assert best.at <= NOW or best.at + first + call <= patience.deadline + 1e-3
    if best.service_tier is not None:
        assert max(best.at, NOW) + first + call <= patience.deadline + 1e-3
    for way in others:
        if way.cost is not None and patience.allows(way):
            assert (best.cost, best.at) <= (way.cost, max(way.at, best.at))


def window(**more: Any) -> PriceEntry:
    hours = {"from": "16:30", "to": "00:30", "zone": "UTC", "multiplier": "0.5", **more}
    return PriceEntry.model_validate({"input": "1", "output": "2", "off_peak": [hours]})


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_the_next_opening_and_closing_of_a_window_are_known() -> None:
    price = to_price(window(), "m")
    assert changes(price, at("2026-11-26T10:00")) == [at("2026-11-26T16:30")]
    night = at("2026-11-26T23:00")
    assert changes(price, night) == [at("2026-11-27T00:30"), at("2026-11-27T16:30")]
    assert changes(price, at("2026-11-26T16:30"))[0] == at("2026-11-27T00:30")
    weekend = to_price(window(days=["sat"]), "m")
    assert changes(weekend, at("2026-11-26T10:00")) == [at("2026-11-28T16:30")]  # a Thursday
    whole_days = to_price(window(**{"from": "00:00", "to": "24:00", "days": ["sun"]}), "m")
    assert changes(whole_days, at("2026-11-29T10:00"))[0] == at("2026-11-30T00:00")


zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
clocks = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02}:{m % 60:02}")
days = st.lists(
    st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), min_size=1, unique=True
)


@given(zones, clocks, clocks, days, st.integers(0, 364 * 24 * 60))
def test_a_change_of_price_is_where_the_window_itself_changes(
    zone: str, opens: str, closes: str, on: list[str], minutes: int
) -> None:
    if opens == closes:
        return
    price = to_price(window(zone=zone, days=on, **{"from": opens, "to": closes}), "m")
    [hours] = price.off_peak
    now = at("2026-01-01T00:00") + 60 * minutes + 7
    found = changes(price, now)
    assert found == sorted(found)
    assert all(moment > now for moment in found)
    assert any(hours.contains(moment) for moment in found)  # it opens within a week, wherever
    if not hours.contains(now):
        # Not open, and not to be open any sooner, but for a clock that is set in between.
        first = min(found)
        shift = datetime.fromtimestamp(first, ZoneInfo(zone)).utcoffset()
        steady = all(
            datetime.fromtimestamp(now + step * 3600, ZoneInfo(zone)).utcoffset() == shift
            for step in range(int((first - now) // 3600) + 1)
        )
        if steady:
            assert not hours.contains(first - 60)


def test_a_deadline_is_a_moment_and_nothing_else() -> None:
    berlin = datetime.fromtimestamp(NOW + 60, ZoneInfo("Europe/Berlin"))
    assert read_deadline(None, NOW) is None
    assert read_deadline(NOW + 60, NOW) == NOW + 60
    assert read_deadline(int(NOW) + 60, NOW) == NOW + 60
    assert read_deadline(berlin, NOW) == NOW + 60
    assert read_deadline(datetime.fromtimestamp(NOW + 1, timezone(timedelta(hours=5))), NOW)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3600, "looks like seconds from now"),
        (float("nan"), "looks like seconds from now"),
        (True, "no moment"),
        ("tomorrow", "no moment"),
        (timedelta(hours=1), "no moment"),
        (NOW, "has passed"),
        (NOW - 5, "has passed"),
        (NOW + 40 * 86_400, "more than 31 days away"),
        (float("inf"), "more than 31 days away"),
        (datetime.fromtimestamp(NOW + 60, UTC).replace(tzinfo=None), "no time zone"),
    ],
)
def test_another_deadline_is_refused_with_what_is_allowed(value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        read_deadline(value, NOW)
    assert caught.value.field == "deadline"
    assert "unix seconds" in caught.value.allowed


def test_the_section_names_its_keys_and_leaves_old_hashes_alone() -> None:
    import yaml

    text = yaml.safe_dump(ladder("http://127.0.0.1:1/v1"))
    plain = parse_policy(text, "a.yaml")
    assert "deferred" not in plain.model_dump(mode="json") or plain.deferred is None
    waits = parse_policy(text + "\ndeferred: {flex: true}\n", "a.yaml")
    assert waits.hash != plain.hash
    for wrong, said in (("{}", "nothing is waited for"), ("{flexx: true}", "flexx")):
        with pytest.raises(PolicyError, match=said):
            parse_policy(text + f"\ndeferred: {wrong}\n", "a.yaml")


rates = st.builds(
    Rates.of, input=st.integers(0, 10**12), output=st.integers(0, 10**12),
    audio_input=st.none() | st.integers(0, 10**12),
)  # fmt: skip
prices = st.builds(
    Price,
    model=st.text(max_size=5),
    rates=rates,
    above=st.lists(st.tuples(st.integers(1, 10**6), rates), max_size=2).map(tuple),
    image=st.integers(0, 10**9),
    request=st.integers(0, 10**9),
    multipliers=st.dictionaries(
        st.sampled_from(["batch", "flex"]), st.fractions(min_value=0, max_value=9)
    ),
)


@given(st.none() | prices, st.integers(0, 2**53), st.none() | st.integers(0, 10**6), st.booleans())
def test_the_terms_of_a_line_are_read_as_they_were_written(
    price: Price | None, reserved: int, bound: int | None, reasons: bool
) -> None:
    row = AttemptRow(
        "id", 1, NOW, 0, "nano/0:m", "nano", "m", 0.5, "expired", reserved, reserved, "expired",
        "b", latency=0.1, note="batch",
    )  # fmt: skip
    terms = Terms(price, "batch", NOW, reserved, bound, reasons)
    line = LineTerms(row, terms, reserved, reasons)
    assert of_text(to_text(line)) == line


def test_a_section_that_no_price_answers_is_warned_of() -> None:
    import yaml

    written = ladder("http://127.0.0.1:1/v1", deferred={"flex": True, "off_peak": True})
    policy = parse_policy(yaml.safe_dump(written), "a.yaml")
    found = [each.key for each in lint(policy, load_book(), NOW)]
    assert {"deferred.flex", "deferred.off_peak"} <= set(found)
    assert "deferred.batch" not in found
