"""What stands in a journal's lines: steps that a store has not taken yet, as JSON and back.

["end", …]      a reservation's end that could not be written
["finish", …]   a request's end, ["refuse", …] a refused request: rows of the log alone
["open", …]     a call that was sent without asking, while the store was away
["lease", …]    a lease was taken; ["hold", …] a call began inside it, ["rows", …] what is
                logged if it is never heard of again, ["done", …] how it ended
"""

from __future__ import annotations

import re
from typing import Any

from router.ledger.matching import Amounts, Take
from router.ledger.store import Drawn, Ending, NewHold
from router.log.writer import to_json
from router.types import RequestEnd

# Ids that stand in JSON as they are: a hold is written on the way of every call.
PLAIN = re.compile(r"[ !#-\[\]-~]{1,400}", re.ASCII).fullmatch


def end_line(ending: Ending) -> str:
    return to_json(
        [
            "end",
            ending.reservation_id,
            ending.request_id,
            ending.number,
            ending.billed,
            ending.usd,
            ending.tokens,
            ending.attempt,
            _end_values(ending.end),
            ending.now,
        ]
    )


def ending_of(line: list[Any]) -> Ending:
    reservation_id, request_id, number, billed, usd, tokens, attempt, end, now = line[1:]
    return Ending(
        reservation_id, request_id, number, billed, usd, tokens, attempt, _end_of(end), now
    )


def open_line(new: NewHold) -> str:
    return to_json(
        [
            "open",
            new.reservation_id,
            new.request_id,
            new.number,
            [new.amounts.usd, new.amounts.tokens],
            new.now,
            new.expires_at,
            new.takes,
            new.worst_case,
            new.request,
        ]
    )


def hold_of(line: list[Any]) -> NewHold:
    reservation_id, request_id, number, amounts, now, expires_at, takes, worst, request = line[1:]
    return NewHold(
        reservation_id,
        request_id,
        number,
        Amounts(*amounts),
        now,
        expires_at,
        tuple(Take(*take) for take in takes),
        worst,
        request,
    )


def finish_line(request_id: str, end: RequestEnd, now: float) -> str:
    return to_json(["finish", request_id, _end_values(end), now])


def finish_of(line: list[Any]) -> tuple[str, RequestEnd, float]:
    return line[1], RequestEnd(*line[2]), line[3]


def refuse_line(request: list[Any]) -> str:
    return to_json(["refuse", request])


def lease_line(lease_id: str) -> str:
    return to_json(["lease", lease_id])


def hold_line(
    lease_id: str,
    reservation_id: str,
    request_id: str,
    number: int,
    amount: int,
    tokens: int,
    now: float,
) -> str:
    """On the way of every call, so not by an encoder: the ids are `PLAIN`."""
    return (
        f'["hold","{lease_id}","{reservation_id}","{request_id}",{number},{amount},{tokens},'
        f"{int(now)}]"
    )


def gone_line(lease_id: str) -> str:
    return to_json(["gone", lease_id])


def rows_line(reservation_id: str, request: list[Any] | None, worst_case: list[Any]) -> str:
    return to_json(["rows", reservation_id, request, worst_case])


def done_line(lease_id: str, call: Drawn) -> str:
    return to_json(
        [
            "done",
            lease_id,
            call.reservation_id,
            call.request_id,
            call.number,
            call.state,
            [call.amounts.usd, call.amounts.tokens],
            call.usd,
            call.tokens,
            call.attempt,
            call.request,
            _end_values(call.end),
            call.expires_at,
            call.now,
        ]
    )


def drawn_of(line: list[Any]) -> Drawn:
    reservation_id, request_id, number, state, amounts, usd, tokens = line[2:9]
    attempt, request, end, expires_at, now = line[9:]
    return Drawn(
        reservation_id,
        request_id,
        number,
        state,
        Amounts(*amounts),
        usd,
        tokens,
        attempt,
        request,
        _end_of(end),
        expires_at,
        now,
    )


def _end_values(end: RequestEnd | None) -> list[Any] | None:
    if end is None:
        return None
    looks = [] if end.looks is None else [end.looks]  # which an older release would not know
    return [end.status, end.accepted, end.baseline, end.error, *looks]


def _end_of(values: list[Any] | None) -> RequestEnd | None:
    return None if values is None else RequestEnd(*values)
