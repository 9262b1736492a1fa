"""One row of a choice as a `Decision` that a person can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from router.decide.choose import Choices
from router.decide.obstacles import Obstacles
from router.decide.options import UNKNOWN, Bar, Objective, Options
from router.money import NANO_PER_USD, format_usd
from router.types import Arm, ArmView, Decision, Quote

BAR_TEXT = {
    Bar.NO_VISION: "cannot read images",
    Bar.NO_AUDIO: "cannot hear audio",
    Bar.NO_FILES: "cannot read files",
    Bar.NO_TOOLS: "cannot call tools",
    Bar.NO_STRUCTURED_OUTPUT: "cannot be held to a response schema",
    Bar.WINDOW_TOO_SMALL: "prompt and answer do not fit its window",
    Bar.RULE: "ruled out by rule {rule!r}",
    Bar.FAILED: "failed on this request already",
    Bar.UNPRICED: "its price is unknown",
    Bar.OVER_REQUEST_CEILING: "may cost {upper}, above max_cost_per_request",
    Bar.OVER_BUDGET: "may cost {upper}, more than a budget has left",
    Bar.NOT_NEXT: "is not the next step of a fallback",
    Bar.ANSWERED: "has answered this request already",
    Bar.NOT_DEARER: "is no dearer than what has answered",
    Bar.HELD_ABOVE: "is below the tier that the conversation was escalated to",
    Bar.OWN_EFFORT: "the request sets its own reasoning effort",
    Bar.NOT_COMPARABLE: "needs answers that can be compared, or judged",
    Bar.ALIKE: "its samples would be alike: the temperature is 0, or there is a seed",
    Bar.STANDBY: "stands by: a preferred deployment is free",
    Bar.AT_CAPACITY: "is at capacity: {why}",
    Bar.CIRCUIT_OPEN: "its circuit is open: {why}",
    Bar.UNHEALTHY: "is out of order: {why}",
}
UNOBSTRUCTED: Obstacles = {}

# Bars that money sets or a neighbour lifts; the others say that an arm cannot answer at all.
_PASSING = (Bar.OVER_REQUEST_CEILING, Bar.OVER_BUDGET, Bar.STANDBY, Bar.HELD_ABOVE)
_UNABLE = tuple(text.partition("{")[0] for bar, text in BAR_TEXT.items() if bar not in _PASSING)


def able(rejected: str | None) -> bool:
    """Whether an arm that was rejected for this reason could have answered, money aside."""
    return rejected is None or not rejected.startswith(_UNABLE)


def rejections(
    arms: Sequence[Arm],
    quotes: Sequence[Quote],
    choices: Choices,
    row: int,
    rule: str | None,
    obstacles: Obstacles = UNOBSTRUCTED,
    lacks: Callable[[int], str | None] | None = None,
) -> list[str | None]:
    """Return, for each arm, why it may not be chosen, or None where it may. `lacks` says which
    budget has no room for an arm, None where that is not known any more."""

    def why(index: int, bar: int) -> str:
        if bar == Bar.OVER_BUDGET and lacks is not None and (said := lacks(index)) is not None:
            return said
        return BAR_TEXT[bar].format(
            rule=rule,
            upper=format_usd(quotes[index].upper),
            why=obstacles[index].why if index in obstacles else "",
        )

    bars = [int(choices.barred[row, index]) for index in range(len(arms))]
    return [None if bar == Bar.FREE else why(index, bar) for index, bar in enumerate(bars)]


def decision(
    arms: Sequence[Arm],
    quotes: Sequence[Quote],
    options: Options,
    choices: Choices,
    objective: Objective,
    *,
    row: int = 0,
    rule: str | None = None,
    baseline: int | None = None,
    failure: str | None = None,
    novel: bool = False,
    obstacles: Obstacles = UNOBSTRUCTED,
    looks: str | None = None,
    remark: Callable[[int], str] | None = None,
    lacks: Callable[[int], str | None] | None = None,
) -> Decision:
    """Return one row of `choices`, which must have chosen an arm, as a `Decision`.

    Parameters: `quotes`, one for each arm; `rule`, the name of the rule that bound the choice;
    `baseline`, expected nano-USD of the baseline tier's own answer; `failure`, what this decision
    is a fallback after (a provider's error, or what kept the best arm from being called);
    `novel`, whether the request is unlike anything in training, so that `options` hold lower bounds
    below the baseline; `obstacles`, why arms could not be called just then; `looks`, what is done
    about answers before they are handed out; `remark` says what else the choice of an arm had to
    do with; `lacks`, which budget has no room for an arm.
    """
    chosen = int(choices.arm[row])
    explain = partial(
        _explain,
        *(arms, quotes, options, choices, objective, row, rule, failure, novel),
        *(obstacles, looks, remark, lacks),
    )
    return Decision(chosen, arms[chosen], baseline, rule, explain)


def _explain(
    arms: Sequence[Arm],
    quotes: Sequence[Quote],
    options: Options,
    choices: Choices,
    objective: Objective,
    row: int,
    rule: str | None,
    failure: str | None,
    novel: bool,
    obstacles: Obstacles,
    looks: str | None,
    remark: Callable[[int], str] | None,
    lacks: Callable[[int], str | None] | None,
) -> tuple[str, tuple[ArmView, ...]]:
    """The reason of a decision, and how each arm looked to it."""
    chosen, best = int(choices.arm[row]), int(choices.best[row])
    barred = rejections(arms, quotes, choices, row, rule, obstacles, lacks)
    propensity = choices.propensity[row]
    views = []
    for index, arm in enumerate(arms):
        why = barred[index]
        if why is None and index == best != chosen:
            why = "the best, but the draw fell on exploring"
        elif why is None and index not in (best, chosen):
            why = _less_useful(options, choices, objective, row, index, best)
            if looks is not None:
                lead = choices.utility[row, index] - choices.utility[row, best]
                why = f"a call and what may follow it, less their cost: {lead:+.4f}"
        views.append(
            ArmView(
                arm=arm,
                quality=float(options.quality[row, index]),
                quote=quotes[index],
                utility=float(choices.utility[row, index]),
                propensity=float(propensity[index]),
                rejected=why,
            )
        )
    reason = _reason(views[best], objective, rule, downgraded=bool(choices.downgraded[row]))
    if chosen != best:
        arm = views[chosen].arm
        reason = (
            f"{arm.tier}: drawn to explore, with a chance of {propensity[chosen]:.3g}; {reason}"
        )
    if novel:
        reason += "; unlike anything in training, so cheaper tiers count by a lower bound"
    if looks is not None:
        reason += f"; {looks}"
    if remark is not None and (said := remark(chosen)):
        reason += f"; {said}"
    if failure is not None:
        reason += f"; fallback after {failure}"
    return reason, tuple(views)


def _less_useful(
    options: Options, choices: Choices, objective: Objective, row: int, index: int, chosen: int
) -> str:
    gain = options.quality[row, index] - options.quality[row, chosen]
    if UNKNOWN in (options.expected[row, index], options.expected[row, chosen]):
        return f"P(good) {gain:+.3f}, at a cost that is unknown"
    extra = int(options.expected[row, index] - options.expected[row, chosen])
    if objective.cost_weight is not None:
        price = (
            "costs " + format_usd(extra) + " more" if extra > 0 else "saves " + format_usd(-extra)
        )
        said = f"P(good) {gain:+.3f}, but {price}: {_worth(gain, objective.cost_weight)}"
        if objective.margin and options.baseline in (options.rung[index], options.rung[chosen]):
            said += f"; the baseline tier is preferred by {objective.margin:g}"
        return said
    if objective.max_cost_per_request is not None:
        return f"P(good) {gain:+.3f}"
    if objective.keep_quality is not None and not objective.keeps(choices.utility[row, index]):
        return "P(good) below the share of the baseline's that is promised"
    return f"also good enough, but costs {format_usd(extra)} more"


def _worth(gain: float, cost_weight: float) -> str:
    if cost_weight == 0:
        return "cost has no weight"
    worth = round(abs(gain) / cost_weight * NANO_PER_USD)
    return f"{'worth' if gain > 0 else 'the loss weighs'} {format_usd(worth)} under this policy"


def _reason(view: ArmView, objective: Objective, rule: str | None, *, downgraded: bool) -> str:
    if objective.alarm:
        goal = f"the baseline wherever it is free, since there is a drift alarm: {objective.alarm}"
    elif objective.cost_weight is not None:
        goal = f"best value at cost_weight {objective.cost_weight:.5g}"
        if objective.margin:
            goal += f", the baseline tier preferred by {objective.margin:.3g}"
        if objective.pace is not None:
            pace = objective.pace
            goal += (
                f", set by pacing: budget {pace.budget!r} has {format_usd(pace.left)} for about "
                f"{pace.requests:,.0f} requests"
            )
        if objective.promise:
            goal = f"{objective.promise}: {goal}"
    elif objective.keep_quality is not None:
        goal = f"cheapest with P(good) at least {objective.keep_quality:g} of the baseline's"
    else:
        goal = "best P(good) under max_cost_per_request"
    said = (
        f"{view.arm.tier}: {goal}, P(good) {view.quality:.2f} for about "
        f"{format_usd(view.quote.expected)}"
    )
    if view.per_good_answer is not None:
        said += f", {format_usd(view.per_good_answer)} a good answer"
    if rule is not None:
        said += f"; rule {rule!r} applied"
    if downgraded:
        said += "; budget_downgrade: a better arm did not fit a budget"
    return said
