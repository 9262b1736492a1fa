import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.predict import extract
from router.predict.features import DENSE_NAMES, extract_many
from router.predict.hashing import BUCKETS
from router.types import Request

_PROMPTS = (
    "Prove that there are infinitely many primes.",
    "请证明根号二是无理数。",
    "اكتب رسالة قصيرة",
    "A. one\nB. two\n- item ```x = 1```",
)
_SCRIPT = f"""
import hashlib
from router.predict import extract
from router.types import Request
digest = hashlib.sha256()
for text in {_PROMPTS!r}:
    f = extract(Request("r", [{{"role": "user", "content": text}}], {{}}, now=0.0))
    digest.update(f.dense.tobytes() + f.buckets.tobytes() + f.weights.tobytes())
print(digest.hexdigest())
"""


def features(text, *, system=None, **params):
    messages = [{"role": "system", "content": system}] if system else []
    return extract(Request("r", [*messages, {"role": "user", "content": text}], params, now=0.0))


def dense(text, name):
    return features(text).dense[DENSE_NAMES.index(name)]


def test_features_are_the_same_in_every_process():
    digests = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "random")
    }
    here = hashlib.sha256()
    for text in _PROMPTS:
        f = features(text)
        here.update(f.dense.tobytes() + f.buckets.tobytes() + f.weights.tobytes())
    assert digests == {here.hexdigest()}


@given(st.text(st.characters(), max_size=5000))
@settings(max_examples=150, deadline=None)
def test_features_of_any_text_are_finite_and_sorted(text):
    f = features(text)
    assert f.dense.shape == (len(DENSE_NAMES),)
    assert np.isfinite(f.dense).all()
    assert (np.diff(f.buckets) > 0).all()
    assert ((f.buckets >= 0) & (f.buckets < BUCKETS)).all()
    assert (f.weights > 0).all()


# Pieces that the reader treats apart: courtesies, cues, marks, lists, unspaced scripts.
pieces = st.lists(
    st.sampled_from(
        [
            *(
                "hello, ",
                "please ",
                " thanks a lot!",
                "prove ",
                "differentiation ",
                "x = 3, ",
                "? ",
            ),
            *(
                "\n- a ",
                "\nB. b ",
                "\nC. b 3\n",
                "```py\n",
                "请证明定理",
                "こんにちは你好",
                "ไทย",
                "नमस्ते ",
                "“a” — ",
            ),
            *("É ", "İ", "ﬁ①", "🙂", "\ud800", "\x00"),
        ]
    ),
    max_size=12,
).map("".join)


@given(st.lists(pieces | st.text(st.characters(), max_size=300), max_size=70))
@example([text * 900 for text in ("words ", "请证", "É?")] * 24)  # several chunks, of cut views
@settings(max_examples=60, deadline=None)
def test_a_batch_has_the_same_features_as_one_by_one(texts):
    requests = [Request("r", [{"role": "user", "content": text}], {}, now=0.0) for text in texts]
    batch = extract_many(requests)
    assert len(batch) == len(texts)
    for row, request in enumerate(requests):
        one, other = extract(request), batch[row]
        assert (one.dense == other.dense).all()
        assert one.buckets.tolist() == other.buckets.tolist()
        assert one.weights.tolist() == other.weights.tolist()
    part = batch.part(len(texts) // 3, len(texts))
    for row in range(len(part)):
        other = batch[len(texts) // 3 + row]
        assert (part.dense[row] == other.dense).all()
        assert part[row].buckets.tolist() == other.buckets.tolist()
    order = np.arange(len(texts))[::-1]
    turned = batch[order]
    for row, other in enumerate(order):
        assert turned[row].buckets.tolist() == batch[int(other)].buckets.tolist()


def test_a_known_beginning_is_shared_by_inflections_and_typing_errors():
    shared = set(features("differentiation").buckets) & set(features("differentiatoin").buckets)
    assert len(shared) == 1


def test_languages_without_spaces_are_read_by_character():
    shared = set(features("请证明根号二").buckets) & set(features("我想证明它").buckets)
    assert len(shared) >= 3  # 证, 明 and the pair


def test_case_and_spacing_do_not_change_the_hashed_features():
    one, other = features("Explain  the\nRESULT"), features("explain the result")
    assert (one.buckets == other.buckets).all()
    assert (one.weights == other.weights).all()


@pytest.mark.parametrize(
    "text",
    [
        "Hello, please prove that pi is irrational, thanks!",
        "Could you prove that pi is irrational; THANK YOU so much!?",
        "help me with this: prove that pi is irrational, 谢谢",
        "I'd like you to prove that pi is irrational please",
    ],
)
def test_courtesies_around_a_request_do_not_count(text):
    one, other = features(text), features("prove that pi is irrational")
    assert one.buckets.tolist() == other.buckets.tolist()
    same = [name != "log_conversation_characters" for name in DENSE_NAMES]
    assert one.dense[same].tolist() == other.dense[same].tolist()


def test_a_message_of_courtesies_alone_keeps_them():
    assert dense("Hello there, thanks a lot!", "cue_chat") > 0


def test_the_system_prompt_is_not_read():
    one, other = features("hello", system="You are a pirate. " * 500), features("hello")
    assert (one.dense == other.dense).all()
    assert (one.buckets == other.buckets).all()


def test_a_word_weighs_the_same_however_often_it_occurs():
    once, thrice = features("sort the list"), features("sort the list sort the list sort the list")
    assert set(once.buckets) < set(thrice.buckets)  # one more pair: "list sort"
    assert set(thrice.weights) == set(once.weights)


def test_earlier_turns_count_only_by_number_and_length():
    def with_history(earlier):
        turns = [("user", earlier), ("assistant", "y" * 9), ("user", "hello")]
        messages = [{"role": role, "content": text} for role, text in turns]
        return extract(Request("r", messages, {}, now=0.0))

    assert (with_history("prove it!").dense == with_history("say hello").dense).all()
    assert with_history("a" * 9).dense[DENSE_NAMES.index("log_turns")] > 1


def test_a_long_turn_is_seen_by_its_head_and_tail():
    middle = "zebra " * 2000
    assert (
        features("head " * 300 + middle + "tail " * 300).buckets
        == features("head " * 300 + middle * 2 + "tail " * 300).buckets
    ).all()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Prove this theorem.", "cue_proof"),
        ("请证明这个定理", "cue_proof"),
        ("Докажите теорему", "cue_proof"),
        ("hola, gracias", "cue_chat"),
        ("こんにちは", "share_kana"),
        ("नमस्ते", "share_indic"),
        ("مرحبا", "share_semitic"),
        ("A. yes\nB. no", "answer_options"),
        ("A. the cat\nB. the dog", "option_overlap"),
        ("A. 3 m\nB. 4 m", "option_digits"),
        ("- yes\n- no", "list_items"),
        ("x = 3 + 4", "share_mathematical"),
        (r"$\frac{1}{2}$", "share_latex"),
        ("```py\n```", "code_fences"),
    ],
)
def test_a_dense_feature_sees_what_its_name_says(text, name):
    assert dense(text, name) > 0
    assert dense("plain words here", name) == 0


@pytest.mark.parametrize(
    ("options", "overlap", "digits"),
    [
        ("A. red\nB. blue", 0, 0),
        ("A. red\nB. Red\nC. blue", 1, 0),  # the two most alike
        ("A. (2 x 3)\nB. (2 x 4)\nC. none", 1 / 2, 2 / 3),
        ("A. 12\nAnswer:", 0, 0),  # one is none
        ("A. red\nB. blue\nAnswer in 3 words:", 0, 0),  # what follows is no option
    ],
)
def test_options_are_read_by_what_they_share_and_by_their_digits(options, overlap, digits):
    asked = "Which?\n" + options
    assert dense(asked, "option_overlap") == pytest.approx(overlap)
    assert dense(asked, "option_digits") == pytest.approx(digits)


def test_only_the_first_ten_options_are_held_against_each_other():
    different = "".join(f"\nA. {word}" for word in "bcdefghijk")
    assert dense("Which?" + different + "\nA. same\nA. same", "option_overlap") == 0
