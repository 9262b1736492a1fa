"""The pure part of cascades: what looking is worth, by laws that any gate and any costs obey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide import UNLIMITED, Bar, Look, Objective, Options, Signals, choose
from router.decide.cascade import best_answer, dearer, goes_on, values
from router.decide.evidence import compared, seen

ARMS = 3


def probabilities(*shape: int) -> st.SearchStrategy[Any]:
    size = int(np.prod(shape))
    chance = st.floats(0.02, 0.98)
    return st.lists(chance, min_size=size, max_size=size).map(
        lambda values: np.array(values).reshape(shape)
    )


@st.composite
def cases(draw: Any) -> tuple[Any, Any, Signals]:
    quality, price = draw(probabilities(4, ARMS)), draw(probabilities(4, ARMS)) * 0.5
    good, bad = draw(probabilities(ARMS, 3)), draw(probabilities(ARMS, 3))
    together = draw(probabilities(ARMS, ARMS))
    together = (together + together.T) / 2
    good, bad = good / good.sum(1, keepdims=True), bad / bad.sum(1, keepdims=True)
    same = draw(st.none() | probabilities(ARMS, ARMS, 3))
    if same is not None:
        same = (same + same.transpose(1, 0, 2)) / 2
    return quality, price, Signals(good, bad, together, same)


ANY = np.ones((4, ARMS, ARMS), dtype=bool)
NONE = ~ANY


@given(cases())
@settings(max_examples=60, deadline=None)
def test_a_look_moves_no_expectation(case: Any) -> None:
    quality, _, signals = case
    for arm in range(ARMS):
        chance, after = seen(signals, arm, quality.T)
        assert np.allclose(chance.sum(axis=0), 1)
        assert np.allclose((chance * after).sum(axis=1), quality.T)
        assert (after >= -1e-12).all()
        assert (after <= 1 + 1e-12).all()


@given(cases(), st.integers(0, ARMS - 1))
@settings(max_examples=60, deadline=None)
def test_comparing_with_an_earlier_answer_moves_no_expectation_either(case: Any, arm: int) -> None:
    quality, _, signals = case
    if signals.same is None:
        return
    before = np.zeros((ARMS, 4), dtype=bool)
    before[(arm + 1) % ARMS, :3] = True  # the last has nothing to be compared with
    before[(arm + 2) % ARMS, 0] = True
    chance, after = compared(signals, arm, before, *seen(signals, arm, quality.T))
    assert np.allclose(chance.sum(axis=0), 1)
    assert np.allclose((chance * after).sum(axis=1), quality.T)
    assert (after >= -1e-9).all()
    assert (after <= 1 + 1e-9).all()
    alone, belief = seen(signals, arm, quality.T)
    for half in (slice(3), slice(3, 6)):
        assert np.allclose(chance[half, 3], alone[:, 3] / 2)
        assert np.allclose(after[:, half, 3], belief[:, :, 3])


@given(cases(), st.integers(0, ARMS - 1))
@settings(max_examples=60, deadline=None)
def test_the_last_look_is_worth_what_the_better_of_two_answers_is(case: Any, arm: int) -> None:
    """A last step is reckoned without its posteriors; they give the same."""
    quality, price, signals = case
    other = (arm + 1) % ARMS
    called = np.zeros((4, ARMS), dtype=bool)
    called[:, other] = True
    chance, after = seen(signals, arm, quality.T)
    if signals.same is not None:
        chance, after = compared(signals, arm, called.T, chance, after)
    best = np.maximum(after[arm], after[other])
    value = values(quality, price, ANY, Look(signals, 1, called))
    assert np.allclose(value[:, arm], (chance * best).sum(axis=0) - price[:, arm])


@given(cases())
@settings(max_examples=40, deadline=None)
def test_answers_that_cannot_be_compared_are_worth_what_they_are_without(case: Any) -> None:
    quality, price, signals = case
    apart = np.array([True, False, True, False])
    many = values(quality, price, ANY, Look(signals, 3, comparable=apart))
    none = values(quality, price, ANY, Look(replace(signals, same=None), 3))
    each = values(quality, price, ANY, Look(signals, 3))
    assert np.allclose(many, np.where(apart[:, None], each, none))
    # Of one answer more, evidence is never worth less than none.
    blind, seeing = (
        values(quality, price, ANY, Look(each, 2))
        for each in (replace(signals, same=None), signals)
    )
    assert (seeing >= blind - 1e-9).all()


@given(cases(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_evidence_that_is_quite_sure_has_a_value_all_the_same(case: Any, seed: int) -> None:
    """Chances of 0 and 1, as a small log may have taught them."""
    quality, price, signals = case
    rng = np.random.default_rng(seed)
    sure = Signals(
        np.eye(3)[rng.integers(0, 3, ARMS)],
        np.eye(3)[rng.integers(0, 3, ARMS)],
        np.ones((ARMS, ARMS)),
        rng.integers(0, 2, (ARMS, ARMS, 3)).astype(float),
    )
    called = rng.random((4, ARMS)) < 0.3
    known = np.where(called, rng.integers(0, 2, (4, ARMS)), quality)
    for look in (Look(sure, 3), Look(sure, 3, called), Look(signals, 3, called)):
        assert np.isfinite(values(known, price, ANY, look)).all()


@given(cases())
@settings(max_examples=60, deadline=None)
def test_a_call_that_nothing_may_follow_is_worth_its_quality_less_its_price(case: Any) -> None:
    quality, price, signals = case
    assert np.allclose(values(quality, price, NONE, Look(signals, 3)), quality - price)
    assert np.allclose(values(quality, price, ANY, Look(signals, 1)), quality - price)


@given(cases())
@settings(max_examples=10, deadline=None)
def test_no_requests_have_no_values_and_many_have_those_of_each(case: Any) -> None:
    quality, price, signals = case
    none = values(quality[:0], price[:0], ANY[:0], Look(signals, 3))
    assert none.shape == (0, ARMS)
    look = Look(signals, 3)
    many = values(*(np.repeat(each, 300, axis=0) for each in (quality, price, ANY)), look)
    assert np.allclose(many, np.repeat(values(quality, price, ANY, look), 300, axis=0))


@given(cases())
@settings(max_examples=60, deadline=None)
def test_more_steps_are_never_worth_less(case: Any) -> None:
    quality, price, signals = case
    one, two, three = (values(quality, price, ANY, Look(signals, n)) for n in (1, 2, 3))
    assert (two >= one - 1e-12).all()
    assert (three >= two - 1e-12).all()


@given(cases())
@settings(max_examples=40, deadline=None)
def test_a_value_is_at_most_that_of_a_certain_answer_and_falls_with_prices(case: Any) -> None:
    quality, price, signals = case
    value = values(quality, price, ANY, Look(signals, 3))
    assert (value <= 1 - price + 1e-9).all()
    assert (values(quality, price + 0.1, ANY, Look(signals, 3)) <= value - 0.1 + 1e-9).all()


@given(cases())
@settings(max_examples=40, deadline=None)
def test_one_request_and_many_have_the_same_values(case: Any) -> None:
    quality, price, signals = case
    many = values(quality, price, ANY, Look(signals, 3))
    for row in range(len(quality)):
        one = slice(row, row + 1)
        assert np.allclose(values(quality[one], price[one], ANY[one], Look(signals, 3)), many[one])


def test_a_gate_that_tells_nothing_is_worth_nothing_but_the_second_answer() -> None:
    """Two arms that are good on the same requests: a dearer one beside it adds nothing."""
    same = np.full((2, 2), 0.5)
    signals = Signals(same, same, np.ones((2, 2)))
    quality, price = np.array([[0.5, 0.5]]), np.array([[0.0, 0.2]])
    follows = np.ones((1, 2, 2), dtype=bool)
    assert np.allclose(values(quality, price, follows, Look(signals, 2)), [[0.5, 0.3]])


def test_two_tiers_and_a_perfect_gate_agree_with_the_closed_form() -> None:
    """Call the cheap one, escalate what is bad: q + (1 - q) P(dear good | cheap bad) - prices."""
    sure = np.array([[1 - 1e-12, 1e-12]] * 2)
    signals = Signals(sure, sure[:, ::-1], np.zeros((2, 2)))
    quality, price = np.array([[0.6, 0.9]]), np.array([[0.01, 0.2]])
    follows = np.ones((1, 2, 2), dtype=bool)
    cheap = values(quality, price, follows, Look(signals, 2))[0, 0]
    assert cheap == pytest.approx(0.6 + 0.4 * (0.9 - 0.2) - 0.01)


def test_a_second_opinion_is_worth_asking_for_where_wrong_answers_differ() -> None:
    """Two cheap models that agree only when both are right spare the dear one: it is called where
    they differ. Without comparing, the dear one is called at once or not at all."""
    tells_nothing = np.full((3, 1), 1.0)
    same = np.zeros((3, 3, 3))
    same[:, :, 2] = 1.0
    signals = Signals(tells_nothing, tells_nothing, np.zeros((3, 3)), same)
    quality, price = np.array([[0.7, 0.7, 1.0]]), np.array([[0.01, 0.02, 0.4]])
    follows = np.triu(np.ones((1, 3, 3), dtype=bool), 1)
    first = values(quality, price, follows, Look(signals, 3))[0]
    # They agree in 0.49; the dear one's answer is worth 1 - 0.4 then and elsewhere.
    assert first[0] == pytest.approx(0.49 + 0.51 * (1 - 0.4) - 0.01 - 0.02)
    blind = values(quality, price, follows, Look(replace(signals, same=None), 3))[0]
    assert blind.tolist() == pytest.approx([0.69, 0.68, 0.6])


def options(quality: Any, usd: Any, barred: Any = None) -> Options:
    nano = np.rint(np.array(usd) * 1e9).astype(np.int64)
    shape = np.shape(quality)
    return Options(
        quality=np.array(quality, dtype=np.float64),
        expected=nano,
        upper=2 * nano,
        barred=np.zeros(shape, dtype=np.uint8) if barred is None else barred,
        rung=np.array([0, 1, 3]),
        baseline=3,
    )


SIGNALS = Signals(np.tile([0.9, 0.1], (3, 1)), np.tile([0.2, 0.8], (3, 1)), np.full((3, 3), 0.3))
ROOM = np.array([UNLIMITED])


def test_the_first_decision_may_be_a_cheap_call_that_would_be_wrong_alone() -> None:
    asked = options([[0.6, 0.65, 0.9]], [[0.001, 0.002, 0.1]])
    objective = Objective(cost_weight=2)
    alone = choose(asked, objective, ROOM, priced=False)
    looked = choose(asked, objective, ROOM, priced=False, look=Look(SIGNALS, 2))
    assert alone.arm[0] == 2
    assert looked.arm[0] < 2
    assert (looked.utility >= alone.utility - 1e-12).all()


def test_no_room_for_a_second_call_makes_it_a_decision_about_one() -> None:
    asked = options([[0.3, 0.35, 0.9]], [[0.001, 0.002, 0.1]])
    objective = Objective(cost_weight=2)
    room = np.array([int(0.2e9)])  # exactly the dearest call's bound
    looked = choose(asked, objective, room, priced=False, look=Look(SIGNALS, 2))
    assert looked.arm[0] == 2
    ceiling = Objective(max_cost_per_request=int(0.2e9))
    looked = choose(asked, ceiling, ROOM, priced=False, look=Look(SIGNALS, 2))
    assert looked.utility[0, 0] == pytest.approx(
        choose(asked, ceiling, np.array([int(0.1e9)]), priced=False,
               look=Look(SIGNALS, 2)).utility[0, 0]
    )  # fmt: skip


def test_what_was_paid_is_spent() -> None:
    """After a bad answer the dear call is weighed against the answer in hand, not against both."""
    called = np.array([[True, False, False]])
    barred = np.array([[Bar.ANSWERED, Bar.FREE, Bar.FREE]], dtype=np.uint8)
    for held, on in ((0.1, True), (0.85, False)):
        asked = options([[held, 0.5, 0.9]], [[0.001, 0.002, 0.1]], barred)
        look = Look(SIGNALS, 1, called)
        found = choose(asked, Objective(cost_weight=2), ROOM, priced=False, look=look)
        assert goes_on(found.arm, found.utility, asked.quality, called)[0] == on


def test_the_likeliest_answer_is_handed_out_and_of_equals_the_latest() -> None:
    quality = np.array([[0.9, 0.2, 0.5], [0.5, 0.5, 0.9]])
    called = np.array([[True, True, False], [True, True, False]])
    assert best_answer(quality, called, np.array([1, 1])).tolist() == [0, 1]


def test_only_a_dearer_arm_or_a_higher_tier_may_follow() -> None:
    found = dearer(np.array([[5, 3, 9]]), np.array([0, 1, 3]))[0]
    assert found.tolist() == [[False, True, True], [True, False, True], [False, False, False]]
