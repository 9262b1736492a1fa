"""Which n-grams a model knows, and how much each weighs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.predict.features import FeatureBatch, extract_many
from router.predict.hashing import BUCKETS
from router.predict.vocabulary import Vocabulary, sums_of
from router.types import Request

TEXTS = [
    "prove the theorem about primes",
    "prove the lemma about groups",
    "paint a fence, then paint the fence again",
    "translate the letter",
    "",
    "a wholly unrelated sentence",
]


def batch_of(*texts: str) -> FeatureBatch:
    return extract_many(
        [Request("r", [{"role": "user", "content": t}], {}, now=0.0) for t in texts]
    )


def counted(*documents: dict[int, int]) -> FeatureBatch:
    """Bags of buckets that occur so many times."""
    bags = [sorted(document.items()) for document in documents]
    return FeatureBatch(
        np.zeros((len(bags), 1), np.float32),
        np.cumsum([0, *map(len, bags)]),
        np.array([bucket for bag in bags for bucket, _ in bag], np.int32),
        np.array([1 + np.log(times) for bag in bags for _, times in bag], np.float32),
    )


def test_a_term_weighs_its_count_times_the_inverse_document_frequency() -> None:
    vocabulary = Vocabulary.fit(counted({3: 1, 5: 1}, {3: 4}, {3: 1, 5: 2}, {9: 1}))
    assert vocabulary.buckets.tolist() == [3, 5]
    assert vocabulary.idf == pytest.approx([np.log(5 / 4) + 1, np.log(5 / 3) + 1])
    bags = vocabulary.bags(counted({3: 4, 5: 1}))
    raw = np.array([(1 + np.log(4)) * (np.log(5 / 4) + 1), np.log(5 / 3) + 1])
    assert bags.values == pytest.approx(raw / np.sqrt((raw**2).sum()))
    assert bags.columns.tolist() == [0, 1]


def test_a_term_of_one_document_is_left_out_unless_there_is_only_one() -> None:
    assert Vocabulary.fit(counted({1: 9, 2: 1}, {2: 1, 7: 3})).buckets.tolist() == [2]
    assert Vocabulary.fit(counted({1: 9, 2: 1})).buckets.tolist() == [1, 2]
    assert len(Vocabulary.fit(counted())) == 0


def test_above_the_cap_the_most_frequent_terms_stay_and_rise() -> None:
    documents = [{1: 1, 4: 1, 8: 1}, {1: 1, 4: 1, 8: 1}, {4: 1, 8: 1}, {8: 1}]
    assert Vocabulary.fit(counted(*documents), most=2).buckets.tolist() == [4, 8]
    assert Vocabulary.fit(counted(*documents), most=3).buckets.tolist() == [1, 4, 8]


def test_terms_that_were_not_learnt_count_for_nothing_but_lower_the_known_share() -> None:
    vocabulary = Vocabulary.fit(counted({3: 1, 5: 1}, {3: 1, 5: 1}))
    plain, mixed, strange, empty = (
        vocabulary.bags(counted(bag)) for bag in ({3: 1}, {3: 1, 4: 7, 900: 2}, {4: 1}, {})
    )
    assert mixed.columns.tolist() == plain.columns.tolist() == [0]
    assert mixed.values.tolist() == plain.values.tolist() == [1.0]
    assert [bags.known[0] for bags in (plain, mixed, strange, empty)] == [1, 1 / 3, 0, 0]
    assert strange.columns.size == empty.columns.size == 0


def test_a_bag_has_unit_length_unless_it_is_empty() -> None:
    batch = batch_of(*TEXTS)
    bags = Vocabulary.fit(batch).bags(batch)
    lengths = [
        float(np.square(bags.values[start:end]).sum())
        for start, end in zip(bags.starts, bags.starts[1:], strict=False)
    ]
    filled = np.diff(bags.starts) > 0
    assert lengths == pytest.approx(filled.astype(float), abs=1e-6)
    assert filled.tolist() == [True, True, True, True, False, True]
    assert bags.values.dtype == np.float32


words = st.lists(st.sampled_from([*TEXTS[0].split(), "paint", "fence", "ꙮ", "你", "1"]))


@given(st.lists(words, max_size=5))
@settings(max_examples=50, deadline=None)
def test_bags_are_the_same_one_by_one(texts: list[list[str]]) -> None:
    vocabulary = Vocabulary.fit(batch_of(*TEXTS))
    batch = batch_of(*map(" ".join, texts))
    bags = vocabulary.bags(batch)
    assert bags.starts.size == len(texts) + 1
    for row in range(len(texts)):
        columns, values, known = vocabulary.bag(batch[row])
        where = slice(bags.starts[row], bags.starts[row + 1])
        assert columns.tolist() == bags.columns[where].tolist()
        assert values == pytest.approx(bags.values[where], rel=1e-6)
        assert known == bags.known[row]


def test_buckets_are_rising_and_within_the_hash() -> None:
    buckets = Vocabulary.fit(batch_of(*TEXTS)).buckets
    assert (np.diff(buckets) > 0).all()
    assert buckets[0] >= 0
    assert buckets[-1] < BUCKETS


def test_segments_are_summed_and_an_empty_one_is_zero() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    sums = sums_of(rows, np.array([0, 0, 1, 1, 4, 4]))
    assert sums.tolist() == [[0, 0], [0, 1], [0, 0], [12, 15], [0, 0]]
    assert sums_of(rows[:0], np.array([0])).shape == (0, 2)
