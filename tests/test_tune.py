"""`router tune`: searched on a log's first days, judged once on its last, honest about the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import ConfigurationError, ReplayError
from router.policy import load_policy
from router.policy.diff import changes
from router.replay.off_policy.batch import LogBatch
from router.replay.tuning.pick import Rule
from router.replay.tuning.search import Trials, search
from router.replay.tuning.space import Base, Space
from router.replay.tuning.stretch import DAY, InMemory, Stretch, cut, joined, keep
from router.replay.tuning.tune import Options, find
from tests.test_cli import run
from tests.tune_kit import MONDAY, NOW, REQUESTS, commented, write
from tests.tune_kit import base as base  # fixtures
from tests.tune_kit import memory as memory
from tests.tune_kit import real_log as real_log

LOOSE = ("--holdout-days", "2", "--max-quality-loss", "0.25", "--trials", "40")


def tuned(
    capsys: pytest.CaptureFixture[str], log: Path, base: Path, out: Path, *more: str
) -> tuple[int, Any]:
    arguments = ("tune", "--log", str(log), "--policy", str(base), "--out", str(out), "--json")
    code, said, _ = run(capsys, *arguments, *more)
    return code, json.loads(said)


# ── the whole command ───────────────────────────────────────────────────────────────────────────
def test_a_policy_that_beats_the_base_is_written_with_reasons_and_the_rest_stays(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    before, out = commented(tmp_path / "production.yaml"), tmp_path / "new.yaml"
    code, data = tuned(capsys, real_log, before, out, *LOOSE, "--seed", "3")
    assert (code, data["beats"], data["out"]) == (0, True, str(out))
    assert data["held_out"]["cost_pct"]["high"] < 0
    assert data["held_out"]["quality"]["low"] >= -0.25
    assert data["training"]["rows"] + data["held_out"]["rows"] == REQUESTS
    found = changes(load_policy(before), load_policy(out))
    assert found
    searched = ("objective.", "tiers.", "rules.long.when.min_input_tokens")
    assert all(each.key.startswith(searched) for each in found)
    text = out.read_text()
    for said in (str(real_log), "40 trials", "seed 3", "Training days 2027-01-11 to 2027-01-12",
                 "Held-out days 2027-01-13 to 2027-01-14", "judged once", "It beats its base",
                 "# What production runs.", "# ask Ann first", "Long prompts"):  # fmt: skip
        assert said in text
    if any(each.key.startswith("objective.") for each in found):
        assert "# was cost_weight: 12; alone cost" in text


def test_the_same_seed_gives_the_same_policy(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    before = commented(tmp_path / "production.yaml")
    texts = []
    for _ in range(2):
        assert tuned(capsys, real_log, before, tmp_path / "new.yaml", *LOOSE)[0] == 0
        texts.append((tmp_path / "new.yaml").read_text())
    assert texts[0] == texts[1]


def test_what_does_not_beat_the_base_is_not_written_unless_forced(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    """Nothing in this log has surely better quality: no answers are better than the frontier's."""
    before, out = commented(tmp_path / "production.yaml"), tmp_path / "new.yaml"
    arguments = ("--holdout-days", "2", "--pick", "best", "--trials", "25")
    code, data = tuned(capsys, real_log, before, out, *arguments)
    assert (code, data["beats"], data["out"], out.exists()) == (1, False, None, False)
    assert data["verdict"]
    code, data = tuned(capsys, real_log, before, out, *arguments, "--force")
    assert (code, data["beats"], data["out"]) == (0, False, str(out))
    said = " ".join(out.read_text().replace("#", "").split())
    assert "It does NOT beat its base" in said
    assert "Written because it was forced" in said
    load_policy(out)


def test_the_text_for_people_says_plainly_that_nothing_beats_the_base(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    before, out = commented(tmp_path / "production.yaml"), tmp_path / "new.yaml"
    code, said, _ = run(
        capsys, "tune", "--log", str(real_log), "--policy", str(before), "--out", str(out),
        "--holdout-days", "2", "--pick", "best", "--trials", "5",
    )  # fmt: skip
    assert code == 1
    assert "It does not beat the base" in said
    assert "Nothing was written." in said


@pytest.mark.parametrize(
    "wrong",
    [
        ("--trials", "0"),
        ("--pick", "dearest"),
        ("--holdout-days", "1", "--holdout-share", "0.5"),
        ("--holdout-share", "1"),
        ("--max-quality-loss", "-1"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: tuple[str, ...]
) -> None:
    arguments = ("tune", "--log", "x.db", "--policy", "default", "--out", str(tmp_path / "o.yaml"))
    assert run(capsys, *arguments, *wrong)[0] == 2


def test_without_optuna_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, memory: InMemory, base: Base
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    first, last, _ = cut(memory, days=2)
    with pytest.raises(ConfigurationError, match=r"pip install 'tiered-router\[tune\]'"):
        find(base, first, last, Options(Rule(), trials=1))


def test_the_command_line_loads_optuna_only_when_it_searches() -> None:
    code = "import sys, router.cli.tune, router.replay.tuning.tune; print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# ── what is searched on what ────────────────────────────────────────────────────────────────────
def test_the_held_out_days_have_no_part_in_the_search(memory: InMemory, base: Base) -> None:
    first, last, _ = cut(memory, days=2)
    options = Options(Rule(quality_loss=0.25), trials=25)
    poisoned = tuple(replace(each, label=1 - each.label, cost=each.cost * 7) for each in last)
    plain, other = (find(base, first, days, options) for days in (last, poisoned))
    assert plain.picked.settings == other.picked.settings
    assert [each.settings for each in plain.front] == [each.settings for each in other.front]
    assert plain.training == other.training
    assert plain.held_out != other.held_out


def test_a_candidate_that_loses_on_the_held_out_days_does_not_beat_the_base(
    memory: InMemory, base: Base
) -> None:
    first, last, _ = cut(memory, days=2)
    options = Options(Rule(quality_loss=0.25), trials=25)
    # From the third day on, whatever is cheaper than the frontier answers badly.
    worse = tuple(
        replace(each, label=np.where(each.tier[each.chosen] < 3, 0.0, each.label)) for each in last
    )
    found = find(base, first, worse, options)
    assert found.training.quality is not None
    assert found.training.quality["low"] >= -0.25
    assert not found.beats
    assert "may be worse" in found.verdict


def test_no_point_of_the_front_is_beaten_in_both_and_all_are_supported(
    memory: InMemory, base: Base
) -> None:
    first, last, _ = cut(memory, days=2)
    found = find(base, first, last, Options(Rule(quality_loss=0.25), trials=40))
    points = [each.point for each in found.front]
    assert points == sorted(points)
    assert [quality for _, quality in points] == sorted(quality for _, quality in points)
    for each in found.front:
        assert each.found is not None
        assert each.found.new["effective"] >= 200
        assert each.found.new["unsupported"] <= 0.01


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_both_samplers_try_the_base_first_and_stay_within_the_space(
    memory: InMemory, base: Base, sampler: Any
) -> None:
    first, _, _ = cut(memory, days=2)
    space = Space.of(base, first)
    trials = Trials(base, Stretch(first, base.target(base.policy)))
    search(space, trials, count=15, seed=1, sampler=sampler)
    tried = list(trials.known)
    assert tried[0] == base.settings
    for settings in tried:
        assert "frontier" in settings.tiers
        [(key, value)] = settings.lengths
        assert key == (0, "min_input_tokens")
        assert space.lengths[0] <= value <= space.lengths[1]
        assert (settings.cost_weight is None) != (settings.keep_quality is None)
        assert not (settings.margin and settings.keep_quality)


def test_settings_that_make_no_difference_are_left_as_the_base_has_them(
    memory: InMemory, base: Base
) -> None:
    first, _, _ = cut(memory, days=2)
    trials = Trials(base, Stretch(first, base.target(base.policy)))
    idle = replace(
        base.settings, cost_weight=12.1, tiers=("mini", "mid", "frontier"),
        lengths=(((0, "min_input_tokens"), 301),),
    )  # fmt: skip
    assert trials.plainer(trials.of(idle)).settings == base.settings


def test_the_judge_and_the_baseline_are_never_dropped(memory: InMemory, tmp_path: Path) -> None:
    path = write(tmp_path / "judged.yaml", judge={"tier": "mid"})
    assert Space.of(Base.read(path, NOW), memory.batches).droppable == ("nano", "mini")


def test_a_paced_policy_keeps_a_cost_weight_and_gets_no_margin(
    memory: InMemory, tmp_path: Path
) -> None:
    budget = {"name": "daily", "limit": "5.00", "window": "day", "on_exceed": "downgrade"}
    path = write(tmp_path / "paced.yaml", budgets=[budget], pacing={"budget": "daily"})
    space = Space.of(Base.read(path, NOW), memory.batches)
    assert (space.kinds, space.margins) == (("cost_weight",), None)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"keep_quality": 0.9, "confidence": 0.9}, "confidence"),
        ({"max_cost_per_request": "0.01"}, "max_cost_per_request"),
    ],
)
def test_promises_and_ceilings_are_not_traded_away(
    tmp_path: Path, objective: Any, said: str
) -> None:
    with pytest.raises(ReplayError, match=said):
        Base.read(write(tmp_path / "base.yaml", objective=objective), NOW)


def test_a_cascade_is_refused_since_no_replay_follows_it(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="has a cascade"):
        Base.read(write(tmp_path / "base.yaml", cascade={"max_steps": 2}), NOW)


def test_a_rule_that_reads_text_is_refused_before_the_search(
    memory: InMemory, tmp_path: Path
) -> None:
    rule = {"name": "r", "when": {"regex": "x"}, "tier": "nano"}
    unclear = Base.read(write(tmp_path / "base.yaml", rules=[rule]), NOW)
    first, last, _ = cut(memory, days=2)
    with pytest.raises(ReplayError, match="the text of requests"):
        find(unclear, first, last, Options(Rule(), trials=1))


def test_without_labels_there_is_nothing_to_search_by(memory: InMemory, base: Base) -> None:
    first, last, _ = cut(memory, days=2)
    blank = tuple(replace(each, label=np.full(len(each), np.nan)) for each in first)
    with pytest.raises(ReplayError, match=r"say nothing of the base policy: .*labels"):
        find(base, blank, last, Options(Rule(), trials=1))


# ── the log in memory ───────────────────────────────────────────────────────────────────────────
def times(batches: tuple[LogBatch, ...]) -> Any:
    return np.concatenate([batch.time for batch in batches])


def test_the_last_days_are_held_out_and_none_is_cut(memory: InMemory) -> None:
    first, last, where = cut(memory, days=1)
    assert where.at == MONDAY + 3 * DAY
    assert times(first).max() < where.at <= times(last).min()
    assert len(times(first)) + len(times(last)) == REQUESTS
    for share, days in ((0.2, 1), (0.3, 2), (0.6, 3)):
        assert cut(memory, share=share)[2].at == MONDAY + (4 - days) * DAY
    assert cut(memory)[2].at == cut(memory, share=0.3)[2].at


def test_too_few_days_are_an_error_that_says_how_many_there_are(memory: InMemory) -> None:
    with pytest.raises(ReplayError, match="has 4 days; with 4 days held out none is left"):
        cut(memory, days=4)
    with pytest.raises(ReplayError, match="has 4 days"):
        cut(memory, share=0.99)
    day = tuple(batch.take(np.flatnonzero(batch.time < MONDAY + DAY)) for batch in memory.batches)
    with pytest.raises(ReplayError, match="single day"):
        cut(InMemory(day, sum(map(len, day))), days=1)
    with pytest.raises(ReplayError, match="no decision"):
        cut(InMemory((), 0))


def test_a_conversation_that_began_in_training_days_is_not_judged_on(memory: InMemory) -> None:
    [batch] = memory.batches
    cluster = batch.cluster.copy()
    cluster[-7:] = cluster[0]
    shared = InMemory((replace(batch, cluster=cluster),), len(batch))
    _, last, where = cut(shared, days=1)
    assert where.dropped == 7
    assert cluster[0] not in np.concatenate([each.cluster for each in last])


def test_a_long_log_is_sampled_by_whole_conversations_the_same_way_each_time(
    memory: InMemory,
) -> None:
    [batch] = memory.batches
    talks = replace(batch, cluster=np.repeat(batch.cluster[::4], 4))
    pages = [talks.take(np.arange(at, at + 100)) for at in range(0, REQUESTS, 100)]
    whole = keep(pages, REQUESTS)
    assert whole.kept == whole.rows == REQUESTS
    some, again = keep(pages, 400), keep(pages[::-1], 400)
    assert some.rows == REQUESTS
    assert 100 < some.kept <= 400
    kept = np.concatenate([each.cluster for each in some.batches])
    assert (np.unique(kept, return_counts=True)[1] == 4).all()
    assert set(kept) == set(np.concatenate([each.cluster for each in again.batches]))


def test_batches_of_the_same_arms_become_one_with_their_words(memory: InMemory) -> None:
    [batch] = memory.batches
    codes, words = batch.tags
    turned = replace(batch, tags=(len(words) - 1 - codes, words[::-1]))  # the same words
    [one] = joined([batch.take(np.arange(300)), turned.take(np.arange(300, REQUESTS))])
    read_back = [one.tags[1][code] for code in one.tags[0]]
    assert read_back == [words[code] for code in codes]
    assert (one.quality == batch.quality).all()
    other = replace(batch, arms=batch.arms[::-1])
    assert len(joined([batch, other, batch])) == 2
