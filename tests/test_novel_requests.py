"""What a router does about what its predictor never learnt: a tier, or a kind of request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router import Router
from router.errors import ModelFileError
from router.predict import Predictor
from router.predict.scorer import HEADS
from router.types import TIERS
from tests.conftest import ladder, plain_model

USUAL, STRANGE = "hello hello", "ꙮ ᚠᚢᚦ ꙮꙮ ᛗᚨᚾ"


def predictor_of(tiers: tuple[str, ...] = ("nano", "mini", "mid", "frontier")) -> Predictor:
    """It knows the n-grams of USUAL alone; the nano tier seems as good as any, but is unsure."""
    from tests.training_kit import batch_of

    known = batch_of(USUAL).buckets
    scores = {"frontier_quality": 0.9, **{f"{t}_log_tokens": 4.6 for t in tiers}}
    model = plain_model(
        vocabulary=known,
        idf=np.ones(known.size),
        text_weights=np.zeros((known.size, len(HEADS))),
        embedding=np.ones((known.size, 1)),
        intercept=np.array([scores.get(head, 0.0) for head in HEADS]),
        quality_noise=np.full(4, 0.4),
        novelty=np.array([0.3, 0.5]),
    )
    return Predictor(replace(model, facts={**model.facts, "tiers": list(tiers)}))


def router_of(tmp_path: Any, **changes: Any) -> Router:
    policy = ladder("http://127.0.0.1:9", **changes)
    return Router(policy, store=f"sqlite:///{tmp_path / 'r.db'}", predictor=predictor_of())


def explained(router: Router, text: str, **arguments: Any) -> Any:
    return router.explain([{"role": "user", "content": text}], **arguments)


def test_a_policy_with_a_tier_that_was_not_trained_is_refused(tmp_path: Any) -> None:
    policy, store = ladder("http://127.0.0.1:9"), f"sqlite:///{tmp_path / 'r.db'}"
    known = predictor_of(("nano", "mini", "frontier"))
    with pytest.raises(ModelFileError, match="knows nothing of mid:") as caught:
        Router(policy, store=store, predictor=known)
    assert "nano, mini, frontier" in caught.value.why
    del policy["tiers"]["mid"]
    with Router(policy, store=store, predictor=known) as router:
        assert explained(router, USUAL).arm.tier == "nano"


def test_a_request_unlike_anything_in_training_goes_to_the_baseline(tmp_path: Any) -> None:
    with router_of(tmp_path) as router:
        usual, strange = (explained(router, text) for text in (USUAL, STRANGE))
    assert usual.arm.tier == "nano"
    assert "unlike anything" not in usual.reason
    assert strange.arm.tier == "frontier"
    assert "unlike anything in training" in strange.reason


def test_a_budget_may_still_downgrade_a_request_unlike_anything_in_training(
    tmp_path: Any,
) -> None:
    budget = {"name": "tight", "limit": "0.008", "window": "total", "on_exceed": "downgrade"}
    with router_of(tmp_path, budgets=[budget]) as router:
        found = explained(router, STRANGE)
    assert found.arm.tier != "frontier"
    assert "unlike anything in training" in found.reason


def test_evaluate_decides_requests_unlike_anything_in_training_as_live_ones_are(
    tmp_path: Any,
) -> None:
    from router.replay.evaluation.evaluate import evaluate
    from tests.replay_kit import MODELS, outcomes_of

    rows = [
        {"query_id": text, "prompt": text, "model": model, "cost_usd": cost}
        for text in (USUAL, STRANGE)
        for model, cost in zip(MODELS.values(), (1e-6, 2e-6, 3e-6, 4e-6), strict=True)
    ]
    found = evaluate(outcomes_of(tmp_path, rows), model=predictor_of(), sweep=5, compare=())
    with router_of(tmp_path, objective={"cost_weight": 1e-3}) as router:
        live = [explained(router, text).arm.tier for text in (USUAL, STRANGE)]
    assert found.prediction.novel.tolist() == [False, True]
    assert [TIERS[at] for at in found.chosen[1]] == live == ["nano", "frontier"]


def test_cross_validation_decides_requests_unlike_anything_in_training_as_live_ones_are(
    tmp_path: Any,
) -> None:
    from router.replay.evaluation.evaluate import evaluate
    from tests.replay_kit import MODELS, outcomes_of

    texts = [f"{text} {'so ' * at}" for text in (USUAL, STRANGE) for at in range(15)]
    rows = [
        {"query_id": text, "prompt": text, "model": model, "cost_usd": cost, "score": 1.0}
        for text in texts
        for model, cost in zip(MODELS.values(), (1e-6, 2e-6, 3e-6, 4e-6), strict=True)
    ]
    known = predictor_of()
    found = evaluate(
        outcomes_of(tmp_path, rows), folds=3, sweep=5, compare=(),
        learner=lambda examples, *, seed: known,
    )  # fmt: skip
    novel = found.prediction.novel
    assert 0 < novel.sum() < len(texts)
    assert {TIERS[at] for at in found.chosen[0, ~novel]} == {"nano"}
    assert {TIERS[at] for at in found.chosen[0, novel]} == {"frontier"}
