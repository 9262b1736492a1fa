"""What is kept of the tests and of their alarms, as JSON beside the log; all of it pure.

The tests of one policy (`Watch`) are a function of the log, carried on from where the last look at
it ended. Whoever looks first writes, so that all processes of a store share one series of tests and
one bound on its false alarms. The alarms (`Alarms`) belong to the policy's name: a new version of
the policy begins new tests, and leaves an alarm open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from router.drift.change import Streams
from router.drift.quantities import BINS, said, tie, title, typical, values_of

if TYPE_CHECKING:
    from router.log.base import LoggedRequest
    from router.types import AttemptRow, Floats

FORMAT = 1
TESTS, ALARMS = "drift/tests/", "drift/alarms/"  # names of memos begin with these
_SLACK = 10.0  # seconds by which rows may come late, out of a lease or by another machine's clock
_LONGEST = 3600.0  # seconds after which a request that is under way is no longer waited for
_HISTORY = 200  # alarms and acceptances that are kept, the latest


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something changed. `raised` and `since`, unix seconds: when it was found, and the likeliest
    time from which on; `evidence` for it, of which `needed` was enough; what was typical in the
    `reference` and `now`, in words; `policy`, under whose stamp it was found."""

    name: str
    raised: float
    since: float
    evidence: float
    needed: float
    reference: str
    now: str
    policy: str

    @property
    def text(self) -> str:
        """One line for people: what, from when on, from what to what."""
        changed = f"{self.reference} before, {self.now} now"
        return f"{title(self.name)} since about {moment(self.since)} ({changed})"


@dataclass(frozen=True, slots=True)
class Alarms:
    """The open alarms of a policy's name; `round`, how often alarms were accepted, which begins all
    tests anew; and what was before."""

    open: tuple[Alarm, ...] = ()
    round: int = 0
    history: tuple[Mapping[str, Any], ...] = ()

    def raised(self, found: Iterable[Alarm]) -> Alarms:
        """With alarms that are not open yet."""
        known = {alarm.name for alarm in self.open}
        new = tuple(alarm for alarm in found if alarm.name not in known)
        history = (*self.history, *({"what": "alarm", **asdict(alarm)} for alarm in new))
        return replace(self, open=(*self.open, *new), history=history[-_HISTORY:])

    def accept(self, now: float, by: str, note: str) -> Alarms:
        """With none open: what is now becomes the reference."""
        names = [alarm.name for alarm in self.open]
        entry = {"what": "accepted", "time": now, "by": by, "note": note, "alarms": names}
        return Alarms((), self.round + 1, (*self.history, entry)[-_HISTORY:])

    def to_json(self) -> dict[str, Any]:
        return {
            "open": [asdict(alarm) for alarm in self.open],
            "round": self.round,
            "history": list(self.history),
        }

    @classmethod
    def from_json(cls, value: Any) -> Alarms:
        open_ = tuple(Alarm(**alarm) for alarm in value["open"])
        return cls(open_, value["round"], tuple(value["history"]))


@dataclass(slots=True)
class Watch:
    """The tests of one policy, as far as the log was read.

    `stamp` is the policy's; `names` are its quantities, one stream each, and `alpha` is shared out
    evenly among them; `round` is that of `Alarms`; `began`, unix seconds. `since`: requests before
    that time (unix seconds) are counted, and of those from then on the ones in `counted`. `prices`:
    the price book's hash and each arm's price, as the reference has them.
    """

    stamp: str
    names: tuple[str, ...]
    alpha: float
    reference: int
    round: int
    began: float
    since: float
    counted: set[str] = field(default_factory=set)
    streams: Streams = field(default_factory=lambda: Streams.new(0, BINS))
    prices: Mapping[str, Any] | None = None

    @property
    def needed(self) -> float:
        """The evidence that is an alarm: 1 over a quantity's share of alpha."""
        return len(self.names) / self.alpha

    def read(
        self,
        rows: Iterable[tuple[LoggedRequest, Sequence[AttemptRow]]],
        ended_by: float,
        skip: frozenset[str] = frozenset(),
    ) -> int:
        """Take in requests of the log, from `since` on in order of time; return how many counted.

        Nothing is taken in from the first request on that is still under way: long answers end
        late, and later ones that ended before them would make the order depend on the values, which
        the tests take to be in no order. A request that takes more than an hour never counts, which
        depends on itself alone; so one that never ends holds up the others for that long and no
        longer, and one whose process died until its reservation expires.

        Parameters: `ended_by`, unix seconds: a request that is open, or ended later (a chain may
        have another call under way), is under way; `skip`, quantities that have an alarm.
        """
        index = {name: at for at, name in enumerate(self.names) if name not in skip}
        count, again, latest = 0, math.inf, self.since
        seen: list[tuple[float, str]] = []
        for request, attempts in rows:
            latest = max(latest, request.time)
            if request.policy != self.stamp or request.purpose != "serve":
                continue
            # A later turn is like the one before it, and what an alarm decided says nothing new.
            if request.features.get("turn") or request.features.get("drift"):
                continue
            ended = math.inf if request.ended is None else request.ended
            given_up = request.time + _LONGEST
            if min(ended, given_up) > ended_by:
                again = request.time
                break
            seen.append((request.time, request.request_id))
            if request.request_id in self.counted or ended > given_up:
                continue
            values = values_of(request, attempts)
            known = [name for name in values if name in index]
            if known:
                self.streams.see(
                    np.array([index[name] for name in known]),
                    np.array([values[name] for name in known]),
                    np.array([tie(request.request_id, name) for name in known]),
                    self.reference,
                    request.time,
                )
            count += 1
        self.since = max(self.since, min(again, latest - _SLACK))
        self.counted = {name for time, name in seen if time >= self.since}
        return count

    def alarms(self, now: float) -> list[Alarm]:
        """What the tests have found, whether it is known or not."""
        peak = self.streams.peak.tolist()
        return [
            Alarm(
                name=name,
                raised=now,
                since=self.streams.changed(at),
                evidence=peak[at],
                needed=self.needed,
                reference=said(name, typical(name, self.streams.reference[at])),
                now=said(name, typical(name, self.streams.recent[at])),
                policy=self.stamp,
            )
            for at, name in enumerate(self.names)
            if peak[at] >= self.needed
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "stamp": self.stamp,
            "names": list(self.names),
            "alpha": self.alpha,
            "reference": self.reference,
            "round": self.round,
            "began": self.began,
            "since": self.since,
            "counted": sorted(self.counted),
            "prices": self.prices,
            "streams": {f.name: getattr(self.streams, f.name).tolist() for f in fields(Streams)},
        }

    @classmethod
    def from_json(cls, value: Any) -> Watch | None:
        """Tests as they were kept; None where another release kept them otherwise."""
        if value.get("format") != FORMAT:
            return None
        names = tuple(value["names"])
        fresh, kept = Streams.new(len(names), BINS), value["streams"]
        arrays: dict[str, Floats] = {}
        for each in fields(Streams):
            array = np.array(kept[each.name], dtype=np.float64)
            shape = getattr(fresh, each.name).shape
            arrays[each.name] = array.reshape(shape) if not len(names) else array
            if arrays[each.name].shape != shape:
                return None
        return cls(
            stamp=value["stamp"],
            names=names,
            alpha=value["alpha"],
            reference=value["reference"],
            round=value["round"],
            began=value["began"],
            since=value["since"],
            counted=set(value["counted"]),
            streams=Streams(**arrays),
            prices=value["prices"],
        )


def moment(unix: float) -> str:
    """A time as people read it, to the minute."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")
