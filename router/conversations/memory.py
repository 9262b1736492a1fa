"""The conversations that one process remembers: bounded, the least recently used forgotten first.

The rules are pure (`state`, `worth`, `shorten`); here is only the state itself, behind one lock.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from router.conversations.compaction import (
    Asked,
    Offer,
    Summariser,
    Tried,
    applied,
    made,
    offer,
    outgoing,
    summary_policy,
    tokens_of,
)
from router.conversations.recovery import recovered
from router.conversations.state import (
    Answer,
    Settled,
    after,
    digests,
    fills_itself,
    shifted,
    turn_of,
)
from router.dispatch.effects import Store
from router.errors import RouterError
from router.prices.caching import lifetime
from router.turns import Compaction, Conversation, Key, Turn, key_of
from router.types import TIERS

if TYPE_CHECKING:
    from router.dispatch.effects import Walk
    from router.log import Log
    from router.policy import Policy
    from router.prices import Price, PriceBook
    from router.types import Arm, Request

_logger = logging.getLogger("router")

EXTRACTIVE = "extractive"
MOST_BYTES = 64_000_000  # of all compacted histories together


class Conversations:
    """What a router remembers of its conversations under one policy.

    Parameters: `own`, makes a router for calls of the router's own, under another policy; `log`,
    opens the log, which is read once to learn what a process before this one knew.
    """

    def __init__(
        self,
        policy: Policy,
        prices: PriceBook,
        own: Callable[[Policy], Asked],
        log: Callable[[], Log] | None = None,
    ):
        self._policy, self._prices, self._own, self._log = policy, prices, own, log
        self._most = policy.conversations.remember
        self._kept: OrderedDict[Key, Conversation] = OrderedDict()
        self._compacted: OrderedDict[Key, Compaction] = OrderedDict()
        self._size = 0
        self._whole: OrderedDict[Key, None] = OrderedDict()  # whose compaction was undone
        self._tried: OrderedDict[Key, Tried] = OrderedDict()
        self._summariser: Summariser | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    # ── before a request is decided ────────────────────────────────────────────────────────────
    def recall(self, request: Request) -> Request:
        """The request with its place in its conversation, compacted where that was done before;
        itself outside of one, and for the router's own calls."""
        if request.conversation_id is None or not self._most or request.purpose != "serve":
            return request
        key = _key(request)
        with self._lock:
            known, kept = self._kept.get(key), self._compacted.get(key)
            if kept is not None:
                self._compacted.move_to_end(key)
        return _placed(request, known, kept)

    def entering(self, request: Request) -> Walk[Request]:
        """`recall`, and a compaction where one pays now."""
        if self.forgot(request):
            yield Store(partial(self.read_back, request.now))
        found = self.recall(request)
        options, turn, key = self._policy.compaction, found.turn, _key(request)
        best, price = self._offered(request, turn)
        if best is None or options is None or turn is None or price is None:
            return found
        self._expect(key, replace(self._tried_before(key), share=best.share))
        kept = None
        if options.summary is not None and best.asks:
            summariser = self._summaries(options.summary)
            kept, in_vain = yield from summariser.better(request, turn, best, price)
            if in_vain:
                self._expect(key, Tried(best.share, wasted=best.sizes.old))
        if kept is None and best.pays:
            kept = made(request, best, EXTRACTIVE, best.messages)
        if kept is None:
            return found
        self._replace(key, kept, gone=_gone(found, kept, request))
        return self.recall(request)

    def foreseen(self, request: Request) -> Request:
        """What `entering` would return if it could not ask for a summary. Nothing is remembered."""
        found = self.recall(request)
        best, _ = self._offered(request, found.turn)
        if best is None or not best.pays:
            return found
        how = f"{EXTRACTIVE}, or a summary" if best.asks else EXTRACTIVE
        kept = made(request, best, how, best.messages)
        with self._lock:
            known = self._kept.get(_key(request))
        if known is not None:
            known = shifted(known, _gone(found, kept, request))
        return _placed(request, known, kept)

    def _offered(self, request: Request, turn: Turn | None) -> tuple[Offer | None, Price | None]:
        """What extraction makes of a history, and the price by which it pays; None where nothing is
        to be compacted."""
        options, key = self._policy.compaction, _key(request)
        if options is None or turn is None or key in self._whole:
            return None, None
        price = self._price(turn.arm, request.now)
        if price is None:
            return None, None
        return offer(request, turn, options, price, self._tried_before(key)), price

    def _tried_before(self, key: Key) -> Tried:
        options = self._policy.compaction
        assert options is not None
        return self._tried.get(key) or Tried(options.target)

    def forgot(self, request: Request) -> bool:
        """Whether a log of before this process may know more of a request's conversation."""
        return self._log is not None and request.conversation_id is not None and self._most > 0

    def read_back(self, now: float) -> None:
        """Read back once what was known before a restart; whatever goes wrong, nothing was."""
        with self._lock:
            open_log, self._log = self._log, None
        if open_log is None:
            return
        arms = {arm.name: arm for arm in self._policy.arms()}
        try:
            found = recovered(
                open_log(),
                now,
                sticky_turns=self._policy.conversations.sticky_turns,
                seconds=lambda name: self._seconds(arms[name]) if name in arms else 0.0,
                fills_itself=lambda name: (
                    name in arms and fills_itself(arms[name].model, self._price(name, now))
                ),
            )
            for key, conversation in found:
                with self._lock:
                    self._kept.setdefault(key, conversation)
        except RouterError as error:
            _logger.warning("conversations were not read back from the log: %s", error)
        with self._lock:
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def undo(self, conversation_id: str, scopes: Mapping[str, str] | None = None) -> bool:
        """Send a conversation whole again, and compact it no more in this process.

        Parameters: `scopes`, as its requests give them. Returns whether it was compacted. The
        caller's messages are the original; the log keeps them too where `log.content` is on.
        """
        key = key_of(conversation_id, scopes or {})
        with self._lock:
            self._whole[key] = None
            while len(self._whole) > max(self._most, 1):
                self._whole.popitem(last=False)
            kept = self._compacted.pop(key, None)
            if kept is None:
                return False
            self._size -= kept.size
            if key in self._kept:
                self._kept[key] = shifted(self._kept[key], len(kept.messages) - kept.cut)
            return True

    def close(self) -> None:
        """Close what was opened for summaries."""
        with self._lock:
            summariser, self._summariser = self._summariser, None
        if summariser is not None:
            summariser.close()

    def _replace(self, key: Key, kept: Compaction, gone: int) -> None:
        """Keep a compaction; `gone`: how many messages fewer go out than before."""
        with self._lock:
            before = self._compacted.pop(key, None)
            self._size += kept.size - (0 if before is None else before.size)
            self._compacted[key] = kept
            while self._size > MOST_BYTES or len(self._compacted) > self._most:
                _, dropped = self._compacted.popitem(last=False)
                self._size -= dropped.size
            if key in self._kept:
                self._kept[key] = shifted(self._kept[key], gone)

    def _expect(self, key: Key, tried: Tried) -> None:
        """The next try of a conversation is expected to come out as this one did: else each turn
        would do the work of an extraction that does not pay, or buy a summary that comes to
        nothing."""
        with self._lock:
            self._tried[key] = tried
            self._tried.move_to_end(key)
            while len(self._tried) > max(self._most, 1):
                self._tried.popitem(last=False)

    def _summaries(self, tier: str) -> Summariser:
        with self._lock:
            if self._summariser is None:
                options = self._policy.compaction
                assert options is not None
                assert options.summary is not None
                own = self._own(summary_policy(self._policy, options.summary))
                self._summariser = Summariser(own, options)
            return self._summariser

    def _price(self, name: str, now: float) -> Price | None:
        """The price of an arm by name; where no answer was seen yet, of the first arm."""
        arms = self._policy.arms()
        arm = next((arm for arm in arms if arm.name == name), arms[0])
        return self._policy.deployment(arm).price_at(self._prices, now)

    # ── after an answer ────────────────────────────────────────────────────────────────────────
    def answered(self, settled: Settled) -> None:
        """Note an answer that was settled."""
        request, arm = settled.request, settled.arm
        if request.turn is None:
            return
        key, count = _key(request), len(request.messages)
        answer = Answer(
            request_id=request.request_id,
            arm=arm.name,
            model=arm.model,
            tier=TIERS.index(arm.tier),
            time=settled.row.time,
            tokens=settled.input_tokens,
            messages=count,
            digest=digests(request.messages, request.params, (count,))[count],
            usage=settled.usage,
            seconds=self._seconds(arm),
            fills_itself=fills_itself(arm.model, settled.price),
            expected=request.turn.warm.get(arm.name, 0),
            # One drawn to explore, or that stood in for a failed one, says nothing of the need.
            escalates=settled.row.propensity >= 0.5 and not settled.stood_in,
        )
        with self._lock:
            known = self._kept.get(key)
            self._kept[key] = after(known, answer, self._policy.conversations.sticky_turns)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def handed_out(self, request: Request, arm: Arm) -> None:
        """Note that of several answers to a request the caller gets this arm's, not the latest."""
        if request.turn is None:
            return
        key = _key(request)
        with self._lock:
            known = self._kept.get(key)
            if known is None or known.request_id != request.request_id or known.arm == arm.name:
                return
            self._kept[key] = replace(
                known,
                arm=arm.name,
                model=arm.model,
                tier=TIERS.index(arm.tier),
                since=known.messages,
            )

    def _seconds(self, arm: Arm) -> float:
        own = self._policy.deployment(arm).cache_seconds
        return lifetime(arm.model) if own is None else float(own)


def _placed(request: Request, known: Conversation | None, kept: Compaction | None) -> Request:
    """A request with its place in the conversation that is `known`, and its beginning replaced
    where it still begins as what was `kept` did."""
    messages = None if kept is None else applied(kept, request.messages)
    if kept is None or messages is None:
        turn = turn_of(known, request.messages, request.params, request.now)
        return replace(request, turn=turn)
    turn = turn_of(known, messages, request.params, request.now)
    tokens = {
        "before": tokens_of(request.messages, request.params),
        "after": tokens_of(messages, request.params),
    }
    return outgoing(request, turn, kept, tokens)


def _gone(found: Request, kept: Compaction, request: Request) -> int:
    """How many messages fewer than in `found` go out once a request's beginning is replaced."""
    return len(found.messages) - len(applied(kept, request.messages) or ())


def _key(request: Request) -> Key:
    return key_of(request.conversation_id or "", request.scopes)
