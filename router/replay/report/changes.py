"""The drift alarms of a report's period: what changed, what was done, and who accepted it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from router.drift.quantities import title
from router.drift.record import Alarm, Alarms

if TYPE_CHECKING:
    from router.replay.report.period import Period

MOST_WORDINGS = 1000  # sets of alarms that decisions followed, each of which its row names


@dataclass(frozen=True, slots=True)
class Change:
    """A quantity of a policy that is no longer what it was.

    `since`, `raised` and `accepted`, unix seconds: the likeliest beginning, when it was found, and
    when somebody took it for what is usual (None: it is open), `by` whom and with what `note`.
    `reference` and `now`: what was typical before and when it was found, in words.
    `requests`: of the period, how many were decided on the safe side because of it.
    """

    policy: str
    name: str
    what: str
    since: float
    raised: float
    reference: str
    now: str
    requests: int
    accepted: float | None = None
    by: str = ""
    note: str = ""


class Followed:
    """Counts requests by the alarms that their decisions followed, one at a time."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, features: Mapping[str, object]) -> None:
        """Count a request, if it was decided on the safe side."""
        words = features.get("drift")
        if isinstance(words, str) and (words in self._counts or len(self._counts) < MOST_WORDINGS):
            self._counts[words] = self._counts.get(words, 0) + 1

    def requests(self, alarm: Alarm) -> int:
        """How many followed an alarm, alone or with others."""
        return sum(count for words, count in self._counts.items() if alarm.text in words)


def changes(
    alarms: Iterable[tuple[str, Alarms]], period: Period | None, followed: Followed
) -> tuple[Change, ...]:
    """What was open at some time of a period, or is open now; the latest first.

    Parameters: `alarms`, each policy's by its name; `followed`, what decisions of the period did.
    """
    found = []
    for policy, kept in alarms:
        for alarm, end in _closed(kept):
            accepted = float(end["time"])
            if period is None or accepted < period.first or alarm.raised > period.end:
                continue
            found.append(_change(policy, alarm, followed, accepted, end["by"], end["note"]))
        found += [_change(policy, alarm, followed) for alarm in kept.open]
    return tuple(sorted(found, key=lambda each: (-each.raised, each.policy, each.name)))


def _closed(alarms: Alarms) -> Iterable[tuple[Alarm, Mapping[str, Any]]]:
    """Alarms that were accepted, each with its acceptance."""
    names = [field.name for field in fields(Alarm)]
    waiting: dict[str, Alarm] = {}
    for entry in alarms.history:
        if entry["what"] == "alarm":
            waiting[entry["name"]] = Alarm(**{name: entry[name] for name in names})
            continue
        for name in entry["alarms"]:
            if name in waiting:  # else its beginning is older than what is kept
                yield waiting.pop(name), entry


def _change(
    policy: str,
    alarm: Alarm,
    followed: Followed,
    accepted: float | None = None,
    by: object = "",
    note: object = "",
) -> Change:
    return Change(
        policy=policy,
        name=alarm.name,
        what=title(alarm.name),
        since=alarm.since,
        raised=alarm.raised,
        reference=alarm.reference,
        now=alarm.now,
        requests=followed.requests(alarm),
        accepted=accepted,
        by=str(by),
        note=str(note),
    )
