"""What a log supports: why there is no estimate of a policy, and what makes one less sure."""

from __future__ import annotations

from router.errors import ReplayError
from router.replay.off_policy.estimate import LEAST_CALLS, Estimates
from router.replay.off_policy.facts import Facts

LEAST_EFFECTIVE = 200  # rows where log and policy agree, below which nothing is estimated
LEAST_HELD_OUT = 30  # the same for the baseline's cost, whose model needs little correction
LEAST_GROUPS = 20  # of conversations, below which no interval is worth its name
LEAST_LABELS = 30  # of them with a label, below which quality is not estimated
MOST_UNSUPPORTED = 0.01  # of requests or predicted cost; the interval is widened by what there is
BEST = "doubly_robust"


def refuse_log(facts: Facts) -> None:
    """Raise `ReplayError` for a log from which nothing can be estimated, whatever the policy."""
    if not facts.rows:
        raise ReplayError("the log has no decision that can be replayed")
    if repeated := facts.repeated():
        raise ReplayError(
            f"{repeated:,} rows stand in more than one file of the log; export it anew"
        )
    if implausible := facts.implausible():
        raise ReplayError(
            "arms were not taken as often as their logged chances say: "
            f"{'; '.join(implausible)}; rows are missing, or the propensities are not those of "
            "these decisions"
        )


def refusals(found: Estimates, facts: Facts, least: int = LEAST_EFFECTIVE) -> list[str]:
    """Why the log cannot say what this policy would have come to, with `least` rows to go by."""
    if not found.rows:
        return ["it would have refused every request"]
    if facts.without_chances:
        return [f"{facts.without_chances:,} rows have no propensities"]
    reasons = []
    if found.groups < LEAST_GROUPS:
        reasons.append(
            f"the log has about {found.groups} conversations, fewer than the {LEAST_GROUPS} that "
            "an interval needs"
        )
    if found.went_on:
        reasons.append(
            f"after {found.went_on:,} of the {found.agreed:,} calls on which log and policy agree "
            "the log made another call and kept no chances of that; log with `explore`"
        )
    if found.unseen > MOST_UNSUPPORTED * found.rows:
        reasons.append(
            f"it would look at {found.unseen:,} answers of which the log kept no look; log with a "
            "policy that has a `cascade` and `explore`, or replay it without"
        )
    elif max(found.unsupported, found.unsupported_cost) > MOST_UNSUPPORTED:
        reasons.append(
            f"{found.unsupported:.1%} of its decisions ({found.unsupported_cost:.1%} of their "
            "cost) had no chance of being taken in the log; log with `explore`, or a holdout"
        )
    if found.effective < least:
        reasons.append(
            f"log and policy agree in {found.agreed:,} rows that weigh as much as "
            f"{found.effective:.0f}, fewer than {least}; log more, or explore more"
        )
    return reasons


def other_requests(found: Estimates, facts: Facts) -> str | None:
    """Why a policy's figures are not of the requests that the log's are: it refuses too many of
    them. None where they are."""
    refused = facts.rows - found.rows
    if refused <= MOST_UNSUPPORTED * facts.rows:
        return None
    return f"it would have refused {refused:,} of the {facts.rows:,} requests"


def no_baseline(found: Estimates, facts: Facts) -> list[str]:
    """Why the log cannot say what always taking the baseline tier would have cost."""
    reasons = refusals(found, facts, LEAST_HELD_OUT)
    if found.rows and (why := other_requests(found, facts)):
        reasons.append(f"that tier cannot take every request: {why}")
    if why := no_cost(found):
        reasons.append(why)
    return reasons


def no_cost(found: Estimates) -> str | None:
    """Why the cost of a policy is not estimated; None where it is."""
    if "cost" not in found.known:
        return "cost is not estimated: no request of the log has a known one"
    if found.unpriced:
        return (
            f"cost is not estimated: {', '.join(found.unpriced)} would be called where no price "
            "of it is known, and the log has no bill of such a call"
        )
    return None


def no_quality(found: Estimates, facts: Facts) -> str | None:
    """Why the quality of a policy is not estimated; None where it is."""
    if facts.labelled < LEAST_LABELS:
        return (
            f"quality is not estimated: {facts.labelled:,} labels in the log, fewer than "
            f"{LEAST_LABELS}"
        )
    if found.blind:
        return f"quality is not estimated: no answer of {', '.join(found.blind)} has a label"
    return None


def few_calls(found: Estimates) -> str:
    """What to say of a policy whose cost hangs on calls that the log hardly shows."""
    return (
        f"{found.thin_cost:.1%} of its predicted cost is of calls of {', '.join(found.thin)}, of "
        f"which the log shows fewer than {LEAST_CALLS}: the interval of its cost is widened by as "
        "much"
    )


def spread_of(outcome: str, found: Estimates) -> float:
    """What decisions without support can change at most: quality by 1, cost by as much again; the
    cost of calls of which there are too few likewise."""
    if outcome == "quality":
        return found.unsupported
    mean = abs(float(found.by_outcome[outcome][BEST].values[0]))
    thin = found.thin_cost if outcome == "cost" else 0.0
    return (found.unsupported_cost + thin) * mean
