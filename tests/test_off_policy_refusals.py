"""What a log cannot support is refused with the reason, and what is odd about it is said."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from router.decide import Bar
from router.errors import ReplayError
from router.replay.off_policy.estimate import estimate
from router.replay.off_policy.measure import AS_LOGGED, Question, measure, merged
from router.replay.off_policy.paired import Moves, pair
from router.replay.off_policy.replay import Replay, conclude, question_of
from router.replay.off_policy.support import spread_of
from router.replay.off_policy.target import Named
from tests.off_policy_kit import estimated, log


def ask(*batches, arm=2, **options) -> Replay:
    """Ask what always taking one arm would have come to."""
    question = Question((Named("it", lambda batch: np.full(len(batch), arm)),))
    return conclude(measure(batches, question), "mid", **options)


def test_no_overlap_is_refused():
    found = ask(log(2000, chances=(0.7, 0.3, 0.0))).policies[0]
    assert found.figures == {}
    assert "100.0% of its decisions" in found.refused[0]
    assert "no chance of being taken" in found.refused[0]


def test_a_log_of_one_arm_cannot_speak_of_others_but_of_itself():
    one = log(2000, chances=(1.0, 0.0, 0.0))
    assert ask(one, arm=1).policies[0].refused
    assert ask(one, arm=0).policies[0].figures["cost"]


def test_too_few_agreeing_rows_are_refused_with_their_number():
    found = ask(log(1000, chances=(0.6, 0.37, 0.03))).policies[0]
    assert "fewer than 200" in found.refused[0]


def test_chances_that_do_not_fit_the_choices_are_refused():
    batch = log(4000)
    shuffled = np.random.default_rng(0).permutation(4000)
    uneven = log(4000, chances=(0.8, 0.1, 0.1))
    lied = replace(uneven, propensity=batch.propensity)
    with pytest.raises(ReplayError, match="not taken as often as their logged chances say"):
        ask(lied)
    assert ask(replace(batch, propensity=batch.propensity[shuffled]))  # all alike: no lie


@pytest.mark.parametrize(("n", "chance"), [(40, 1e-3), (300, 1e-4), (4000, 1e-5)])
def test_an_arm_of_very_small_chances_may_be_taken_once_or_twice_but_not_often(n, chance):
    batch = log(n, chances=(1 - chance, chance, 0.0))

    def facts(takes):
        taken = replace(batch, chosen=(np.arange(n) < takes).astype(np.int64))
        parts = [taken.take(np.arange(first, n, 2)) for first in (0, 1)]
        return merged([measure([part], Question(())) for part in parts]).facts

    assert facts(0).implausible() == []
    assert facts(1).implausible() == []  # as in one honest log of 25 to 33
    assert facts(2).implausible() == []
    assert len(facts(12).implausible()) == 2


def test_an_arm_that_was_taken_without_a_chance_is_refused():
    batch = log(500)
    chance = batch.propensity.copy()
    chance[7] = 0.0
    with pytest.raises(ReplayError, match="not taken as often"):
        ask(replace(batch, propensity=chance))


def test_rows_without_propensities_are_refused_unless_the_model_may_stand_alone():
    batch = log(2000, propensity=np.full((2000, 3), np.nan))
    assert "2,000 rows have no propensities" in ask(batch).policies[0].refused[0]
    alone = ask(batch, model_only=True).policies[0]
    assert alone.refused == ()
    assert "direct model alone" in alone.warnings[0]
    assert set(alone.figures["cost"]) == {"direct", "doubly_robust"}
    assert alone.figures["cost"]["direct"] == alone.figures["cost"]["doubly_robust"]


def test_a_policy_that_refuses_every_request_has_no_figure_by_the_model_alone_either():
    found = ask(log(2000), arm=-1, model_only=True).policies[0]
    assert found.figures == {}
    assert found.refused == ("it would have refused every request",)


def test_a_few_decisions_without_support_widen_the_intervals():
    batch = log(4000)
    chance = batch.propensity.copy()
    few = np.flatnonzero(batch.chosen != 2)[:20]
    chance[few] = chance[few] * [1, 1, 0] / chance[few, :2].sum(axis=1, keepdims=True)
    full, lacking = ask(batch).policies[0], ask(replace(batch, propensity=chance)).policies[0]
    for name in ("quality", "cost"):
        widths = [f.figures[name]["doubly_robust"] for f in (full, lacking)]
        assert widths[1]["high"] - widths[1]["low"] > widths[0]["high"] - widths[0]["low"]
    assert "widened" in lacking.warnings[0]


def few_dear_calls(seed, chance=0.02, n=10_000):
    """A log that calls the dearest arm with a small chance, and a policy that calls it for one
    request in 500: where it answers these, its bills are twice as high as elsewhere."""
    batch = log(n, seed, chances=(0.9, 0.1 - chance, chance))
    special = np.arange(n) % 500 == 0
    cost = np.where(special & (batch.chosen == 2), 2 * batch.cost, batch.cost)
    arm = np.where(special, 2, 0)
    paid = 0.8 * np.exp(0.2**2 / 2) * batch.expected[np.arange(n), arm]
    return replace(batch, cost=cost), arm, np.where(special, 2 * paid, paid).mean()


def test_costs_of_calls_that_the_log_hardly_shows_have_wider_intervals():
    held, bare = 0, 0
    for seed in range(60):
        batch, arm, truth = few_dear_calls(seed)
        found = estimated(batch, arm)
        assert found.thin == ("mid:m-mid",)
        assert found.unsupported_cost == 0
        cost = found.by_outcome["cost"]["doubly_robust"]
        wide, narrow = cost.estimate(spread_of("cost", found)), cost.estimate()
        held += wide.low <= truth <= wide.high
        bare += narrow.low <= truth <= narrow.high
    assert held >= 56
    assert bare <= 45  # in most logs none of the dear bills is seen


def test_that_an_interval_is_wider_for_few_calls_is_said_with_their_arm():
    batch, arm, _ = few_dear_calls(0)
    question = Question((Named("it", lambda _: arm),))
    found = conclude(measure([batch], question), "mid").policies[0]
    [said] = [each for each in found.warnings if "calls of" in each]
    assert "mid:m-mid, of which the log shows fewer than 10" in said
    assert found.support["thin_cost"] == pytest.approx(0.17, abs=0.05)


def test_a_difference_by_few_dear_calls_is_wider_and_one_that_both_make_is_not():
    batch, arm, _ = few_dear_calls(0)
    policies = {"cheap": np.zeros(len(batch), int), "dear": arm, "alike": arm}
    question = Question(tuple(Named(name, partial(_given, arm=a)) for name, a in policies.items()))

    def between(old, new):
        moves = Moves(old, new)
        sums = measure([batch], question, moves.watch)
        return pair(sums, old, new, moves), {
            name: estimate(sums.logged, sums.policies[name]) for name in policies
        }

    moved, found = between("cheap", "dear")
    assert any(said.startswith("dear: ") and "calls of mid" in said for said in moved.warnings)
    cost = {name: each.by_outcome["cost"]["doubly_robust"] for name, each in found.items()}
    bare = cost["dear"].minus(cost["cheap"]).estimate()
    few = found["dear"].thin_cost * cost["dear"].values[0]
    assert moved.cost["high"] == pytest.approx((bare.high + few) / 1e9)
    same, _ = between("dear", "alike")
    assert (same.cost["low"], same.cost["high"]) == (0.0, 0.0)


def test_savings_that_hang_on_few_dear_calls_have_the_wider_interval_too():
    batch, arm, _ = few_dear_calls(0, n=20_000)
    sums = measure([batch], question_of([Named("it", partial(_given, arm=arm))], ["mid"], None))
    saved = conclude(sums, "mid").policies[0].saved_usd
    found = {name: estimate(sums.logged, each) for name, each in sums.policies.items()}
    cost = {name: each.by_outcome["cost"]["doubly_robust"] for name, each in found.items()}
    bare = cost["always mid"].minus(cost["it"]).estimate()
    few = found["it"].thin_cost * cost["it"].values[0]
    assert few > 0
    assert found["always mid"].thin == ()
    assert saved["high"] == pytest.approx((bare.high + few) * len(batch) / 1e9)


def _given(batch, *, arm):
    return arm


def test_many_calls_or_calls_that_are_sure_are_not_too_few():
    batch, arm, _ = few_dear_calls(0, chance=0.05, n=200_000)
    assert estimated(batch, arm).thin == ()
    few = log(3000, 1, chances=(0.999, 0.0005, 0.0005))
    own = measure([few], Question(()))
    assert estimate(own.logged, own.policies[AS_LOGGED]).thin == ()


def test_shuffled_labels_are_noticed():
    batch = log(3000)
    assert not any("labels do not follow" in each for each in ask(batch).warnings)
    label = np.random.default_rng(1).permutation(batch.label)
    assert any("labels do not follow" in each for each in ask(replace(batch, label=label)).warnings)


def test_quality_is_not_estimated_without_labels_and_cost_still_is():
    found = ask(log(2000, label=np.full(2000, np.nan))).policies[0]
    assert "quality" not in found.figures
    assert found.figures["cost"]
    assert any("0 labels" in each for each in found.warnings)


def test_quality_is_not_estimated_for_an_arm_without_a_label():
    batch = log(2000)
    label = np.where(batch.chosen == 2, np.nan, batch.label)
    found = ask(replace(batch, label=label)).policies[0]
    assert "quality" not in found.figures
    assert any("mid:m-mid" in each for each in found.warnings)


def test_rows_that_stand_twice_count_once_and_are_said():
    batch = log(2000)
    twice = batch.take(np.concatenate([np.arange(2000), np.arange(500)]))
    assert any("500 rows stand twice" in each for each in ask(twice).warnings)
    assert ask(twice).policies[0].figures == ask(batch).policies[0].figures


def test_rows_that_stand_in_two_parts_are_refused():
    question = Question((Named("it", lambda batch: batch.chosen),))
    part = measure([log(300)], question)
    with pytest.raises(ReplayError, match="300 rows stand in more than one file"):
        conclude(merged([part, measure([log(300)], question)]), "mid")


def test_price_changes_and_drifting_bills_are_said():
    batch = log(6000)
    assert ask(batch).warnings == ()
    late = np.arange(6000) >= 3000
    books = replace(batch, price_book=(late.astype(np.int64), ["may", "june"]))
    assert any("2 price books" in each for each in ask(books).warnings)
    drifting = replace(batch, cost=np.where(late, 1.5 * batch.cost, batch.cost))
    assert any("drifted" in each for each in ask(drifting).warnings)


def test_unknown_costs_are_counted_and_never_zero():
    batch = log(3000)
    some = np.random.default_rng(0).random(3000) < 0.3
    found = ask(replace(batch, cost=np.where(some, np.nan, batch.cost)))
    assert found.log["unknown_costs"] == int(some.sum())
    full = ask(batch).policies[0].figures["cost"]["doubly_robust"]["value"]
    part = found.policies[0].figures["cost"]["doubly_robust"]["value"]
    assert part == pytest.approx(full, rel=0.1)


def test_what_no_request_has_is_not_estimated_and_never_zero():
    nothing = np.full(2000, np.nan)
    found = ask(log(2000, cost=nothing, latency=nothing))
    assert set(found.policies[0].figures) == {"quality"}
    assert any("cost is not estimated" in each for each in found.policies[0].warnings)
    assert found.log["cost_per_request_usd"] is None
    assert found.log["latency_seconds"] is None
    assert found.baseline["honest_usd"] is None
    assert found.baseline["spent_usd"] is None
    assert found.baseline["predicted_usd"] == 0  # of no request: nothing known was spent


def test_why_the_quality_of_the_log_itself_is_not_told_is_said():
    batch = log(2000)
    label = np.where(batch.chosen == 0, np.nan, batch.label)
    found = ask(replace(batch, label=label))
    assert found.log["quality"] is None
    assert "as logged: quality is not estimated: no answer of nano:m-nano has a label" in (
        found.warnings
    )
    assert not any("as logged" in each for each in ask(batch).warnings)


def test_a_request_without_a_known_baseline_is_no_loss_by_prediction():
    batch = log(2000)
    known = np.arange(2000) < 500
    asked = question_of([], ["mid"], None)
    some, none = (
        conclude(measure([replace(batch, baseline=np.where(which, batch.baseline, np.nan))], asked),
                 "mid").baseline
        for which in (known, np.zeros(2000, bool))
    )  # fmt: skip
    saved = (batch.baseline - batch.cost)[known].sum() / 1e9
    assert some["predicted_saved_usd"] == pytest.approx(saved)
    assert none["predicted_saved_usd"] is None


def test_an_empty_log_is_refused():
    with pytest.raises(ReplayError, match="no decision"):
        ask()


def test_requests_that_a_policy_refuses_are_counted_and_in_no_figure():
    batch = log(2000)
    question = Question((Named("it", lambda b: np.where(np.arange(len(b)) < 100, -1, 0)),))
    found = conclude(measure([batch], question), "mid").policies[0]
    assert found.support["refused_requests"] == 100
    assert found.support["rows"] == 1900
    assert "refused 100 of the 2,000 requests" in found.warnings[0]


def refusing(batch, *, arm):
    """An arm for the cheaper half of the requests, and none for the others, the dear ones."""
    most = batch.upper[:, 2]
    return np.where(most <= np.median(most), arm, -1)


def test_a_policy_that_refuses_many_requests_saves_nothing_by_that():
    batch = log(6000)
    named = Named("ceiling", partial(refusing, arm=2))
    found = conclude(measure([batch], question_of([named], ["nano", "mini", "mid"], None)), "mid")
    [it] = found.policies
    served = np.flatnonzero(refusing(batch, arm=2) == 2)
    of_served = 0.8 * np.exp(0.02) * batch.expected[served, 2].mean() / 1e9
    assert it.figures["cost"]["doubly_robust"]["value"] == pytest.approx(of_served, rel=0.05)
    assert (it.saved_usd, it.over_random_mix, it.against_log) == (None, None, {})
    [said] = [each for each in it.warnings if "refused" in each]
    assert "refused 3,000 of the 6,000 requests" in said
    assert "no difference to the log, to a mix of tiers or to always-baseline" in said
    assert found.baseline["saved_usd"] is not None  # what the log itself saved is known as ever


def test_a_few_refused_requests_are_left_out_of_what_is_saved():
    batch = log(6000)

    def few(batch):
        return np.where(np.arange(len(batch)) < 50, -1, 0)

    asked = question_of([Named("few", few)], ["nano", "mid"], None)
    sums = measure([batch], asked)
    [it] = conclude(sums, "mid").policies
    cost = {
        name: estimate(sums.logged, sums.policies[name]).by_outcome["cost"]["doubly_robust"]
        for name in ("few", "always mid")
    }
    a_request = float(cost["always mid"].minus(cost["few"]).values[0]) / 1e9
    assert it.saved_usd["value"] == pytest.approx(5950 * a_request)
    assert set(it.against_log) == {"quality", "cost", "latency"}


def test_a_baseline_tier_that_cannot_take_every_request_is_no_baseline():
    batch = log(6000)
    barred = batch.barred.copy()
    barred[:200, 2] = Bar.NO_VISION
    asked = question_of([Named("it", lambda b: np.zeros(len(b), int))], ["nano", "mid"], None)
    found = conclude(measure([replace(batch, barred=barred)], asked), "mid")
    assert (found.baseline["honest_usd"], found.baseline["saved_usd"]) == (None, None)
    assert "refused 200 of the 6,000 requests" in found.baseline["why_not_honest"]
    [it] = found.policies
    assert it.saved_usd is None
    assert it.over_random_mix is None  # one tier alone is no mix
    assert it.against_log


def test_a_difference_over_the_log_is_of_the_requests_that_are_served():
    batch = log(6000)
    policies = [Named(name, partial(refusing, arm=arm)) for name, arm in (("old", 2), ("new", 0))]
    moves = Moves("old", "new")
    found = pair(measure([batch], Question(tuple(policies)), moves.watch), "old", "new", moves)
    assert found.refused == ()  # of both the same requests are refused
    assert found.over_log["value"] == pytest.approx(3000 * found.cost["value"])


def test_a_call_after_which_the_log_went_on_says_nothing_of_one_that_stops():
    batch = log(6000)
    went_on = replace(batch, step=(batch.chosen == 0).astype(np.int64))
    cheap, dear = (ask(went_on, arm=arm, model_only=True).policies[0] for arm in (0, 2))
    assert cheap.figures == {}
    assert "the log made another call" in cheap.refused[0]
    assert dear.figures == ask(batch, arm=2).policies[0].figures


def test_a_policy_with_a_cascade_is_refused_by_a_log_without_looks():
    from router.replay.off_policy.target import of_policy
    from tests.test_off_policy_target import ladder_of, policy_of

    target = Named("cascade", of_policy(ladder_of(policy_of(cascade={"max_steps": 2}))))
    found = conclude(measure([log(500)], Question((target,))), "mid").policies[0]
    assert found.figures == {}
    assert "look at 500 answers of which the log kept no look" in found.refused[0]


def test_a_single_request_has_figures_without_an_interval_and_is_plain_json():
    import json

    found = ask(log(1, chances=(0.0, 0.0, 1.0)))
    assert found.policies[0].refused
    said = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert said["log"]["cost_per_request_usd"]["low"] is None
    assert said["log"]["cost_per_request_usd"]["value"] > 0


def test_savings_are_honest_where_the_usual_figure_is_not():
    """The cheap arm answers at length: its tokens at the dear arm's price are no baseline."""
    from router.prices import Dated

    batch = log(20_000, billed_output=np.full(20_000, 500.0))
    price = Dated((0.0,), ((0.0, 4e4),))  # nano-USD a token: an answer of 500 costs 2e7
    question = question_of([Named("it", lambda b: b.chosen)], ["nano", "mini", "mid"], price)
    found = conclude(measure([batch], question), "mid").baseline
    spent = batch.cost.sum() / 1e9
    true = 0.8 * np.exp(0.02) * batch.expected[:, 2].sum() / 1e9 - spent
    honest = found["saved_usd"]
    assert honest["low"] <= true <= honest["high"]
    assert abs(honest["value"] / true - 1) < 0.03
    assert found["naive_saved_usd"] > 1.5 * true
    assert found["predicted_saved_usd"] > 1.1 * true
