"""Whatever is asked, no valid bill exceeds what was reserved: the committed benchmark, in small."""

from __future__ import annotations

import json
from typing import Any

import pytest
from estimate_soundness import real_tokenizers, run

from router import Router
from router.dispatch.bounds import UNBOUNDED, input_bound, text_bound
from router.errors import InvalidRequest
from router.predict import shape_of
from router.predict.normal_forms import growth
from tests.conftest import HELLO, MakeRouter
from tests.pipeline_kit import BUDGET
from tests.provider import USAGE, Provider, ok


@pytest.mark.parametrize("seed", [7_001, 7_002, 7_003])
def test_no_hostile_bill_exceeds_its_reservation(seed: int) -> None:
    found = run(1_000, seed, list(real_tokenizers().values()))
    assert found["overruns"] == 0
    assert found["tokens_above_bound"] == 0
    assert found["requests"] > 900
    assert found["bills"] > 3_500
    assert found["tight"] > 100  # the bound is no larger than it must be
    assert min(found[kind] for kind in ("long", "samples", "tokenized")) > 40


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("\U0001d160", 12),  # a note that every normal form takes apart: 4 bytes
        ("\ufdfa", 33),  # an Arabic phrase in one character: 3 bytes
        ("\u022d\u0323", 7),  # a mark that parts a letter from two others: 4 bytes
    ],
)
def test_text_that_normalisation_lengthens_is_bounded_by_its_length_then(
    text: str, normal: int
) -> None:
    assert len(text.encode()) + growth(text) >= normal
    shape = shape_of([{"role": "user", "content": text * 1_000}], {})
    assert shape.input_bytes >= 1_000 * normal


def test_a_tool_of_control_characters_is_bounded_by_its_escapes() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "\x01" * 1_000}}
    shape = shape_of(HELLO, {"tools": [tool]})
    assert shape.input_bytes >= len(json.dumps(tool))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "https://example.com/film"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/film.mp4?x=1"}},
        {"type": "image_url", "image_url": {"url": "data:video/mp4;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://a.b/c", "format": "video/mp4"}},
        {"type": "image_url", "image_url": "https://www.youtube.com/watch?v=1"},
        {"type": "hologram", "hologram": "?"},
    ],
)
def test_a_medium_without_a_bound_of_its_own_is_bounded_by_the_window_alone(part: Any) -> None:
    shape = shape_of([{"role": "user", "content": [part]}], {})
    assert text_bound(shape) is None
    assert input_bound(shape, 128_000) == 128_000


def test_an_image_in_a_tools_answer_counts_as_one() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    answer = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    assert shape_of([{"role": "user", "content": [answer]}], {}).images == 1


@pytest.mark.parametrize("usage", [USAGE, None])
def test_each_image_of_a_prompt_is_charged_where_images_have_a_price(
    make_router: MakeRouter, provider: Provider, usage: Any
) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages = [{"role": "user", "content": [image, image, {"type": "text", "text": "Compare."}]}]
    bills = []
    for price in ({"input": "1", "output": "2"}, {"input": "1", "output": "2", "image": "0.003"}):
        seeing = {"vision": True, "context_window": 200_000}
        model = {"model": "openai/m", "api_base": provider.url, "price": price}
        tiers = {"frontier": [{**model, "capabilities": seeing}]}
        router = make_router(tiers=tiers, budgets=[{"name": "all", "limit": "10"}])
        provider.default = ok(usage=usage)
        routing = Router.decision(router.completion(messages=messages))
        assert routing.cost is not None
        assert routing.cost <= (routing.decision.view.quote.upper or 0)
        bills.append(routing.cost)
    assert bills[1] - bills[0] == 2 * 3_000_000


@pytest.mark.parametrize("name", UNBOUNDED)
def test_an_argument_that_goes_round_the_bound_is_refused_under_a_budget(
    make_router: MakeRouter, provider: Provider, name: str
) -> None:
    with pytest.raises(InvalidRequest, match=name):
        make_router(budgets=BUDGET).completion(messages=HELLO, **{name: {"max_tokens": 9_999}})
    assert provider.wire == []


def test_images_as_an_answer_are_refused_under_a_budget(
    make_router: MakeRouter, provider: Provider
) -> None:
    with pytest.raises(InvalidRequest, match="modalities"):
        make_router(budgets=BUDGET).completion(messages=HELLO, modalities=["text", "image"])
    assert provider.wire == []


def test_a_prediction_is_reserved_on_top_of_the_cap(make_router: MakeRouter) -> None:
    router = make_router(budgets=BUDGET)
    plain = router.explain(HELLO, max_tokens=100).view.quote
    guessed = router.explain(
        HELLO, max_tokens=100, prediction={"type": "content", "content": "x" * 1_000}
    ).view.quote
    assert plain.upper is not None
    assert guessed.upper is not None
    assert guessed.upper - plain.upper > 1_000 * 1_250  # nano-USD a token of nano's answers
    assert guessed.output_cap == 100
