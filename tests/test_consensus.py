"""Weighing answers together: laws that any chances obey, and cases that two by two fail."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide.evidence import told
from router.gates.agreement import said as says
from router.gates.answer import Answer
from router.gates.confidence import Confidence
from router.gates.consensus import COINCIDE, consensus, evidence_of
from router.gates.gate import TOGETHER, Gate, Heard
from router.gates.reading import read
from router.gates.structural import faults
from router.replay.evaluation.by_form import ByForm
from router.replay.recorded.answers import answers_like
from router.types import Request

A = 4
chances = st.lists(st.floats(0.02, 0.98), min_size=A, max_size=A).map(lambda c: np.array([c]))
orders = st.permutations(range(A))


def weighed(
    predicted: Any, order: Any, said: Any, *, r: float = TOGETHER, evidence: Any = None
) -> Any:
    k = len(said)
    seen = np.ones((1, k, 2)) if evidence is None else np.array([evidence])
    together = np.full((A, A), r)
    return consensus(
        predicted, order[:k], seen, np.array([said]), np.array([COINCIDE]), together
    )[0]  # fmt: skip


@given(chances, orders, st.floats(0, 1), st.floats(0.02, 0.98))
def test_one_answer_says_what_bayes_and_the_pairs_say(
    predicted: Any, order: Any, r: float, posterior: float
) -> None:
    last = order[0]
    evidence = [evidence_of(float(predicted[0, last]), posterior)]
    expected = told(np.full((A, 1), r), last, predicted.T, np.array([[posterior]]))[:, 0, 0]
    np.testing.assert_allclose(weighed(predicted, order, [0], r=r, evidence=evidence), expected)


@given(chances, orders, st.integers(1, A))
def test_answers_that_cannot_be_compared_say_nothing_of_one_another(
    predicted: Any, order: Any, k: int
) -> None:
    np.testing.assert_allclose(weighed(predicted, order, [-1] * k), predicted[0])


def partitions(k: int) -> list[list[int]]:
    """All ways in which k answers can say the same."""
    return [list(each) for each in product(range(k), repeat=k)
            if all(each[code] == code <= at for at, code in enumerate(each))]  # fmt: skip


@given(chances, orders, st.integers(2, A), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_over_all_that_may_be_said_expectations_stay_what_they_were(
    predicted: Any, order: Any, k: int, r: float
) -> None:
    """So an answer can only gain by what is done once it was compared."""
    from router.gates.consensus import _agreement, _of_set

    arms, total, chance_of_all = list(order[:k]), np.zeros(A), 0.0
    for said in partitions(k):
        chance = 0.0
        for good in product((False, True), repeat=k):
            alone, lowest, highest = _of_set(predicted[:, arms], good)
            luck = np.maximum(highest - lowest, 0)
            like = _agreement(np.array([said]), good, np.array([COINCIDE]))
            chance += float((((1 - r) * alone + r * luck) * like)[0])
        total += chance * weighed(predicted, order, said, r=r)
        chance_of_all += chance
    assert chance_of_all == pytest.approx(1)
    np.testing.assert_allclose(total, predicted[0], atol=1e-9)


@given(chances.map(lambda c: c / 2 + 0.5), orders)
def test_two_that_agree_gain_and_two_that_differ_lose(predicted: Any, order: Any) -> None:
    """Where both are likelier good than not: to agree with a poor model is no merit."""
    same, apart = (weighed(predicted, order, said) for said in ([0, 0], [0, 1]))
    pair = list(order[:2])
    assert (same[pair] > predicted[0, pair] - 1e-9).all()
    assert apart[pair].sum() < predicted[0, pair].sum() + 1e-9
    assert (same[pair] > apart[pair]).all()


def test_the_first_and_third_that_agree_outweigh_a_second_that_differs() -> None:
    """Two by two, the first is discredited by the second before the third can speak for it."""
    found = weighed(np.array([[0.5, 0.6, 0.7, 0.8]]), range(A), [0, 1, 0])
    assert found[0] > 0.6
    assert found[2] == pytest.approx(found[0], abs=0.05)
    assert found[1] < 0.15


def test_many_different_answers_leave_little_of_any() -> None:
    found = weighed(np.array([[0.6, 0.6, 0.6, 0.6]]), range(A), [0, 1, 2])
    assert (found[:3] < 0.45).all()
    assert found[3] < 0.5  # a question that three fail is a hard one


TEXTS = (
    "The answer is 16.",
    "The answer is 12.",
    "It is\n#### 16",
    "The answer is (B).",
    '{"answer": 12}',
    "Answer: B",
    "The answer is (C).",
    "I cannot help with that.",
    "",
    "All in all, it depends on what is meant, and nobody has said that here in one word.",
)


SURE = st.sampled_from([None, Confidence(-0.1, -0.2, 4.0), Confidence(-0.1, -0.2, 0.1)])


@given(
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4), chances, orders, SURE, st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_a_chain_that_is_replayed_finds_what_the_live_gate_finds(
    texts: list[str], predicted: Any, order: Any, sure: Any, comparable: bool
) -> None:
    gate, tier, request = Gate(), np.arange(A), Request("r", (), {}, 0.0)
    said = {arm: Answer(text, confidence=sure) for arm, text in zip(order, texts, strict=False)}
    live, heard = predicted[0], {}
    for at, (arm, answer) in enumerate(said.items()):
        found = gate.look(request, None, {arm: (answer,)}, arm, live, tier).quality
        evidence = evidence_of(float(live[arm]), float(found[arm]))
        heard[arm] = Heard(says(answer, {}, comparable=comparable), evidence)
        live, alike = gate.weigh(predicted[0], heard, tier)
        mine = read(answer).final
        if mine is not None and comparable:
            finals = {other: read(said[other]).final for other in list(said)[:at]}
            assert alike == [o for o, f in finals.items() if f and f.folded == mine.folded]
    answers = answers_like({0: said}, [comparable], lambda _, answer: faults({}, answer))
    path = tuple(said)
    replayed = ByForm().after(predicted, predicted, answers, path)[0]
    np.testing.assert_allclose(replayed, live, atol=1e-6)
