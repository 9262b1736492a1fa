"""What `router tune` says of what it found, and the file that it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.errors import ConfigurationError, PolicyError, ReplayError
from router.policy import load_policy
from router.replay.off_policy.paired import Paired
from router.replay.tuning.pick import Rule, rule_of
from router.replay.tuning.search import Trials
from router.replay.tuning.space import Base, Settings
from router.replay.tuning.stretch import InMemory, Stretch, cut
from router.replay.tuning.write import check_place, text_with
from tests.tune_kit import NOW, policy
from tests.tune_kit import base as base  # fixtures
from tests.tune_kit import memory as memory
from tests.tune_kit import real_log as real_log


# ── picking and judging ─────────────────────────────────────────────────────────────────────────
def figure(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "error": half / 2}


def paired(cost: float, quality: float, half: float = 0.02) -> Paired:
    percent = figure(cost, 100 * half)
    both = figure(quality, half)
    return Paired(500, percent, percent, both, both, None, {}, {}, (), ())


@pytest.mark.parametrize(
    ("rule", "found", "beats", "said"),
    [
        (Rule(), paired(-10, 0.03), True, "surely cheaper"),
        (Rule(), paired(-10, 0.01), False, "may be worse by more than 0 "),
        (Rule(), paired(-1, 0.03), False, "not surely cheaper"),
        (Rule(quality_loss=0.05), paired(-10, -0.02), True, "not worse by more than 0.05"),
        (Rule("best"), paired(-10, 0.03), True, "surely better"),
        (Rule("best"), paired(-1, 0.03), False, "may be dearer"),
        (Rule("best", cost_increase=5), paired(2, 0.03), True, "not dearer by more than 5%"),
        (Rule("value", cost_weight=5), paired(9, 0.03), True, "surely higher"),
        (Rule("value", cost_weight=5), paired(9, 0.01), False, "not surely higher"),
    ],
)
def test_a_candidate_beats_the_base_only_where_both_ends_of_the_intervals_say_so(
    rule: Rule, found: Paired, beats: bool, said: str
) -> None:
    verdict = rule.verdict(found)
    assert verdict[0] is beats
    assert said in verdict[1]


def test_what_cannot_be_estimated_beats_nothing() -> None:
    refused = replace(paired(-50, 0.5), refused=("too few rows",))
    assert Rule().verdict(refused) == (False, "the held-out days cannot tell: too few rows")
    blind = replace(paired(-50, 0.5), quality=None, why_no_quality="no labels")
    assert Rule().verdict(blind) == (False, "the held-out days cannot tell: no labels")


def test_value_needs_a_base_that_says_what_quality_is_worth() -> None:
    with pytest.raises(ReplayError, match=r"no objective\.cost_weight"):
        rule_of("value", 0, 0, None)


# ── the file ────────────────────────────────────────────────────────────────────────────────────
def written(base: Base, **changed: Any) -> str:
    settings = replace(base.settings, **changed)
    why = {"objective": "dearer was no better", "tiers.mini": "mini is left out"}
    why["rules.0.when.min_input_tokens"] = "min_input_tokens was 300"
    return text_with(base, settings, base.candidate(settings), ["Tuned."], why)


def test_lines_that_are_not_searched_stay_as_they_were_written(base: Base) -> None:
    text = written(
        base, cost_weight=40.0, margin=0.05, tiers=("nano", "mid", "frontier"),
        lengths=(((0, "min_input_tokens"), 77),),
    )  # fmt: skip
    lines, old = text.splitlines(), base.text.splitlines()
    assert lines[0] == "# Tuned."
    for line in (
        "objective:", "  # dearer was no better", "  cost_weight: 40.0", "  margin: 0.05",
        "  # mini is left out", "  # min_input_tokens was 300",
        "  - {name: long, when: {min_input_tokens: 77}, at_most: mid}",
    ):  # fmt: skip
        assert line in lines
    gone = [line for line in old if line not in lines]
    assert {line.strip() for line in gone} == {
        "objective: {cost_weight: 12}  # a guess",
        "- {name: long, when: {min_input_tokens: 300}, at_most: mid}",
        "mini:", "- model: openai/t-mini", "input: '0.75'", "output: '4.5'", "cache_read: '0.075'",
    }  # fmt: skip


def test_a_policy_in_one_line_is_written_anew_and_means_the_same(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(json.dumps(policy("http://127.0.0.1:9")))
    flow = Base.read(path, NOW)
    text = written(flow, tiers=("nano", "mid", "frontier"))
    assert "# tiers.mini: mini is left out" in text
    out = tmp_path / "new.yaml"
    out.write_text(text)
    assert load_policy(out).tiers.present == ("nano", "mid", "frontier")
    assert load_policy(out).retry == flow.policy.retry


def test_settings_that_do_not_fit_together_are_no_candidate(base: Base, memory: InMemory) -> None:
    alone = replace(base.settings, tiers=("frontier",))  # and the rule asks for at most mid
    with pytest.raises(PolicyError, match="leaves no tier"):
        base.candidate(alone)
    first, _, _ = cut(memory, days=2)
    tried = Trials(base, Stretch(first, base.target(base.policy))).of(alone)
    assert not tried.usable


def test_a_place_that_cannot_be_is_refused_before_the_log_is_read(
    base: Base, tmp_path: Path
) -> None:
    for out, said in (
        (tmp_path / "new.json", "no .yaml file"),
        (tmp_path / "none" / "new.yaml", "no folder"),
        (base.file, "the base policy itself"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            check_place(base, out)


def test_searched_settings_have_the_keys_of_a_policy() -> None:
    settings = Settings(("nano", "frontier"), 5.0, 0.1, None, (((2, "max_input_tokens"), 9),))
    assert settings.as_dict() == {
        "tiers": ["nano", "frontier"],
        "objective": {"cost_weight": 5.0, "margin": 0.1},
        "rules.2.when.max_input_tokens": 9,
    }
