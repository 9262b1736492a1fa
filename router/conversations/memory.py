"""The conversations that one process remembers: bounded, the least recently used forgotten first.

The rules are pure (`state`); here is only the state itself, behind one lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from router.conversations.state import Answer, after, digests, fills_itself, turn_of
from router.prices.caching import lifetime
from router.turns import Conversation
from router.types import TIERS

if TYPE_CHECKING:
    from router.plan import Plan
    from router.policy import Policy
    from router.types import Arm, AttemptRow, Decision, Request, Usage

Key = tuple[str, tuple[tuple[str, str], ...]]


def key_of(request: Request) -> Key | None:
    """Whose conversation it is: the same id of two users is two conversations. None outside of one,
    and for the router's own calls."""
    if request.conversation_id is None or request.purpose != "serve":
        return None
    return request.conversation_id, tuple(sorted(request.scopes.items()))


class Conversations:
    """What a router remembers of its conversations under one policy."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._most = policy.conversations.remember
        self._kept: OrderedDict[Key, Conversation] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, request: Request) -> Conversation | None:
        """The conversation of a request, None where nothing is known."""
        key = key_of(request)
        with self._lock:
            return None if key is None else self._kept.get(key)

    def recall(self, request: Request) -> Request:
        """The request with its place in its conversation; itself outside of one."""
        if request.conversation_id is None or not self._most or key_of(request) is None:
            return request
        turn = turn_of(self.get(request), request.messages, request.params, request.now)
        return replace(request, turn=turn)

    def answered(
        self, plan: Plan, decision: Decision, row: AttemptRow, usage: Usage | None
    ) -> None:
        """Note an answer that was settled as `row`."""
        request = plan.request
        key = key_of(request)
        if key is None or request.turn is None:
            return
        arm, count = decision.arm, len(request.messages)
        price = plan.ladder.price(arm, request.now)
        answer = Answer(
            request_id=request.request_id,
            arm=arm.name,
            model=arm.model,
            tier=TIERS.index(arm.tier),
            time=row.time,
            tokens=plan.shape.input_tokens,
            messages=count,
            digest=digests(request.messages, request.params, (count,))[count],
            usage=usage,
            seconds=self._seconds(arm),
            fills_itself=fills_itself(arm.model, price),
            expected=request.turn.warm.get(arm.name, 0),
            # One that was drawn to explore, or stood in for a failed one, says nothing of the need.
            escalates=row.propensity >= 0.5 and plan.failure is None,
        )
        with self._lock:
            known = self._kept.get(key)
            self._kept[key] = after(known, answer, self._policy.conversations.sticky_turns)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def _seconds(self, arm: Arm) -> float:
        own = self._policy.deployment(arm).cache_seconds
        return lifetime(arm.model) if own is None else float(own)
