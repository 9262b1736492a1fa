from __future__ import annotations

import numpy as np
import pytest

from router import Router
from router.errors import PolicyError
from router.predict import Predictor
from tests.conftest import HELLO, ladder, plain_model, steady_predictor

NIGHT = 1_799_974_800.0  # 2027-01-15 01:00 UTC
NOON = NIGHT + 11 * 3600
PROMISE = {"objective": {"keep_quality": 0.95, "confidence": 0.95}}


def predictor(rows: int, *, alike: float, seed: int = 0) -> Predictor:
    """A steady predictor with calibration queries on which all tiers answer alike so often."""
    rng = np.random.default_rng(seed)
    good = (rng.random((rows, 1)) < 0.9) * 1.0
    other = (rng.random((rows, 4)) < 0.5) * 1.0
    score = np.where(rng.random((rows, 4)) < alike, good, other)
    score[:, 3:] = good
    quality = np.tile([0.6, 0.7, 0.8, 0.9], (rows, 1))
    steady = steady_predictor().model
    return Predictor(
        plain_model(
            intercept=steady.arrays["intercept"],
            calibration_quality=quality,
            calibration_tokens=np.full((rows, 4), 100.0),
            calibration_input_tokens=np.full(rows, 50.0),
            calibration_score=score,
        )
    )


def router(predictor: Predictor, **changes) -> Router:
    policy = ladder("http://127.0.0.1:1/v1", **{**PROMISE, **changes})
    return Router(policy, store="sqlite://", predictor=predictor)


def test_a_promise_that_the_data_support_moves_traffic_off_the_baseline():
    found = router(predictor(2000, alike=0.99))
    assert found.certificate is not None
    assert found.certificate.share_moved == 1.0
    decision = found.explain(HELLO)
    assert decision.arm.tier == "nano"
    assert "keeping 0.95 of the baseline's quality with confidence 0.95" in decision.reason


def test_a_promise_that_the_data_contradict_stays_at_the_baseline():
    found = router(predictor(2000, alike=0.5))
    assert found.certificate is not None
    assert found.certificate.share_moved == 0
    assert found.explain(HELLO).arm.tier == "frontier"


def test_without_calibration_queries_the_router_says_so_and_stays_at_the_baseline():
    found = router(steady_predictor())
    assert found.certificate is not None
    assert found.certificate.queries == 0
    assert "0 calibration queries" in found.certificate.reason
    decision = found.explain(HELLO)
    assert decision.arm.tier == "frontier"
    assert "0 calibration queries" in decision.reason


def test_few_queries_certify_nothing_though_they_all_agree():
    assert router(predictor(20, alike=1.0)).explain(HELLO).arm.tier == "frontier"


def test_queries_without_every_score_do_not_count():
    whole = predictor(2000, alike=0.99)
    score = whole.model.arrays["calibration_score"].copy()
    score[:500, 1] = -1
    arrays = {**whole.model.arrays, "calibration_score": score}
    found = router(Predictor(plain_model(**arrays)))
    assert found.certificate is not None
    assert found.certificate.queries == 1500


def test_a_policy_without_confidence_has_no_certificate():
    found = router(steady_predictor(), objective={"keep_quality": 0.95})
    assert found.certificate is None


def test_a_promise_needs_the_price_of_every_tier():
    policy = ladder("http://127.0.0.1:1/v1", **PROMISE)
    del policy["tiers"]["mid"][0]["price"]
    with pytest.raises(PolicyError, match="no usable price for openai/t-mid") as caught:
        Router(policy, store="sqlite://", predictor=predictor(100, alike=0.9))
    assert caught.value.key == "tiers.mid"


@pytest.mark.parametrize("more", [{"efforts": ["none", "high"]}, {"vote": {"samples": 3}}])
def test_a_promise_is_of_what_was_recorded_so_other_efforts_and_votes_are_refused(more):
    policy = ladder("http://127.0.0.1:1/v1", **PROMISE)
    policy["tiers"]["mini"][0] |= more
    with pytest.raises(PolicyError, match="calibration queries tell of each tier's usual") as found:
        Router(policy, store="sqlite://", predictor=predictor(2000, alike=0.8))
    assert found.value.key == f"tiers.mini.0.{next(iter(more))}"
    policy["objective"] = {"keep_quality": 0.95}  # compares predictions, and promises nothing
    Router(policy, store="sqlite://", predictor=predictor(2000, alike=0.8)).close()


def test_a_whole_promise_is_refused_since_nothing_surely_equals_the_baseline():
    with pytest.raises(PolicyError, match="keep_quality"):
        router(steady_predictor(), objective={"keep_quality": 1, "confidence": 0.95})


def test_a_promise_is_certified_anew_where_prices_change():
    policy = ladder("http://127.0.0.1:1/v1", **PROMISE)
    # At night the dearest tier costs next to nothing: there, nothing is gained by moving.
    policy["tiers"]["frontier"][0]["price"]["off_peak"] = [
        {"from": "00:00", "to": "06:00", "multiplier": "0.001"}
    ]
    clock = [NOON]
    found = Router(
        policy,
        store="sqlite://",
        predictor=predictor(2000, alike=0.99),
        clock=lambda: clock[0],
    )
    at_noon = found.certificate
    clock[0] = NIGHT
    at_night = found.certificate
    assert at_noon is not None
    assert at_night is not None
    assert at_noon is not at_night
    assert at_night.share_moved < at_noon.share_moved
    clock[0] = NOON + 86400
    assert found.certificate is at_noon  # the same prices again
